"""Table, sentences and figure of a record of `attendet bench`."""

from __future__ import annotations

import re
from typing import Any

import pytest

from attendet.errors import ConfigError
from attendet.report.bench import bench_figure, bench_page, bench_table, bench_verdicts
from attendet.report.charts import NARROW


def _spread(median: float) -> dict[str, Any]:
    return {"median": median, "q1": 0.9 * median, "q3": 1.2 * median, "count": 40}


def _row(runtime: str, whole: float, **changed: Any) -> dict[str, Any]:
    row = {
        "name": f"w.onnx, {runtime}, 2 threads, latency, batch 1",
        "weights": "exports/w.onnx",
        "file": "w.onnx",
        "runtime": runtime,
        "runtime_version": "1.0",
        "precision": "float32",
        "threads": 2,
        "mode": "latency",
        "batch": 1,
        "input_hw": [416, 416],
        "file_mib": 23.15,
        "memory_mib": 210,
        "cold_start_s": _spread(0.8),
        "whole_ms": _spread(whole),
        "network_ms": _spread(whole - 3),
        "around_ms": _spread(2.9),
        "images_per_s": _spread(1000 / whole),
        "rounds": {},
        "ap": 0.581,
        "ap50": 0.9,
    }
    return {**row, **changed}


def _record(*rows: dict[str, Any], **changed: Any) -> dict[str, Any]:
    named = {"fastest": "w.onnx, openvino", "ahead": 1.5, "tied": [], "reason": "ahead"}
    record = {
        "settings": {"max_ap_loss": 0.5},
        "noise": {"probe_spread": 0.01, "other_load": 0.0, "too_noisy": False, "reason": None},
        "rows": list(rows),
        "verdicts": {"latency": named, "throughput": named},
    }
    return {**record, **changed}


def test_the_table_has_one_line_per_row() -> None:
    record = _record(
        _row("onnx", 40.0), _row("torch", 60.0, mode="throughput", memory_mib=None, ap=None)
    )

    header, rows = bench_table(record)

    first, second = (dict(zip(header, row, strict=True)) for row in rows)
    assert first["file"] == "w.onnx"
    assert first["whole path, ms"] == "40.0 (36.0 to 48.0)"
    assert first["network, ms"] == "37.0 (33.3 to 44.4)"
    assert first["around, ms"] == "2.9"
    assert first["images/s"] == "25.0"
    assert (first["cold start, s"], first["file, MiB"], first["AP"]) == ("0.80", "23.1", "0.581")
    assert (second["memory, MiB"], second["AP"]) == ("-", "-")


def test_the_stream_rate_is_relative_to_the_network_at_its_best_batch() -> None:
    one = _row("onnx", 40.0, network_ms=_spread(36.0), images_per_s=_spread(25.0))
    four = _row("onnx", 40.0, batch=4, network_ms=_spread(30.0), images_per_s=_spread(20.0))
    other = _row("onnx", 40.0, mode="throughput", network_ms=_spread(8.0))

    header, rows = bench_table(_record(one, four, other))

    assert [row[header.index("of the network")] for row in rows] == ["75 %", "60 %", "20 %"]


def test_verdicts_are_sentences() -> None:
    named = bench_verdicts(_record(_row("onnx", 40.0)))
    tie = {"fastest": None, "ahead": None, "tied": ["a", "b"], "reason": "too close to call"}
    noisy = {"fastest": None, "ahead": None, "tied": [], "reason": "the machine was too noisy"}
    noise = {"probe_spread": 0.3, "other_load": 0.4, "too_noisy": True, "reason": "of others"}

    assert named[0] == (
        "fastest for one image at a time within 0.5 points of the best AP: w.onnx, openvino, "
        "1.50 times as fast as the next"
    )
    tied = _record(_row("onnx", 40.0, ap=None), verdicts={"latency": tie, "throughput": tie})
    assert bench_verdicts(tied)[1] == (
        "fastest for many images, AP not measured: too close to call: a | b"
    )
    refused = _record(verdicts={"latency": noisy, "throughput": noisy}, noise=noise)
    assert bench_verdicts(refused)[0].endswith("not determined, because of others")


