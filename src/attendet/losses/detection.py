"""The detection loss: assignment, then box, objectness and class terms by name.

N is the batch, M the objects an image (padded), B the predictions an image, K the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from attendet.losses.assignment import Grid, Matches, assign_best_anchor, assign_dynamic
from attendet.losses.loss_config import LossConfig
from attendet.losses.overlap import compute_ciou, compute_iou
from attendet.models.decode import decode_boxes, per_level, split_raw_map
from attendet.models.graph import Coding

Targets = tuple[Tensor, Tensor, Tensor]
"""gt_boxes_xyxy (N, M, 4) in network input pixels, gt_class_ids (N, M), gt_valid (N, M), false
where padded; padded rows are ignored."""


class DetectionLoss:
    """Computes the named terms of the loss from raw maps and targets.

    The box and class terms are means over the matches of the batch; objectness is a sum over all
    predictions, divided by the number of matches. In ``dynamic`` a match of an object with k
    matches weighs 1 / sqrt(k) in the means: with equal weights a large object, which has many,
    would count several times a small one (measured in docs/decisions/0007).

    Args:
        level_anchors: (A, 2) tensors of each level, pixels, on the device of the maps.
        strides: pixels per cell of each level.
        scale_x_y: stretch of the center's sigmoid, one for all levels or one a level.
        config: see `LossConfig`.
        codings: coding of boxes and scores, one for all levels or one a level.

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

    def __call__(
        self,
        raw_maps: Sequence[Tensor],
        targets: Targets,
        *,
        average_matches: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the terms ``box``, ``objectness`` and ``class``, weighed; their sum is the loss.

        Args:
            raw_maps: one (N, A (5 + K), H, W) a level.
            targets: see `Targets`.
            average_matches: several processes: returns the mean over them of the number of matches
                and of their weights, shape (2,), so that the mean of their gradients is the
                gradient of the whole batch.

        Returns:
            Scalars, float32; without any object the box and class terms are 0.
        """
        boxes, objectness, classes, grids = self._predictions(raw_maps)
        gt_boxes, gt_classes, gt_valid = targets
        matches = self._assign(boxes, objectness, classes, targets, grids)
        weight = self._match_weights(matches, gt_valid)
        count = torch.as_tensor(len(weight), dtype=torch.float32, device=boxes.device)
        sums = torch.stack([count, weight.sum()])
        if average_matches is not None:
            sums = average_matches(sums)
        count, weights = torch.where(sums > 0, sums, torch.ones_like(sums)).unbind()
        matched_gt = gt_boxes[matches.image, matches.gt]
        ciou, iou = compute_ciou(boxes[matches.image, matches.prediction], matched_gt)
        box_loss = (1 - ciou) * self._box_scale(matched_gt, grids)
        objectness_loss = self._objectness(objectness, iou, matches, boxes, gt_boxes, gt_valid)
        class_loss = self._classes(
            classes[matches.image, matches.prediction],
            gt_classes[matches.image, matches.gt],
        )
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

    def _match_weights(self, matches: Matches, gt_valid: Tensor) -> Tensor:
        """Return the weight (P,) of each match in the box and class terms."""
        object_of = matches.image * gt_valid.shape[1] + matches.gt
        if self.config.assignment == "classic":
            return torch.ones_like(object_of, dtype=torch.float32)
        matches_of = torch.bincount(object_of, minlength=gt_valid.numel())
        return matches_of[object_of].to(torch.float32).rsqrt()

    def _box_scale(self, matched_gt: Tensor, grids: list[Grid]) -> Tensor:
        """Return the weight of each match: small objects count up to double in classic."""
        if self.config.assignment != "classic":
            return torch.ones_like(matched_gt[:, 0])
        padded = grids[0].height * grids[0].width * grids[0].stride ** 2
        area = (matched_gt[:, 2:] - matched_gt[:, :2]).prod(dim=-1)
        return 2 - area / padded

    def _objectness(
        self,
        logits: Tensor,
        iou: Tensor,
        matches: Matches,
        boxes: Tensor,
        gt_boxes: Tensor,
        gt_valid: Tensor,
    ) -> Tensor:
        target = torch.zeros_like(logits)
        at = (matches.image, matches.prediction)
        if self.config.assignment != "classic":
            target[at] = iou.detach().clamp(0, 1).to(target.dtype)
            return functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        target[at] = 1.0
        if gt_boxes.shape[1] == 0:
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
        target = functional.one_hot(class_ids, num_classes).to(logits.dtype)
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
