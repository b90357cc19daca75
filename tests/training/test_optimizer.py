from __future__ import annotations

import pytest
import torch

from attendet.models import build
from attendet.training.optimizer import make_optimizer
from attendet.training.recipe import OptimizerConfig, Recipe


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_only_convolution_weights_decay(name: str) -> None:
    torch.manual_seed(0)
    network = build(classes=["a"], attention="ca", width_mult=0.125)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    before = {key: value.clone() for key, value in network.named_parameters()}
    recipe = Recipe().replace(optimizer=name, lr=0.1, weight_decay=0.5)  # type: ignore[arg-type]
    optimizer = make_optimizer(network, recipe.optimizer)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)

    optimizer.step()

    # Both rules shrink by lr x decay; SGD's Nesterov momentum of 0.937 adds to the first step.
    kept = 1 - 0.1 * 0.5 * (1 + 0.937 if name == "sgd" else 1)
    for key, after in network.named_parameters():
        factor = kept if after.ndim == 4 else 1.0
        torch.testing.assert_close(after, before[key] * factor, msg=key)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_one_kernel_for_all_parameters_gives_the_same_steps(name: str) -> None:
    settings = Recipe().replace(optimizer=name, lr=0.01).optimizer  # type: ignore[arg-type]
    weights = []
    for fused in (False, True):
        torch.manual_seed(0)
        network = build(classes=["a"], attention="ca@p5", width_mult=0.125)
        optimizer = make_optimizer(network, settings, fused=fused)
        for _ in range(3):
            for parameter in network.parameters():
                parameter.grad = torch.rand_like(parameter) - 0.5
            optimizer.step()
        weights.append(list(network.parameters()))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


def test_every_parameter_is_in_one_group() -> None:
    network = build(classes=["a"], attention="se@p5+ca@up", width_mult=0.125)

    groups = make_optimizer(network, OptimizerConfig()).param_groups

    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in network.parameters())
