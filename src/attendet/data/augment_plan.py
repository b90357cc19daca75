"""The plan of an augmented batch: random draws, affine maps and boxes (numpy only).

Every random number comes from a generator seeded by (seed, epoch, step, position in the global
batch), so a plan is the same on any device, on any rank and after a resume. The geometry of a tile
is one affine map from continuous cache coordinates to continuous network input coordinates (pixel i
spans i..i+1). The same map transforms pixels and boxes.

N is the number of rows of the batch. A row has SLOTS = 5 tiles: four quarters around a center (top
left, top right, bottom left, bottom right) and one image to mix in. A row without mosaic has its
center in the bottom right corner of the network input, so that its first quarter covers all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from attendet.data.cache import ImageCache
from attendet.errors import ConfigError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

QUARTERS = 4
SLOTS = QUARTERS + 1
MAX_LEVEL = 2
"""Maximum number of times that an image is halved by area averaging before it is sampled."""

_CENTER_RANGE = (0.25, 0.75)
_MIX_BETA = 8.0
_RGB_TO_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]]
)
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths and probabilities of augmentation; the text under each field is its help text.

    Example:
        >>> AugmentConfig(scale=0.3).scale
        0.3
        >>> AugmentConfig(scale=1.5)
        Traceback (most recent call last):
        ...
        attendet.errors.ConfigError: scale must be from 0 to 0.95; got 1.5.
    """

    mosaic: float = 0.5
    """Probability that an image becomes one quarter of a mosaic of four."""

    mixup: float = 0.0
    """Probability that another image is blended in; both keep their boxes."""

    scale: float = 0.5
    """Images are scaled by a factor from 1 - this to 1 + this."""

    translate: float = 0.1
    """Largest shift, as a fraction of the network input."""

    degrees: float = 0.0
    """Largest rotation in either direction, degrees."""

    shear: float = 0.0
    """Largest shear along either axis, degrees."""

    flip_lr: float = 0.5
    """Probability of a horizontal flip."""

    flip_ud: float = 0.0
    """Probability of a vertical flip."""

    rotate90: float = 0.0
    """Probability of a rotation by 90, 180 or 270 degrees."""

    hue: float = 0.015
    """Largest hue shift in either direction, as a fraction of the color circle."""

    saturation: float = 0.5
    """Saturation is multiplied by a factor from 1 - this to 1 + this."""

    value: float = 0.3
    """Brightness is multiplied by a factor from 1 - this to 1 + this."""

    min_box: float = 2.0
    """Boxes with a width or height below this after augmentation are dropped, pixels."""

    min_visible: float = 0.2
    """Boxes of which less than this fraction of the area remains are dropped."""

    def __post_init__(self) -> None:
        limits = {"scale": 0.95, "degrees": 180.0, "shear": 45.0, "hue": 0.5, "min_box": math.inf}
        for field in fields(self):
            value, limit = getattr(self, field.name), limits.get(field.name, 1.0)
            ConfigError.check(0 <= value <= limit, field.name, f"from 0 to {limit:g}", value)


