"""Anchors from the data: k-means under the overlap of shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["AnchorChoice", "best_overlap", "choose_anchors", "cluster_anchors"]

CLEARLY_BETTER = 0.05
"""Gain in mean best overlap from which the data's own anchors are used."""


def _shape_iou(
    sizes_wh: NDArray[np.float64], anchors_wh: NDArray[np.float64]
) -> NDArray[np.float64]:
    inner = np.minimum(sizes_wh[:, None], anchors_wh[None]).prod(axis=2)
    union = sizes_wh.prod(axis=1)[:, None] + anchors_wh.prod(axis=1)[None] - inner
    overlap: NDArray[np.float64] = inner / union
    return overlap


def best_overlap(
    sizes_wh: NDArray[np.floating], anchors_wh: Sequence[tuple[float, float]]
) -> float:
    """Return the mean, over objects, of the overlap with the best-shaped anchor.

    Args:
        sizes_wh: shape (n, 2), widths and heights in pixels.
        anchors_wh: widths and heights in pixels.

    Returns:
        0 to 1.

    Example:
        >>> best_overlap(np.array([[10.0, 10.0]]), [(10, 20), (5, 5)])
        0.5
    """
    sizes = np.asarray(sizes_wh, dtype=np.float64)
    return float(_shape_iou(sizes, np.asarray(anchors_wh, dtype=np.float64)).max(axis=1).mean())


def cluster_anchors(
    sizes_wh: NDArray[np.floating], count: int = 6, *, seed: int = 0, rounds: int = 100
) -> tuple[tuple[float, float], ...]:
    """Return anchors that fit the objects' shapes, small to large.

    Redmon and Farhadi 2017, YOLO9000, arXiv:1612.08242, section 2 (dimension clusters): k-means
    with 1 - IoU as the distance. The start is k-means++ under the same distance; a cluster's
    centre is the median of its members.

    Args:
        sizes_wh: shape (n, 2), widths and heights in pixels, above 0.
        count: how many anchors.
        seed: of the start.
        rounds: most rounds of refinement.
    """
    sizes = np.asarray(sizes_wh, dtype=np.float64)
    generator = np.random.default_rng(seed)
    centres = sizes[generator.integers(len(sizes))][None]
    while len(centres) < count:
        distance = (1 - _shape_iou(sizes, centres).max(axis=1)).clip(min=0) ** 2
        total = distance.sum()
        shares = distance / total if total > 0 else np.full(len(sizes), 1 / len(sizes))
        centres = np.vstack([centres, sizes[generator.choice(len(sizes), p=shares)]])
    member = np.full(len(sizes), -1)
    for _ in range(rounds):
        nearest = _shape_iou(sizes, centres).argmax(axis=1)
        if (nearest == member).all():
            break
        member = nearest
        for index in range(count):
            if (member == index).any():
                centres[index] = np.median(sizes[member == index], axis=0)
    order = np.argsort(centres.prod(axis=1))
    return tuple((round(float(w), 1), round(float(h), 1)) for w, h in centres[order])


@dataclass(frozen=True)
class AnchorChoice:
    """Which anchors a run uses, and why."""

    anchors: tuple[tuple[float, float], ...]
    """Widths and heights in pixels, small to large."""

    masks: tuple[tuple[int, ...], ...]
    """Anchors of the stride-32 and stride-16 level."""

    default_overlap: float
    """Mean best overlap of the default anchors (those that a level uses)."""

    data_overlap: float
    """Mean best overlap of the anchors from the data."""

    from_data: bool
    """Whether the data's own anchors are used."""


def choose_anchors(
    sizes_wh: NDArray[np.floating],
    defaults: Sequence[tuple[float, float]],
    default_masks: Sequence[Sequence[int]],
    *,
    seed: int = 0,
) -> AnchorChoice:
    """Return the default anchors, or the data's own where they fit clearly better.

    Args:
        sizes_wh: shape (n, 2), widths and heights of the training objects, canvas pixels.
        defaults: default anchors, pixels.
        default_masks: those that each level uses; others play no part in the comparison.
        seed: of the clustering.

    Returns:
        Own anchors are used from a gain of 0.05 in mean best overlap; the three large ones stand
        on the stride-32 level, the three small ones on the stride-16 level.
    """
    masks = tuple(tuple(mask) for mask in default_masks)
    used = [tuple(defaults[index]) for index in sorted({i for mask in masks for i in mask})]
    kept = tuple((float(w), float(h)) for w, h in defaults)
    if len(sizes_wh) < 6:
        return AnchorChoice(kept, masks, float("nan"), float("nan"), from_data=False)
    default_overlap = best_overlap(sizes_wh, used)  # type: ignore[arg-type]
    own = cluster_anchors(sizes_wh, seed=seed)
    data_overlap = best_overlap(sizes_wh, own)
    if data_overlap - default_overlap < CLEARLY_BETTER:
        return AnchorChoice(kept, masks, default_overlap, data_overlap, from_data=False)
    return AnchorChoice(own, ((3, 4, 5), (0, 1, 2)), default_overlap, data_overlap, from_data=True)
