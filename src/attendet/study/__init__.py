"""Studies: does attention help on this data, by how much, and what does it cost?

A study trains every arm (an attention, where it stands, how it starts) with the same seeds under
one recipe, measures all on the same test pictures, and says what the differences can bear. The
records it leaves are plain JSON; whoever draws them needs nothing of this room.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from attendet.extras import require

if TYPE_CHECKING:
    from attendet.study.comparison import Study, compare
    from attendet.study.progress import StudyReporter
    from attendet.study.statistics import holm, paired_difference, sign_flip_test

__all__ = [
    "Study",
    "StudyReporter",
    "compare",
    "holm",
    "paired_difference",
    "sign_flip_test",
]

_HOMES = {
    "Study": "comparison",
    "StudyReporter": "progress",
    "compare": "comparison",
    "holm": "statistics",
    "paired_difference": "statistics",
    "sign_flip_test": "statistics",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        require("scipy", extra="study", purpose="a study")
        if name in ("Study", "compare"):
            for module in ("torch", "lightning_fabric", "faster_coco_eval", "tensorboard"):
                require(module, extra="study", purpose="a study")
        return getattr(importlib.import_module(f"attendet.study.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'attendet.study' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
