"""How good detections are: COCO and Pascal VOC average precision, confusions, curves.

Everything works on ground truth (`attendet.data.dataset.Sample`) and
`attendet.detections.Detections` in pixels of the original images, and returns plain numbers that
JSON holds.
"""

from __future__ import annotations

from attendet.evaluation.metrics import compute_metrics, detect, evaluate

__all__ = ["compute_metrics", "detect", "evaluate"]
