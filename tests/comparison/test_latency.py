from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attendet.comparison import latency
from attendet.comparison.latency import measure_latency, pick_runtimes
from attendet.comparison.study import Study
from attendet.errors import ExportError, MissingExtraError
from attendet.models import WeightsMetadata


def _metadata(attention: str = "none", **changes: Any) -> WeightsMetadata:
    return WeightsMetadata(
        classes=("a", "b"), attention=attention, width_mult=0.125, input_hw=(64, 96), **changes
    )


class _Clock:
    """Detectors whose every call takes a set time, and the order in which they are called."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def load(self, path: Path, **_: Any) -> Any:
        clock, name = self, path.stem

        class Detector:
            input_hw = (32, 64)

            def predict(self, image: np.ndarray) -> None:
                assert image.shape == (32, 64, 3)
                clock.calls.append(name)
                clock.now += {"fast": 0.010, "slow": 0.020}[name]

        return Detector()


def test_latency_is_measured_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    monkeypatch.setattr(latency, "load", clock.load)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)

    measured = measure_latency({"a": Path("fast.x"), "b": Path("slow.x")}, rounds=10)

    assert measured["a"]["torch"] == {"median_ms": 10.0, "low_ms": 10.0, "high_ms": 10.0}
    assert measured["b"]["torch"]["median_ms"] == 20.0
    rounds = (
        list(itertools.batched(clock.calls, 2))
        if hasattr(itertools, "batched")
        else [tuple(clock.calls[i : i + 2]) for i in range(0, len(clock.calls), 2)]
    )
    assert {frozenset(pair) for pair in rounds} == {frozenset({"fast", "slow"})}
    assert {pair[0] for pair in rounds} == {"fast", "slow"}  # neither is always first


@pytest.fixture
def exported_somewhere(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Weights and format of each export, which writes nothing; ``ca`` cannot be exported."""
    asked = []

    def export(weights: Path, format: str, *, output: str, name: str) -> Any:
        asked.append((weights.name, format))
        if weights.stem == "ca":
            raise ExportError("the file says otherwise.")
        return SimpleNamespace(path=Path(output) / "slow.onnx")

    monkeypatch.setattr(latency, "export", export)
    return asked


def test_other_runtimes_get_exported_weights(
    exported_somewhere: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = _Clock()
    monkeypatch.setattr(latency, "load", clock.load)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)

    measured = measure_latency(
        {"a": Path("fast.safetensors")}, runtimes=("torch", "onnx", "openvino"), rounds=2
    )

    assert exported_somewhere == [("fast.safetensors", "onnx")]  # once for both
    assert measured["a"]["torch"]["median_ms"] == pytest.approx(10.0)
    assert measured["a"]["onnx"]["median_ms"] == pytest.approx(20.0)
    assert measured["a"]["openvino"]["median_ms"] == pytest.approx(20.0)


def test_an_variant_that_cannot_be_exported_loses_nothing_else(
    exported_somewhere: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "load", _Clock().load)
    notes: list[str] = []
    variants = {"none": Path("fast.safetensors"), "ca@p5": Path("ca.safetensors")}

    measured = measure_latency(variants, runtimes=("onnx", "openvino"), rounds=1, note=notes.append)

    assert set(measured["none"]) == {"onnx", "openvino"}
    assert measured["ca@p5"] == {}
    assert notes == ["ca@p5: latency in onnx and openvino not measured: the file says otherwise."]


def test_a_runtime_that_cannot_load_a_file_loses_nothing_else(
    exported_somewhere: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = _Clock()

    def load(path: Path, **settings: Any) -> Any:
        if settings.get("runtime") == "openvino":
            raise RuntimeError("no compiler")
        return clock.load(path, **settings)

    monkeypatch.setattr(latency, "load", load)
    notes: list[str] = []
    variants = {"none": Path("fast.safetensors")}

    measured = measure_latency(variants, runtimes=("onnx", "openvino"), rounds=1, note=notes.append)

    assert set(measured["none"]) == {"onnx"}
    assert notes == ["none: latency in openvino not measured: RuntimeError('no compiler')"]


def test_latency_in_real_runtimes(finished: Study) -> None:
    record = finished.records[0]
    weights = {record["variant_name"]: finished.folder / record["weights"]}

    measured = measure_latency(weights, runtimes=pick_runtimes(None), rounds=2)

    taken = measured[record["variant_name"]]
    assert set(taken) == {"torch", "onnx", "openvino"}
    assert all(0 < each["low_ms"] <= each["median_ms"] for each in taken.values())


def test_without_their_packages_runtimes_are_skipped_or_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else there(name)
    )
    monkeypatch.setitem(sys.modules, "openvino", None)

    assert pick_runtimes(None) == ("torch", "onnx")
    with pytest.raises(MissingExtraError, match=r"openvino.*attendet\[export\]"):
        pick_runtimes(["openvino"])
