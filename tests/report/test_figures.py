from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest

from attendet.errors import ConfigError
from attendet.report.figures import (
    confusion_figure,
    precision_recall_figure,
    save_figure,
    to_png,
    to_svg,
    training_figure,
)


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


def test_training_figure_has_each_term_and_skips_epochs_without_ap():
    losses, quality, rate = training_figure(epochs()).axes
    assert [line.get_label() for line in losses.lines] == ["box", "class"]
    assert list(quality.lines[0].get_xdata()) == [2, 3, 4, 5]
    assert list(rate.lines[0].get_ydata()) == [0.01 / epoch for epoch in range(1, 6)]


@pytest.mark.parametrize(
    "records", [[{"epoch": 1, "losses": {}}], [{"epoch": 1, "losses": {"a": None}}], epochs(1)]
)
def test_training_figure_of_little(records):
    assert decode(to_png(training_figure(records))).shape[2] == 3


@pytest.mark.parametrize("classes", [(), ("a",), ("a", "b"), tuple(map(str, range(40)))])
def test_figures_of_any_number_of_classes(classes):
    for build in (precision_recall_figure, confusion_figure):
        assert decode(to_png(build(record(classes)))).std() > 5


def test_few_classes_are_named_and_many_are_averaged():
    def labels(figure):
        return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]

    assert labels(precision_recall_figure(record(("a", "b")))) == ["a", "b", "mean"]
    many = tuple(map(str, range(40)))
    assert labels(precision_recall_figure(record(many))) == ["mean of 40 classes"]


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match="epochs must be at least one record"):
        training_figure([])
    with pytest.raises(ConfigError, match="curves=True"):
        confusion_figure({})
    with pytest.raises(ConfigError, match="curves=True"):
        precision_recall_figure({})


def test_files_by_suffix_and_the_same_bytes_again(tmp_path):
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
