"""Latency of the variants."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attendet.errors import AttendetError, ConfigError
from attendet.exporters import export
from attendet.inference import load
from attendet.system import require

RUNTIMES = {
    "torch": (),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
}
"""Runtimes for latency, each with the packages that exporting and running need; ``torch`` runs the
weights themselves."""

WARM_UP = 3
"""Number of calls of each detector before the timed ones."""


def pick_runtimes(runtimes: Sequence[str] | None) -> tuple[str, ...]:
    """Return the runtimes to measure: the named ones, or all whose packages are installed.

    Args:
        runtimes: names of `RUNTIMES`; None for all that are installed.

    Raises:
        ConfigError: if a name is unknown.
        MissingExtraError: if a package of a named runtime is not installed.

    Example:
        >>> pick_runtimes(["torch", "torch"])
        ('torch',)
    """
    if runtimes is None:
        return tuple(
            name
            for name, modules in RUNTIMES.items()
            if all(importlib.util.find_spec(module) is not None for module in modules)
        )
    for name in runtimes:
        if name not in RUNTIMES:
            raise ConfigError.unknown("runtime", name, RUNTIMES, "--runtimes")
        for module in RUNTIMES[name]:
            require(module, extra="export", purpose=f"measuring latency in {name}")
    return tuple(dict.fromkeys(runtimes))


def measure_latency(
    weights: Mapping[str, Path],
    *,
    runtimes: Sequence[str] = ("torch",),
    note: Callable[[str], None] | None = None,
    device: str | None = None,
    rounds: int = 30,
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the latency of each variant in each runtime, measured in interleaved rounds.

    In each round every detector processes one image, in an order that rotates by one per round, so
    other load on the machine affects all variants equally. A call takes an image in memory and
    returns its detections. For runtimes other than ``torch``, the weights are exported once to
    ONNX, which all of them read, in a temporary folder; the export is verified as usual.

    Args:
        weights: weights file of each variant.
        runtimes: names of `RUNTIMES`.
        note: receives a message for a variant that cannot be exported or loaded.
        device: device of the ``torch`` runtime.
        rounds: number of timed calls of each detector.

    Returns:
        ``median_ms``, ``low_ms`` and ``high_ms`` (quartiles), by variant and runtime.
    """
    detectors: dict[tuple[str, str], Any] = {}

    def failed(variant: str, runtimes: Sequence[str], error: Exception) -> None:
        why = str(error) if isinstance(error, AttendetError) else repr(error)
        if note is not None:
            note(f"{variant}: latency in {' and '.join(runtimes)} not measured: {why}")

    exported = [runtime for runtime in runtimes if runtime != "torch"]
    with tempfile.TemporaryDirectory() as work:
        for number, (variant, path) in enumerate(weights.items()):
            if "torch" in runtimes:
                detectors[variant, "torch"] = load(path, device=device)
            if not exported:
                continue
            try:
                file = export(path, "onnx", output=work, name=f"variant{number}").path
            except Exception as error:  # converters can raise anything; the study continues
                failed(variant, exported, error)
                continue
            for runtime in exported:
                try:
                    detectors[variant, runtime] = load(file, runtime=runtime)
                except Exception as error:  # the same for compilers of graphs
                    failed(variant, [runtime], error)
        seconds = _interleaved(detectors, rounds)
    measured: dict[str, dict[str, dict[str, float]]] = {variant: {} for variant in weights}
    for (variant, runtime), values in seconds.items():
        low, median, high = np.percentile(np.array(values) * 1000, [25, 50, 75])
        measured[variant][runtime] = {
            "median_ms": round(float(median), 3),
            "low_ms": round(float(low), 3),
            "high_ms": round(float(high), 3),
        }
    return measured


def _interleaved(
    detectors: Mapping[tuple[str, str], Any], rounds: int
) -> dict[tuple[str, str], list[float]]:
    names = list(detectors)
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in names}
    for turn in range(-WARM_UP, rounds):
        first = turn % max(len(names), 1)
        for name in names[first:] + names[:first]:
            detector = detectors[name]
            image = np.full((*detector.input_hw, 3), 114, dtype=np.uint8)
            begun = time.perf_counter()
            detector.predict(image)
            if turn >= 0:
                seconds[name].append(time.perf_counter() - begun)
    return seconds
