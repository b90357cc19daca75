"""Decoding of raw maps into boxes and scores.

N is the batch size, A the number of anchors of a level, K the number of classes, H and W the size
of a level's map, B the number of boxes of all levels. Raw maps are logits in every coding:

- ``yolo``: YOLOv3 and YOLOv4;
- ``new_coords``: Scaled-YOLOv4 and YOLOv7 in darknet: the size is ``anchor (2 sigmoid(t))^2``;
- ``region``: YOLOv2: the class scores are a softmax.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from attendet.models.graph import Coding

T = TypeVar("T")

RawLevel = tuple[Tensor, Tensor, Tensor]
"""Box terms (N, H, W, A, 4), objectness logits (N, H, W, A), class logits (N, H, W, A, K)."""

MAX_LOG_SIZE = 8.0
"""Maximum log of the size of a box relative to its anchor; keeps exp() finite in any precision."""


def split_raw_map(raw_map: Tensor, num_anchors: int) -> RawLevel:
    """Return the box terms, objectness logits and class logits of one raw map.

    Args:
        raw_map: shape (N, A (5 + K), H, W).
        num_anchors: A.

    Returns:
        See `RawLevel`; float32.
    """
    n, channels, height, width = raw_map.shape
    terms = channels // num_anchors
    cells = raw_map.permute(0, 2, 3, 1).reshape(n, height, width, num_anchors, terms).float()
    return cells[..., :4], cells[..., 4], cells[..., 5:]


def decode_boxes(
    box_terms: Tensor,
    anchors: Tensor,
    stride: int,
    scale_x_y: float,
    coding: Coding = "yolo",
) -> Tensor:
    """Return the boxes of one level.

    Bochkovskiy et al. 2020, YOLOv4, arXiv:2004.10934: the center is
    ``(sigmoid(t) s - (s - 1) / 2 + cell) stride``, the size ``anchor exp(t)``. In ``new_coords``
    (Wang et al. 2021, Scaled-YOLOv4, arXiv:2011.08036) the size is ``anchor (2 sigmoid(t))^2``.

    Args:
        box_terms: shape (N, H, W, A, 4): x, y, width and height terms.
        anchors: shape (A, 2), width and height in pixels.
        stride: pixels per cell.
        scale_x_y: s.
        coding: coding of the level.

    Returns:
        Shape (N, H, W, A, 4), left, top, right, bottom in network input pixels.
    """
    height, width = box_terms.shape[1], box_terms.shape[2]
    device = box_terms.device
    rows = torch.arange(height, device=device, dtype=box_terms.dtype)
    columns = torch.arange(width, device=device, dtype=box_terms.dtype)
    cells = torch.stack(
        [
            columns.view(1, width).expand(height, width),
            rows.view(height, 1).expand(height, width),
        ],
        dim=-1,
    ).view(1, height, width, 1, 2)
    shift = (scale_x_y - 1) / 2
    centers = (box_terms[..., :2].sigmoid() * scale_x_y - shift + cells) * stride
    if coding == "new_coords":
        twice = 2 * box_terms[..., 2:].sigmoid()
        sizes = twice * twice  # LiteRT has no power operator
    else:
        sizes = box_terms[..., 2:].clamp(max=MAX_LOG_SIZE).exp()
    halves = sizes * (anchors / 2)
    return torch.cat([centers - halves, centers + halves], dim=-1)


def per_level(value: T | tuple[T, ...], levels: int) -> tuple[T, ...]:
    """Return one value per level; a single value is repeated.

    Example:
        >>> per_level(1.05, 2)
        (1.05, 1.05)
    """
    return value if isinstance(value, tuple) else (value,) * levels


def decode_maps(
    raw_maps: list[Tensor],
    level_anchors: list[Tensor],
    strides: tuple[int, ...],
    scale_x_y: float | tuple[float, ...],
    codings: Coding | tuple[Coding, ...] = "yolo",
) -> tuple[Tensor, Tensor]:
    """Return boxes and scores of all levels, in the order level, row, column, anchor.

    Args:
        raw_maps: one (N, A (5 + K), H, W) per level.
        level_anchors: one (A, 2) per level, pixels.
        strides: pixels per cell of each level.
        scale_x_y: stretch of the center's sigmoid, one for all levels or one per level.
        codings: one for all levels or one per level.

    Returns:
        Boxes (N, B, 4), left, top, right, bottom in network input pixels; scores (N, B, K), 0 to 1:
        ``sigmoid(objectness) sigmoid(class)``; with ``region``,
        ``sigmoid(objectness) softmax(class)`` (Redmon and Farhadi 2017, YOLO9000,
        arXiv:1612.08242).
    """
    boxes, scores = [], []
    scales, codings = per_level(scale_x_y, len(strides)), per_level(codings, len(strides))
    for raw_map, anchors, stride, scale, coding in zip(
        raw_maps, level_anchors, strides, scales, codings, strict=True
    ):
        box_terms, objectness_logits, class_logits = split_raw_map(raw_map, len(anchors))
        n, num_classes = class_logits.shape[0], class_logits.shape[-1]
        level_boxes = decode_boxes(box_terms, anchors, stride, scale, coding)
        class_scores = class_logits.softmax(-1) if coding == "region" else class_logits.sigmoid()
        level_scores = objectness_logits.sigmoid().unsqueeze(-1) * class_scores
        boxes.append(level_boxes.reshape(n, -1, 4))
        scores.append(level_scores.reshape(n, -1, num_classes))
    return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)
