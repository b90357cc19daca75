from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from attendet.models import WeightsMetadata, build_from_metadata
from attendet.study import cost
from attendet.study.comparison import Study
from attendet.study.cost import count_costs, measure_latency


def _metadata(attention: str = "none", **changes: Any) -> WeightsMetadata:
    return WeightsMetadata(
        classes=("a", "b"), attention=attention, width=0.125, input_hw=(64, 96), **changes
    )


def _macs_by_hooks(metadata: WeightsMetadata) -> int:
    """Count multiplications of convolutions from the shapes that a real pass gives."""
    network = build_from_metadata(metadata).eval()
    counts = []

    def count(module: Any, _: Any, output: torch.Tensor) -> None:
        counts.append(output.numel() * module.weight[0].numel())

    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, *metadata.input_hw))
    return sum(counts)


@pytest.mark.parametrize("attention", ["none", "se", "ca@stage3", "cbam@p5"])
def test_costs_are_those_of_the_built_network(attention: str) -> None:
    metadata = _metadata(attention)

    costs = count_costs(metadata)

    network = build_from_metadata(metadata)
    assert costs["parameters"] == sum(each.numel() for each in network.parameters())
    assert costs["macs"] == _macs_by_hooks(metadata)


class _Clock:
    """Detectors whose every call takes a set time, and the order in which they are called."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def load(self, path: Path, **_: Any) -> Any:
        clock, name = self, path.stem

        class Detector:
            input_hw = (32, 64)

            def predict(self, picture: np.ndarray) -> None:
                assert picture.shape == (32, 64, 3)
                clock.calls.append(name)
                clock.now += {"fast": 0.010, "slow": 0.020}[name]

        return Detector()


def test_latency_is_measured_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    monkeypatch.setattr(cost, "load", clock.load)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)

    measured = measure_latency({"a": Path("fast.x"), "b": Path("slow.x")}, rounds=10)

    assert measured["a"]["torch"] == {"median_ms": 10.0, "low_ms": 10.0, "high_ms": 10.0}
    assert measured["b"]["torch"]["median_ms"] == 20.0
    rounds = list(itertools.batched(clock.calls, 2)) if hasattr(itertools, "batched") else [
        tuple(clock.calls[i : i + 2]) for i in range(0, len(clock.calls), 2)
    ]  # fmt: skip
    assert {frozenset(pair) for pair in rounds} == {frozenset({"fast", "slow"})}
    assert {pair[0] for pair in rounds} == {"fast", "slow"}  # neither is always first


def test_an_exporter_brings_other_runtimes(
    finished: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = _Clock()
    monkeypatch.setattr(cost, "load", clock.load)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    asked = []

    def export(weights: Path, runtime: str) -> Path:
        asked.append((weights.name, runtime))
        return tmp_path / "slow.onnx"

    arms = {"a": Path("fast.safetensors")}
    both = measure_latency(arms, runtimes=("torch", "onnx"), exporter=export, rounds=2)
    alone = measure_latency(arms, runtimes=("torch", "onnx"), rounds=2)

    assert asked == [("fast.safetensors", "onnx")]
    assert both["a"]["onnx"]["median_ms"] == pytest.approx(20.0)
    assert set(alone["a"]) == {"torch"}
