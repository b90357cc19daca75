from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from attendet.models import build
from attendet.training.muon import COEFFICIENTS, STEPS, Muon, orthogonalize
from attendet.training.optimizer import make_optimizer, muon_weights
from attendet.training.recipe import OptimizerConfig, Recipe


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_only_convolution_weights_decay(name: str) -> None:
    torch.manual_seed(0)
    network = build(classes=["a"], attention="ca", width_mult=0.125)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    before = {key: value.clone() for key, value in network.named_parameters()}
    settings: Any = {"optimizer": name, "lr": 0.1, "muon_lr": 0.1, "weight_decay": 0.5}
    recipe = Recipe().replace(**settings)
    optimizer = make_optimizer(network, recipe.optimizer)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)

    optimizer.step()

    # Both rules shrink by lr x decay; SGD's Nesterov momentum of 0.937 adds to the first step.
    kept = 1 - 0.1 * 0.5 * (1 + 0.937 if name == "sgd" else 1)
    for key, after in network.named_parameters():
        factor = kept if after.ndim == 4 else 1.0
        torch.testing.assert_close(after, before[key] * factor, msg=key)


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
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


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_every_parameter_is_in_one_group(name: Any) -> None:
    network = build(classes=["a"], attention="se@p5+ca@up", width_mult=0.125)

    groups = make_optimizer(network, OptimizerConfig(optimizer=name)).param_groups

    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in network.parameters())


# Muon ---------------------------------------------------------------------------------------------


def test_convolutions_but_outputs_and_depthwise_ones_are_for_muon() -> None:
    network = build(classes=["a"], attention="eca@p5+caa@up", width_mult=0.125)
    names = {id(parameter): name for name, parameter in network.named_parameters()}

    chosen = {names[id(weight)] for weight in muon_weights(network)}

    assert {weight.ndim for weight in muon_weights(network)} == {4}
    outputs = tuple(network.output_layers())
    depthwise = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Conv2d) and module.groups > 1
    }
    others = {name for name, each in network.named_parameters() if each.ndim == 4} - chosen
    assert depthwise
    assert others == depthwise | {name for name in names.values() if _is_output(name, outputs)}


def _is_output(name: str, outputs: tuple[str, ...]) -> bool:
    return name.endswith("weight") and name.startswith(tuple(f"{each}." for each in outputs))


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (12, 12), (1, 9)])
def test_singular_vectors_stay_and_values_follow_the_polynomial(
    shape: tuple[int, int],
) -> None:
    matrices = np.random.default_rng(0).normal(size=(2, *shape))
    left, values, right = np.linalg.svd(matrices, full_matrices=False)
    values = values / np.linalg.norm(matrices, axis=(1, 2))[:, None]
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        values = a * values + b * values**3 + c * values**5
    assert ((values > 0.6) & (values < 1.3)).all()

    found = orthogonalize(torch.from_numpy(matrices).float())

    np.testing.assert_allclose(found.numpy(), left * values[:, None] @ right, atol=1e-4)


def test_a_step_of_muon_has_the_size_of_one_of_adamw() -> None:
    torch.manual_seed(0)
    weight, bias = torch.nn.Parameter(torch.zeros(32, 16, 3, 3)), torch.nn.Parameter(torch.zeros(9))
    optimizer = Muon(
        [weight],
        [{"params": [bias], "weight_decay": 0.0}],
        lr=0.01,
        others_lr=0.01,
        weight_decay=0.0,
    )
    weight.grad, bias.grad = torch.randn_like(weight), torch.randn_like(bias)

    optimizer.step()

    # Singular values are near 1, so the root mean square is near 0.2, that of AdamW.
    assert weight.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.25)
    assert bias.abs().max().item() == pytest.approx(0.01, rel=0.01)


def test_weights_of_one_shape_change_as_each_alone() -> None:
    def made(weights: list[torch.nn.Parameter]) -> Muon:
        others = [{"params": [torch.nn.Parameter(torch.zeros(1))], "weight_decay": 0.0}]
        return Muon(weights, others, lr=0.01, others_lr=0.01, weight_decay=0.1)

    shapes = [(8, 4, 3, 3), (8, 4, 3, 3), (4, 8, 1, 1), (8, 4, 3, 3)]
    generator = torch.Generator().manual_seed(0)
    together, alone = (
        [torch.nn.Parameter(torch.full(shape, 0.5)) for shape in shapes] for _ in range(2)
    )
    optimizers = [made(together), *(made([each]) for each in alone)]

    for step in range(2):
        for index, shape in enumerate(shapes):
            gradient = torch.randn(shape, generator=generator)
            late = index == 3 and step == 0  # a weight that has no gradient at first
            together[index].grad = alone[index].grad = None if late else gradient
        for optimizer in optimizers:
            optimizer.step()

    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_directions_with_small_gradients_learn_as_fast() -> None:
    weight = torch.nn.Parameter(torch.zeros(4, 4, 1, 1))
    scales = torch.tensor([1.0, 0.5, 0.2, 0.1])
    weight.grad = torch.diag(scales).view(4, 4, 1, 1)
    others = [{"params": [torch.nn.Parameter(torch.zeros(1))], "weight_decay": 0.0}]

    Muon([weight], others, lr=0.01, others_lr=0.01, weight_decay=0.0).step()

    moved = -torch.diag(weight.detach().view(4, 4))
    assert moved.min() > 0.5 * moved.max()


def test_muon_goes_on_from_its_state() -> None:
    def made(start: list[torch.Tensor]) -> tuple[list[torch.nn.Parameter], Muon]:
        weight, bias = (torch.nn.Parameter(each.clone()) for each in start)
        others = [{"params": [bias], "weight_decay": 0.0}]
        return [weight, bias], Muon([weight], others, lr=0.01, others_lr=0.01, weight_decay=0.1)

    def step(parameters: list[torch.nn.Parameter], optimizer: Muon, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()

    parameters, optimizer = made([torch.randn(8, 4, 3, 3), torch.zeros(8)])
    for seed in range(3):
        step(parameters, optimizer, seed)
    others, resumed = made([each.detach() for each in parameters])
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for group in (*optimizer.param_groups, *resumed.param_groups):
        group["lr"] = 0.02  # as the schedule does, for both parts

    for seed in range(3, 6):
        step(parameters, optimizer, seed)
        step(others, resumed, seed)

    for one, other in zip(parameters, others, strict=True):
        assert torch.equal(one, other)
