"""Class activation maps of a detector: which places raise the scores of what it detected.

N, B, K, H and W are images, decoded boxes, classes, rows and columns of the network input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attendet.boxes import clip_to_image, non_maximum_suppression
from attendet.errors import ConfigError
from attendet.inference.postprocess import Selection
from attendet.inference.preprocess import ResizeTransform
from attendet.models import DetectionNetwork, GraphDetector, YoloV4Tiny
from attendet.models.graph import Graph
from attendet.models.graph_layers import Convolutional
from attendet.system import require

__all__ = ["cam_layers", "class_activation_maps", "detected_rows"]

Floats = NDArray[np.float32]


def detected_rows(
    boxes_xyxy: Floats, scores: Floats, transform: ResizeTransform, selection: Selection
) -> dict[int, NDArray[np.int64]]:
    """Return which decoded boxes are detections, by class number, the best score first.

    Args:
        boxes_xyxy: shape (B, 4), network input pixels.
        scores: shape (B, K), 0 to 1.
        transform: how the image lies in the network input.
        selection: confidence and overlap; a box stands for its best class.
    """
    rows = np.flatnonzero(scores.max(axis=1) >= selection.confidence)
    class_ids = scores[rows].argmax(axis=1)
    in_image = clip_to_image(transform.to_image(boxes_xyxy[rows]), transform.image_hw)
    solid = (in_image[:, 2:] > in_image[:, :2]).all(axis=1)
    rows, class_ids, in_image = rows[solid], class_ids[solid], in_image[solid]
    if not len(rows):
        return {}
    kept = non_maximum_suppression(
        in_image,
        scores[rows, class_ids],
        class_ids,
        iou_threshold=selection.nms_iou,
        max_detections=selection.max_detections,
    )
    found: dict[int, NDArray[np.int64]] = {}
    for class_id in np.unique(class_ids[kept]).tolist():
        found[class_id] = rows[kept][class_ids[kept] == class_id].astype(np.int64)
    return found


def cam_layers(network: DetectionNetwork) -> list[nn.Module]:
    """Return the last module through which every output of a network sees the image.

    Behind it must lie two convolutions that look around: right before an output, which is a 1x1
    convolution, a map would show nothing but the cells that made the detections.

    Args:
        network: YOLOv4-tiny or a network of darknet layers.

    Raises:
        ConfigError: if it is another network.
    """
    if isinstance(network, YoloV4Tiny):
        return [network.backbone.csp3.conv1]
    if isinstance(network, GraphDetector):
        return [network.layers[_last_shared_layer(network.graph)]]
    raise ConfigError(
        f"network must be a YoloV4Tiny or a GraphDetector; got {type(network).__name__}. "
        "Name the layers."
    )


def _last_shared_layer(graph: Graph) -> int:
    """Return the last layer that all outputs depend on, two spatial convolutions before the end."""
    layers = graph.layers
    before: dict[int, set[int]] = {-1: set()}  # the layers without which a layer sees nothing
    for index, layer in enumerate(layers):
        shared = set.intersection(*(before[source] for source in layer.sources(index)))
        before[index] = shared | {index}
    shared = set.intersection(*(before[index] for index in graph.yolo_layers))
    spatial = [
        index
        for index, layer in enumerate(layers)
        if isinstance(layer, Convolutional) and layer.size > 1
    ]
    early = [index for index in shared if sum(later > index for later in spatial) >= 2]
    return max(early, default=min(shared))


def class_activation_maps(
    network: DetectionNetwork,
    padded: NDArray[np.uint8],
    rows: Mapping[int, NDArray[np.int64]],
    *,
    layers: Sequence[nn.Module] | None = None,
) -> dict[int, Floats]:
    """Return for each class how much each place raised the scores of its detections.

    Layer-CAM (Jiang et al. 2021, "LayerCAM: Exploring Hierarchical Class Activation Maps for
    Localization", IEEE TIP 30, equation 5) by the grad-cam library, with one difference: maps of
    several layers are added in their own units rather than each scaled to 1 before, so that a layer
    that no detection depends on adds nothing. The target of a class is the sum of the scores of its
    detections; an image holds many objects, and the map shows them all.

    Args:
        network: in eval mode; parameters and gradients stay as they are.
        network input: uint8, shape (H, W, 3), in the color order that the network takes.
        rows: class number to the decoded boxes that were detected, as `detected_rows` gives them.
        layers: modules that return the maps to weigh; see `cam_layers` if left out.

    Returns:
        Class number to map, shape (H, W), 0 and up, in the units of the summed score.

    Raises:
        MissingExtraError: if grad-cam is not installed.
    """
    if not rows:
        return {}
    library = require("pytorch_grad_cam", extra="explain", purpose="class activation maps")
    weights = next(network.parameters())
    images = torch.from_numpy(np.ascontiguousarray(padded))[None].permute(0, 3, 1, 2)
    images = images.to(weights.device, weights.dtype) / 255
    maps: dict[int, Floats] = {}
    with _frozen(network), torch.enable_grad():
        cam = library.LayerCAM(_Scores(network), list(layers or cam_layers(network)))
        cam.compute_input_gradient = True  # the parameters are frozen: no gradient is wasted
        cam.compute_cam_per_layer = lambda *_: _in_score_units(cam, padded.shape[:2])
        cam.aggregate_multi_layers = lambda per_layer: np.sum(per_layer, axis=0)
        try:
            for class_id, detected in rows.items():
                maps[class_id] = cam(images, [_SummedScore(class_id, detected)])
        finally:
            cam.activations_and_grads.release()
    return maps


def _in_score_units(cam: Any, input_hw: tuple[int, ...]) -> list[Floats]:
    """Return the map of each layer at the size of the network input, in the units of the score."""
    found = []
    kept = cam.activations_and_grads
    for activations, gradients in zip(kept.activations, kept.gradients, strict=True):
        weighed = (gradients.clamp(min=0) * activations).sum(dim=1)[0].clamp(min=0)
        resized = cv2.resize(weighed.float().numpy(), input_hw[::-1])
        found.append(np.asarray(resized, dtype=np.float32))
    return found


class _Scores(nn.Module):
    """A network whose output is the scores of every decoded box, (N, B, K)."""

    def __init__(self, network: DetectionNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.decode(self.network(images))[1]


class _SummedScore:
    """The sum of a class's scores over some boxes of one image."""

    def __init__(self, class_id: int, rows: NDArray[np.int64]) -> None:
        self.class_id, self.rows = class_id, torch.from_numpy(rows)

    def __call__(self, scores: Tensor) -> Tensor:
        return scores[self.rows.to(scores.device), self.class_id].sum()


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Let no parameter ask for gradients; put back what was there."""
    before = [
        (parameter, parameter.requires_grad, parameter.grad) for parameter in network.parameters()
    ]
    try:
        for parameter, _, _ in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, asked, gradient in before:
            parameter.requires_grad_(asked)
            parameter.grad = gradient
