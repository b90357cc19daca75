"""How the gates of a trained run behave on some test pictures, in a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attendet.data import Sample
from attendet.explain import compute_gates
from attendet.inference.preprocess import lay_on_canvas
from attendet.models import load_weights
from attendet.pictures import read_picture

__all__ = ["gate_statistics"]

PICTURES = 8
"""Pictures that are looked at, evenly picked."""

SATURATED = 0.02
"""A gate nearer to its ends than this share of its range counts as saturated."""


def gate_statistics(
    weights: Path, samples: Sequence[Sample]
) -> dict[str, dict[str, dict[str, float]]] | None:
    """Return how each gate of each attention block behaves, None without attention.

    Args:
        weights: weights file of a run.
        samples: test pictures; a few of them, evenly picked, are looked at.

    Returns:
        By site and gate: ``mean``; ``spread``, the standard deviation over channels, positions and
        pictures; ``between_pictures``, the mean standard deviation between pictures of a gate's
        mean over positions (0: the gate is the same whatever the picture); and ``saturated``, the
        share of gates that are nearly shut or fully open.
    """
    network, metadata = load_weights(weights)
    if not network.attention_blocks() or not samples:
        return None
    picked = np.linspace(0, len(samples) - 1, min(PICTURES, len(samples))).round().astype(int)
    fit = metadata.preprocessing().fit
    seen: dict[str, dict[str, list[NDArray[np.float32]]]] = {}
    for index in dict.fromkeys(picked.tolist()):
        canvas, _ = lay_on_canvas(read_picture(samples[index].path), metadata.input_hw, fit)
        for site, gates in compute_gates(network, canvas).items():
            for name, gate in gates.items():
                seen.setdefault(site, {}).setdefault(name, []).append(gate)
    top = 1.0 if metadata.attention_start == "paper" else 2.0
    return {
        site: {name: _summary(gates, top) for name, gates in by_name.items()}
        for site, by_name in seen.items()
    }


def _summary(gates: Sequence[NDArray[np.float32]], top: float) -> dict[str, float]:
    values = np.concatenate([gate.ravel() for gate in gates])
    means = np.array([gate.mean(axis=(1, 2)) for gate in gates])
    shut_or_open = (values < SATURATED * top) | (values > (1 - SATURATED) * top)
    return {
        "mean": round(float(values.mean()), 6),
        "spread": round(float(values.std()), 6),
        "between_pictures": round(float(means.std(axis=0).mean()), 6),
        "saturated": round(float(shut_or_open.mean()), 6),
    }
