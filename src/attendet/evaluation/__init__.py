"""Evaluation of detections: COCO and Pascal VOC average precision, confusion matrix, curves.

All functions take ground truth (`attendet.data.dataset.Sample`) and
`attendet.detections.Detections` in pixels of the original images, and return plain numbers that can
be written as JSON.
"""

from __future__ import annotations

from attendet.evaluation.metrics import compute_metrics, detect, evaluate

__all__ = ["compute_metrics", "detect", "evaluate"]
