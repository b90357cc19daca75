"""Boxes as numpy arrays: formats, IoU, and non-maximum suppression (the package's only one).

The suffix of a name is the format: ``boxes_xyxy`` is left, top, right, bottom; ``boxes_xywh`` is
left, top, width, height; ``boxes_cxcywh`` is center, width, height. Units are pixels unless a name
ends in ``_norm``. n and m are numbers of boxes.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def xyxy_to_xywh(boxes_xyxy: Floats) -> Floats:
    """Return left, top, width, height of (n, 4) corner boxes.

    Example:
        >>> xyxy_to_xywh(np.array([[1.0, 2.0, 4.0, 6.0]])).tolist()
        [[1.0, 2.0, 3.0, 4.0]]
    """
    boxes_xywh = boxes_xyxy.copy()
    boxes_xywh[:, 2:] -= boxes_xyxy[:, :2]
    return boxes_xywh


def xyxy_to_cxcywh(boxes_xyxy: Floats) -> Floats:
    """Return center, width, height of (n, 4) corner boxes.

    Example:
        >>> xyxy_to_cxcywh(np.array([[1.0, 2.0, 4.0, 6.0]])).tolist()
        [[2.5, 4.0, 3.0, 4.0]]
    """
    size = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    return np.concatenate([boxes_xyxy[:, :2] + size / 2, size], axis=1)


def clip_to_image(boxes_xyxy: Floats, image_hw: tuple[int, int]) -> Floats:
    """Return (n, 4) corner boxes clipped to the image.

    Args:
        boxes_xyxy: shape (n, 4), pixels.
        image_hw: height and width of the image, pixels.

    Example:
        >>> clip_to_image(np.array([[-5.0, 2.0, 30.0, 6.0]]), (10, 20)).tolist()
        [[0.0, 2.0, 20.0, 6.0]]
    """
    height, width = image_hw
    clipped = boxes_xyxy.copy()
    clipped[:, 0::2] = clipped[:, 0::2].clip(0, width)
    clipped[:, 1::2] = clipped[:, 1::2].clip(0, height)
    return clipped


def iou_matrix(a_xyxy: Floats, b_xyxy: Floats) -> NDArray[np.float64]:
    """Return intersection over union of each box of ``a`` with each of ``b``.

    Args:
        a_xyxy: shape (n, 4).
        b_xyxy: shape (m, 4), same unit.

    Returns:
        Shape (n, m), 0 to 1; 0 where both boxes are empty.

    Example:
        >>> iou_matrix(np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[1.0, 0.0, 3.0, 2.0]])).round(3)
        array([[0.333]])
    """
    a = np.asarray(a_xyxy, dtype=np.float64)
    b = np.asarray(b_xyxy, dtype=np.float64)
    width = np.minimum(a[:, None, 2], b[:, 2]) - np.maximum(a[:, None, 0], b[:, 0])
    height = np.minimum(a[:, None, 3], b[:, 3]) - np.maximum(a[:, None, 1], b[:, 1])
    intersection = width.clip(min=0) * height.clip(min=0)
    area_a = (a[:, 2] - a[:, 0]).clip(min=0) * (a[:, 3] - a[:, 1]).clip(min=0)
    area_b = (b[:, 2] - b[:, 0]).clip(min=0) * (b[:, 3] - b[:, 1]).clip(min=0)
    union = area_a[:, None] + area_b - intersection
    overlap: NDArray[np.float64] = np.zeros_like(union)
    np.divide(intersection, union, out=overlap, where=union > 0)
    return overlap


def non_maximum_suppression(
    boxes_xyxy: Floats,
    scores: Floats,
    class_ids: NDArray[np.integer],
    *,
    iou_threshold: float = 0.5,
    max_detections: int = 300,
) -> NDArray[np.int64]:
    """Return the indices of the boxes to keep, best score first, for each class separately.

    A box is removed if its IoU with a better kept box of its class is above ``iou_threshold``. One
    call of OpenCV's compiled function handles all classes.

    Args:
        boxes_xyxy: shape (n, 4), pixels.
        scores: shape (n,), 0 to 1.
        class_ids: shape (n,).
        iou_threshold: 0 to 1.
        max_detections: most boxes to keep, the best ones.

    Returns:
        Shape (k,), k <= min(n, max_detections).

    Example:
        >>> boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10]], dtype=np.float32)
        >>> non_maximum_suppression(boxes, np.array([0.8, 0.9, 0.7]), np.array([0, 0, 1])).tolist()
        [1, 2]
    """
    if len(boxes_xyxy) == 0:
        return np.zeros(0, dtype=np.int64)
    order = np.argsort(-np.asarray(scores), kind="stable")
    boxes_xywh = xyxy_to_xywh(np.asarray(boxes_xyxy, dtype=np.float64))[order]
    # OpenCV offsets each class by the largest coordinate, which works for positive coordinates
    # only, and ignores scores of 0: ranks replace the scores.
    boxes_xywh[:, :2] -= boxes_xywh[:, :2].min(axis=0)
    ranks = np.arange(len(order), 0, -1, dtype=np.float32)
    sorted_ids = np.asarray(class_ids, dtype=np.int32)[order]
    # A box never removes a better one: if the best few suffice, the rest is not compared.
    for count in (2 * max_detections, len(order)):
        kept = cv2.dnn.NMSBoxesBatched(
            boxes_xywh[:count],  # type: ignore[arg-type]
            ranks[:count],  # type: ignore[arg-type]
            sorted_ids[:count],  # type: ignore[arg-type]
            score_threshold=0.0,
            nms_threshold=iou_threshold,
        )
        if len(kept) >= max_detections or count >= len(order):
            break
    positions = np.sort(np.asarray(kept, dtype=np.int64).reshape(-1))
    return order[positions][:max_detections]
