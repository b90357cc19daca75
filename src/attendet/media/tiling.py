"""Tiled prediction on large images, so that small objects keep their resolution.

A tile cuts the objects at its edges. An object that is smaller than the overlap is whole in another
tile, so a box that touches an inner edge of its tile is kept only if no whole box covers it. Pieces
of one object in neighboring tiles are joined. Finally, non-maximum suppression runs on all boxes.
The idea is slicing-aided inference (Akyon, Altinuc, Temizel 2022, arXiv:2202.06934), which leaves
cut boxes to the suppression alone.

n is the number of boxes, t of tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attendet.boxes import non_maximum_suppression
from attendet.detections import Detections
from attendet.errors import ConfigError
from attendet.images import ImageArray

if TYPE_CHECKING:
    from attendet.inference.detector import Detector

BATCH = 16
"""Number of tiles per batch."""

EDGE_FRACTION = 0.01
"""A box side within this fraction of the tile's side (at least 2 px) of an inner edge is cut."""

COVERED_FRACTION = 0.5
"""A cut box is removed if a whole box of its class covers at least this fraction of it."""

MAX_PIECES = 1000
"""Maximum number of cut boxes that are processed, best score first."""

ALIGNED = 0.6
"""Pieces are joined if their intervals along the common edge have at least this IoU."""

LEFT, TOP, RIGHT, BOTTOM = range(4)

INTERVAL_START = {RIGHT: TOP, BOTTOM: LEFT}
"""Sides across which pieces are joined, in this order, with the start of the edge interval."""


