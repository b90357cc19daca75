"""Target assignment and the loss terms, returned by name."""

from attendet.losses.assignment import Grid, Matches, assign_best_anchor, assign_dynamic
from attendet.losses.detection import DetectionLoss, LossSettings, Targets
from attendet.losses.overlap import compute_ciou, compute_iou

__all__ = [
    "DetectionLoss",
    "Grid",
    "LossSettings",
    "Matches",
    "Targets",
    "assign_best_anchor",
    "assign_dynamic",
    "compute_ciou",
    "compute_iou",
]
