"""Assign predictions to ground-truth objects, fully vectorized.

All shapes depend only on the shapes of the inputs, not on their values, so that nothing here
synchronizes the CPU with a GPU.

N is the batch size, M the number of objects per image (padded), B the number of predictions per
image (all levels, in the order of `attendet.models.decode`), A the number of anchors per level, K
the number of classes, Q the number of candidates per object.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from attendet.losses.overlap import compute_iou

BIG = 1e9

IOU_WEIGHT = 3.0
"""Weight of the IoU term in the cost (YOLOX, section 2.1)."""

TOP_CANDIDATES = 10
"""Number of highest IoUs of an object that are summed to get its k (YOLOX, section 2.1)."""


class Grid(NamedTuple):
    """One level of the detector's output."""

    height: int
    width: int
    stride: int
    anchors: Tensor
    """Widths and heights, shape (A, 2), pixels."""
    offset: int
    """Number of predictions in the levels before this one."""


class Matches(NamedTuple):
    """Candidate predictions of each object, and which of them are matched to it."""

    prediction: Tensor
    """Shape (N, M, Q), index into B."""
    kept: Tensor
    """Shape (N, M, Q), bool; each prediction is kept for at most one object."""


def _flat_index(grid: Grid, row: Tensor, column: Tensor) -> Tensor:
    """Return indices into B of all anchors of cells, (..., A); cells are clamped to the grid."""
    row = row.clamp(0, grid.height - 1)
    column = column.clamp(0, grid.width - 1)
    anchors = torch.arange(len(grid.anchors), device=row.device)
    first = grid.offset + (row * grid.width + column) * len(grid.anchors)
    return first.unsqueeze(-1) + anchors


def one_hot_classes(class_ids: Tensor, num_classes: int) -> Tensor:
    """Return class ids as one-hot vectors, bool of shape (..., K).

    Unlike ``torch.nn.functional.one_hot``, it does not read the ids on the CPU to check them.
    """
    return class_ids.unsqueeze(-1) == torch.arange(num_classes, device=class_ids.device)


