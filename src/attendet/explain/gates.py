"""The gates that a network's attention blocks apply to a picture.

C, H and W are channels, rows and columns of the feature map at a site.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from attendet.models import DetectionNetwork
from attendet.pictures import Letterbox, Picture

__all__ = ["compute_gates", "crop_to_picture", "gate_map"]

Floats = NDArray[np.float32]


@torch.inference_mode()
def compute_gates(network: DetectionNetwork, canvas: Picture) -> dict[str, dict[str, Floats]]:
    """Return the gates of each attention block, by site and by the block's own names.

    They are what `forward` multiplies the feature maps by, not a reconstruction of it.

    Args:
        network: in eval mode.
        canvas: uint8 RGB, shape (H, W, 3), sides multiples of 32, laid as for prediction.

    Returns:
        Arrays that broadcast to (C, H, W) of their site: ``channel`` (C, 1, 1), ``spatial``
        (1, H, W), ``height`` (C, H, 1), ``width`` (C, 1, W). Empty without attention.

    Example:
        >>> from attendet.models import build
        >>> network = build(classes=["cell"], attention="ca@p5", width=0.25).eval()
        >>> gates = compute_gates(network, np.zeros((64, 96, 3), dtype=np.uint8))
        >>> {name: gate.shape for name, gate in gates["p5"].items()}
        {'height': (128, 2, 1), 'width': (128, 1, 3)}
    """
    blocks = network.attention_blocks()
    if not blocks:
        return {}
    weights = next(network.parameters())
    batch = torch.from_numpy(np.ascontiguousarray(canvas))[None].permute(0, 3, 1, 2)
    maps = network.features(batch.to(weights.device, weights.dtype) / 255)
    return {
        site: {
            name: gate[0].float().cpu().numpy() for name, gate in block.gates(maps[site]).items()
        }
        for site, block in blocks.items()
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


def crop_to_picture(values: Floats, fit: Letterbox) -> Floats:
    """Return what a map says of the picture, without the border of its canvas.

    Args:
        values: shape (h, w), over the whole canvas; a row or column of a profile has a side of 1.
        fit: how the picture lies in the canvas.

    Returns:
        One value a canvas pixel that the picture covers, interpolated.

    Example:
        >>> fit = Letterbox.fit((100, 200), (64, 64))
        >>> crop_to_picture(np.ones((4, 4), dtype=np.float32), fit).shape
        (32, 64)
    """
    resized = cv2.resize(values, fit.canvas_hw[::-1], interpolation=cv2.INTER_LINEAR)
    whole: Floats = np.asarray(resized, dtype=np.float32)
    height, width = (max(1, round(side * fit.scale)) for side in fit.image_hw)
    return whole[fit.top : fit.top + height, fit.left : fit.left + width]
