"""Base classes of the runtimes: `Runtime` for any library, `ExportedRuntime` for exported files.

N is the batch size, B the number of boxes per image before selection, M the highest number of
detections per image and K the number of classes.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from attendet.errors import ConfigError, WeightsError
from attendet.models.export_info import parse_exported
from attendet.models.metadata import WeightsMetadata

Output: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Boxes (N, B, 4), left, top, right, bottom in network input pixels; scores (N, B, K), 0 to 1."""

Mode = Literal["latency", "throughput"]
"""latency: one batch at a time, on all threads; throughput: several batches in parallel."""

INPUT = "images"
"""Name of the input of every exported file: uint8, (N, H, W, 3)."""

FileShape: TypeAlias = Sequence[int | None]
"""Shape of a graph's input or output; None for dynamic dimensions."""


@dataclass(frozen=True)
class Limits:
    """Settings that an exported file fixes; None: not fixed.

    Attributes:
        batch: batch size N.
        input_hw: height and width of the network input, pixels.
        confidence: lowest score that the file returns, 0 to 1.
        nms_iou: IoU threshold of the non-maximum suppression in the file, 0 to 1.
        max_detections: most detections that the file returns for an image.
    """

    batch: int | None = None
    input_hw: tuple[int, int] | None = None
    confidence: float | None = None
    nms_iou: float | None = None
    max_detections: int | None = None


@dataclass(frozen=True)
class RuntimeOptions:
    """Device, threads, mode and precision of a runtime.

    Attributes:
        device: such as ``cpu`` or ``cuda:0``; None: the default of the runtime.
        threads: CPU threads of the network; None: one per core.
        mode: see `Mode`.
        precision: ``float32``, or ``bfloat16`` if the CPU supports it (OpenVINO only).
    """

    device: str | None = None
    threads: int | None = None
    mode: Mode = "latency"
    precision: str = "float32"

    def __post_init__(self) -> None:
        threads = self.threads
        ConfigError.check(threads is None or threads >= 1, "threads", "1 or more", threads)
        for name, choices in (("mode", get_args(Mode)), ("precision", ("float32", "bfloat16"))):
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError.unknown(name, value, choices)


class Runtime(ABC):
    """A network that is ready to run, in any library.

    Attributes:
        metadata: description of the network.
        limits: settings that the file fixes.
        precision: precision of the weights: ``float32``, ``float16`` or ``int8``.
        parallel: number of batches that run in parallel.
        default_batch_size: default batch size of a stream: the fastest one on this runtime.
    """

    metadata: WeightsMetadata
    limits = Limits()
    precision: str = "float32"
    parallel: int = 1
    default_batch_size: int = 1
    _pool: ThreadPoolExecutor | None = None

    @abstractmethod
    def run(self, inputs: NDArray[np.uint8]) -> Output:
        """Return every decoded box of each network input with its scores, before any selection.

        Args:
            inputs: uint8, shape (N, H, W, 3), H and W multiples of 32, channels in the order that
                the metadata names.

        Returns:
            Boxes, float32 of shape (N, B, 4), left, top, right, bottom in network input pixels, and
            scores, float32 of shape (N, B, K), 0 to 1.
        """

    def submit(self, inputs: NDArray[np.uint8]) -> Future[Output]:
        """Start a batch in the background and return its future.

        A runtime without threads of its own runs the batch before it returns.

        Args:
            inputs: see `run`; they must not be changed until the batch is done.
        """
        if self._pool is not None:
            return self._pool.submit(self._run_batch, inputs)
        done: Future[Output] = Future()
        done.set_result(self.run(inputs))
        return done

    def _run_batch(self, inputs: NDArray[np.uint8]) -> Output:
        """Return the output of a batch that is not split over the workers."""
        return self.run(inputs)