def _nearest_cells(gt_boxes_xyxy: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows, columns (N, M, 4) of the four cells nearest each center, and which exist."""
    centers = (gt_boxes_xyxy[..., :2] + gt_boxes_xyxy[..., 2:]) / 2 / grid.stride
    corner = (centers - 0.5).floor().long()
    cell = torch.arange(4, device=corner.device)
    column, row = corner[..., :1] + cell % 2, corner[..., 1:] + cell // 2
    exists = (row >= 0) & (row < grid.height) & (column >= 0) & (column < grid.width)
    return row, column, exists


def _candidates(gt_boxes_xyxy: Tensor, grids: list[Grid]) -> tuple[Tensor, Tensor]:
    """Return the candidate predictions (N, M, Q) of each object, and which exist."""
    indices, exists = [], []
    for grid in grids:
        row, column, exist = _nearest_cells(gt_boxes_xyxy, grid)
        index = _flat_index(grid, row, column)
        indices.append(index.flatten(2))
        exists.append(exist.unsqueeze(-1).expand_as(index).flatten(2))
    return torch.cat(indices, dim=2), torch.cat(exists, dim=2)


def _keep_cheapest(chosen: Tensor, cost: Tensor, index: Tensor, total: int) -> Tensor:
    """Return ``chosen`` without the pairs whose prediction another object gets at a lower cost."""
    n, objects, count = cost.shape
    flat_index = index.reshape(n, -1)
    flat_cost = torch.where(chosen, cost, torch.full_like(cost, BIG)).reshape(n, -1)
    best = torch.full((n, total), BIG, device=cost.device, dtype=cost.dtype)
    best.scatter_reduce_(1, flat_index, flat_cost, "amin")
    wins = chosen.reshape(n, -1) & (flat_cost <= best.gather(1, flat_index))
    # Equal costs (duplicate labels): the first object wins.
    order = torch.arange(objects * count, device=cost.device).expand(n, -1)
    none = objects * count
    rank = torch.where(wins, order, torch.full_like(order, none))
    first = torch.full((n, total), none, device=cost.device, dtype=order.dtype)
    first.scatter_reduce_(1, flat_index, rank, "amin")
    return (wins & (first.gather(1, flat_index) == order)).view(n, objects, count)


def _is_match(matches: Matches, index: Tensor, total: int) -> Tensor:
    """Return which candidates (N, M, Q) of each object are among its matches."""
    n, objects, _ = index.shape
    numbers = torch.arange(objects, device=index.device).view(1, -1, 1)
    matched = torch.where(matches.kept, numbers, -1).flatten(1)
    owner = torch.full((n, total), -1, device=index.device)
    owner.scatter_reduce_(1, matches.prediction.flatten(1), matched, "amax")
    return owner.gather(1, index.reshape(n, -1)).view(index.shape) == numbers


@torch.no_grad()
def assign_dynamic(
    pred_boxes_xyxy: Tensor,
    objectness_logits: Tensor,
    class_logits: Tensor,
    gt_boxes_xyxy: Tensor,
    gt_class_ids: Tensor,
    gt_valid: Tensor,
    grids: list[Grid],
) -> Matches:
    """Return the matches of dynamic-k assignment (SimOTA): the best predictions of each object.

    Ge et al. 2021, YOLOX, arXiv:2107.08430, section 2.1: each object takes its k candidates of
    lowest cost. k is the sum of its ten highest IoUs, at least 1. The cost is the binary
    cross-entropy of the class score plus 3 times the negative log IoU. There are two differences
    from the paper:

    - The candidates are the four cells nearest the object's center, on each level, with each
      anchor. With ``scale_x_y`` = 2, the decode cannot reach a center further away. So the cost is
      computed for 24 predictions per object (2 levels of 3 anchors), not for all.
    - Each object keeps its match of `assign_best_anchor` at any cost. By cost alone, a small object
      among large ones loses that match to them, and the anchor that has to detect it changes from
      step to step (measured in docs/decisions/0007).

    Args:
        pred_boxes_xyxy: shape (N, B, 4), network input pixels.
        objectness_logits: shape (N, B).
        class_logits: shape (N, B, K).
        gt_boxes_xyxy: shape (N, M, 4), network input pixels.
        gt_class_ids: shape (N, M).
        gt_valid: shape (N, M), false where padded.
        grids: the levels.

    Returns:
        The matches; Q is the sum of 4 A over all levels.
    """
    n, total, num_classes = class_logits.shape
    gt_class_ids = gt_class_ids.masked_fill(~gt_valid, 0)
    index, exists = _candidates(gt_boxes_xyxy, grids)
    allowed = exists & gt_valid.unsqueeze(-1)
    flat = index.reshape(n, -1)
    boxes = pred_boxes_xyxy.gather(1, flat.unsqueeze(-1).expand(-1, -1, 4)).view(*index.shape, 4)
    iou = compute_iou(boxes, gt_boxes_xyxy.unsqueeze(2)).masked_fill(~allowed, 0)
    logits = class_logits.gather(1, flat.unsqueeze(-1).expand(-1, -1, num_classes))
    objectness = objectness_logits.gather(1, flat).unsqueeze(-1).sigmoid()
    score = (logits.sigmoid() * objectness).sqrt().view(*index.shape, num_classes)
    score = score.nan_to_num(0.0)  # a diverged run must fail at its loss, not here
    score = score.clamp(1e-6, 1 - 1e-6)
    of_object = one_hot_classes(gt_class_ids, num_classes).unsqueeze(2)
    class_cost = -torch.where(of_object, score, 1 - score).log().sum(dim=-1)
    cost = class_cost - IOU_WEIGHT * (iou + 1e-8).log()
    cost = torch.where(allowed, cost, torch.full_like(cost, BIG))
    width = min(TOP_CANDIDATES, cost.shape[2])
    count = iou.topk(width, dim=2).values.sum(dim=2).long().clamp(min=1)
    rank = cost.argsort(dim=2, stable=True).argsort(dim=2, stable=True)
    own = _is_match(assign_best_anchor(gt_boxes_xyxy, gt_valid, grids, total), index, total)
    own = own & allowed
    chosen = ((rank < count.unsqueeze(-1)) & allowed) | own
    cost = cost.masked_fill(own, -BIG)
    return Matches(index, _keep_cheapest(chosen, cost, index, total))


@torch.no_grad()
def assign_best_anchor(
    gt_boxes_xyxy: Tensor, gt_valid: Tensor, grids: list[Grid], total: int
) -> Matches:
    """Return the matches of classic assignment: the best-shaped anchor at the object's own cell.

    Redmon and Farhadi 2018, YOLOv3, arXiv:1804.02767, section 2.1. The best anchor has the highest
    IoU with the object when both have the same center. If several levels have that anchor, the
    object is matched on all of them, as in darknet. If two objects match the same prediction, the
    smaller object gets it, because it has fewer other candidates. The projects before this one gave
    it to the later object.

    Args:
        gt_boxes_xyxy: shape (N, M, 4), network input pixels.
        gt_valid: shape (N, M), false where padded.
        grids: the levels.
        total: B.

    Returns:
        The matches; Q is the sum of A over all levels.
    """
    size = (gt_boxes_xyxy[..., 2:] - gt_boxes_xyxy[..., :2]).clamp(min=1e-3)
    centers = (gt_boxes_xyxy[..., :2] + gt_boxes_xyxy[..., 2:]) / 2
    overlaps = []
    for grid in grids:
        inner = torch.minimum(size.unsqueeze(2), grid.anchors).prod(dim=-1)
        area = size.prod(dim=-1).unsqueeze(2)
        overlaps.append(inner / (area + grid.anchors.prod(dim=-1) - inner))
    best = torch.cat(overlaps, dim=2).amax(dim=2, keepdim=True)
    indices, chosen = [], []
    for grid, overlap in zip(grids, overlaps, strict=True):
        cell = (centers / grid.stride).floor().long()
        index = _flat_index(grid, cell[..., 1], cell[..., 0])
        indices.append(index)
        chosen.append((overlap == best) & gt_valid.unsqueeze(-1))
    index = torch.cat(indices, dim=2)
    area = size.prod(dim=-1).unsqueeze(-1).expand(index.shape)
    return Matches(index, _keep_cheapest(torch.cat(chosen, dim=2), area, index, total))
