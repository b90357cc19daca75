"""The detection loss: assignment, then box, objectness and class terms by name.

On a CPU, the box and class terms are computed only for the matches. On other devices, the CPU would
have to wait for the number of matches. So the terms are computed for all candidates there, and
candidates that are not matched have weight 0. Both give the same loss.

N is the batch size, M the number of objects per image (padded), B the number of predictions per
image, K the number of classes, Q the number of candidates per object, P the number of candidates
that the terms are computed for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from attendet.losses.assignment import (
    Grid,
    Matches,
    assign_best_anchor,
    assign_dynamic,
    one_hot_classes,
)
from attendet.losses.loss_config import LossConfig
from attendet.losses.overlap import compute_ciou, compute_iou
from attendet.models.decode import decode_boxes, per_level, split_raw_map
from attendet.models.graph import Coding

Targets = tuple[Tensor, Tensor, Tensor]
"""gt_boxes_xyxy (N, M, 4) in network input pixels, gt_class_ids (N, M), gt_valid (N, M), false
where padded; padded rows are ignored."""


class DetectionLoss:
    """Detection loss: computes the box, objectness and class terms from raw maps and targets.

    The box and class terms are means over the matches of the batch; objectness is a sum over all
    predictions, divided by the number of matches. With ``dynamic`` assignment, each match of an
    object with k matches has the weight 1 / sqrt(k) in the means. With equal weights, a large
    object, which has many matches, would count several times as much as a small one (measured in
    docs/decisions/0007).

    Args:
        level_anchors: (A, 2) tensors of each level, pixels, on the device of the maps.
        strides: pixels per cell of each level.
        scale_x_y: stretch of the center's sigmoid, one for all levels or one per level.
        config: see `LossConfig`.
        codings: coding of boxes and scores, one for all levels or one per level.

    Attributes:
        static_shapes: whether all tensor shapes depend only on the shapes of maps and targets;
            None: true except on a CPU.

    Example:
        >>> from attendet.models import STRIDES, build
        >>> network = build(classes=["cell"], width_mult=0.125)
        >>> criterion = DetectionLoss(network.level_anchors, STRIDES, network.scale_x_y)
        >>> boxes, ids = torch.tensor([[[8.0, 8, 40, 40]]]), torch.tensor([[0]])
        >>> terms = criterion(network(torch.rand(1, 3, 64, 64)), (boxes, ids, ids == 0))
        >>> sorted(terms)
        ['box', 'class', 'objectness']
    """

    def __init__(
        self,
        level_anchors: Sequence[Tensor],
        strides: Sequence[int],
        scale_x_y: float | tuple[float, ...],
        config: LossConfig | None = None,
        codings: Coding | tuple[Coding, ...] = "yolo",
    ) -> None:
        self.level_anchors = list(level_anchors)
        self.strides = tuple(strides)
        self.scales = per_level(scale_x_y, len(self.strides))
        self.codings: tuple[Coding, ...] = per_level(codings, len(self.strides))
        self.config = config or LossConfig()
        self.static_shapes: bool | None = None

    def __call__(
        self,
        raw_maps: Sequence[Tensor],
        targets: Targets,
        *,
        average_matches: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the terms ``box``, ``objectness`` and ``class``, weighted; their sum is the loss.

        Args:
            raw_maps: one (N, A (5 + K), H, W) per level.
            targets: see `Targets`.
            average_matches: for several processes: function that takes the number of matches and
                the sum of their weights, shape (2,), and returns the mean over the processes. The
                mean of the processes' gradients is then the gradient of the whole batch.

        Returns:
            Scalars, float32; without objects, the box and class terms are 0.
        """
        boxes, objectness, classes, grids = self._predictions(raw_maps)
        gt_boxes, gt_classes, gt_valid = targets
        matches = self._assign(boxes, objectness, classes, targets, grids)
        pairs = self._pairs(matches)
        kept = matches.kept.flatten()[pairs]
        weight = self._match_weights(matches).flatten()[pairs]
        sums = torch.stack([matches.kept.sum(dtype=torch.float32), weight.sum()])
        if average_matches is not None:
            sums = average_matches(sums)
        count, weights = torch.where(sums > 0, sums, torch.ones_like(sums)).unbind()
        objects, candidates = matches.kept.shape[1:]
        gt = pairs // candidates
        image = pairs // max(1, objects * candidates)
        at = image * boxes.shape[1] + matches.prediction.flatten()[pairs]
        matched_gt = gt_boxes.flatten(0, 1)[gt]
        ciou, iou = compute_ciou(boxes.flatten(0, 1)[at], matched_gt)
        box_loss = (1 - ciou) * self._box_scale(matched_gt, grids)
        classic = self.config.assignment == "classic"
        best = torch.ones_like(iou) if classic else iou.detach().clamp(0, 1)
        target = torch.zeros_like(objectness)
        # A candidate that is not kept may be matched to another object: keep the maximum.
        target.view(-1).scatter_reduce_(0, at, (kept * best).to(target.dtype), "amax")
        objectness_loss = self._objectness(objectness, target, boxes, gt_boxes, gt_valid)
        class_loss = self._classes(classes.flatten(0, 1)[at], gt_classes.flatten()[gt])
        return {
            "box": self.config.box_weight * (box_loss * weight).sum() / weights,
            "objectness": self.config.objectness_weight * objectness_loss / count,
            "class": self.config.class_weight * (class_loss * weight).sum() / weights,
        }

    def _predictions(self, raw_maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, list[Grid]]:
        boxes, objectness, classes, grids = [], [], [], []
        offset = 0
        for raw_map, anchors, stride, scale, coding in zip(
            raw_maps, self.level_anchors, self.strides, self.scales, self.codings, strict=True
        ):
            box_terms, objectness_logits, class_logits = split_raw_map(raw_map, len(anchors))
            n, height, width, per_cell = objectness_logits.shape
            decoded = decode_boxes(box_terms, anchors, stride, scale, coding)
            if coding == "region":
                class_logits = logits_of_softmax(class_logits)
            boxes.append(decoded.reshape(n, -1, 4))
            objectness.append(objectness_logits.reshape(n, -1))
            classes.append(class_logits.reshape(n, -1, class_logits.shape[-1]))
            grids.append(Grid(height, width, stride, anchors, offset))
            offset += height * width * per_cell
        return torch.cat(boxes, 1), torch.cat(objectness, 1), torch.cat(classes, 1), grids

    def _assign(
        self,
        boxes: Tensor,
        objectness: Tensor,
        classes: Tensor,
        targets: Targets,
        grids: list[Grid],
    ) -> Matches:
        gt_boxes, gt_classes, gt_valid = targets
        if self.config.assignment == "classic":
            return assign_best_anchor(gt_boxes, gt_valid, grids, boxes.shape[1])
        return assign_dynamic(
            boxes.detach(),
            objectness.detach(),
            classes.detach(),
            gt_boxes,
            gt_classes,
            gt_valid,
            grids,
        )

    def _pairs(self, matches: Matches) -> Tensor:
        """Return the candidates (P,) that the terms are computed for, as indices into N M Q."""
        kept = matches.kept.flatten()
        static = kept.device.type != "cpu" if self.static_shapes is None else self.static_shapes
        return torch.arange(len(kept), device=kept.device) if static else kept.nonzero()[:, 0]

    def _match_weights(self, matches: Matches) -> Tensor:
        """Return the weight (N, M, Q) of each candidate in the box and class terms."""
        kept = matches.kept.to(torch.float32)
        if self.config.assignment == "classic":
            return kept
        return kept * kept.sum(dim=2, keepdim=True).clamp(min=1).rsqrt()

    def _box_scale(self, matched_gt: Tensor, grids: list[Grid]) -> Tensor:
        """Return a factor for each match: up to 2 for small objects in classic, else 1."""
        if self.config.assignment != "classic":
            return torch.ones_like(matched_gt[:, 0])
        padded = grids[0].height * grids[0].width * grids[0].stride ** 2
        area = (matched_gt[:, 2:] - matched_gt[:, :2]).prod(dim=-1)
        return 2 - area / padded

    def _objectness(
        self, logits: Tensor, target: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_valid: Tensor
    ) -> Tensor:
        if self.config.assignment != "classic" or gt_boxes.shape[1] == 0:
            return functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        overlap = compute_iou(boxes.detach().unsqueeze(2), gt_boxes.unsqueeze(1))
        best = overlap.masked_fill(~gt_valid.unsqueeze(1), 0).amax(dim=2)
        counted = ((best <= self.config.ignore_iou) | (target > 0)).to(logits.dtype)
        return functional.binary_cross_entropy_with_logits(
            logits, target, weight=counted, reduction="sum"
        )

    def _classes(self, logits: Tensor, class_ids: Tensor) -> Tensor:
        num_classes = logits.shape[-1]
        smoothing = self.config.label_smoothing
        target = one_hot_classes(class_ids, num_classes).to(logits.dtype)
        target = target * (1 - smoothing) + smoothing / num_classes
        terms = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return terms.sum(dim=1)


def logits_of_softmax(logits: Tensor) -> Tensor:
    """Return logits whose sigmoid is the softmax of ``logits``, (..., K), at most ln 1e6.

    Example:
        >>> logits = torch.tensor([0.0, 1.0, 2.0])
        >>> torch.allclose(logits_of_softmax(logits).sigmoid(), logits.softmax(-1))
        True
    """
    log_p = logits.log_softmax(-1).clamp(max=-1e-6)
    return log_p - (-log_p.expm1()).log()
