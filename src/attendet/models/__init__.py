"""The detector's anatomy: backbone, neck and head, decode, and the weights file.

Reading a file's description needs no torch; the rest is loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from attendet.extras import require
from attendet.models.export_info import ExportInfo, parse_exported
from attendet.models.metadata import (
    DEFAULT_ANCHORS,
    DEFAULT_MASKS,
    Preprocess,
    WeightsMetadata,
    read_metadata,
)

if TYPE_CHECKING:
    from attendet.models.darknet_network import GraphDetector
    from attendet.models.decode import decode_maps
    from attendet.models.network import DetectionNetwork
    from attendet.models.weights import (
        build,
        build_from_metadata,
        canonical_attention,
        load_weights,
        save_weights,
    )
    from attendet.models.yolov4_tiny import NECK_SITES, SITES, STRIDES, YoloV4Tiny

__all__ = [
    "DEFAULT_ANCHORS",
    "DEFAULT_MASKS",
    "DetectionNetwork",
    "ExportInfo",
    "GraphDetector",
    "NECK_SITES",
    "SITES",
    "STRIDES",
    "Preprocess",
    "WeightsMetadata",
    "YoloV4Tiny",
    "build",
    "build_from_metadata",
    "canonical_attention",
    "decode_maps",
    "load_weights",
    "parse_exported",
    "read_metadata",
    "save_weights",
]

_HOMES = {
    "DetectionNetwork": "network",
    "GraphDetector": "darknet_network",
    "NECK_SITES": "yolov4_tiny",
    "SITES": "yolov4_tiny",
    "STRIDES": "yolov4_tiny",
    "YoloV4Tiny": "yolov4_tiny",
    "build": "weights",
    "build_from_metadata": "weights",
    "canonical_attention": "weights",
    "decode_maps": "decode",
    "load_weights": "weights",
    "save_weights": "weights",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        require("torch", extra="train", purpose=f"attendet.models.{name}")
        module = importlib.import_module(f"attendet.models.{_HOMES[name]}")
        return getattr(module, name)
    raise AttributeError(f"module 'attendet.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
