"""The gates that the attention blocks of a network apply to an image.

N, C, H and W are images, channels, rows and columns of the feature map at a site.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial, reduce
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attendet.attention import AttentionBlock, inserted_blocks
from attendet.images import Letterbox
from attendet.inference.preprocess import ResizeTransform
from attendet.models import DetectionNetwork, GraphDetector
from attendet.models.graph import ScaleChannels

Floats = NDArray[np.float32]
GateTensors = dict[str, Tensor]


def gated_sites(network: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a network that multiply a feature map by gates, by site.

    The site of an attention block is the name of its site in the network (``p5``), the name of the
    module that `attendet.attend` inserted it after (``layer3.0.conv2``), or its own qualified name.
    ``[scale_channels]`` layers of a darknet network, the gates of its squeeze-and-excitation, have
    the number of their layer (``layer 12``).
    """
    named = {id(block): site or "itself" for site, block in inserted_blocks(network).items()}
    if isinstance(network, DetectionNetwork):
        named |= {id(block): site for site, block in network.attention_blocks().items()}
    found: dict[str, nn.Module] = {}
    inside: tuple[str, ...] = ()
    for name, module in network.named_modules():
        if not isinstance(module, AttentionBlock) or not module.is_gated:
            continue
        if not name.startswith(inside):
            found[named.get(id(module), name or "itself")] = module
            inside = (*inside, f"{name}." if name else "")
    if isinstance(network, GraphDetector):
        for index, layer in enumerate(network.graph.layers):
            if isinstance(layer, ScaleChannels):
                found[f"layer {index}"] = network.layers[index]
    return found


@contextmanager
def record_gates(network: nn.Module) -> Iterator[dict[str, GateTensors]]:
    """Record the gates of every attention block while a network runs.

    These are the gates that `forward` multiplies the feature maps by.

    Args:
        network: any module; in eval mode, so that its gates do not depend on the batch.

    Yields:
        Site to gate name to tensor that broadcasts to (N, C, H, W). Each run of the network
        replaces the gates of the previous run. If a block runs several times in one run of the
        network, its later gates are under ``site (2)`` and so on.

    Example:
        >>> from attendet.attention import attend
        >>> network = attend(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), {"0": "se"}).eval()
        >>> with record_gates(network) as gates:
        ...     _ = network(torch.zeros(2, 3, 8, 8))
        >>> {site: tuple(named["channel"].shape) for site, named in gates.items()}
        {'0': (2, 8, 1, 1)}
    """
    recorded: dict[str, GateTensors] = {}
    calls: dict[str, list[GateTensors]] = {}

    def start(*_: object) -> None:
        recorded.clear()
        calls.update({site: [] for site in sites})

    def record(site: str, module: nn.Module, arguments: tuple[Any, ...], _output: object) -> None:
        with torch.no_grad():
            calls[site].append(_gates_of(module, arguments))

    def finish(*_: object) -> None:  # in the order of the sites, not of the computation
        for site, several in calls.items():
            for number, gates in enumerate(several, start=1):
                recorded[site if number == 1 else f"{site} ({number})"] = gates

    sites = gated_sites(network)
    with ExitStack() as stack:
        stack.callback(network.register_forward_pre_hook(start).remove)
        for site, module in sites.items():
            stack.callback(module.register_forward_hook(partial(record, site)).remove)
        stack.callback(network.register_forward_hook(finish).remove)
        yield recorded


def _gates_of(module: nn.Module, arguments: tuple[Any, ...]) -> GateTensors:
    if isinstance(module, AttentionBlock):
        return module.gates(arguments[0])
    return {"channel": arguments[0]}  # [scale_channels] is called with gate and map


def gate_map(gates: Mapping[str, Floats]) -> Floats | None:
    """Return the product of a block's gates at each position, mean over channels.

    Args:
        gates: of one site, each broadcasts to (C, H, W).

    Returns:
        Shape (H, W); None if the block has channel gates only.

    Example:
        >>> row, column = np.float32([[[0.2], [1.0]]]), np.float32([[[0.5, 1.0]]])
        >>> gate_map({"height": row, "width": column}).tolist()
        [[0.1, 0.2], [0.5, 1.0]]
    """
    if all(gate.shape[1:] == (1, 1) for gate in gates.values()):
        return None
    product: Floats = reduce(np.multiply, gates.values())
    mean: Floats = product.mean(axis=0)
    return mean


def crop_to_image(values: Floats, transform: ResizeTransform) -> Floats:
    """Return the part of a map over the image, without the padding of the network input.

    Args:
        values: shape (h, w), over the whole network input; a profile has one row or one column.
        transform: transform from the image to the network input.

    Returns:
        One interpolated value per pixel of the image in the network input.

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
    """Return the rows and columns of a map whose cells have their center in the image.

    Args:
        transform: transform from the image to the network input.
        cells_hw: rows and columns of the map over the whole network input.

    Returns:
        At least one row and one column.

    Example:
        >>> cells_of_image(Letterbox.for_image((100, 200), (64, 64)), (8, 8))
        (slice(2, 6, None), slice(0, 8, None))
    """
    (input_h, input_w), (top, left, height, width) = _window(transform)
    return (
        _cells(cells_hw[0], top / input_h, (top + height) / input_h),
        _cells(cells_hw[1], left / input_w, (left + width) / input_w),
    )


def _cells(count: int, start: float, stop: float) -> slice:
    first = round(start * count)
    last = max(first + 1, round(stop * count))
    return slice(min(first, count - 1), min(last, count))


def _window(transform: ResizeTransform) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Return the size of the network input, and top, left, height and width of the image in it."""
    input_hw: tuple[int, int] = transform.input_hw
    if not isinstance(transform, Letterbox):
        return input_hw, (0, 0, *input_hw)
    height, width = (max(1, round(side * transform.scale)) for side in transform.image_hw)
    return input_hw, (transform.top, transform.left, height, width)