def tile_windows(
    image_hw: tuple[int, int], tile: int = 640, overlap: float = 0.2
) -> NDArray[np.int64]:
    """Return tiles that cover an image, evenly spaced from edge to edge.

    Args:
        image_hw: height and width of the image, pixels.
        tile: side of a tile, pixels; shorter if the image is.
        overlap: fraction of its side by which a tile overlaps the next, at least; 0 to 0.9.

    Returns:
        Shape (t, 4): left, top, right, bottom, row by row.

    Raises:
        ConfigError: if a number is out of range.

    Example:
        >>> tile_windows((100, 250), 100, 0.2).tolist()
        [[0, 0, 100, 100], [75, 0, 175, 100], [150, 0, 250, 100]]
    """
    ConfigError.check(tile >= 32, "tile", "32 pixels or more", tile)
    ConfigError.check(0 <= overlap <= 0.9, "overlap", "from 0 to 0.9", overlap)
    rows, columns = (_starts(length, tile, overlap) for length in image_hw)
    height, width = (min(tile, length) for length in image_hw)
    windows = [[x, y, x + width, y + height] for y in rows for x in columns]
    return np.array(windows, dtype=np.int64)


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Return the starts of the tiles along one side, evenly spaced from edge to edge."""
    if length <= tile:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    count = -(-(length - tile) // step) + 1
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]


def predict_tiled(
    detector: Detector,
    image: ImageArray,
    tile: int = 640,
    overlap: float = 0.2,
    *,
    whole: bool = True,
    **selection: Any,
) -> Detections:
    """Return the detections of a large image, predicted in tiles and as a whole.

    Args:
        detector: any detector.
        image: uint8 RGB, shape (H, W, 3).
        tile: side of a tile, pixels of the image. Tiles are scaled to the detector's input size; a
            tile of that size is not scaled.
        overlap: fraction of its side by which a tile overlaps the next, 0 to 0.9; objects up to
            this size are whole in some tile.
        whole: predict the whole image too, for objects larger than a tile.
        **selection: as for `Detector.predict_batch`; ``max_detections`` applies to each tile.

    Returns:
        The detections in pixels of the image, best score first.

    Raises:
        ConfigError: if a number is out of range.
    """
    image_hw = (image.shape[0], image.shape[1])
    windows = tile_windows(image_hw, tile, overlap)
    everything = np.array([[0, 0, image_hw[1], image_hw[0]]])
    if whole and len(windows) > 1:
        windows = np.concatenate([windows, everything])
    found: list[Detections] = []
    for start in range(0, len(windows), BATCH):
        crops = [image[y:v, x:u] for x, y, u, v in windows[start : start + BATCH]]
        found += detector.predict_batch(crops, **selection)
    if len(windows) == 1:
        return found[0]
    iou = selection.get("nms_iou")
    return merge_tiles(
        found, windows, image_hw, nms_iou=detector.selection.nms_iou if iou is None else iou
    )


def merge_tiles(
    found: Sequence[Detections],
    windows: NDArray[np.int64],
    image_hw: tuple[int, int],
    *,
    nms_iou: float = 0.5,
) -> Detections:
    """Merge the detections of tiles into the detections of the image that they cover.

    Args:
        found: detections of each tile, in pixels of the tile; t of them, at least one.
        windows: shape (t, 4): left, top, right, bottom of each tile in the image.
        image_hw: height and width of the image, pixels.
        nms_iou: of two boxes of a class with an IoU above this, the better one is kept; 0 to 1.

    Returns:
        The detections in pixels of the image, best score first.
    """
    offsets = windows[:, [0, 1, 0, 1]].astype(np.float32)
    boxes = _Boxes(
        np.concatenate([one.boxes_xyxy + by for one, by in zip(found, offsets, strict=True)]),
        np.concatenate([one.scores for one in found]),
        np.concatenate([one.class_ids for one in found]),
        np.zeros((0, 4), dtype=bool),
    )
    tiles = np.repeat(windows, [len(one) for one in found], axis=0)
    boxes.cut = _cut_sides(boxes.xyxy, tiles, image_hw)
    is_cut = np.asarray(boxes.cut.any(axis=1))
    solid = boxes[~is_cut].suppressed(nms_iou)
    pieces = boxes[is_cut]
    pieces = pieces[np.argsort(-pieces.scores, kind="stable")[:MAX_PIECES]]
    pieces = _join(pieces[_covered_fraction(pieces, solid) < COVERED_FRACTION])
    # In the overlap of two rows, a piece may be left that was not joined with its object.
    pieces = pieces[
        ~pieces.cut.any(axis=1) | (_covered_fraction(pieces, pieces) < COVERED_FRACTION)
    ]
    merged = solid.concatenated(pieces).suppressed(nms_iou)
    return Detections(
        boxes_xyxy=merged.xyxy,
        scores=merged.scores,
        class_ids=merged.class_ids,
        classes=found[0].classes,
        image_hw=image_hw,
    )


@dataclass
class _Boxes:
    """n boxes in pixels of the image, and the sides at which an inner tile edge cuts them."""

    xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    cut: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: NDArray[Any]) -> _Boxes:
        return _Boxes(self.xyxy[index], self.scores[index], self.class_ids[index], self.cut[index])

    def concatenated(self, other: _Boxes) -> _Boxes:
        columns = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Boxes(*map(np.concatenate, columns))

    def suppressed(self, iou: float) -> _Boxes:
        most = max(len(self), 1)
        kept = non_maximum_suppression(
            self.xyxy, self.scores, self.class_ids, iou_threshold=iou, max_detections=most
        )
        return self[kept]


def _cut_sides(
    boxes: NDArray[np.floating], tiles: NDArray[np.int64], image_hw: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return a mask, shape (n, 4), of the box sides that end at an inner edge of their tile."""
    size = (tiles[:, 2:] - tiles[:, :2]).min(axis=1, initial=2**31)
    near = np.maximum(EDGE_FRACTION * size, 2.0)[:, None]
    inner = tiles != np.array([0, 0, image_hw[1], image_hw[0]])
    return np.asarray(inner & (np.abs(boxes - tiles) <= near))


def _covered_fraction(boxes: _Boxes, others: _Boxes) -> NDArray[np.float64]:
    """Return the largest fraction of each box that a larger box of its class covers, shape (n,)."""
    most = np.zeros(len(boxes))
    other_area = _area(others.xyxy)
    for start in range(0, len(boxes), 64):  # limits the memory
        part = slice(start, start + 64)
        xyxy, area = boxes.xyxy[part, None], _area(boxes.xyxy[part])[:, None]
        low = np.maximum(xyxy[..., :2], others.xyxy[:, :2])
        high = np.minimum(xyxy[..., 2:], others.xyxy[:, 2:])
        fraction = (high - low).clip(min=0).prod(axis=2) / np.maximum(area, 1e-9)
        able = (boxes.class_ids[part, None] == others.class_ids) & (other_area > area)
        most[part] = np.where(able, fraction, 0).max(axis=1, initial=0)
    return most