class CacheTable:
    """Sizes and boxes of a cache's images as flat arrays, for operations on whole batches.

    Attributes:
        input_hw: network input of the cache, pixels.
        content_hw: float64 (n, 2), height and width of each image within the network input, without
            padding, pixels.
        boxes_xyxy: float64 (B, 4), the B boxes of all images, concatenated.
        class_ids: int64 (B,).
        starts: int64 (n + 1,); image i has the boxes starts[i]..starts[i + 1] - 1.
    """

    def __init__(self, cache: ImageCache) -> None:
        self.input_hw = cache.input_hw
        self.content_hw = np.array(
            [
                [side * transform.scale for side in transform.image_hw]
                for transform in cache.transforms
            ],
            dtype=np.float64,
        )
        counts = [len(ids) for ids in cache.class_ids]
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.boxes_xyxy = np.concatenate(cache.boxes_xyxy).astype(np.float64).reshape(-1, 4)
        self.class_ids = np.concatenate(cache.class_ids).astype(np.int64)

    def __len__(self) -> int:
        return len(self.content_hw)

    def boxes_of(self, images: Ints) -> tuple[Ints, Ints]:
        """Return the indices of all boxes of `images`, and each box's position in `images`."""
        counts = self.starts[images + 1] - self.starts[images]
        owner = np.repeat(np.arange(len(images)), counts)
        first = np.cumsum(counts) - counts
        return self.starts[images][owner] + np.arange(len(owner)) - first[owner], owner


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """Augmentation of one batch, as numbers.

    Attributes:
        input_hw: network input of the batch, pixels.
        sources: int64 (N, 5), cache rows of the tiles.
        centers_xy: int64 (N, 2), point where the four quarters meet, pixels.
        matrices: float64 (N, 5, 2, 3), affine map of each tile from cache to network input.
        levels: int64 (N, 5), number of halvings of a tile's image before it is sampled.
        blends: float64 (N,), weight of the quarters; below 1 if an image is mixed in.
        colors: float32 (N, 3, 3), color matrix of each row: rgb_out = color @ rgb_in.
        boxes_xyxy: float32 (N, M, 4), network input pixels, zeros beyond a row's boxes; M >= 1.
        class_ids: int64 (N, M).
        valid: bool (N, M).
    """

    input_hw: tuple[int, int]
    sources: Ints
    centers_xy: Ints
    matrices: Floats
    levels: Ints
    blends: Floats
    colors: NDArray[np.float32]
    boxes_xyxy: NDArray[np.float32]
    class_ids: Ints
    valid: Bools

    def rows(self, rows: slice) -> BatchPlan:
        """Return the plan of some rows; their boxes keep the padding of the whole batch."""
        cut = {
            field.name: getattr(self, field.name)[rows]
            for field in fields(self)
            if field.name != "input_hw"
        }
        return BatchPlan(input_hw=self.input_hw, **cut)

    def quarter_xyxy(self, row: int, quarter: int) -> tuple[int, int, int, int]:
        """Return the corners of a quarter in network input pixels; an empty quarter has no area."""
        height, width = self.input_hw
        center_x, center_y = (int(side) for side in self.centers_xy[row])
        left, right = ((0, center_x), (center_x, width))[quarter % 2]
        top, bottom = ((0, center_y), (center_y, height))[quarter // 2]
        return left, top, right, bottom


@dataclass(frozen=True, eq=False)
class _Draws:
    """Random numbers of a batch, as arrays (N,) for rows and (N, SLOTS) for tiles.

    All are uniform in 0..1, except for the beta-distributed `mix_weight`.
    """

    row: dict[str, Floats]
    tile: dict[str, Floats]
    mix_weight: Floats

    ROW = ("mosaic", "mixup", "own", "center_x", "center_y", "hue", "saturation", "value")
    TILE = (
        *("partner", "gain", "shift_x", "shift_y", "angle", "shear_x", "shear_y"),
        *("flip_lr", "flip_ud", "turn", "turns"),
    )

    @classmethod
    def make(cls, count: int, seed: int, epoch: int, step: int) -> _Draws:
        """Return the draws; each row has its own generator, which is read in a fixed order."""
        each = len(cls.ROW) + SLOTS * len(cls.TILE)
        uniform, weight = np.empty((count, each)), np.empty(count)
        for row in range(count):
            generator = np.random.default_rng((seed, epoch, step, row))
            uniform[row] = generator.random(each)
            weight[row] = generator.beta(_MIX_BETA, _MIX_BETA)
        tiles = uniform[:, len(cls.ROW) :].reshape(count, SLOTS, len(cls.TILE))
        return cls(
            row={name: uniform[:, i] for i, name in enumerate(cls.ROW)},
            tile={name: tiles[..., i] for i, name in enumerate(cls.TILE)},
            mix_weight=weight,
        )


def plan_batch(
    table: CacheTable,
    settings: AugmentConfig,
    indices: Sequence[int],
    *,
    seed: int,
    epoch: int,
    step: int,
    input_hw: tuple[int, int],
    mosaic_on: bool = True,
) -> BatchPlan:
    """Return the augmentation of one global batch, as numbers.

    Args:
        table: sizes and boxes of the cache.
        settings: strengths and probabilities.
        indices: cache rows of the N images.
        seed: non-negative; `seed`, `epoch` and `step` together seed the random draws.
        epoch: non-negative.
        step: non-negative.
        input_hw: network input of the batch, pixels; may differ from that of the cache.
        mosaic_on: False disables mosaic and mixup.

    Returns:
        The plan.
    """
    draws = _Draws.make(len(indices), seed, epoch, step)
    height, width = input_hw
    is_mosaic = (draws.row["mosaic"] < settings.mosaic) & mosaic_on
    is_mixed = (draws.row["mixup"] < settings.mixup) & mosaic_on

    low, high = _CENTER_RANGE
    center_fraction = low + (high - low) * np.stack(
        [draws.row["center_x"], draws.row["center_y"]], 1
    )
    input_wh = np.array([width, height])
    centers = np.rint(center_fraction * input_wh).astype(np.int64).clip(1)
    centers = np.where(is_mosaic[:, None], centers, input_wh)

    sources = (draws.tile["partner"] * len(table)).astype(np.int64)
    own = np.where(is_mosaic, (draws.row["own"] * QUARTERS).astype(np.int64), 0)
    sources[np.arange(len(indices)), own] = np.asarray(indices, dtype=np.int64)

    used = np.zeros(sources.shape, dtype=bool)
    used[:, 0], used[:, 1:QUARTERS], used[:, QUARTERS] = True, is_mosaic[:, None], is_mixed
    matrices = _matrices(table, settings, draws, sources, centers, is_mosaic, input_hw)
    boxes_xyxy, class_ids, valid = _boxes(
        table, settings, sources, centers, matrices, used, input_hw
    )
    return BatchPlan(
        input_hw=(height, width),
        sources=sources,
        centers_xy=centers,
        matrices=matrices,
        levels=_levels(matrices),
        blends=np.where(is_mixed, draws.mix_weight, 1.0),
        colors=_colors(settings, draws),
        boxes_xyxy=boxes_xyxy,
        class_ids=class_ids,
        valid=valid,
    )


def _signed(uniform: Floats, reach: float) -> Floats:
    """Return draws from 0..1, scaled to -reach..reach."""
    return (2 * uniform - 1) * reach


def _matrices(
    table: CacheTable,
    settings: AugmentConfig,
    draws: _Draws,
    sources: Ints,
    centers: Ints,
    is_mosaic: Bools,
    input_hw: tuple[int, int],
) -> Floats:
    """Return the (N, SLOTS, 2, 3) maps: flip, rotate by 90 degrees, shear, rotate, scale, shift.

    A single image is centered and then shifted. In a mosaic, the inner corner of each image is
    moved past the mosaic's center by the size of the shift, so that no gap opens at the seam.
    """
    tile = draws.tile
    turned = tile["turn"] < settings.rotate90
    turns = np.where(turned, 1 + np.minimum(tile["turns"] * 3, 2).astype(np.int64), 0)
    content_wh = table.content_hw[sources][..., ::-1]
    turned_wh = np.where((turns % 2 == 1)[..., None], content_wh[..., ::-1], content_wh)
    input_wh = np.array(input_hw[::-1], dtype=np.float64)
    gain = (input_wh / turned_wh).min(axis=-1) * (1 + _signed(tile["gain"], settings.scale))

    linear = _linear(settings, tile, turns) * gain[..., None, None]
    half_wh = (np.abs(linear) @ (content_wh[..., None] / 2))[..., 0]
    shift = np.stack([_signed(tile["shift_x"], 1.0), _signed(tile["shift_y"], 1.0)], axis=-1) * (
        settings.translate * input_wh
    )
    position = input_wh / 2 + shift
    towards = np.array([[1, 1], [-1, 1], [1, -1], [-1, -1]], dtype=np.float64)
    quarters = slice(0, QUARTERS)
    corner = centers[:, None] - towards * (half_wh - np.abs(shift))[:, quarters]
    position[:, quarters] = np.where(is_mosaic[:, None, None], corner, position[:, quarters])

    middle = np.array(table.input_hw[::-1], dtype=np.float64) / 2
    offset = position - (linear @ middle[:, None])[..., 0]
    return np.concatenate([linear, offset[..., None]], axis=-1)


def _linear(settings: AugmentConfig, tile: dict[str, Floats], turns: Ints) -> Floats:
    """Return the (N, SLOTS, 2, 2) matrices that flip, rotate and shear, without the scale."""
    angle = np.deg2rad(_signed(tile["angle"], settings.degrees))
    shear_x = np.tan(np.deg2rad(_signed(tile["shear_x"], settings.shear)))
    shear_y = np.tan(np.deg2rad(_signed(tile["shear_y"], settings.shear)))
    rotate = _stack(np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle))
    ones, zeros = np.ones_like(angle), np.zeros_like(angle)
    shear = _stack(ones, shear_x, zeros, ones) @ _stack(ones, zeros, shear_y, ones)
    cosine = np.array([1.0, 0.0, -1.0, 0.0])
    turn = _stack(cosine[turns], -cosine[turns - 1], cosine[turns - 1], cosine[turns])
    flip_lr = np.where(tile["flip_lr"] < settings.flip_lr, -1.0, 1.0)
    flip_ud = np.where(tile["flip_ud"] < settings.flip_ud, -1.0, 1.0)
    return rotate @ shear @ turn @ _stack(flip_lr, zeros, zeros, flip_ud)


