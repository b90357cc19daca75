"""Differentiable IoU and CIoU of boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPS = 1e-7


def _area(boxes_xyxy: Tensor) -> Tensor:
    # Not prod: its gradient reads a value from the device, which the CPU waits for.
    sides = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def _intersection_and_union(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    corner = torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    inner = (corner - torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2])).clamp(min=0)
    intersection = inner[..., 0] * inner[..., 1]
    return intersection, _area(a_xyxy) + _area(b_xyxy) - intersection


def compute_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Return intersection over union, pair by pair.

    Args:
        a_xyxy: shape (..., 4), corners.
        b_xyxy: shape broadcastable to ``a_xyxy``, same unit.

    Returns:
        Shape (...), 0 to 1.

    Example:
        >>> compute_iou(torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 0, 3, 2])).item()
        0.3333...
    """
    intersection, union = _intersection_and_union(a_xyxy, b_xyxy)
    return intersection / (union + EPS)


def compute_ciou(pred_xyxy: Tensor, gt_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Return complete IoU and plain IoU, pair by pair.

    Zheng et al. 2020, Distance-IoU Loss, arXiv:1911.08287, equations 10 to 12:
    ``CIoU = IoU - d^2 / c^2 - alpha v`` with d the distance of centers, c the diagonal of the
    smallest enclosing box, v the difference of aspect ratios and alpha its weight (no gradient).

    Args:
        pred_xyxy: shape (n, 4), corners.
        gt_xyxy: shape (n, 4), same unit.

    Returns:
        CIoU (n,), -1.5 to 1, and IoU (n,), 0 to 1.

    Example:
        >>> ciou, iou = compute_ciou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))
        >>> round(ciou.item(), 4)  # 1/3 - 1/13
        0.2564
    """
    intersection, union = _intersection_and_union(pred_xyxy, gt_xyxy)
    iou = intersection / (union + EPS)
    around = torch.maximum(pred_xyxy[..., 2:], gt_xyxy[..., 2:]) - torch.minimum(
        pred_xyxy[..., :2], gt_xyxy[..., :2]
    )
    diagonal = around.square().sum(dim=-1) + EPS
    between = (pred_xyxy[..., :2] + pred_xyxy[..., 2:] - gt_xyxy[..., :2] - gt_xyxy[..., 2:]) / 2
    distance = between.square().sum(dim=-1)
    pred_size = (pred_xyxy[..., 2:] - pred_xyxy[..., :2]).clamp(min=EPS)
    gt_size = (gt_xyxy[..., 2:] - gt_xyxy[..., :2]).clamp(min=EPS)
    angle = torch.atan(gt_size[..., 0] / gt_size[..., 1]) - torch.atan(
        pred_size[..., 0] / pred_size[..., 1]
    )
    aspect = (4 / math.pi**2) * angle.square()
    with torch.no_grad():
        trade = aspect / (1 - iou + aspect + EPS)
    return iou - distance / diagonal - trade * aspect, iou
