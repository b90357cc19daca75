"""The detector: pictures in, detections out, whatever runtime carries the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attendet.detections import Detections
from attendet.errors import ConfigError, PictureError, WeightsError, did_you_mean
from attendet.extras import require
from attendet.inference.postprocess import Selection, class_ids_of, select_detections
from attendet.inference.preprocess import STRIDE, Fit, lay_on_canvas
from attendet.inference.runtime import Runtime
from attendet.models.hub import local_weights
from attendet.pictures import Picture, from_pil, read_picture

if TYPE_CHECKING:
    from PIL.Image import Image

    from attendet.models.metadata import WeightsMetadata

__all__ = ["Detector", "load"]

MAX_BATCH = 32
"""Canvases that go through the network at once, at most; bounds the memory of a long list."""


class Detector:
    """A trained network that finds objects in pictures.

    Args:
        runtime: the network.
        confidence: lowest score that counts, 0 to 1.
        iou: of two boxes of a class that overlap more than this, the better one stays; 0 to 1.
        max_detections: at most this many a picture, the best.
        input_hw: another input size than that of the weights file, pixels, multiples of 32.

    Raises:
        ConfigError: if a threshold or the size is out of range.
    """

    def __init__(
        self,
        runtime: Runtime,
        confidence: float = 0.25,
        iou: float = 0.5,
        max_detections: int = 300,
        *,
        input_hw: tuple[int, int] | None = None,
    ) -> None:
        self.runtime = runtime
        self.selection = Selection(confidence, iou, max_detections)
        self.input_hw = input_hw or runtime.metadata.input_hw
        if any(side < STRIDE or side % STRIDE for side in self.input_hw):
            near = "x".join(str(max(1, round(side / STRIDE)) * STRIDE) for side in self.input_hw)
            raise ConfigError(
                f"input size must be multiples of {STRIDE}; got {self.input_hw}. Nearest: {near}."
            )
        self._preprocess = runtime.metadata.preprocessing()

    @property
    def metadata(self) -> WeightsMetadata:
        """What the weights file says about itself."""
        return self.runtime.metadata

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the class numbers."""
        return self.runtime.metadata.classes

    def predict(self, source: str | Path | bytes | Picture | Image, **selection: Any) -> Detections:
        """Return the detections of one picture.

        Args:
            source: path of a picture file, the bytes of one, uint8 RGB of shape (H, W, 3), or a
                PIL picture.
            **selection: as for `predict_batch`.

        Raises:
            PictureError: if the picture cannot be read.
            ConfigError: if a threshold is out of range, or a class unknown.
        """
        return self.predict_batch([_as_picture(source)], **selection)[0]

    def predict_batch(
        self,
        pictures: Sequence[Picture],
        *,
        confidence: float | None = None,
        iou: float | None = None,
        max_detections: int | None = None,
        multi_label: bool = False,
        only: Sequence[str] | None = None,
    ) -> list[Detections]:
        """Return the detections of each picture; pictures of one canvas size run together.

        Args:
            pictures: each uint8 RGB of shape (H, W, 3); sizes may differ.
            confidence: lowest score that counts, 0 to 1; the detector's own if left out.
            iou: overlap above which the worse of two boxes goes; the detector's own if left out.
            max_detections: at most this many a picture; the detector's own if left out.
            multi_label: a box may stand for every class above the confidence, as evaluators
                expect; otherwise for its best class alone.
            only: names of the classes that are wanted; all if left out.

        Returns:
            One `Detections` a picture, in their order.

        Raises:
            PictureError: if an array is no picture.
            ConfigError: if a threshold is out of range, or a class unknown.
        """
        rule = self._select(confidence, iou, max_detections, multi_label, only)
        laid = [
            lay_on_canvas(_check_picture(picture), self.input_hw, self._preprocess.fit)
            for picture in pictures
        ]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, (canvas, _) in enumerate(laid):
            groups.setdefault(canvas.shape, []).append(index)
        found: list[Detections | None] = [None] * len(laid)
        for members in groups.values():
            for start in range(0, len(members), MAX_BATCH):
                indices = members[start : start + MAX_BATCH]
                canvases = [laid[index][0] for index in indices]
                stacked = canvases[0][None] if len(canvases) == 1 else np.stack(canvases)
                fits = [laid[index][1] for index in indices]
                for index, one in zip(indices, self._run(stacked, fits, rule), strict=True):
                    found[index] = one
        return [one for one in found if one is not None]

    def predict_canvases(
        self,
        canvases: NDArray[np.uint8],
        fits: Sequence[Fit],
        *,
        confidence: float | None = None,
        iou: float | None = None,
        max_detections: int | None = None,
        multi_label: bool = False,
        only: Sequence[str] | None = None,
    ) -> list[Detections]:
        """Return the detections of pictures that lie on canvases already, in picture pixels.

        Args:
            canvases: uint8 RGB, shape (N, H, W, 3), H and W multiples of 32.
            fits: how each picture lies in its canvas, N of them.
            confidence: see `predict_batch`, as for the rest.
            iou: overlap limit.
            max_detections: at most this many a picture.
            multi_label: a box may stand for several classes.
            only: names of the wanted classes.

        Returns:
            One `Detections` a canvas.
        """
        rule = self._select(confidence, iou, max_detections, multi_label, only)
        found: list[Detections] = []
        for start in range(0, len(canvases), MAX_BATCH):
            stop = start + MAX_BATCH
            found += self._run(canvases[start:stop], fits[start:stop], rule)
        return found

    def _select(
        self,
        confidence: float | None,
        iou: float | None,
        max_detections: int | None,
        multi_label: bool,
        only: Sequence[str] | None,
    ) -> Selection:
        own = self.selection
        return dataclasses.replace(
            own,
            confidence=own.confidence if confidence is None else confidence,
            iou=own.iou if iou is None else iou,
            max_detections=own.max_detections if max_detections is None else max_detections,
            multi_label=multi_label,
            only=None if only is None else class_ids_of(only, self.classes),
        )

    def _run(
        self, canvases: NDArray[np.uint8], fits: Sequence[Fit], selection: Selection
    ) -> list[Detections]:
        if self._preprocess.colour == "bgr":
            canvases = np.ascontiguousarray(canvases[..., ::-1])
        boxes_xyxy, scores = self.runtime.run(canvases)
        return [
            select_detections(boxes_xyxy[index], scores[index], fit, self.classes, selection)
            for index, fit in enumerate(fits)
        ]


