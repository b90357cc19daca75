"""The gates that a network's attention blocks apply to an image.

N, C, H and W are images, channels, rows and columns of the feature map at a site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import reduce
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attendet.attention import AttentionBlock, inserted_blocks
from attendet.images import ImageArray, Letterbox
from attendet.inference.preprocess import ResizeTransform
from attendet.models import DetectionNetwork, GraphDetector
from attendet.models.graph_layers import ScaleChannels

__all__ = [
    "cells_of_image",
    "compute_gates",
    "crop_to_image",
    "gate_map",
    "gated_sites",
    "record_gates",
]

Floats = NDArray[np.float32]
GateTensors = dict[str, Tensor]


def gated_sites(network: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a network that multiply a map by gates, by the name of their site.

    Attention blocks at named sites go by the site (``p5``), those that `attendet.attend` put
    somewhere by the place (``layer3.0.conv2``), others by their qualified name. The
    ``[scale_channels]`` layers of a darknet network, which are the gates of its own
    squeeze-and-excitation, go by the number of their layer (``layer 12``).

    Args:
        network: any module.
    """
    named = {id(block): site or "itself" for site, block in inserted_blocks(network).items()}
    if isinstance(network, DetectionNetwork):
        named |= {id(block): site for site, block in network.attention_blocks().items()}
    found: dict[str, nn.Module] = {}
    inside: tuple[str, ...] = ()
    for name, module in network.named_modules():
        if isinstance(module, AttentionBlock) and not (inside and name.startswith(inside)):
            found[named.get(id(module), name or "itself")] = module
            inside = (*inside, f"{name}.")
    if isinstance(network, GraphDetector):
        for index, layer in enumerate(network.graph.layers):
            if isinstance(layer, ScaleChannels):
                found[f"layer {index}"] = network.layers[index]
    return found


@contextmanager
def record_gates(network: nn.Module) -> Iterator[dict[str, GateTensors]]:
    """Record the gates of every attention block while a network runs.

    They are what `forward` multiplies the feature maps by, not a reconstruction of it.

    Args:
        network: any module; in eval mode, so that its gates do not depend on the batch.

    Yields:
        Filled by each run of the network with its latest gates: site to gate name to tensor that
        broadcasts to (N, C, H, W). A block that runs several times in one run of the network has
        its later gates under ``site (2)`` and so on.

    Example:
        >>> from attendet.attention import attend
        >>> network = attend(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), {"0": "se"}).eval()
        >>> with record_gates(network) as gates:
        ...     _ = network(torch.zeros(2, 3, 8, 8))
        >>> {site: tuple(named["channel"].shape) for site, named in gates.items()}
        {'0': (2, 8, 1, 1)}
    """
    seen: dict[str, GateTensors] = {}

    def hook(site: str) -> Callable[..., None]:
        def keep(module: nn.Module, arguments: tuple[Any, ...], _output: Any) -> None:
            with torch.no_grad():
                gates = _gates_of(module, arguments)
            name, times = site, 1
            while name in seen:
                times += 1
                name = f"{site} ({times})"
            seen[name] = gates

        return keep

    def forget(_module: nn.Module, _arguments: tuple[Any, ...]) -> None:
        seen.clear()

    def arrange(*_: object) -> None:  # from the order of computation to that of the sites
        order = [
            name
            for site in sites
            for name in seen
            if name.rpartition(" (")[0] == site or name == site
        ]
        for name in order:
            seen[name] = seen.pop(name)

    sites = gated_sites(network)
    with ExitStack() as stack:
        stack.callback(network.register_forward_pre_hook(forget).remove)
        for site, module in sites.items():
            stack.callback(module.register_forward_hook(hook(site)).remove)
        stack.callback(network.register_forward_hook(arrange).remove)
        yield seen


def _gates_of(module: nn.Module, arguments: tuple[Any, ...]) -> GateTensors:
    if isinstance(module, AttentionBlock):
        return module.gates(arguments[0])
    return {"channel": arguments[0]}  # [scale_channels] is called with gate and map


