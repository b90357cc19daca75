"""Values and gradients against the modules that timm publishes, with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attendet.attention import (
    CBAM,
    CoordinateAttention,
    EfficientChannelAttention,
    EfficientLocalAttention,
    GlobalContext,
    SqueezeExcite,
)

layers = pytest.importorskip("timm.layers")
CbamModule = pytest.importorskip("timm.layers.cbam").CbamModule
CoordAttn = pytest.importorskip("timm.layers.coord_attn").CoordAttn
EfficientLocalAttn = pytest.importorskip("timm.layers.coord_attn").EfficientLocalAttn
CHANNELS = 64


def copy_weights(source: nn.Module, target: nn.Module, names: dict[str, str]) -> None:
    """Copy parameters of ``source`` by name into ``target``; linear and 1x1 kernels are alike."""
    ours = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        layer, _, kind = name.rpartition(".")
        if (found := ours.get(f"{names.get(layer)}.{kind}")) is not None:
            parameter.data.copy_(found.view_as(parameter))


def squeeze_excite():
    theirs = layers.SqueezeExcite(CHANNELS, rd_channels=CHANNELS // 16, bias=False)
    return SqueezeExcite(CHANNELS), theirs, {"fc1": "reduce", "fc2": "expand"}


def eca():
    return EfficientChannelAttention(CHANNELS), layers.EcaModule(CHANNELS), {"conv": "conv"}


def cbam():
    theirs = CbamModule(CHANNELS, rd_ratio=1 / 8)
    theirs.spatial.conv.bn = nn.Identity()  # theirs normalizes the spatial logits, the paper's not
    names = {
        "channel.fc1": "reduce",
        "channel.fc2": "expand",
        "spatial.conv.conv": "spatial",
    }
    return CBAM(CHANNELS), theirs, names


COORDINATE_NAMES = {"conv1": "squeeze", "bn1": "norm", "conv_h": "height", "conv_w": "width"}


def coordinate():
    theirs = CoordAttn(CHANNELS, rd_channels=8, act_layer=nn.ReLU)
    return CoordinateAttention(CHANNELS), theirs, COORDINATE_NAMES


def coordinate_authors():
    theirs = CoordAttn(CHANNELS, rd_channels=8, bias=True)
    return CoordinateAttention(CHANNELS, preset="authors"), theirs, COORDINATE_NAMES


def efficient_local():
    class Norm(nn.GroupNorm):
        def __init__(self, channels, **_):
            super().__init__(16, channels)

    theirs = EfficientLocalAttn(CHANNELS, act_layer=nn.Identity, norm_layer=Norm)
    names = {"conv_h": "height.0", "norm_h": "height.1", "conv_w": "width.0", "norm_w": "width.1"}
    return EfficientLocalAttention(CHANNELS), theirs, names


def global_context():
    theirs = layers.GlobalContext(CHANNELS, rd_channels=8)
    nn.init.zeros_(theirs.conv_attn.bias)
    theirs.mlp_scale.norm.eps = 1e-5
    names = {
        "conv_attn": "weigh",
        "mlp_scale.fc1": "reduce",
        "mlp_scale.norm": "norm",
        "mlp_scale.fc2": "expand",
    }
    ours = GlobalContext(CHANNELS, reduction=8)
    return ours, theirs, names


PAIRS = [squeeze_excite, eca, cbam, coordinate, coordinate_authors, efficient_local, global_context]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"]
)
def test_same_values_and_gradients_as_timm(pair, training, memory_format):
    torch.manual_seed(0)
    ours, theirs, names = pair()
    copy_weights(ours, theirs, names)
    ours.train(training)
    theirs.train(training)
    x = torch.randn(3, CHANNELS, 7, 5).to(memory_format=memory_format).requires_grad_()
    weight = torch.randn_like(x)
    out, reference = ours(x), theirs(x)
    torch.testing.assert_close(out, reference, rtol=1e-6, atol=1e-6)
    (grad,) = torch.autograd.grad((out * weight).sum(), x)
    (reference_grad,) = torch.autograd.grad((reference * weight).sum(), x)
    torch.testing.assert_close(grad, reference_grad, rtol=1e-5, atol=1e-5)
