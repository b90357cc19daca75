"""Class activation maps of a detector: which image regions raise the scores of its detections.

N, B, K, H and W are images, decoded boxes, classes, rows and columns of the network input.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attendet.errors import ConfigError
from attendet.models import DetectionNetwork, GraphDetector, YoloV4Tiny
from attendet.models.graph import Convolutional, Graph
from attendet.models.graph_sites import dominators

Floats = NDArray[np.float32]


def cam_layer(network: DetectionNetwork) -> nn.Module:
    """Return the last module that all outputs of a network depend on.

    At least two 3x3 (or larger) convolutions follow it if possible: a map right before an output,
    which is a 1x1 convolution, shows only the cells of the detections.

    Args:
        network: YOLOv4-tiny or a network of darknet layers.

    Raises:
        ConfigError: if it is another network.
    """
    if isinstance(network, YoloV4Tiny):
        return network.backbone.csp3.conv1
    if isinstance(network, GraphDetector):
        return network.layers[_last_shared_layer(network.graph)]
    rule, advice = "a YoloV4Tiny or a GraphDetector", "Pass a layer."
    raise ConfigError.must("network", rule, type(network).__name__, advice=advice)


def _last_shared_layer(graph: Graph) -> int:
    """Return the last layer that all outputs depend on, with two spatial convolutions after it."""
    layers = graph.layers
    before = dominators(graph)
    shared = frozenset.intersection(*(before[index] for index in graph.outputs))
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
    layer: nn.Module | None = None,
) -> dict[int, Floats]:
    """Return for each class how much each pixel increased the scores of its detections.

    Layer-CAM (Jiang et al. 2021, "LayerCAM: Exploring Hierarchical Class Activation Maps for
    Localization", IEEE TIP 30, equation 5), but not scaled to 1. The target of a class is the sum
    of the scores of all its detections.

    Args:
        network: in eval mode; parameters and gradients are not changed.
        padded: network input, uint8, shape (H, W, 3), in the channel order of the network.
        rows: class index to indices of the decoded boxes that are detections.
        layer: module whose output is weighted; default: `cam_layer`.

    Returns:
        Class index to map, shape (H, W), not negative, in units of the summed score.
    """
    if not rows:
        return {}
    weights = next(network.parameters())
    images = torch.from_numpy(np.ascontiguousarray(padded))[None].permute(0, 3, 1, 2)
    images = (images.to(weights.device, weights.dtype) / 255).requires_grad_()
    calls: list[Tensor] = []
    hook = (layer or cam_layer(network)).register_forward_hook(lambda *call: calls.append(call[2]))
    try:
        with torch.enable_grad():
            scores = network.decode(network(images))[1][0]  # (B, K)
    finally:
        hook.remove()
    maps: dict[int, Floats] = {}
    for class_id, detected in rows.items():
        target = scores[torch.from_numpy(detected).to(weights.device), class_id].sum()
        (gradient,) = torch.autograd.grad(target, calls[0], retain_graph=True)
        weighted = (gradient.clamp(min=0) * calls[0].detach()).sum(dim=1)[0].clamp(min=0)
        values = weighted.float().cpu().numpy()
        maps[class_id] = np.asarray(cv2.resize(values, padded.shape[1::-1]), dtype=np.float32)
    return maps
