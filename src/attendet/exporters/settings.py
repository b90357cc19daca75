"""Settings of an export; the string under each field is its help on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attendet.errors import ConfigError
from attendet.inference.postprocess import Selection
from attendet.models.export_info import ExportInfo

Format = Literal["onnx", "openvino", "torchscript", "torch-export", "ncnn", "litert", "web"]

FORMATS: dict[str, str] = {
    "onnx": ".onnx",
    "openvino": "_openvino",
    "torchscript": ".torchscript",
    "torch-export": ".pt2",
    "ncnn": "_ncnn",
    "litert": "_litert",
    "web": "_web",
}
"""File name suffix of each format; OpenVINO, ncnn and LiteRT models and web pages are folders."""

OPTION_FORMATS = {
    "half": ("onnx", "openvino", "ncnn", "web"),
    "int8": ("onnx", "openvino", "web"),
    "nms": ("onnx", "openvino"),
    "onnxruntime_web": ("web",),
}
"""Formats that support an option."""

DYNAMIC: dict[str, tuple[Literal["batch", "size"], ...]] = {
    "none": (),
    "batch": ("batch",),
    "size": ("batch", "size"),
}
"""Input dimensions that may vary between calls, for each value of the setting."""

REQUIRES_ANY_OF = {
    "calibrate": ("int8",),
    "max_ap_loss": ("int8",),
    "confidence": ("nms",),
    "nms_iou": ("nms",),
    "max_detections": ("nms",),
    "split": ("data", "calibrate"),
    "class_map": ("data", "calibrate"),
}
"""Settings that have an effect only with one of the listed settings."""


@dataclass(frozen=True)
class ExportSettings:
    """Settings of an export and of its parity check.

    Raises:
        ConfigError: if a value is wrong, or has no effect.
    """

    format: Format = "onnx"
    """Format of the file."""

    input_hw: tuple[int, int] | None = None
    """Input size in pixels, multiples of 32 (default: that of the weights)."""

    dynamic: Literal["none", "batch", "size"] | None = None
    """Input dimensions that may vary between calls; size means batch and size (default: batch;
    ncnn, litert: none; web: size)."""

    half: bool = False
    """Keep weights in float16: half the file size (onnx, openvino, ncnn, web)."""

    int8: bool = False
    """Quantize weights and activations (onnx, openvino, web); needs --calibrate. More layers stay
    in float32 if average precision drops too far."""

    calibrate: str | Path | None = None
    """With --int8: data set for calibration (its train split) and comparison."""

    max_ap_loss: float = 0.5
    """With --int8: largest allowed loss of average precision on --split, in points."""

    nms: bool = False
    """Append non-maximum suppression (onnx, openvino)."""

    confidence: float = 0.25
    """With --nms: lowest score of a detection, 0 to 1; web: initial value."""

    nms_iou: float = 0.5
    """With --nms: IoU threshold, 0 to 1; web: initial value."""

    max_detections: int = 300
    """With --nms: rows per image; web: maximum number of detections per image."""

    data: str | Path | None = None
    """Data set to compare detections and average precision on (default: synthetic images, no
    average precision)."""

    split: str = "val"
    """Split of the data set: train, val, test or all."""

    class_map: str | None = None
    """Data classes with another name in the weights, such as auto=car,lorry=truck."""

    onnxruntime_web: str | Path | None = None
    """With web: file or folder of the npm package onnxruntime-web (default: downloaded once)."""

    def __post_init__(self) -> None:
        for name, known in (("format", FORMATS), ("dynamic", DYNAMIC)):
            value = getattr(self, name)
            if value not in (*known, *([None] if name == "dynamic" else [])):
                raise ConfigError.unknown(name, value, known, f"--{name}")
        for name, formats in OPTION_FORMATS.items():
            if getattr(self, name) and self.format not in formats:
                raise ConfigError(
                    f"{name} must be omitted for {self.format}; only {', '.join(formats)} support "
                    f"it (--{name.replace('_', '-')})."
                )
        if self.half and self.int8:
            raise ConfigError("half must be omitted for int8 (--half, --int8).")
        if self.format in ("ncnn", "litert") and self.dynamic not in (None, "none"):
            rule = f"'none' for {self.format}"
            raise ConfigError.must("dynamic", rule, self.dynamic, "--dynamic")
        for name, needed in REQUIRES_ANY_OF.items():
            default = getattr(type(self), name)
            if needed == ("nms",) and self.format == "web":
                continue
            if getattr(self, name) != default and not any(getattr(self, one) for one in needed):
                flag = f"--{name.replace('_', '-')}"
                raise ConfigError(
                    f"{name} needs {' or '.join(needed)}; it has no effect alone ({flag})."
                )
        if self.int8:
            ConfigError.check(
                self.calibrate is not None, "calibrate", "a data set for int8", self.calibrate
            )
            ConfigError.check(
                self.max_ap_loss >= 0, "max_ap_loss", "0 points or more", self.max_ap_loss
            )
        Selection(*self.thresholds)  # raises if one is out of range

    @property
    def thresholds(self) -> tuple[float, float, int]:
        """Confidence threshold, IoU threshold and maximum number of detections of NMS."""
        return self.confidence, self.nms_iou, self.max_detections

    def info(self) -> ExportInfo:
        """Return the metadata of the export."""
        dynamic = self.dynamic or {"ncnn": "none", "litert": "none", "web": "size"}.get(
            self.format, "batch"
        )
        return ExportInfo(
            "onnx" if self.format == "web" else self.format,
            "int8" if self.int8 else "float16" if self.half else "float32",
            self.nms,
            DYNAMIC[dynamic],
            *(self.thresholds if self.nms else ()),
        )
