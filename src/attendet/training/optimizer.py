"""Optimizer and moving average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from attendet.models import DetectionNetwork
from attendet.training.muon import Muon
from attendet.training.recipe import OptimizerConfig


def make_optimizer(
    network: DetectionNetwork, config: OptimizerConfig, *, fused: bool = False
) -> torch.optim.Optimizer:
    """Return the optimizer, with weight decay on convolution weights only.

    He et al. 2019, Bag of Tricks, arXiv:1812.01187, section 3.1 (no bias decay). Each parameter
    group stores its highest learning rate as ``initial_lr``; the last group has norms and biases.

    Args:
        network: network on its device.
        config: optimizer and its settings.
        fused: use one kernel for the AdamW step of all parameters. Do not use it with a loss scale:
            a fused step unscales the gradients itself, after they were clipped. SGD is never fused:
            torch's fused SGD fails when a frozen layer gets its first gradient after the others.
    """
    parameters = list(network.parameters())
    by_muon = muon_weights(network) if config.optimizer == "muon" else []
    taken = {id(each) for each in by_muon}
    groups = [
        {
            "params": [each for each in parameters if each.ndim > 1 and id(each) not in taken],
            "weight_decay": config.weight_decay,
        },
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer: torch.optim.Optimizer
    if config.optimizer == "muon":
        optimizer = Muon(
            by_muon,
            groups,
            lr=config.muon_lr,
            others_lr=config.lr,
            weight_decay=config.weight_decay,
            fused=fused or None,
        )
    elif config.optimizer == "sgd":
        momentum = config.momentum
        optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=momentum, nesterov=momentum > 0)
    else:
        optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.999), fused=fused or None)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def muon_weights(network: DetectionNetwork) -> list[Tensor]:
    """Return the weights for Muon: all convolutions except grouped ones and output layers."""
    outputs = tuple(f"{name}." for name in network.output_layers())
    return [
        module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
        and module.groups == 1
        and not f"{name}.".startswith(outputs)
    ]


_Tensors = dict[bool, list[Tensor]]


class WeightAverage:
    """Exponential moving average of a network's weights and statistics.

    Polyak and Juditsky 1992. The decay of step t is ``min(decay, (1 + t) / (10 + t))``: in short
    runs the average covers about the last tenth of the steps.

    Args:
        network: the trained network; the average starts as its copy.
        decay: highest decay per step, 0 to below 1; 0 keeps the average equal to the network.

    Attributes:
        network: the averaged network, in eval mode.
        steps: updates so far.
    """

    def __init__(self, network: nn.Module, *, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0
        self._of: tuple[nn.Module, _Tensors, _Tensors] | None = None

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's current weights."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages, currents = self._tensors(network)
        torch._foreach_lerp_(averages[True], currents[True], 1 - decay)
        if averages[False]:
            torch._foreach_copy_(averages[False], currents[False])

    def _tensors(self, network: nn.Module) -> tuple[_Tensors, _Tensors]:
        """Return the tensors of average and network, grouped by whether they are floating-point."""
        if self._of is None or self._of[0] is not network:
            sides: list[_Tensors] = [{True: [], False: []} for _ in range(2)]
            for side, module in zip(sides, (self.network, network), strict=True):
                for tensor in module.state_dict().values():
                    side[tensor.is_floating_point()].append(tensor)
            self._of = (network, sides[0], sides[1])
        return self._of[1:]
