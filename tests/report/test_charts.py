from __future__ import annotations

import itertools
import math
import subprocess
import sys
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from attendet.errors import ConfigError
from attendet.report.charts import (
    NARROW,
    Interval,
    Line,
    Point,
    chart_image,
    confusion_figure,
    interval_chart,
    line_chart,
    pareto_front,
    precision_recall_figure,
    save_figure,
    scatter_chart,
    to_png,
    to_svg,
    training_figure,
)

NASTY = "_<script>&\"' $x$ жé"
SVG_TEXT = "{http://www.w3.org/2000/svg}text"


def epochs(count=5):
    return [
        {
            "epoch": epoch,
            "losses": {"box": 2 / epoch, "class": 1 / epoch},
            "learning_rate": 0.01 / epoch,
            "ap": None if epoch == 1 else 0.1 * epoch,
            "ap50": None if epoch == 1 else 0.15 * epoch,
        }
        for epoch in range(1, count + 1)
    ]


def record(classes=("a", "b")):
    curve = {"recall": [0.0, 0.5, 1.0], "precision": [1.0, 0.8, 0.0], "confidence": [0.9, 0.5, 0]}
    size = len(classes) + 1
    return {
        "precision_recall": {"iou": 0.5, "per_class": dict.fromkeys(classes, curve)},
        "confusion": {
            "labels": [*classes, "background"],
            "matrix": np.arange(size * size).reshape(size, size).tolist(),
            "confidence": 0.25,
            "iou": 0.5,
        },
    }


def decode(png):
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)


def test_charts_take_any_text_and_are_sound_xml():
    names = [NASTY, NASTY * 20]
    figures = [
        line_chart([Line(name, [1, 2], [2, 3]) for name in names], x_label=NASTY, y_label=""),
        interval_chart([Interval(name, 1, 0, 2, [1], "n") for name in names], x_label=""),
        scatter_chart([Point(name, 1, 2) for name in names], x_label="", y_label=""),
        precision_recall_figure(record(names)),
        confusion_figure(record(names)),
    ]
    for figure in figures:
        texts = [one.text.strip() for one in ElementTree.fromstring(to_svg(figure)).iter(SVG_TEXT)]
        assert NASTY in texts
        assert decode(to_png(figure)).std() > 5


def test_a_line_chart_shows_lines_bands_and_gaps():
    line = Line("a", [0, 1, 2], [0.0, math.nan, 1.0], ([0, 0, 0], [1, 1, 1]), style=1)
    (axes,) = line_chart(
        [line, Line("b", [1], [1])], x_label="epoch", y_label="AP", x_range=(0, 4)
    ).axes

    assert axes.get_xlim() == (0, 4)
    assert [one.get_marker() for one in axes.lines] == ["", "o"]
    assert len(axes.collections) == 1
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    (empty,) = line_chart([], x_label="", y_label="").axes
    assert empty.get_legend() is None


def test_an_interval_chart_shows_zero_zone_bar_and_dots():
    rows = [Interval("ca", 0.8, 0.2, 1.4, [0.5, 1.1], "note"), Interval("se", -1.0)]
    (axes,) = interval_chart(rows, x_label="points", zone=(-0.5, 0.5)).axes

    zone = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (zone.x0, zone.x1) == pytest.approx((-0.5, 0.5))
    zero, bar, dots, value, *_ = axes.lines
    assert list(zero.get_xdata()) == [0, 0]
    assert list(bar.get_xdata()) == [0.2, 1.4]
    assert list(dots.get_xdata()) == [0.5, 1.1]
    assert list(value.get_xdata()) == [0.8]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ca", "se"]
    assert axes.yaxis_inverted()
    assert axes.texts[0].get_text() == "note"


def test_the_pareto_front_holds_the_points_that_no_other_beats():
    points = [
        Point("slow", 5, 0.6),
        Point("bad", 3, 0.4, (2, 4), (0.3, 0.5)),
        Point("best", 2, 0.7),
        Point("cheap", 1, 0.5),
        Point("same", 1, 0.45),
    ]
    assert [point.label for point in pareto_front(points)] == ["cheap", "best"]

    (axes,) = scatter_chart(points, x_label="ms", y_label="AP").axes

    names = axes.get_legend().get_texts()
    bold = [text.get_text() for text in names if text.get_fontweight() == "bold"]
    assert bold == ["best", "cheap"]
    assert [tuple(one.get_xdata()) for one in axes.lines[:2]] == [(1, 2), (5,)]
    assert (2, 4) in [tuple(one.get_xdata()) for one in axes.lines]


def test_training_figure_has_each_term_and_skips_epochs_without_ap():
    losses, quality, rate = training_figure(epochs()).axes
    assert [line.get_label() for line in losses.lines] == ["box", "class"]
    assert list(quality.lines[0].get_xdata()) == [2, 3, 4, 5]
    assert list(rate.lines[0].get_ydata()) == [0.01 / epoch for epoch in range(1, 6)]