def _area(boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1))


def _join(pieces: _Boxes) -> _Boxes:
    """Return cut boxes with the pieces of each object joined into one box, with the best score.

    Two pieces belong together if one is cut where the other begins: they overlap across the edge
    and are at the same position along it. Pieces next to each other are joined first, then pieces
    above each other; large objects extend over several tiles.
    """
    pieces = pieces[np.arange(len(pieces))]  # a copy
    left = np.ones(len(pieces), dtype=bool)
    sides = [_Pairs(pieces, side) for side in INTERVAL_START]
    while pairs := next((pairs for pairs in sides if pairs.any()), None):
        first, second = pairs.best()
        _extend(pieces, first, second, pairs.side)
        left[second] = False
        for pairs in sides:
            pairs.update(pieces, left, first, second)
    return pieces[left]


class _Pairs:
    """Sum of scores of each pair of pieces that belong together across one side; others: -1."""

    def __init__(self, pieces: _Boxes, side: int) -> None:
        self.side = side
        self.sums = _sums_of_pairs(pieces, pieces, side)
        self.row_max: NDArray[np.float32] = self.sums.max(axis=1, initial=-1)

    def any(self) -> bool:
        return bool(self.row_max.max(initial=-1) >= 0)

    def best(self) -> tuple[int, int]:
        first = int(self.row_max.argmax())
        return first, int(self.sums[first].argmax())

    def update(self, pieces: _Boxes, left: NDArray[np.bool_], first: int, second: int) -> None:
        """Compute the pairs of the first piece again, and remove the pairs of the second."""
        lost = (self.sums[:, [first, second]] == self.row_max[:, None]).any(axis=1)
        lost &= self.row_max >= 0
        lost[[first, second]] = True
        one = pieces[np.array([first])]
        self.sums[first] = np.where(left, _sums_of_pairs(one, pieces, self.side)[0], -1)
        self.sums[:, first] = np.where(left, _sums_of_pairs(pieces, one, self.side)[:, 0], -1)
        self.sums[second] = self.sums[:, second] = -1
        self.row_max[lost] = self.sums[lost].max(axis=1)
        self.row_max = np.maximum(self.row_max, self.sums[:, first])


def _sums_of_pairs(pieces: _Boxes, others: _Boxes, side: int) -> NDArray[np.float32]:
    """Return the sum of scores of each pair that continues across the side, else -1; (n, m).

    In such a pair, the other box starts inside the piece and ends beyond it.
    """
    opposite, along = side - 2, INTERVAL_START[side]
    start, end = pieces.xyxy[:, None, opposite], pieces.xyxy[:, None, side]
    other_start, other_end = others.xyxy[:, opposite], others.xyxy[:, side]
    meet = pieces.cut[:, None, side] & others.cut[:, opposite]
    meet &= pieces.class_ids[:, None] == others.class_ids
    meet &= (end >= other_start) & (start < other_start) & (end < other_end)
    spans = [along, along + 2]
    meet &= _interval_iou(pieces.xyxy[:, spans], others.xyxy[:, spans]) >= ALIGNED
    return np.where(meet, pieces.scores[:, None] + others.scores, np.float32(-1))


def _interval_iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the IoU of each interval of ``a`` with each of ``b``, shape (n, m)."""
    low, high = a[:, None, 0], a[:, None, 1]
    common = (np.minimum(high, b[:, 1]) - np.maximum(low, b[:, 0])).clip(min=0)
    union = np.maximum(high, b[:, 1]) - np.minimum(low, b[:, 0])
    return np.asarray(common / np.maximum(union, 1e-9))


def _extend(pieces: _Boxes, first: int, second: int, side: int) -> None:
    """Extend the first piece by the second across a side of the first, in place."""
    one, other = pieces.xyxy[first], pieces.xyxy[second]
    sides = pieces.cut[first] | pieces.cut[second]
    sides[side], sides[side - 2] = pieces.cut[second, side], pieces.cut[first, side - 2]
    pieces.xyxy[first] = np.concatenate([np.minimum(one, other)[:2], np.maximum(one, other)[2:]])
    pieces.scores[first] = max(pieces.scores[first], pieces.scores[second])
    pieces.cut[first] = sides
