"""The detector: images in, detections out, whatever runtime carries the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from attendet.detections import Detections
from attendet.errors import ConfigError, ImageError
from attendet.images import ImageArray, from_pil, read_image
from attendet.inference.postprocess import Selection, class_ids_of, select_detections
from attendet.inference.preprocess import STRIDE, ResizeTransform, resize_to_input
from attendet.inference.runtimes.base import (
    BatchingRuntime,
    LimitedRuntime,
    Limits,
    Output,
    Runtime,
)
from attendet.inference.stream import Found, ImageStream, Laid

if TYPE_CHECKING:
    from PIL.Image import Image

    from attendet.models.metadata import WeightsMetadata

__all__ = ["Detector"]

S = TypeVar("S")
T = TypeVar("T")

MAX_BATCH = 32
"""Canvases that go through the network at once, at most; bounds the memory of a long list."""

USUAL_SELECTION = Selection()
"""Thresholds where nobody says otherwise."""


class Detector:
    """A trained network that finds objects in images.

    Args:
        runtime: the network.
        confidence: lowest score that counts, 0 to 1; 0.25 if left out.
        iou: of two boxes of a class that overlap more than this, the better one stays; 0 to 1;
            0.5 if left out.
        max_detections: at most this many an image, the best; 300 if left out.
        input_hw: another input size than that of the weights file, pixels, multiples of 32.

    An exported file with suppression in its graph brings its own three thresholds; they can be made
    stricter, not looser. One of a fixed size lays every image on a network input of that size.

    Raises:
        ConfigError: if a threshold or the size is out of range, or looser than the file's, or
            not the size that the file is fixed to.
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
        self._limits = runtime.limits if isinstance(runtime, LimitedRuntime) else Limits()
        limits = self._limits
        self.selection = Selection(
            _first_given(confidence, limits.confidence, USUAL_SELECTION.confidence),
            _first_given(nms_iou, limits.nms_iou, USUAL_SELECTION.nms_iou),
            _first_given(max_detections, limits.max_detections, USUAL_SELECTION.max_detections),
        )
        self._check_limits(self.selection)
        self._preprocess = runtime.metadata.preprocessing()
        self.input_hw = self._limits.input_hw or input_hw or runtime.metadata.input_hw
        self._resize = self._preprocess.resize
        if self._limits.input_hw is not None and self._resize == "rect":
            self._resize = "letterbox"
        if input_hw not in (None, self.input_hw):
            raise ConfigError(
                f"input size must be {self.input_hw}, which the exported file is fixed to; "
                f"got {input_hw}. Export it anew at that size, or with a free size."
            )
        if any(side < STRIDE or side % STRIDE for side in self.input_hw):
            near = "x".join(str(max(1, round(side / STRIDE)) * STRIDE) for side in self.input_hw)
            raise ConfigError(
                f"input size must be multiples of {STRIDE}; got {self.input_hw}. Nearest: {near}."
            )

    @property
    def metadata(self) -> WeightsMetadata:
        """What the weights file says about itself."""
        return self.runtime.metadata

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the class numbers."""
        return self.runtime.metadata.classes

    @property
    def least_confidence(self) -> float:
        """The lowest confidence that can be asked for: that of the file's own suppression, or 0."""
        return self._limits.confidence or 0.0

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
        return self.predict_batch([_as_image(source)], **selection)[0]

    def predict_batch(
        self,
        images: Sequence[ImageArray],
        *,
        confidence: float | None = None,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        multi_label: bool = False,
        only: Sequence[str] | None = None,
    ) -> list[Detections]:
        """Return the detections of each image; images of one network input size run together.

        Args:
            images: each uint8 RGB of shape (H, W, 3); sizes may differ.
            confidence: lowest score that counts, 0 to 1; the detector's own if left out.
            iou: overlap above which the worse of two boxes goes; the detector's own if left out.
            max_detections: at most this many an image; the detector's own if left out.
            multi_label: a box may stand for every class above the confidence, as evaluators
                expect; otherwise for its best class alone.
            only: names of the classes that are wanted; all if left out.

        Returns:
            One `Detections` an image, in their order.

        Raises:
            ImageError: if an array is no image.
            ConfigError: if a threshold is out of range, or a class unknown.
        """
        rule = self._select(confidence, nms_iou, max_detections, multi_label, only)
        laid = [self.lay(image) for image in images]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, one in enumerate(laid):
            groups.setdefault(one.padded.shape, []).append(index)
        found: list[Detections | None] = [None] * len(laid)
        for members in groups.values():
            for start in range(0, len(members), MAX_BATCH):
                indices = members[start : start + MAX_BATCH]
                inputs = [laid[index].padded for index in indices]
                stacked = inputs[0][None] if len(inputs) == 1 else np.stack(inputs)
                output = self.runtime.run(stacked)
                for row, index in enumerate(indices):
                    found[index] = self.select(output, row, laid[index].transform, rule)
        return [one for one in found if one is not None]

    def predict_inputs(
        self,
        inputs: NDArray[np.uint8],
        transforms: Sequence[ResizeTransform],
        *,
        confidence: float | None = None,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        multi_label: bool = False,
        only: Sequence[str] | None = None,
    ) -> list[Detections]:
        """Return the detections of images that lie on network inputs already, in image pixels.

        Args:
            network inputs: uint8 RGB, shape (N, H, W, 3), H and W multiples of 32.
            transforms: how each image lies in its network input, N of them.
            confidence: see `predict_batch`, as for the rest.
            iou: overlap limit.
            max_detections: at most this many an image.
            multi_label: a box may stand for several classes.
            only: names of the wanted classes.

        Returns:
            One `Detections` a network input.
        """
        rule = self._select(confidence, nms_iou, max_detections, multi_label, only)
        found: list[Detections] = []
        for start in range(0, len(inputs), MAX_BATCH):
            some = inputs[start : start + MAX_BATCH]
            output = self.runtime.run(self._in_color_order(some))
            found += [
                self.select(output, row, transforms[start + row], rule) for row in range(len(some))
            ]
        return found

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
    ) -> Generator[Found[S], None, None]:
        """Give each image with its detections, in order, while the next ones are read.

        Meant for many images that are there already; the frames of a live camera go to `predict`
        one by one, since a stream holds back the last few. Memory does not grow with their number,
        so ``sources`` may be endless.

        Args:
            sources: each as for `predict`, unless ``image_of`` is given; taken from only a few
                ahead.
            batch: network inputs of one shape that go through the network together; if left out,
                what the file is fixed to, else what suits the runtime: 4 in PyTorch on a CPU, 16
                on a GPU, 1 in runtimes that work on several side by side.
            workers: reading threads; one a core, at most four, if left out.
            ahead: images that are read and wait, at most; as many as the network works on if left
                out.
            on_skip: told of each source that cannot be read, and why, while the others go on.
                Without it the error is raised.
            image_of: gives what `predict` takes from a source; called in the reading threads.
            **selection: as for `predict_batch`.

        Yields:
            The source, its image and its detections.

        Raises:
            ImageError: if an image cannot be read and there is no ``on_skip``.
            ConfigError: if a number is out of range, or a class unknown.

        Example:
            >>> def count_all(detector: Detector, paths: list[Path]) -> int:
            ...     return sum(len(found.detections) for found in detector.stream(paths))
        """
        rule = self._select(**selection)
        pick = image_of or _itself
        stream = ImageStream[S](
            self.runtime,
            lambda source: self.lay(_as_image(pick(source))),
            lambda output, row, transform: self.select(output, row, transform, rule),
            on_skip,
            self._usual_batch() if batch is None else batch,
            workers,
            ahead,
        )
        return stream.run(sources)

    def _usual_batch(self) -> int:
        if self._limits.batch is not None:
            return self._limits.batch
        return self.runtime.usual_batch if isinstance(self.runtime, BatchingRuntime) else 1

    def _select(
        self,
        confidence: float | None = None,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        multi_label: bool = False,
        only: Sequence[str] | None = None,
    ) -> Selection:
        own = self.selection
        rule = dataclasses.replace(
            own,
            confidence=own.confidence if confidence is None else confidence,
            nms_iou=own.nms_iou if nms_iou is None else nms_iou,
            max_detections=own.max_detections if max_detections is None else max_detections,
            multi_label=multi_label,
            only=None if only is None else class_ids_of(only, self.classes),
        )
        self._check_limits(rule)
        return rule

    def _check_limits(self, rule: Selection) -> None:
        """Refuse thresholds that a suppression in the graph has passed already."""
        limits = self._limits
        for name, value, fixed, side in (
            ("confidence", rule.confidence, limits.confidence, "least"),
            ("nms_iou", rule.nms_iou, limits.nms_iou, "most"),
            ("max_detections", rule.max_detections, limits.max_detections, "most"),
        ):
            if fixed is None:
                continue
            too_loose = fixed - value if side == "least" else value - fixed
            if too_loose > 1e-9:
                raise ConfigError(
                    f"{name} must be at {side} {fixed:g}, which the suppression in the exported "
                    f"file has; got {value:g}. Export it anew with another "
                    f"--{name.replace('_', '-')}, or without --nms."
                )

    def lay(self, image: ImageArray) -> Laid:
        """Return an image on its network input as the runtime takes it, and how it lies there.

        Args:
            image: uint8 RGB of shape (H, W, 3).

        Raises:
            ImageError: if the array is no image.
        """
        padded, transform = resize_to_input(_check_image(image), self.input_hw, self._resize)
        return Laid(image, self._in_color_order(padded), transform)

    def _in_color_order(self, inputs: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self._preprocess.color == "bgr":
            return np.ascontiguousarray(inputs[..., ::-1])
        return inputs

    def select(
        self, output: Output, row: int, transform: ResizeTransform, rule: Selection | None = None
    ) -> Detections:
        """Return the detections of one image from what the runtime gave, in image pixels.

        Args:
            output: of `Runtime.run`.
            row: the image's number in the batch.
            transform: how it lies in its network input.
            rule: which boxes stay; the detector's own if left out.
        """
        rule = rule or self.selection
        return select_detections(output[0][row], output[1][row], transform, self.classes, rule)


def _itself(source: T) -> T:
    return source


def _first_given(given: T | None, fixed: T | None, usual: T) -> T:
    return given if given is not None else fixed if fixed is not None else usual


def _check_image(image: ImageArray) -> ImageArray:
    shape = np.shape(image)
    if len(shape) != 3 or shape[2] != 3 or 0 in shape or image.dtype != np.uint8:
        kind = getattr(image, "dtype", type(image).__name__)
        raise ImageError(
            f"image must be uint8 RGB of shape (height, width, 3); got {kind} of shape {shape}. "
            "Give a path, or convert it first."
        )
    return image


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
