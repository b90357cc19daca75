from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import pytest

from attendet.report.chart import (
    Dot,
    Interval,
    Series,
    interval_chart,
    line_chart,
    pareto_front,
    scatter_chart,
    standalone,
)

NASTY = "<script>&\"'"


def parsed(svg):
    return ElementTree.fromstring(standalone(svg))


def of(svg, tag, cls=""):
    found = parsed(svg).iter(f"{{http://www.w3.org/2000/svg}}{tag}")
    return [one for one in found if one.get("class", "").startswith(cls)]


def texts(svg):
    return [one.text for one in of(svg, "text")]


def test_every_kind_of_chart_is_sound_xml_with_its_texts_escaped():
    charts = [
        line_chart(
            [Series(NASTY, [(1, 2), (2, 3)]), Series("b", [(1, 1)])],
            alt=NASTY,
            x_label=NASTY,
            y_label=NASTY,
        ),
        interval_chart([Interval(NASTY, 1, 0, 2, [1], NASTY)], alt=NASTY, x_label=NASTY),
        scatter_chart([Dot(NASTY, 1, 2, hint=NASTY)], alt=NASTY, x_label=NASTY, y_label=NASTY),
    ]
    for chart in charts:
        assert "<script" not in chart
        assert NASTY in texts(chart)
        assert parsed(chart).get("aria-label") == NASTY


def test_points_stand_where_the_axis_says():
    chart = line_chart(
        [Series("a", [(0, 0.0), (10, 1.0)])],
        alt="",
        x_label="",
        y_label="",
        x_range=(0, 10),
        y_range=(0, 1),
    )
    (line,) = of(chart, "polyline")
    (x0, y0), (x1, y1) = (map(float, pair.split(",")) for pair in line.get("points").split())
    ticks = {one.text: one for one in of(chart, "text", "soft")}
    assert float(ticks["10"].get("x")) == x1
    assert float(ticks["0"].get("x")) in (x0, x0 - 8)
    assert y0 - y1 > 200
    assert float(ticks["1"].get("y")) == pytest.approx(y1 + 4) or "1" in ticks


def test_what_is_not_known_is_left_out():
    chart = line_chart(
        [Series("a", [(1, None), (2, float("nan")), (3, 0.5)]), Series("b", [])],
        alt="",
        x_label="",
        y_label="",
    )
    assert len(of(chart, "circle")) == 1
    assert "nan" not in chart.lower()
    empty = interval_chart([Interval("a", None)], alt="", x_label="")
    assert not of(empty, "circle")
    assert "nan" not in line_chart([], alt="", x_label="", y_label="").lower()
    assert "nan" not in scatter_chart([], alt="", x_label="", y_label="").lower()


def test_equal_values_still_have_an_axis():
    for value in (0.0, 0.58, -3.0, 1e6):
        chart = line_chart([Series("a", [(1, value), (1, value)])], alt="", x_label="", y_label="")
        assert len(of(chart, "text", "soft")) >= 2


def test_an_interval_has_zero_its_zone_and_its_bar():
    chart = interval_chart(
        [Interval("ca", 0.8, 0.2, 1.4, [0.5, 1.1], "n")], alt="", x_label="", zone=(-0.5, 0.5)
    )
    (zero,), (zone,) = of(chart, "line", "zero"), of(chart, "rect", "zone")
    bar = of(chart, "line", "bar0")[0]
    left, width = float(zone.get("x")), float(zone.get("width"))
    assert left + width / 2 == pytest.approx(float(zero.get("x1")), abs=0.02)
    assert float(bar.get("x1")) > float(zero.get("x1"))
    assert (float(bar.get("x2")) - float(bar.get("x1"))) / width == pytest.approx(1.2, abs=0.001)
    assert len(of(chart, "circle")) == 3


def test_the_front_holds_what_nothing_beats():
    dots = [
        Dot("slow", 5, 0.6),
        Dot("bad", 3, 0.4),
        Dot("best", 2, 0.7),
        Dot("cheap", 1, 0.5),
        Dot("same", 1, 0.45),
    ]
    assert [dot.label for dot in pareto_front(dots)] == ["cheap", "best"]
    chart = scatter_chart(dots, alt="", x_label="", y_label="")
    strong = [one.text for one in of(chart, "text", "strong")]
    assert sorted(strong) == ["best", "cheap"]


def test_labels_of_near_points_do_not_overlap():
    dots = [
        Dot(f"variant number {index}", 1 + index / 1000, 0.5 + index / 1e5) for index in range(5)
    ]
    chart = scatter_chart([*dots, Dot("far", 3, 1)], alt="", x_label="", y_label="")
    rows = sorted(float(one.get("y")) for one in of(chart, "text") if "variant" in (one.text or ""))
    assert all(after - before >= 11 for before, after in itertools.pairwise(rows))


def test_a_file_follows_light_and_dark_and_fetches_nothing():
    text = standalone(interval_chart([Interval("a", 1)], alt="", x_label=""))
    assert "prefers-color-scheme: dark" in text
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]
