"""How the gates of a trained run behave on some test images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attendet.data import Sample
from attendet.explain import gate_health
from attendet.models import load_weights

__all__ = ["gate_statistics"]

IMAGES = 8
"""Images that are looked at, evenly picked."""


def gate_statistics(weights: Path, samples: Sequence[Sample]) -> dict[str, dict[str, Any]] | None:
    """Return the health of each attention block of a run by site, None without attention.

    Args:
        weights: weights file of a run.
        samples: test images; a few of them, evenly picked, are looked at.

    Returns:
        What `attendet.explain.BlockHealth` says of each, in plain values.

    Raises:
        ImageError: if no image can be read.
    """
    network, metadata = load_weights(weights)
    if not network.attention_blocks() or not samples:
        return None
    picked = np.linspace(0, len(samples) - 1, min(IMAGES, len(samples))).round().astype(int)
    paths = [samples[index].path for index in dict.fromkeys(picked.tolist())]
    health = gate_health(network, metadata, paths)
    return {site: block.to_record() for site, block in health.items()}
