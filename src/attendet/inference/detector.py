"""The detector: images in, detections out, with any runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from attendet.detections import Detections
from attendet.errors import ConfigError, ImageError
from attendet.images import ImageArray, from_pil, read_image
from attendet.inference.postprocess import Selection, class_ids_of, select_detections
from attendet.inference.preprocess import STRIDE, ResizeTransform, resize_to_input
from attendet.inference.runtimes.base import Output, Runtime
from attendet.inference.stream import NetworkInput, StreamResult, stack_inputs, stream_detections
from attendet.system import available_cores

if TYPE_CHECKING:
    from PIL.Image import Image

    from attendet.models.metadata import WeightsMetadata

S = TypeVar("S")

MAX_BATCH = 32
"""Most network inputs in one batch of `Detector.predict_batch`; bounds its memory."""

MAX_THREADS = 4
"""Most threads that postprocess a batch; OpenCV does most of that work without the GIL."""


class Detector:
    """A trained network that finds objects in images.

    Args:
        runtime: the network.
        confidence: lowest score of a detection, 0 to 1; default 0.25.
        nms_iou: IoU threshold of non-maximum suppression within a class, 0 to 1; default 0.5.
        max_detections: most detections per image, the best ones; default 300.
        input_hw: size of the network input, pixels, multiples of 32; default: that of the weights
            file.

    An exported file with non-maximum suppression in its graph has its own thresholds as defaults.
    They can be made stricter, but not looser. With a file of fixed input size, every image is
    letterboxed to that size, unless the file's resize mode is ``stretch``.

    Raises:
        ConfigError: if a threshold or the size is out of range, a threshold is looser than in the
            file, or the size is not the fixed size of the file.
    """

    def __init__(
        self,
        runtime: Runtime,
        confidence: float | None = None,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        *,
        input_hw: tuple[int, int] | None = None,
    ) -> None:
        self.runtime = runtime
        limits = runtime.limits
        self.selection = Selection.from_limits(limits)
        self.selection = self.select(confidence, nms_iou, max_detections)
        preprocess = self.metadata.preprocessing()
        self._color = preprocess.color
        fixed_rect = limits.input_hw is not None and preprocess.resize == "rect"
        self._resize = "letterbox" if fixed_rect else preprocess.resize
        self.input_hw = limits.input_hw or input_hw or self.metadata.input_hw
        if input_hw not in (None, self.input_hw):
            raise ConfigError(
                f"input size must be {self.input_hw}, the fixed size of the exported file; "
                f"got {input_hw}. Export it again with that size, or with --dynamic size."
            )
        if any(side < STRIDE or side % STRIDE for side in self.input_hw):
            near = "x".join(str(max(1, round(side / STRIDE)) * STRIDE) for side in self.input_hw)
            raise ConfigError(
                f"input size must be multiples of {STRIDE}; got {self.input_hw}. Nearest: {near}."
            )

    @property
    def metadata(self) -> WeightsMetadata:
        """Metadata of the weights file."""
        return self.runtime.metadata

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the class ids."""
        return self.metadata.classes

    @property
    def min_confidence(self) -> float:
        """Lowest confidence that can be set: the limit of the exported file, or 0 without one."""
        return self.runtime.limits.confidence or 0.0

    def predict(
        self, source: str | Path | bytes | ImageArray | Image, **selection: Any
    ) -> Detections:
        """Return the detections of one image.

        Args:
            source: path of an image file, the bytes of one, uint8 RGB of shape (H, W, 3), or a
                PIL image.
            **selection: as for `predict_batch`.

        Raises:
            ImageError: if the image cannot be read.
            ConfigError: if a threshold is out of range, or a class unknown.
        """
        return self.predict_batch([source], **selection)[0]

    def predict_batch(
        self,
        images: Sequence[str | Path | bytes | ImageArray | Image],
        *,
        confidence: float | None = None,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        multi_label: bool = False,
        only: Sequence[str] | None = None,
    ) -> list[Detections]:
        """Return the detections of each image; images of one network input size run together.

        Args:
            images: each as for `predict`; sizes may differ.
            confidence: lowest score of a detection, 0 to 1; by default the detector's own.
            nms_iou: IoU threshold of non-maximum suppression; by default the detector's own.
            max_detections: most detections per image; by default the detector's own.
            multi_label: return a box once for every class above the confidence, as evaluators
                expect, not only for its best class.
            only: names of the classes to return; by default all.

        Returns:
            One `Detections` per image, in their order.

        Raises:
            ImageError: if an image cannot be read.
            ConfigError: if a threshold is out of range, or a class unknown.
        """
        selection = self.select(confidence, nms_iou, max_detections, multi_label, only)
        inputs = [self.preprocess(_as_image(image)) for image in images]
        return self.predict_inputs(inputs, selection)

    def predict_inputs(
        self, network_inputs: Sequence[NetworkInput], selection: Selection
    ) -> list[Detections]:
        """Return the detections of each image that `preprocess` has resized.

        Args:
            network_inputs: inputs of the same size run together.
            selection: which boxes to keep.
        """
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for index, one in enumerate(network_inputs):
            by_shape.setdefault(one.padded.shape, []).append(index)
        detections: dict[int, Detections] = {}
        for members in by_shape.values():
            for first in range(0, len(members), MAX_BATCH):
                indices = members[first : first + MAX_BATCH]
                stacked = stack_inputs([network_inputs[index].padded for index in indices])
                output = self.runtime.run(stacked)
                transforms = [network_inputs[index].transform for index in indices]
                found = self._postprocess_batch(output, transforms, selection)
                detections.update(zip(indices, found, strict=True))
        return [detections[index] for index in range(len(network_inputs))]

    def _postprocess_batch(
        self, output: Output, transforms: Sequence[ResizeTransform], selection: Selection
    ) -> list[Detections]:
        """Return the detections of each image of a batch."""

        def postprocess(row: int) -> Detections:
            return self.postprocess(output, row, transforms[row], selection)

        rows = range(len(transforms))
        threads = min(available_cores(), MAX_THREADS, len(rows))
        if threads == 1:
            return [postprocess(row) for row in rows]
        with ThreadPoolExecutor(threads, thread_name_prefix="postprocess") as pool:
            return list(pool.map(postprocess, rows))

    def stream(
        self,
        sources: Iterable[S],
        *,
        batch: int | None = None,
        workers: int | None = None,
        ahead: int | None = None,
        on_skip: Callable[[S, ImageError], None] | None = None,
        image_of: Callable[[S], Any] | None = None,
        **selection: Any,
    ) -> Generator[StreamResult[S], None, None]:
        """Yield each image with its detections, in order, while the next ones are read.

        Use it for many existing images. Pass the frames of a live camera to `predict` one by one,
        because a stream delays the last few. Memory does not grow with the number of images, so
        ``sources`` may be endless.

        Args:
            sources: each as for `predict`, or anything with ``image_of``; only a few are taken
                ahead.
            batch: most network inputs of one shape that run together; by default the fixed batch
                size of the file, else a value for the runtime: 4 in PyTorch on a CPU, 16 in PyTorch
                on a GPU, 1 in the other runtimes.
            workers: reading threads; by default one per core, at most four.
            ahead: most images that are read ahead; by default two batches for each batch that the
                runtime runs in parallel.
            on_skip: called with each source that cannot be read and the error; the stream goes on.
                By default the error is raised.
            image_of: returns the image of a source, as for `predict`; called in the reading
                threads.
            **selection: as for `predict_batch`.

        Yields:
            The source, its image and its detections.

        Raises:
            ImageError: if an image cannot be read and there is no ``on_skip``.
            ConfigError: if a number is out of range, or a class unknown.

        Example:
            >>> def count_all(detector: Detector, paths: list[Path]) -> int:
            ...     return sum(len(one.detections) for one in detector.stream(paths))
        """
        rule = self.select(**selection)
        for name, value in (("batch", batch), ("workers", workers), ("ahead", ahead)):
            ConfigError.check(value is None or value >= 1, name, "1 or more", value)
        return stream_detections(
            self.runtime,
            sources,
            lambda source: self.preprocess(_as_image(image_of(source) if image_of else source)),
            lambda output, row, transform: self.postprocess(output, row, transform, rule),
            batch=batch or self.runtime.limits.batch or self.runtime.default_batch_size,
            workers=workers,
            ahead=ahead,
            on_skip=on_skip,
        )

    def preprocess(self, image: ImageArray) -> NetworkInput:
        """Return an image with its network input and the transform between them.

        Args:
            image: uint8 RGB of shape (H, W, 3).

        Raises:
            ImageError: if the array is not an image.
        """
        shape, kind = np.shape(image), getattr(image, "dtype", type(image).__name__)
        if len(shape) != 3 or shape[2] != 3 or 0 in shape or kind != np.uint8:
            raise ImageError(
                f"image must be uint8 RGB of shape (height, width, 3); got {kind} of shape "
                f"{shape}. Pass a path, or convert it first."
            )
        padded, transform = resize_to_input(image, self.input_hw, self._resize, self._color)
        return NetworkInput(image, padded, transform)

    def postprocess(
        self,
        output: Output,
        row: int,
        transform: ResizeTransform,
        selection: Selection | None = None,
    ) -> Detections:
        """Return the detections of one image from an output of the runtime, in image pixels.

        Args:
            output: of `Runtime.run`.
            row: index of the image in the batch.
            transform: between the image and its network input.
            selection: which boxes to keep; by default the detector's own selection.
        """
        boxes_xyxy, scores = output[0][row], output[1][row]
        rule = selection or self.selection
        return select_detections(boxes_xyxy, scores, transform, self.classes, rule)

    def select(
        self,
        confidence: float | None = None,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        multi_label: bool = False,
        only: Sequence[str] | None = None,
    ) -> Selection:
        """Return the selection for one call; see `predict_batch` for the arguments.

        Raises:
            ConfigError: if a threshold is out of range or looser than in the exported file, or a
                class unknown.
        """
        thresholds: dict[str, Any] = {
            "confidence": confidence,
            "nms_iou": nms_iou,
            "max_detections": max_detections,
        }
        selection = dataclasses.replace(
            self.selection,
            multi_label=multi_label,
            only=None if only is None else class_ids_of(only, self.classes),
            **{name: value for name, value in thresholds.items() if value is not None},
        )
        for name in thresholds:
            value, fixed = getattr(selection, name), getattr(self.runtime.limits, name)
            bound, sign = ("at least", -1) if name == "confidence" else ("at most", 1)
            if fixed is not None and sign * (value - fixed) > 1e-9:
                raise ConfigError(
                    f"{name} must be {bound} {fixed:g}, the limit of the NMS in the "
                    f"exported file; got {value:g}. Export it again with another "
                    f"--{name.replace('_', '-')}, or without --nms."
                )
        return selection


def _as_image(source: Any) -> ImageArray:
    if isinstance(source, np.ndarray):
        return source
    if isinstance(source, str | Path | bytes):
        return read_image(source)
    if hasattr(source, "getexif"):
        try:
            return from_pil(source)
        except (OSError, SyntaxError, ValueError) as error:
            raise ImageError(f"image is truncated or broken (PIL image): {error}") from None
    raise ImageError(
        f"image must be a path, bytes, an array or a PIL image; got {type(source).__name__}."
    )
