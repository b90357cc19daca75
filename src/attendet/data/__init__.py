"""Labelled pictures: formats, checks, splits (torch-free), the cache and augmentation."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from attendet.data.dataset import DataSet, Fault, Sample, load_dataset

if TYPE_CHECKING:
    from attendet.data.augment import Augmenter, AugmentSettings, Batch
    from attendet.data.cache import PictureCache

__all__ = [
    "AugmentSettings",
    "Augmenter",
    "Batch",
    "DataSet",
    "Fault",
    "PictureCache",
    "Sample",
    "load_dataset",
]

_HOMES = {
    "AugmentSettings": "attendet.data.augment",
    "Augmenter": "attendet.data.augment",
    "Batch": "attendet.data.augment",
    "PictureCache": "attendet.data.cache",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'attendet.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
