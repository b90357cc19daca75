"""The optimizer: weight decay on convolution weights alone."""

from __future__ import annotations

import torch
from torch import nn

from attendet.training.recipe import Recipe

__all__ = ["make_optimizer"]


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimizer over two groups: decayed weights, and norms and biases.

    He et al. 2019, Bag of Tricks, arXiv:1812.01187, section 3.1 (no bias decay).
    """
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        momentum = recipe.momentum
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=momentum, nesterov=momentum > 0)
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.999))
