"""attendet: small real-time object detectors with plug-in attention.

Importing this package imports neither torch nor OpenCV; each name below is loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attendet.attention import attend, detach, register_attention, sites
    from attendet.data import load_dataset
    from attendet.detections import Detections
    from attendet.errors import AttendetError
    from attendet.evaluation import evaluate
    from attendet.exporting import export
    from attendet.inference import Detector, load
    from attendet.models import build, push_to_hub
    from attendet.study import compare
    from attendet.training import train

__version__ = "0.1.0"

__all__ = [
    "AttendetError",
    "Detections",
    "Detector",
    "__version__",
    "attend",
    "build",
    "compare",
    "detach",
    "evaluate",
    "export",
    "load",
    "load_dataset",
    "push_to_hub",
    "register_attention",
    "sites",
    "train",
]

_HOMES = {
    "AttendetError": "attendet.errors",
    "Detections": "attendet.detections",
    "Detector": "attendet.inference",
    "attend": "attendet.attention",
    "build": "attendet.models",
    "compare": "attendet.study",
    "detach": "attendet.attention",
    "evaluate": "attendet.evaluation",
    "export": "attendet.exporting",
    "load": "attendet.inference",
    "load_dataset": "attendet.data",
    "push_to_hub": "attendet.models",
    "register_attention": "attendet.attention",
    "sites": "attendet.attention",
    "train": "attendet.training",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'attendet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
