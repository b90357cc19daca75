"""How far the raw outputs of an exported file are from the network's.

N is the batch, B the boxes of one image, K the classes, M the rows of a file with suppression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attendet.boxes import clip_to_image
from attendet.errors import ExportError
from attendet.exporters.running import Outputs, Run
from attendet.images import ImageArray
from attendet.inference import Runtime, Selection
from attendet.inference.postprocess import select_detections
from attendet.inference.preprocess import Stretch, resize_to_input
from attendet.models.export_info import ExportInfo
from attendet.models.metadata import WeightsMetadata

__all__ = ["Subject", "network_inputs", "compare_raw", "drawn_images"]


@dataclass(frozen=True)
class Subject:
    """A network and the file that was made of it."""

    reference: Runtime
    """The network in eager PyTorch, nothing folded."""

    run: Run
    """The file."""

    metadata: WeightsMetadata
    """What stands in the file about the network."""

    info: ExportInfo
    """What stands in the file about the export."""

    @property
    def selection(self) -> Selection:
        """What of the network's boxes a file with suppression gives."""
        info = self.info
        if info.confidence is None or info.nms_iou is None or info.max_detections is None:
            return Selection()
        return Selection(info.confidence, info.nms_iou, info.max_detections)


def drawn_images(count: int, seed: int = 0) -> list[ImageArray]:
    """Return images of colored blots on a shaded ground, for checks without data."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:480, 0:640]
    images = []
    for _ in range(count):
        ground = np.stack([rows * shade + 90 for shade in rng.uniform(0, 0.2, 3)], axis=-1)
        for _ in range(12):
            y, x, height, width = rng.uniform((0, 0, 20, 20), (480, 640, 120, 120))
            inside = ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1
            ground[inside] = rng.uniform(0, 255, 3)
        noisy = ground + rng.normal(0, 6, ground.shape)
        images.append(noisy.clip(0, 255).astype(np.uint8))
    return images


def network_inputs(
    images: Sequence[ImageArray], metadata: WeightsMetadata, dynamic: Sequence[str]
) -> list[NDArray[np.uint8]]:
    """Return batches to compare raw outputs on: of one, of several, and of other sizes if allowed.

    Args:
        images: RGB; the first few are taken.
        metadata: says the input size and the order of channels.
        dynamic: which of ``batch`` and ``size`` may differ.

    Returns:
        Each uint8, shape (n, H, W, 3).
    """
    height, width = metadata.input_hw
    kinds = [(1, (height, width))]
    if "batch" in dynamic:
        kinds.append((3, (height, width)))
    if "size" in dynamic:
        kinds += [(2, (height + 32, max(64, width - 32))), (1, (64, 96))]
    bgr = metadata.preprocessing().color == "bgr"
    made = []
    for count, hw in kinds:
        chosen = [images[index % len(images)] for index in range(count)]
        inputs = np.stack([resize_to_input(image, hw, "letterbox")[0] for image in chosen])
        made.append(np.ascontiguousarray(inputs[..., ::-1]) if bgr else inputs)
    return made


def compare_raw(
    subject: Subject, batches: Sequence[NDArray[np.uint8]]
) -> tuple[float, float, float, float]:
    """Return the largest and the mean difference of boxes, pixels, and those of scores.

    Args:
        subject: the network and the file.
        batches: network inputs, uint8, each (n, H, W, 3).

    Raises:
        ExportError: if outputs have other shapes or types.
    """
    differences: list[list[NDArray[Any]]] = [[], []]
    for inputs in batches:
        expected = _reference_outputs(subject, inputs)
        outputs = subject.run(inputs)
        for output, wanted in zip(outputs, expected, strict=True):
            if output.shape != wanted.shape or output.dtype != wanted.dtype:
                raise ExportError(
                    f"outputs must be {wanted.dtype} {wanted.shape}; got {output.dtype} "
                    f"{output.shape} for network inputs {inputs.shape}. Nothing was written."
                )
        apart = _rows_apart if subject.info.nms else _outputs_apart
        for parts, values in zip(differences, apart(outputs, expected, inputs), strict=True):
            parts.append(values.ravel())
    of_boxes, of_scores = (np.concatenate(parts).astype(np.float64) for parts in differences)
    largest = [float(np.max(each, initial=0.0)) for each in (of_boxes, of_scores)]
    mean = [float(np.mean(each)) if len(each) else 0.0 for each in (of_boxes, of_scores)]
    return largest[0], mean[0], largest[1], mean[1]


def _reference_outputs(subject: Subject, inputs: NDArray[np.uint8]) -> Outputs:
    """Return what the file should give for network inputs."""
    boxes_xyxy, scores = subject.reference.run(inputs)
    if not subject.info.nms:
        return boxes_xyxy, scores
    input_hw = (inputs.shape[1], inputs.shape[2])
    transform, selection = Stretch(input_hw, input_hw), subject.selection
    sheet = np.zeros((len(inputs), selection.max_detections, 6), dtype=np.float32)
    sheet[..., 5] = -1
    for rows, boxes, own in zip(sheet, boxes_xyxy, scores, strict=True):
        kept = select_detections(boxes, own, transform, subject.metadata.classes, selection)
        rows[: len(kept), :4] = kept.boxes_xyxy
        rows[: len(kept), 4] = kept.scores
        rows[: len(kept), 5] = kept.class_ids
    return (sheet,)


def _outputs_apart(
    outputs: Outputs, expected: Outputs, inputs: NDArray[np.uint8]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the differences of boxes, cut at the network input, and of scores."""
    input_hw = (inputs.shape[1], inputs.shape[2])
    boxes, wanted = (
        clip_to_image(each[0].reshape(-1, 4), input_hw) for each in (outputs, expected)
    )
    return np.abs(boxes - wanted), np.abs(outputs[1] - expected[1])


def _rows_apart(
    outputs: Outputs, expected: Outputs, inputs: NDArray[np.uint8]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return how far each detection of the network is from the nearest of its class in the file.

    Rows of nearly equal scores may change places.
    """
    del inputs
    far, off = [np.zeros(0)], [np.zeros(0)]
    for rows, wanted in zip(outputs[0], expected[0], strict=True):
        rows, wanted = rows[rows[:, 4] > 0], wanted[wanted[:, 4] > 0]
        if len(rows) == 0 or len(wanted) == 0:
            missing = np.full(max(len(rows), len(wanted)), np.inf)
            far.append(missing)
            off.append(missing)
            continue
        distance = np.abs(wanted[:, None, :4] - rows[None, :, :4]).max(axis=2)
        distance[wanted[:, None, 5] != rows[None, :, 5]] = np.inf
        nearest = distance.argmin(axis=1)
        far.append(distance.min(axis=1))
        off.append(np.abs(wanted[:, 4] - rows[nearest, 4]))
    return np.concatenate(far), np.concatenate(off)
