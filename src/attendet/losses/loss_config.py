"""Settings of the detection loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attendet.errors import ConfigError


@dataclass(frozen=True)
class LossConfig:
    """Assignment of predictions to objects and weights of the loss terms."""

    assignment: Literal["dynamic", "classic"] = "dynamic"
    """dynamic: an object's best anchor and others of low cost; classic: only the best anchor."""

    box_weight: float = 5.0
    """Weight of the box term (1 - CIoU)."""

    objectness_weight: float = 1.0
    """Weight of the objectness term."""

    class_weight: float = 1.0
    """Weight of the class term."""

    ignore_iou: float = 0.5
    """With classic: IoU with an object above which a prediction is not trained as background."""

    label_smoothing: float = 0.0
    """Fraction of the class target that is spread over all classes."""

    def __post_init__(self) -> None:
        if self.assignment not in ("dynamic", "classic"):
            raise ConfigError.unknown("assignment", self.assignment, ("dynamic", "classic"))
        for name in ("box_weight", "objectness_weight", "class_weight"):
            value = getattr(self, name)
            ConfigError.check(value >= 0, name, "at least 0", value)
        ConfigError.check(0 <= self.ignore_iou <= 1, "ignore_iou", "from 0 to 1", self.ignore_iou)
        ConfigError.check(
            0 <= self.label_smoothing < 1,
            "label_smoothing",
            "from 0 to below 1",
            self.label_smoothing,
        )