def _stack(a: Floats, b: Floats, c: Floats, d: Floats) -> Floats:
    """Return 2 x 2 matrices ((a, b), (c, d)) in two new last axes."""
    return np.stack([a, b, c, d], axis=-1).reshape(*a.shape, 2, 2)


def _levels(matrices: Floats) -> Ints:
    """Return the number of halvings; bilinear sampling alone shrinks by a factor of up to 2."""
    scale = np.linalg.norm(matrices[..., :2], ord=-2, axis=(-2, -1))
    halvings = np.floor(-np.log2(np.maximum(scale, 1e-6)) + 1e-9)
    return np.asarray(halvings.clip(0, MAX_LEVEL), dtype=np.int64)


def _boxes(
    table: CacheTable,
    settings: AugmentConfig,
    sources: Ints,
    centers: Ints,
    matrices: Floats,
    used: Bools,
    input_hw: tuple[int, int],
) -> tuple[NDArray[np.float32], Ints, Bools]:
    """Return padded boxes, class ids and validity, after mapping, clipping and filtering."""
    rows, slots = np.nonzero(used)
    numbers, owner = table.boxes_of(sources[rows, slots])
    left, top, right, bottom = table.boxes_xyxy[numbers].T
    corners = np.stack(
        [np.stack([left, right, right, left], 1), np.stack([top, top, bottom, bottom], 1)], axis=1
    )
    matrix = matrices[rows, slots][owner]
    mapped = matrix[..., :2] @ corners + matrix[..., 2:]
    low, high = mapped.min(axis=-1), mapped.max(axis=-1)

    input_wh = np.array(input_hw[::-1])
    mixed = (slots == QUARTERS)[:, None]
    second = np.stack([slots % 2 == 1, slots // 2 == 1], axis=1) & ~mixed
    center = centers[rows]
    region_low = np.where(second, center, 0)[owner]
    region_high = np.where(second | mixed, input_wh, center)[owner]
    clipped_low = np.maximum(low, region_low)
    clipped_high = np.minimum(high, region_high)
    size = clipped_high - clipped_low
    area = np.maximum((high - low).prod(axis=1), 1e-9)
    keep = (size > 0).all(axis=1) & (size >= settings.min_box).all(axis=1)
    keep &= size.clip(0).prod(axis=1) >= settings.min_visible * area

    boxes_xyxy = np.concatenate([clipped_low, clipped_high], axis=1)[keep]
    return _padded(boxes_xyxy, table.class_ids[numbers][keep], rows[owner][keep], len(sources))


def _padded(
    boxes_xyxy: Floats, class_ids: Ints, rows: Ints, count: int
) -> tuple[NDArray[np.float32], Ints, Bools]:
    """Return boxes sorted by row as padded arrays (count, M, 4), (count, M) and (count, M)."""
    per_row = np.bincount(rows, minlength=count)
    slot = np.arange(len(rows)) - (np.cumsum(per_row) - per_row)[rows]
    most = max(1, int(per_row.max(initial=0)))
    padded = np.zeros((count, most, 4), dtype=np.float32)
    padded_ids = np.zeros((count, most), dtype=np.int64)
    padded[rows, slot], padded_ids[rows, slot] = boxes_xyxy, class_ids
    return padded, padded_ids, np.arange(most) < per_row[:, None]


def _colors(settings: AugmentConfig, draws: _Draws) -> NDArray[np.float32]:
    """Return (N, 3, 3) color matrices: value gain x saturation gain x hue rotation, in YIQ.

    HSV jitter is not linear: it keeps V = max(R, G, B) while hue and saturation change. Here, hue
    rotates colors about the gray axis and saturation scales their distance from it, both at
    constant luma. So the V of a strongly colored pixel may change. Gray pixels, and the effect of
    the value gain, are the same in both methods.
    """
    turn = 2 * np.pi * _signed(draws.row["hue"], settings.hue)
    saturation = 1 + _signed(draws.row["saturation"], settings.saturation)
    value = 1 + _signed(draws.row["value"], settings.value)
    inner = np.zeros((len(turn), 3, 3))
    inner[:, 0, 0] = 1
    inner[:, 1:, 1:] = saturation[:, None, None] * _stack(
        np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)
    )
    colors = value[:, None, None] * (_YIQ_TO_RGB @ inner @ _RGB_TO_YIQ)
    return np.asarray(colors, dtype=np.float32)