@torch.inference_mode()
def compute_gates(
    network: DetectionNetwork, padded: ImageArray, *, color: str = "rgb"
) -> dict[str, dict[str, Floats]]:
    """Return the gates of each attention block, by site and by the block's own names.

    Args:
        network: in eval mode.
        network input: uint8 RGB, shape (H, W, 3), sides multiples of 32, laid as for prediction.
        color: order of the channels that the network takes, ``rgb`` or ``bgr``.

    Returns:
        Arrays that broadcast to (C, H, W) of their site: ``channel`` (C, 1, 1), ``spatial``
        (1, H, W), ``height`` (C, H, 1), ``width`` (C, 1, W). Empty without attention.

    Example:
        >>> from attendet.models import build
        >>> network = build(classes=["cell"], attention="ca@p5", width_mult=0.25).eval()
        >>> gates = compute_gates(network, np.zeros((64, 96, 3), dtype=np.uint8))
        >>> {name: gate.shape for name, gate in gates["p5"].items()}
        {'height': (128, 2, 1), 'width': (128, 1, 3)}
    """
    weights = next(network.parameters())
    laid = np.ascontiguousarray(padded[..., ::-1] if color == "bgr" else padded)
    batch = torch.from_numpy(laid)[None].permute(0, 3, 1, 2)
    with record_gates(network) as gates:
        network(batch.to(weights.device, weights.dtype) / 255)
    return first_image(gates)


def first_image(gates: Mapping[str, GateTensors]) -> dict[str, dict[str, Floats]]:
    """Return recorded gates of the first image of the batch as arrays."""
    return {
        site: {name: gate[0].float().cpu().numpy() for name, gate in named.items()}
        for site, named in gates.items()
    }


def gate_map(gates: Mapping[str, Floats]) -> Floats | None:
    """Return how far one block opens at each place: the product of its gates, mean over channels.

    Args:
        gates: of one site, as `compute_gates` gives them.

    Returns:
        Shape (H, W); None where the block gates channels alone and all places alike.

    Example:
        >>> row, column = np.float32([[[0.2], [1.0]]]), np.float32([[[0.5, 1.0]]])
        >>> gate_map({"height": row, "width": column}).tolist()
        [[0.1, 0.2], [0.5, 1.0]]
    """
    if all(gate.shape[1:] == (1, 1) for gate in gates.values()):
        return None
    product: Floats = reduce(np.multiply, gates.values())
    opened: Floats = product.mean(axis=0)
    return opened


def crop_to_image(values: Floats, transform: ResizeTransform) -> Floats:
    """Return what a map says of the image, without the border of its network input.

    Args:
        values: shape (h, w), over the whole network input; a row or column of a profile has a side
        of 1. transform: how the image lies in the network input.

    Returns:
        One value a network input pixel that the image covers, interpolated.

    Example:
        >>> transform = Letterbox.for_image((100, 200), (64, 64))
        >>> crop_to_image(np.ones((4, 4), dtype=np.float32), transform).shape
        (32, 64)
    """
    input_hw, (top, left, height, width) = _window(transform)
    resized = cv2.resize(values, input_hw[::-1], interpolation=cv2.INTER_LINEAR)
    whole: Floats = np.asarray(resized, dtype=np.float32)
    return whole[top : top + height, left : left + width]


def cells_of_image(transform: ResizeTransform, cells_hw: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of a map whose cells' centers lie in the image.

    Args:
        transform: how the image lies in the network input.
        cells_hw: rows and columns of the map over the whole network input.

    Returns:
        At least one row and one column.

    Example:
        >>> cells_of_image(Letterbox.for_image((100, 200), (64, 64)), (8, 8))
        (slice(2, 6, None), slice(0, 8, None))
    """
    input_hw, (top, left, height, width) = _window(transform)
    found = []
    for cells, side, start, length in zip(
        cells_hw, input_hw, (top, left), (height, width), strict=True
    ):
        first = round(start / side * cells)
        last = max(first + 1, round((start + length) / side * cells))
        found.append(slice(min(first, cells - 1), min(last, cells)))
    return found[0], found[1]


def _window(transform: ResizeTransform) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Return the size of a network input, and top, left, height and width of the image in it."""
    input_hw: tuple[int, int] = transform.input_hw  # type: ignore[attr-defined]
    if not isinstance(transform, Letterbox):
        return input_hw, (0, 0, *input_hw)
    height, width = (max(1, round(side * transform.scale)) for side in transform.image_hw)
    return input_hw, (transform.top, transform.left, height, width)