def _check_picture(picture: Picture) -> Picture:
    shape = np.shape(picture)
    if len(shape) != 3 or shape[2] != 3 or 0 in shape or picture.dtype != np.uint8:
        kind = getattr(picture, "dtype", type(picture).__name__)
        raise PictureError(
            f"picture must be uint8 RGB of shape (height, width, 3); got {kind} of shape {shape}. "
            "Give a path, or convert it first."
        )
    return picture


def _as_picture(source: str | Path | bytes | Picture | Image) -> Picture:
    if isinstance(source, np.ndarray):
        return source
    if isinstance(source, str | Path | bytes):
        return read_picture(source)
    if hasattr(source, "getexif"):
        try:
            return from_pil(source)
        except (OSError, SyntaxError, ValueError) as error:
            raise PictureError(f"picture is truncated or broken (PIL picture): {error}") from None
    raise PictureError(
        f"picture must be a path, bytes, an array or a PIL picture; got {type(source).__name__}."
    )


RUNTIMES = {".safetensors": ("torch",)}
"""Runtimes that can run a file of this suffix, the fastest first."""


def load(path: str | Path, runtime: str = "auto", device: str | None = None) -> Detector:
    """Return the detector that a weights file describes.

    Args:
        path: a ``.safetensors`` weights file written by attendet, or one on the Hugging Face Hub:
            ``hf://owner/name`` or ``hf://owner/name/FILE`` (see `attendet.models.hub`).
        runtime: ``auto``, or the name of one: ``torch``.
        device: such as ``cpu`` or ``cuda:0``; a GPU where there is one if left out.

    Raises:
        WeightsError: if the file is missing, of an unknown kind, broken or not ours.
        ConfigError: if the runtime is unknown or cannot run such a file.
        MissingExtraError: if the runtime's library is not installed.
    """
    path = local_weights(path)
    suffix = path.suffix.lower()
    if not path.exists():
        raise WeightsError(f"weights file not found ({path}). Check the path.")
    if suffix not in RUNTIMES:
        kinds = ", ".join(RUNTIMES)
        what = "a folder" if path.is_dir() else repr(suffix or "a name without suffix")
        raise WeightsError(f"weights must be a file of kind {kinds}; got {what} ({path}).")
    able = RUNTIMES[suffix]
    if runtime not in ("auto", *able):
        raise ConfigError(
            f"runtime must be able to run {suffix} files; got {runtime!r}. "
            f"{did_you_mean(runtime, ('auto', *able))}"
        )
    require("torch", extra="train", purpose=f"running {suffix} weights")
    from attendet.inference.torch_runtime import TorchRuntime

    return Detector(TorchRuntime.from_file(path, device=device))