class ExportedRuntime(Runtime):
    """A network from a file that `attendet.export` wrote.

    Args:
        path: the file or folder.
        header: the file's metadata: names to JSON texts.
        options: device, threads, mode and precision.

    Raises:
        WeightsError: if the file was not written by attendet, or was changed afterwards.
    """

    def __init__(self, path: Path, header: Mapping[str, str], options: RuntimeOptions) -> None:
        self.path = path
        self.options = options
        # Converters add keys with a dot, such as `onnx.infer`; ours have none.
        ours = {key: text for key, text in header.items() if "." not in key}
        self.metadata, self.info = parse_exported(ours, source=str(path))
        self.precision = self.info.precision
        self.output_names = ("detections",) if self.info.nms else ("boxes_xyxy", "scores")
        info = self.info
        self.limits = Limits(
            None if "batch" in info.dynamic else 1,
            None if "size" in info.dynamic else self.metadata.input_hw,
            *((info.confidence, info.nms_iou, info.max_detections) if info.nms else ()),
        )

    @abstractmethod
    def _infer(self, inputs: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        """Return the arrays of `output_names` for a batch of a size that the file supports."""

    def run(self, inputs: NDArray[np.uint8]) -> Output:
        """Return every box of each network input with its scores (see `Runtime.run`).

        In mode ``throughput``, the batch is split over the workers.
        """
        if self.options.mode != "throughput" or len(inputs) == 1:
            return self._run_batch(inputs)
        parts = np.array_split(inputs, min(self.parallel, len(inputs)))
        return _concatenate([future.result() for future in [self.submit(part) for part in parts]])

    def _run_batch(self, inputs: NDArray[np.uint8]) -> Output:
        """Return the output of a batch; a file with a fixed batch size runs several times.

        If too few inputs are left for the last run, the last input is repeated.
        """
        size = self.limits.batch or len(inputs)
        outputs = []
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            if len(part) < size:
                part = part[np.minimum(np.arange(size), len(part) - 1)]
            outputs.append(self._to_output(self._infer(np.ascontiguousarray(part))))
        boxes_xyxy, scores = outputs[0] if len(outputs) == 1 else _concatenate(outputs)
        return boxes_xyxy[: len(inputs)], scores[: len(inputs)]

    def _check_interface(
        self, inputs: Mapping[str, FileShape], outputs: Mapping[str, FileShape]
    ) -> None:
        """Check the inputs and outputs of the graph, and set the limits from their shapes.

        Raises:
            WeightsError: if the graph does not match the metadata.
        """
        shape = inputs.get(INPUT, ())
        if len(inputs) != 1 or len(shape) != 4 or set(outputs) != set(self.output_names):
            raise WeightsError(
                f"graph must have the input {INPUT!r} and the outputs "
                f"{', '.join(self.output_names)}; got {', '.join(inputs)} and "
                f"{', '.join(outputs)} ({self.path}). The file was changed after the export."
            )
        self._check_classes((outputs[self.output_names[-1]] or (None,))[-1])
        batch, height, width, _ = shape
        input_hw = None if height is None or width is None else (height, width)
        self.limits = dataclasses.replace(self.limits, batch=batch, input_hw=input_hw)

    def _check_classes(self, columns: int | None) -> None:
        classes = len(self.metadata.classes)
        if columns not in (None, 6 if self.info.nms else classes):
            raise WeightsError(
                f"outputs of the graph must match the {classes} classes of the metadata; got "
                f"{columns} columns ({self.path}). The file was changed after the export."
            )

    def _to_output(self, outputs: Sequence[NDArray[np.float32]]) -> Output:
        self._check_classes(outputs[-1].shape[-1])
        if not self.info.nms:
            return outputs[0], outputs[1]
        return _split_detections(outputs[0], len(self.metadata.classes))


def _concatenate(parts: Sequence[Output]) -> Output:
    boxes_xyxy, scores = zip(*parts, strict=True)
    return np.concatenate(boxes_xyxy), np.concatenate(scores)


def _split_detections(detections: NDArray[np.float32], num_classes: int) -> Output:
    """Return boxes (N, M, 4) and scores (N, M, K) of detections (N, M, 6).

    Each row has a score for its own class only; all other scores, and padding rows, are 0.
    """
    class_ids = detections[..., 5].astype(np.int64)
    valid = (class_ids >= 0) & (class_ids < num_classes)
    scores = np.zeros((*class_ids.shape, num_classes), dtype=np.float32)
    images, rows = np.nonzero(valid)
    scores[images, rows, class_ids[valid]] = detections[..., 4][valid]
    return np.ascontiguousarray(detections[..., :4]), scores
