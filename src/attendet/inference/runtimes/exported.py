"""What the runtimes of exported files have in common: the file's interface, checked once.

N is the batch, B the boxes of one image, M the most detections an image, K the classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attendet.errors import WeightsError
from attendet.inference.runtimes.base import AsyncRuntime, Limits, Output, RuntimeOptions
from attendet.models.export_info import ExportInfo, parse_exported
from attendet.models.metadata import WeightsMetadata

__all__ = ["INPUT", "ExportedRuntime", "FileShape", "Outputs"]

INPUT = "images"
"""Name of the input of every exported file: uint8, (N, H, W, 3)."""

PLAIN_OUTPUTS = ("boxes_xyxy", "scores")
NMS_OUTPUTS = ("detections",)

FileShape = Sequence[int | None]
"""Sides of an input; None where they are free."""

Outputs = Sequence[NDArray[np.float32]]


class ExportedRuntime(ABC):
    """The network of an exported file.

    Args:
        path: the file.
        header: names and texts as they stand in the file.
        options: how the machine is used.

    Raises:
        WeightsError: if the file is not ours, or tampered with.
    """

    def __init__(self, path: Path, header: Mapping[str, str], options: RuntimeOptions) -> None:
        self.path = path
        self.options = options
        # Converters leave notes of their own, such as `onnx.infer`; our names have no dot.
        ours = {key: text for key, text in header.items() if "." not in key}
        self._metadata, self._info = parse_exported(ours, source=str(path))
        self._limits = Limits()

    @property
    def metadata(self) -> WeightsMetadata:
        """What the weights file said about itself."""
        return self._metadata

    @property
    def info(self) -> ExportInfo:
        """How the file was exported."""
        return self._info

    @property
    def limits(self) -> Limits:
        """What the file fixed."""
        return self._limits

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs in the order in which `_infer` gives them."""
        return NMS_OUTPUTS if self._info.nms else PLAIN_OUTPUTS

    def run(self, inputs: NDArray[np.uint8]) -> Output:
        """Return every box of each network input with its scores (see `Runtime.run`).

        For throughput the batch is shared out among the places that work side by side.
        """
        if self.options.mode == "throughput" and len(inputs) > 1 and isinstance(self, AsyncRuntime):
            shares = np.array_split(inputs, min(self.parallel, len(inputs)))
            return _joined([pending.result() for pending in [self.submit(one) for one in shares]])
        return self._run_whole(inputs)

    def _run_whole(self, inputs: NDArray[np.uint8]) -> Output:
        """Return the boxes and scores of a batch that one place works on.

        A file of a fixed batch is given as many network inputs as it wants, the last one again and
        again where there are too few.
        """
        batch = self._limits.batch
        if batch is None or len(inputs) == batch:
            return self._to_output(self._infer(inputs))
        parts = [
            self._run_whole(_padded(inputs[start : start + batch], batch))
            for start in range(0, len(inputs), batch)
        ]
        boxes, scores = _joined(parts)
        return boxes[: len(inputs)], scores[: len(inputs)]

    @abstractmethod
    def _infer(self, inputs: NDArray[np.uint8]) -> Outputs:
        """Return the arrays of `output_names`, for as many network inputs as the file takes."""

    def _check_interface(
        self, inputs: Mapping[str, FileShape], outputs: Mapping[str, FileShape]
    ) -> None:
        """Take over what the graph fixes.

        Raises:
            WeightsError: if the graph is not of the form that the metadata promises.
        """
        shape = inputs.get(INPUT)
        wanted = set(self.output_names)
        if list(inputs) != [INPUT] or shape is None or len(shape) != 4 or set(outputs) != wanted:
            raise WeightsError(
                f"graph must take {INPUT!r} and give {', '.join(sorted(wanted))}; it takes "
                f"{', '.join(inputs)} and gives {', '.join(outputs)} ({self.path}). "
                "The file was changed after the export."
            )
        self._check_classes((outputs[self.output_names[-1]] or (None,))[-1])
        batch, height, width, _ = shape
        fixed_hw = None if height is None or width is None else (height, width)
        info = self._info
        selection = (
            (info.confidence, info.nms_iou, info.max_detections) if info.nms else (None,) * 3
        )
        self._limits = Limits(batch, fixed_hw, *selection)

    def _check_classes(self, columns: int | None) -> None:
        classes = len(self._metadata.classes)
        if columns not in (None, 6 if self._info.nms else classes):
            raise WeightsError(
                f"classes of the metadata must be those of the graph; got {classes} and {columns} "
                f"({self.path}). The file was changed after the export."
            )

    def _to_output(self, outputs: Outputs) -> Output:
        self._check_classes(outputs[-1].shape[-1])
        if not self._info.nms:
            return outputs[0], outputs[1]
        return _spread_detections(outputs[0], len(self._metadata.classes))


def _joined(parts: Sequence[Output]) -> Output:
    boxes, scores = zip(*parts, strict=True)
    return np.concatenate(boxes), np.concatenate(scores)


def _padded(inputs: NDArray[np.uint8], batch: int) -> NDArray[np.uint8]:
    lacking = batch - len(inputs)
    if lacking == 0:
        return inputs
    return np.concatenate([inputs, np.repeat(inputs[-1:], lacking, axis=0)])


def _spread_detections(detections: NDArray[np.float32], num_classes: int) -> Output:
    """Return boxes (N, M, 4) and scores (N, M, K) of detections (N, M, 6).

    The score of a row stands at its class; rows that only pad have none.
    """
    class_ids = detections[..., 5].astype(np.int64)
    real = (class_ids >= 0) & (class_ids < num_classes)
    scores = np.zeros((*class_ids.shape, num_classes), dtype=np.float32)
    images, rows = np.nonzero(real)
    scores[images, rows, class_ids[real]] = detections[..., 4][real]
    return np.ascontiguousarray(detections[..., :4]), scores
