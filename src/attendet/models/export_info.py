"""What an exported file says about itself, readable without torch.

It carries the texts of a weights file's header (`attendet.models.metadata`) and one more, which
tells of the export.
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

__all__ = ["EXPORT_KEY", "ExportInfo", "parse_exported"]

EXPORT_KEY = "attendet_export"
"""Under which an exported file holds its `ExportInfo`, as JSON."""


@dataclass(frozen=True)
class ExportInfo:
    """What an exported file says about how it was made."""

    format: Literal["onnx", "openvino", "torchscript", "torch-export", "ncnn"]
    """Kind of file."""

    precision: Literal["float32", "float16", "int8"] = "float32"
    """In what most of its weights are kept."""

    nms: bool = False
    """Non-maximum suppression is inside: the file gives detections, not every box."""

    dynamic: tuple[Literal["batch", "size"], ...] = ("batch",)
    """What may differ from call to call; without ``size``, network inputs have the input size."""

    confidence: float | None = None
    """Lowest score of a detection, where suppression is inside."""

    nms_iou: float | None = None
    """Overlap above which the worse of two boxes goes, where suppression is inside."""

    max_detections: int | None = None
    """Rows of an image, where suppression is inside."""

    parity: dict[str, Any] = field(default_factory=dict)
    """How far the file was from the network when it was written."""

    def to_header(self) -> dict[str, str]:
        """Return the text that an exported file holds beside those of `WeightsMetadata`.

        Example:
            >>> list(ExportInfo("onnx").to_header())
            ['attendet_export']
        """
        return {EXPORT_KEY: json.dumps(dataclasses.asdict(self))}


def parse_exported(header: Mapping[str, str], *, source: str) -> tuple[WeightsMetadata, ExportInfo]:
    """Return what the texts in an exported file say about the network and about the export.

    Args:
        header: names to JSON texts, as `WeightsMetadata.to_header` and `ExportInfo.to_header`
            wrote them.
        source: name of the file, for errors.

    Raises:
        WeightsError: if they are not ours, broken, or have an unknown key.

    Example:
        >>> described = WeightsMetadata(classes=("cat",))
        >>> told = ExportInfo("onnx", dynamic=("batch", "size"))
        >>> header = described.to_header() | told.to_header()
        >>> metadata, info = parse_exported(header, source="cat.onnx")
        >>> metadata == described, info.dynamic
        (True, ('batch', 'size'))
    """
    texts = dict(header)
    try:
        fields = json.loads(texts.pop(EXPORT_KEY, "null"))
        if not isinstance(fields, dict) or "format" not in fields:
            raise ValueError(f"{EXPORT_KEY} is no map with a format")
        info = from_mapping(ExportInfo, fields, source=EXPORT_KEY)
    except (ValueError, TypeError, RecursionError, ConfigError) as error:
        raise WeightsError(
            f"model must say how attendet exported it; got other metadata ({source}): {error}. "
            "Export the weights again."
        ) from None
    return WeightsMetadata.from_header(texts, source=source), info
