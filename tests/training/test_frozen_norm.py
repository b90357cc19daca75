"""Statistics of pretrained weights stay as they are, and belong to the convolutions in training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attendet.errors import ConfigError
from attendet.models import build, load_weights
from attendet.models.backbone import ConvBlock
from attendet.models.graph import Convolutional
from attendet.models.graph_detector import DarknetConvolution
from attendet.training.frozen_norm import freeze_statistics, pretrained_blocks
from attendet.training.trainer import TrainingResult

Quick = Callable[..., TrainingResult]
Read = Callable[[Path], dict[str, Tensor]]


def _blocks() -> list[nn.Module]:
    depthwise = Convolutional(6, 5, 2, 2, groups=6, batch_normalize=True, activation="relu")
    return [ConvBlock(6, 4, 3, stride=2), DarknetConvolution(depthwise, 6, bn_eps=1e-3)]


@pytest.mark.parametrize("index", [0, 1])
def test_outputs_and_gradients_are_those_of_both_layers(index: int) -> None:
    torch.manual_seed(0)
    block = _blocks()[index].double()
    bn = block.get_submodule("bn")
    for tensor in (*bn.parameters(), bn.running_mean, bn.running_var):
        nn.init.uniform_(tensor, 0.5, 2.0)
    reference = copy.deepcopy(block).train()
    reference.get_submodule("bn").eval()
    network = nn.Sequential(block).train()
    freeze_statistics(network, ["0"])
    images = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    inputs = [images.clone().requires_grad_() for _ in range(2)]

    outputs = [module(each) for module, each in zip((reference, network), inputs, strict=True)]
    for output in outputs:
        output.square().sum().backward()

    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    for one, other in zip(network.parameters(), reference.parameters(), strict=True):
        assert other.grad is not None
        assert other.grad.abs().max() > 0
        torch.testing.assert_close(one.grad, other.grad)
    network.eval(), reference.eval()
    assert torch.equal(network(images), reference(images))


def test_statistics_stay_and_all_else_is_trained(quick: Quick, tensors: Read) -> None:
    base = quick(attention="none").last

    run = quick(attention="ca", pretrained=base, batch_norm="frozen", epochs=1)

    before, after = tensors(base), tensors(run.last)
    for name, tensor in before.items():
        fixed = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        if "head" not in name or fixed:
            assert torch.equal(after[name], tensor) == fixed, name
    new = [name for name in after if name not in before and name.endswith("running_mean")]
    assert new
    assert all(after[name].abs().max() > 0 for name in new)  # those of CA
    assert type(load_weights(run.last)[0].backbone.conv1) is ConvBlock


def test_layers_that_were_never_trained_keep_their_normalization() -> None:
    network = build(classes=["a"], attention="ca", width_mult=0.125)
    names = set(network.state_dict())
    nn.init.uniform_(network.get_submodule("backbone.conv1").bn.running_mean)
    nn.init.uniform_(network.get_submodule("backbone.conv2").bn.running_var, 0.5, 1.5)

    assert pretrained_blocks(network, names) == ["backbone.conv1", "backbone.conv2"]
    copied = names - {"backbone.conv1.bn.running_var"}
    assert pretrained_blocks(network, copied) == ["backbone.conv2"]


def test_statistics_must_exist(quick: Quick) -> None:
    with pytest.raises(ConfigError, match="batch_norm must not be 'frozen' without pretrained"):
        quick(batch_norm="frozen")