def test_the_figure_shows_the_fastest_on_top() -> None:
    pytest.importorskip("matplotlib")
    record = _record(
        _row("torch", 60.0),
        _row("onnx", 40.0),
        _row("onnx", 400.0, batch=8),
        _row("openvino", 30.0),
    )

    axes = bench_figure(record).axes[0]

    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert [label.split("\n")[1].split(",")[0] for label in labels] == ["openvino", "onnx", "torch"]
    assert axes.yaxis_inverted()
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx([27.1, 37.1, 57.1, 2.9, 2.9, 2.9])
    assert axes.texts[0].get_text() == "30.0, AP 0.581"


def test_a_narrow_figure_has_its_labels_above_the_bars() -> None:
    pytest.importorskip("matplotlib")
    record = _record(_row("onnx", 40.0), _row("torch", 60.0, mode="throughput"))

    figure = bench_figure(record, width=NARROW)
    figure.draw_without_rendering()

    latency, throughput = figure.axes
    assert [text.get_text() for text in latency.texts] == [
        "w.onnx: 40.0, AP 0.581\nonnx, float32, 2 threads"
    ]
    for axes in (latency, throughput):
        assert list(axes.get_yticks()) == []
        bars = [bar.get_window_extent() for bar in axes.patches]
        for text, bar in zip(axes.texts, bars, strict=False):
            box = text.get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1
            assert box.y0 >= bar.y1


def test_the_figure_notes_a_noisy_machine() -> None:
    pytest.importorskip("matplotlib")
    noise = {"probe_spread": 0.3, "other_load": 0.4, "too_noisy": True, "reason": "of others"}

    figure = bench_figure(_record(_row("onnx", 40.0), noise=noise))

    assert figure.get_supxlabel() == "too noisy to compare: of others"
    with pytest.raises(ConfigError, match="record must be one with at least one row"):
        bench_figure(_record())


def test_the_figure_shows_rates_where_modes_or_batches_were_compared() -> None:
    pytest.importorskip("matplotlib")
    many = {"mode": "throughput", "batch": 4}

    both = bench_figure(_record(_row("onnx", 40.0), _row("onnx", 20.0, **many))).axes
    rates = bench_figure(_record(_row("onnx", 20.0, **many))).axes

    assert [axes.get_title(loc="left") or axes.get_title() for axes in both] == [
        "From an image file to detections",
        "Many images",
    ]
    assert [bar.get_width() for bar in both[1].patches] == pytest.approx([50, 25])
    alone = next(line for line in both[1].lines if line.get_label() == "network alone")
    assert alone.get_xdata() == pytest.approx([1000 / 17, 1000 / 37])
    assert both[1].get_yticklabels()[0].get_text().endswith("throughput, batch 4")
    assert len(rates) == 1


def test_the_page_has_verdicts_sortable_medians_and_settings() -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    failed = [{"name": "w.engine", "reason": "TensorRT is not installed"}]
    record = _record(
        _row("onnx", 40.0),
        _row("torch", 60.0),
        failed=failed,
        data={"root": "/home/me/cells", "split": "test"},
        machine={"processor": "a fast one"},
    )

    html = bench_page(record, command="attendet bench <w>")

    (lead,) = re.findall('<p class="lead">(.*)</p>', html)
    assert lead.startswith(
        "Fastest for one image at a time within 0.5 points of the best AP: w.onnx"
    )
    assert '<td data-key="40.0">40.0 (36.0 to 48.0)</td>' in html
    for text in ("w.engine: TensorRT", "attendet bench &lt;w&gt;", "cells, test", "a fast one"):
        assert text in html
    assert "/home/me" not in html
    same = ("precision", "threads", "mode", "batch")
    assert html.count("All rows: precision float32, threads 2, mode latency, batch 1.") == 2
    for name in bench_table(record)[0]:
        assert (f"{name}</button>" in html) is (name not in same)
