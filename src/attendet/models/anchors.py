"""Anchors from the data: k-means under the overlap of shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attendet.errors import ConfigError

CLEARLY_BETTER = 0.05
"""Gain in mean best overlap from which the data's own anchors are used."""

ANCHORS_OF_LEVEL = 3
"""Anchors of a level that are computed from the data."""

MOST_SIZES = 20_000
"""Objects that the clustering looks at."""


def _shape_iou(
    sizes_wh: NDArray[np.float64], anchors_wh: NDArray[np.float64]
) -> NDArray[np.float64]:
    inner = np.minimum(sizes_wh[:, None], anchors_wh[None]).prod(axis=2)
    union = sizes_wh.prod(axis=1)[:, None] + anchors_wh.prod(axis=1)[None] - inner
    return np.asarray(inner / union)


def best_overlap(
    sizes_wh: NDArray[np.floating], anchors_wh: Sequence[tuple[float, float]]
) -> float:
    """Return the mean, over objects, of the overlap with the best-shaped anchor.

    Args:
        sizes_wh: shape (n, 2), widths and heights in pixels.
        anchors_wh: widths and heights in pixels.

    Returns:
        0 to 1; not a number without objects.

    Example:
        >>> best_overlap(np.array([[10.0, 10.0]]), [(10, 20), (5, 5)])
        0.5
    """
    sizes = np.asarray(sizes_wh, dtype=np.float64)
    if not len(sizes):
        return float("nan")
    return float(_shape_iou(sizes, np.asarray(anchors_wh, dtype=np.float64)).max(axis=1).mean())


def cluster_anchors(
    sizes_wh: NDArray[np.floating],
    count: int = 6,
    *,
    seed: int = 0,
    starts: int = 10,
    rounds: int = 100,
) -> tuple[tuple[float, float], ...]:
    """Return anchors that fit the objects' shapes, small to large.

    Redmon and Farhadi 2017, YOLO9000, arXiv:1612.08242, section 2 (dimension clusters): k-means
    with 1 - IoU as the distance. A start is k-means++ under the same distance; a cluster's
    center is the median of its members. Of several starts the one with the greatest mean best
    overlap is kept. Of more than 20,000 objects, so many are drawn.

    Args:
        sizes_wh: shape (n, 2), widths and heights in pixels, above 0; at least one object.
        count: how many anchors.
        seed: of the draws.
        starts: how many starts.
        rounds: most rounds of refinement a start.

    Returns:
        Widths and heights in pixels, to a tenth; with fewer than ``count`` shapes in the data some
        are the same.

    Raises:
        ConfigError: if there is no object, or a size is not above 0.

    Example:
        >>> cluster_anchors(np.array([[10, 10], [10, 10], [40, 20]]), count=2)
        ((10.0, 10.0), (40.0, 20.0))
    """
    sizes = np.asarray(sizes_wh, dtype=np.float64)
    if not len(sizes) or not (sizes > 0).all():
        raise ConfigError(
            f"sizes_wh must be sizes above 0 of one object or more; got {len(sizes)} objects, "
            f"the smallest side {sizes.min(initial=np.inf):g} px. Remove boxes without size."
        )
    generator = np.random.default_rng(seed)
    if len(sizes) > MOST_SIZES:
        sizes = sizes[generator.choice(len(sizes), MOST_SIZES, replace=False)]
    tried = [_cluster_once(sizes, count, generator, rounds) for _ in range(starts)]
    centers = max(tried, key=lambda found: float(_shape_iou(sizes, found).max(axis=1).mean()))
    order = np.lexsort((centers[:, 0], centers.prod(axis=1)))
    return tuple(
        (max(0.1, round(float(w), 1)), max(0.1, round(float(h), 1))) for w, h in centers[order]
    )


