"""Cost of a network or block: parameters and multiply-accumulates (MACs)."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Cost(NamedTuple):
    """Cost of a network or block."""

    parameters: int
    """Number of trained values."""

    macs: int
    """Multiply-accumulates per image, of convolutions and matrix products."""


def network_cost(network: nn.Module, input_shape: tuple[int, int, int]) -> Cost:
    """Return the cost of a network, from a run of a copy on the meta device.

    Convolutions and matrix products count, as `torch.utils.flop_counter` counts them. Element-wise
    operations, such as activations and the products of maps and gates, do not.

    Args:
        network: any network or block with one input; it does not change, and may itself be on the
            meta device.
        input_shape: channels, rows and columns of one image or map.

    Example:
        >>> network_cost(nn.Conv2d(3, 8, 3, padding=1, bias=False), (3, 4, 4))
        Cost(parameters=216, macs=3456)
    """
    parameters = sum(parameter.numel() for parameter in network.parameters())
    on_meta = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        on_meta(torch.empty(1, *input_shape, device="meta"))
    return Cost(parameters, int(counter.get_total_flops()) // 2)
