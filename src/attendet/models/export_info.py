"""Metadata of an exported file, readable without torch.

It has the entries of a weights file's header (`attendet.models.metadata`) and an entry for the
`ExportInfo`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from attendet.config import from_mapping
from attendet.errors import ConfigError, WeightsError
from attendet.models.metadata import WeightsMetadata

EXPORT_KEY = "attendet_export"
"""Metadata key of the `ExportInfo`, as JSON."""

HEADER_FILE = "attendet.json"
"""File with the metadata, in the folder or archive of formats that cannot store metadata."""


@dataclass(frozen=True)
class ExportInfo:
    """Export settings of a file.

    Attributes:
        format: format of the file.
        precision: precision of most of its weights.
        nms: whether the file includes non-maximum suppression (NMS): it returns detections instead
            of all boxes.
        dynamic: dimensions that can differ between calls; without ``size`` the input size is fixed.
        confidence: lowest score of a detection, with NMS.
        nms_iou: IoU threshold of NMS.
        max_detections: rows per image, with NMS.
        parity: differences from the network, measured when the file was written
            (`attendet.exporters.parity`).
    """

    format: Literal["onnx", "openvino", "torchscript", "torch-export", "ncnn", "litert"]
    precision: Literal["float32", "float16", "int8"] = "float32"
    nms: bool = False
    dynamic: tuple[Literal["batch", "size"], ...] = ("batch",)
    confidence: float | None = None
    nms_iou: float | None = None
    max_detections: int | None = None
    parity: dict[str, Any] = field(default_factory=dict)

    def to_header(self) -> dict[str, str]:
        """Return the header entry of the export; `WeightsMetadata.to_header` returns the others.

        Example:
            >>> list(ExportInfo("onnx").to_header())
            ['attendet_export']
        """
        return {EXPORT_KEY: json.dumps(dataclasses.asdict(self))}


def parse_exported(header: Mapping[str, str], *, source: str) -> tuple[WeightsMetadata, ExportInfo]:
    """Return the metadata of the network and of the export from the header of a file.

    Args:
        header: name to JSON text, as `WeightsMetadata.to_header` and `ExportInfo.to_header`
            return them.
        source: name of the file, for errors.

    Raises:
        WeightsError: if the header is not from attendet, is broken, or has an unknown key.

    Example:
        >>> metadata = WeightsMetadata(classes=("cat",))
        >>> info = ExportInfo("onnx", dynamic=("batch", "size"))
        >>> header = metadata.to_header() | info.to_header()
        >>> parse_exported(header, source="cat.onnx") == (metadata, info)
        True
    """
    texts = dict(header)
    try:
        fields = json.loads(texts.pop(EXPORT_KEY, "null"))
        if not isinstance(fields, dict) or "format" not in fields:
            raise ValueError(f"{EXPORT_KEY} is not an object with a format")
        info = from_mapping(ExportInfo, fields, source=EXPORT_KEY)
    except (ValueError, TypeError, RecursionError, ConfigError) as error:
        raise WeightsError(
            f"model must have the metadata of attendet export; got other metadata ({source}): "
            f"{error}. "
            "Export the weights again."
        ) from None
    return WeightsMetadata.from_header(texts, source=source), info