def _cluster_once(
    sizes: NDArray[np.float64], count: int, generator: np.random.Generator, rounds: int
) -> NDArray[np.float64]:
    """Return the best centers, shape (count, 2), on the way of k-means from one random start."""
    centers: NDArray[np.float64] = sizes[[generator.integers(len(sizes))]]
    while len(centers) < count:
        distance = (1 - _shape_iou(sizes, centers).max(axis=1)).clip(min=0) ** 2
        total = distance.sum()
        weights = distance / total if total > 0 else np.full(len(sizes), 1 / len(sizes))
        centers = np.vstack([centers, sizes[generator.choice(len(sizes), p=weights)]])
    best, greatest = centers.copy(), 0.0
    member = np.full(len(sizes), -1)
    for _ in range(rounds):
        overlap = _shape_iou(sizes, centers)
        if overlap.max(axis=1).mean() > greatest:  # medians do not gain in every round
            best, greatest = centers.copy(), float(overlap.max(axis=1).mean())
        nearest = overlap.argmax(axis=1)
        if (nearest == member).all():
            break
        member = nearest
        for index in range(count):
            if (member == index).any():
                centers[index] = np.median(sizes[member == index], axis=0)
    return best


@dataclass(frozen=True)
class AnchorChoice:
    """Which anchors a run uses, and why."""

    anchors: tuple[tuple[float, float], ...]
    """Widths and heights in pixels, small to large."""

    masks: tuple[tuple[int, ...], ...]
    """Anchors of each level, stride 32 first."""

    default_overlap: float
    """Mean best overlap of the default anchors (those that a level uses)."""

    data_overlap: float
    """Mean best overlap of the anchors from the data."""

    from_data: bool
    """True if the anchors were computed from the data."""


def choose_anchors(
    sizes_wh: NDArray[np.floating],
    defaults: Sequence[tuple[float, float]],
    default_masks: Sequence[Sequence[int]],
    *,
    seed: int = 0,
) -> AnchorChoice:
    """Return the default anchors, or the data's own where they fit clearly better.

    Args:
        sizes_wh: shape (n, 2), widths and heights of the training objects, network input pixels,
            above 0.
        defaults: default anchors, pixels.
        default_masks: those that each level uses, stride 32 first; others play no part in the
            comparison.
        seed: of the clustering.

    Returns:
        Own anchors are used from a gain of 0.05 in mean best overlap: three for each level, the
        largest on the first. With fewer objects than anchors the defaults stay, and the overlaps
        are not numbers.

    Raises:
        ConfigError: if a size is not above 0.

    Example:
        >>> sizes = np.array([[30, 90], [31, 88], [60, 20], [12, 12], [11, 13], [100, 100]])
        >>> choice = choose_anchors(sizes, [(10, 14)] * 6, [(3, 4, 5), (1, 2, 3)])
        >>> choice.from_data, choice.masks
        (True, ((3, 4, 5), (0, 1, 2)))
    """
    masks = tuple(tuple(mask) for mask in default_masks)
    used = [tuple(defaults[index]) for index in sorted({i for mask in masks for i in mask})]
    kept = tuple((float(w), float(h)) for w, h in defaults)
    count = ANCHORS_OF_LEVEL * len(masks)
    if len(sizes_wh) < count:
        return AnchorChoice(kept, masks, float("nan"), float("nan"), from_data=False)
    default_overlap = best_overlap(sizes_wh, used)  # type: ignore[arg-type]
    own = cluster_anchors(sizes_wh, count, seed=seed)
    data_overlap = best_overlap(sizes_wh, own)
    if data_overlap - default_overlap < CLEARLY_BETTER:
        return AnchorChoice(kept, masks, default_overlap, data_overlap, from_data=False)
    starts = range(count - ANCHORS_OF_LEVEL, -1, -ANCHORS_OF_LEVEL)
    own_masks = tuple(tuple(range(start, start + ANCHORS_OF_LEVEL)) for start in starts)
    return AnchorChoice(own, own_masks, default_overlap, data_overlap, from_data=True)
