"""Anchors from the training data by k-means, with the IoU of box shapes as similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attendet.errors import ConfigError

MIN_OVERLAP_GAIN = 0.05
"""Minimum gain in mean best overlap for which anchors from the data are used."""

ANCHORS_PER_LEVEL = 3
"""Anchors per level that are computed from the data."""

MAX_CLUSTERED_OBJECTS = 20_000
"""Maximum number of objects in the clustering; of more, a random sample is used."""


def _shape_iou(
    sizes_wh: NDArray[np.float64], anchors_wh: NDArray[np.float64]
) -> NDArray[np.float64]:
    inner = np.minimum(sizes_wh[:, None], anchors_wh[None]).prod(axis=2)
    union = sizes_wh.prod(axis=1)[:, None] + anchors_wh.prod(axis=1)[None] - inner
    return np.asarray(inner / union)


def best_overlap(
    sizes_wh: NDArray[np.floating], anchors_wh: Sequence[tuple[float, float]]
) -> float:
    """Return the mean over objects of the shape IoU with the best anchor.

    Args:
        sizes_wh: shape (n, 2), widths and heights in pixels.
        anchors_wh: widths and heights in pixels.

    Returns:
        0 to 1; NaN without objects.

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
    """Return anchors clustered from the sizes of objects, small to large.

    Redmon and Farhadi 2017, YOLO9000, arXiv:1612.08242, section 2 (dimension clusters): k-means
    with 1 - IoU as the distance. The initial centers are those of k-means++ with the same distance;
    each center is updated to the median of its cluster. Of several runs the one with the highest
    mean best overlap is kept. Of more than 20,000 objects, a random sample of 20,000 is used.

    Args:
        sizes_wh: shape (n, 2), widths and heights in pixels, above 0; at least one object.
        count: number of anchors.
        seed: seed of the random generator.
        starts: number of runs with different initial centers.
        rounds: maximum iterations per run.

    Returns:
        Widths and heights in pixels, rounded to a tenth. If the data has fewer than ``count``
        distinct sizes, some anchors are equal.

    Raises:
        ConfigError: if there is no object, or a size is not above 0.

    Example:
        >>> cluster_anchors(np.array([[10, 10], [10, 10], [40, 20]]), count=2)
        ((10.0, 10.0), (40.0, 20.0))
    """
    sizes = np.asarray(sizes_wh, dtype=np.float64)
    if not len(sizes) or not (sizes > 0).all():
        raise ConfigError(
            f"sizes_wh must be sizes above 0 of at least one object; got {len(sizes)} objects, "
            f"smallest side {sizes.min(initial=np.inf):g} px. Remove empty boxes."
        )
    generator = np.random.default_rng(seed)
    if len(sizes) > MAX_CLUSTERED_OBJECTS:
        sizes = sizes[generator.choice(len(sizes), MAX_CLUSTERED_OBJECTS, replace=False)]
    tried = [_cluster_once(sizes, count, generator, rounds) for _ in range(starts)]
    centers = max(tried, key=lambda found: float(_shape_iou(sizes, found).max(axis=1).mean()))
    order = np.lexsort((centers[:, 0], centers.prod(axis=1)))
    return tuple(
        (max(0.1, round(float(w), 1)), max(0.1, round(float(h), 1))) for w, h in centers[order]
    )


def _cluster_once(
    sizes: NDArray[np.float64], count: int, generator: np.random.Generator, rounds: int
) -> NDArray[np.float64]:
    """Return the best centers, shape (count, 2), over all iterations of one k-means run."""
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
        if overlap.max(axis=1).mean() > greatest:  # medians can reduce the overlap
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
    """Anchors of a training run, and the overlaps on which the choice is based."""

    anchors: tuple[tuple[float, float], ...]
    """Widths and heights in pixels, small to large."""

    masks: tuple[tuple[int, ...], ...]
    """Indices of the anchors of each level, stride 32 first."""

    default_overlap: float
    """Mean best overlap of the default anchors, without anchors that no level uses."""

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
    """Return the default anchors, or anchors from the data if they fit clearly better.

    Args:
        sizes_wh: shape (n, 2), widths and heights of the training objects, network input pixels,
            above 0.
        defaults: default anchors, pixels.
        default_masks: indices of the anchors of each level, stride 32 first. Default anchors that
            no level uses are not compared.
        seed: seed of the clustering.

    Returns:
        Anchors from the data if they gain at least 0.05 in mean best overlap: three per level, the
        largest on the first level. With fewer objects than these anchors the defaults are kept, and
        the overlaps are NaN.

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
    count = ANCHORS_PER_LEVEL * len(masks)
    if len(sizes_wh) < count:
        return AnchorChoice(kept, masks, float("nan"), float("nan"), from_data=False)
    default_overlap = best_overlap(sizes_wh, used)  # type: ignore[arg-type]
    own = cluster_anchors(sizes_wh, count, seed=seed)
    data_overlap = best_overlap(sizes_wh, own)
    if data_overlap - default_overlap < MIN_OVERLAP_GAIN:
        return AnchorChoice(kept, masks, default_overlap, data_overlap, from_data=False)
    starts = range(count - ANCHORS_PER_LEVEL, -1, -ANCHORS_PER_LEVEL)
    own_masks = tuple(tuple(range(start, start + ANCHORS_PER_LEVEL)) for start in starts)
    return AnchorChoice(own, own_masks, default_overlap, data_overlap, from_data=True)
