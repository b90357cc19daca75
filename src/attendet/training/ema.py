"""A moving average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """Keeps an exponential moving average of a network's weights and statistics.

    Polyak and Juditsky 1992. The decay of step t is ``min(decay, (1 + t) / (10 + t))``: the average
    reaches back over about the last tenth of the steps, so that short runs catch up.

    Args:
        network: the trained network; the average starts as its copy.
        decay: highest decay a step, 0 to below 1; 0 keeps the average equal to the network.

    Attributes:
        network: the averaged network, in eval mode.
        steps: updates so far.
    """

    def __init__(self, network: nn.Module, *, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's present weights."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages, currents = [], []
        for average, current in zip(
            self.network.state_dict().values(), network.state_dict().values(), strict=True
        ):
            if average.is_floating_point():
                averages.append(average)
                currents.append(current)
            else:
                average.copy_(current)
        torch._foreach_lerp_(averages, currents, 1 - decay)