@pytest.mark.parametrize(
    "records", [[{"epoch": 1, "losses": {}}], [{"epoch": 1, "losses": {"a": None}}], epochs(1)]
)
def test_training_figure_of_few_or_empty_records(records):
    assert decode(to_png(training_figure(records))).shape[2] == 3


@pytest.mark.parametrize("classes", [(), ("a",), ("a", "b"), tuple(map(str, range(40)))])
def test_evaluation_figures_take_any_number_of_classes(classes):
    for build in (precision_recall_figure, confusion_figure):
        assert decode(to_png(build(record(classes)))).std() > 5


def test_few_classes_are_named_and_many_are_averaged():
    def labels(figure):
        return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]

    assert labels(precision_recall_figure(record(("a", "b")))) == ["a", "b", "mean"]
    many = tuple(map(str, range(40)))
    assert labels(precision_recall_figure(record(many))) == ["mean of 40 classes"]


def test_missing_records_are_errors():
    with pytest.raises(ConfigError, match="epochs must be at least one record; got 0"):
        training_figure([])
    with pytest.raises(ConfigError, match="curves=True"):
        confusion_figure({})
    with pytest.raises(ConfigError, match="curves=True"):
        precision_recall_figure({})


def test_save_figure_chooses_the_format_by_suffix_and_is_deterministic(tmp_path):
    first = save_figure(confusion_figure(record()), tmp_path / "runs" / "a.svg")
    second = save_figure(confusion_figure(record()), tmp_path / "b.svg")
    assert first.read_text() == second.read_text() == to_svg(confusion_figure(record()))
    assert first.read_text().startswith("<?xml")
    assert "http://" not in first.read_text().split("<svg", 1)[1].split("<g", 1)[1]
    png = save_figure(confusion_figure(record()), tmp_path / "c.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.rglob("*.part"))


def test_pyplot_is_never_imported():
    code = (
        "import sys, attendet.report;"
        "assert 'matplotlib' not in sys.modules;"
        "attendet.report.to_png(attendet.report.training_figure([{'epoch': 1, 'losses': {}}]));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_narrow_chart_has_its_legend_below_and_no_notes():
    lines = [Line(name, [1, 2], [2, 3]) for name in ("none", "a" * 40)]
    figure = line_chart(lines, x_label="", y_label="", width=NARROW)
    figure.draw_without_rendering()
    (legend,), (axes,) = figure.legends, figure.axes
    assert axes.get_legend() is None
    assert legend.get_window_extent().y1 <= axes.get_window_extent().y0
    assert legend.get_window_extent().x1 <= figure.bbox.x1

    rows = [Interval("b" * 60, 1, 0, 2, [1], "a note")]
    figure = interval_chart(rows, x_label="difference in AP, points", width=NARROW)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert list(axes.texts) == []
    assert axes.get_window_extent().width > 0.3 * figure.bbox.width


@pytest.mark.parametrize("classes", [1, 10, 30])
def test_a_narrow_confusion_matrix_has_percentages_that_stay_in_their_cells(classes):
    figure = confusion_figure(record(tuple(map(str, range(classes)))), width=NARROW)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert figure.get_size_inches()[0] == NARROW
    cell = axes.get_window_extent().width / (classes + 1)
    texts = [text for text in axes.texts if text.get_text()]
    assert bool(texts) is (classes < 12)
    assert all(text.get_window_extent().width <= cell for text in texts)
    assert all(text.get_text() == "0" or text.get_text().endswith("%") for text in texts)


def test_the_panels_of_a_narrow_training_chart_are_stacked():
    figure = training_figure(epochs(), width=NARROW)
    figure.draw_without_rendering()
    boxes = [axes.get_window_extent() for axes in figure.axes]
    assert [one.y0 > two.y1 for one, two in itertools.pairwise(boxes)] == [True, True]
    assert all(one.width > 0.7 * figure.bbox.width for one in boxes)


def test_the_image_of_a_chart_has_both_widths():
    lines = [Line("a", [1, 2], [2, 3])]
    image = chart_image("c", line_chart, lines, "caption", "alt", x_label="x", y_label="y")

    assert (image.name, image.caption, image.alt) == ("c.svg", "caption", "alt")
    wide, narrow = (
        float(ElementTree.fromstring(data).attrib["width"].removesuffix("pt"))
        for data in (image.data, image.narrow)
    )
    assert narrow == pytest.approx(72 * NARROW)
    assert wide > 2 * narrow
    assert image.narrow_uri.startswith("data:image/svg+xml;base64,")
    assert image.narrow_uri != image.uri
