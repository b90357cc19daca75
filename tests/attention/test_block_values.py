"""Values of every block that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from attendet.attention import (
    BAM,
    CBAM,
    AttentionBlock,
    ContextAnchorAttention,
    CoordinateAttention,
    EfficientChannelAttention,
    EfficientLocalAttention,
    EfficientMultiScaleAttention,
    FrequencyChannelAttention,
    GlobalAttention,
    GlobalContext,
    LargeSeparableKernelAttention,
    MixedLocalChannelAttention,
    NormalizationAttention,
    ShuffleAttention,
    SimAM,
    SpatialChannelSynergy,
    SpatialGroupEnhance,
    SqueezeExcite,
    TripletAttention,
    attention_names,
    create_attention,
)

NAMES = [name for name in attention_names()[1:] if ":" not in name]
LN3 = math.log(3)  # sigmoid(ln 3) = 3/4


def set_weights(block: AttentionBlock, **values: list[float]) -> AttentionBlock:
    """Set every parameter to nought, then those named to the given numbers; norms pass."""
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            module.eps = 1e-20
    for name, parameter in block.named_parameters():
        if name != "norm.weight":
            nn.init.zeros_(parameter)
    for name, numbers in values.items():
        parameter = block.get_parameter(f"{name}.weight")
        parameter.data.flatten()[: len(numbers)] = torch.tensor(numbers)
    return block.eval()


def squeeze_excite_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # Means (1, 0); hidden 1 + 0; logits (ln 3, 0); gates (3/4, 1/2).
    block = set_weights(SqueezeExcite(2, reduction=2), reduce=[1, 1], expand=[LN3, 0])
    x = torch.tensor([[[[2.0, 0.0]], [[4.0, -4.0]]]])
    return block, x, torch.tensor([[[[1.5, 0.0]], [[2.0, -2.0]]]])


def eca_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # Means (0, ln 3, 0); each gate looks at the next channel; gates (3/4, 1/2, 1/2).
    block = set_weights(EfficientChannelAttention(3, kernel_size=3), conv=[0, 0, 1])
    x = torch.tensor([[[[4.0, -4.0]], [[LN3, LN3]], [[1.0, -1.0]]]])
    return block, x, torch.tensor([[[[3.0, -3.0]], [[LN3 / 2, LN3 / 2]], [[0.5, -0.5]]]])


def cbam_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # Mean 1, maximum 3, hidden 4, channel gate 3/4; gated 3/4, 9/4, 0, 0. One channel: mean and
    # maximum are the value v; spatial logit v * 4/9 ln 3 = 1/3 ln 3, ln 3, 0, 0.
    block = CBAM(1, reduction=1, kernel_size=1)
    set_weights(block, reduce=[1], expand=[LN3 / 4], spatial=[LN3 * 2 / 9, LN3 * 2 / 9])
    root = 3 ** (1 / 3)
    expected = [[0.75 * root / (1 + root), 2.25 * 0.75], [0, 0]]
    return block, torch.tensor([[[[1.0, 3.0], [0.0, 0.0]]]]), torch.tensor([[expected]])


def coordinate_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # Row means (2, 0), height gates (3/4, 1/2). Column means (3/2, 1/2), width logits (3, 1) ln 3,
    # width gates (27/28, 3/4).
    block = CoordinateAttention(1)
    set_weights(block, squeeze=[1], height=[LN3 / 2], width=[2 * LN3])
    x = torch.tensor([[[[3.0, 1.0], [0.0, 0.0]]]])
    return block, x, torch.tensor([[[[3 * 0.75 * 27 / 28, 0.75 * 0.75], [0.0, 0.0]]]])


def coordinate_authors_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # Row means (3, -1); h-swish leaves 3 and makes -1 * 2/6 = -1/3; height weight 3 ln 3 and bias
    # 0 give 9 ln 3 and -ln 3: gates 19683/19684 and 1/4. Width has the bias ln 3 alone: 3/4.
    block = CoordinateAttention(1, preset="authors")
    set_weights(block, squeeze=[1], height=[3 * LN3])
    block.get_parameter("width.bias").data.fill_(LN3)
    x = torch.tensor([[[[3.0, 3.0], [-1.0, -1.0]]]])
    first, second = 3 * 0.75 * 19683 / 19684, -0.25 * 0.75
    return block, x, torch.tensor([[[[first, first], [second, second]]]])


def simam_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # Mean 0, squares 9 and 1, variance 3; with l = 1 logits 9/16 + 1/2 and 1/16 + 1/2.
    high, low = 1 / (1 + math.exp(-17 / 16)), 1 / (1 + math.exp(-9 / 16))
    x = torch.tensor([[[[3.0, -1.0], [-1.0, -1.0]]]])
    return SimAM(1, regularization=1), x, torch.tensor([[[[3 * high, -low], [-low, -low]]]])


def ema_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # One channel: both softmaxes are 1. Branch a: row and column gates 1/2, x / 4 normalized -1, 1,
    # times ln 3. Branch b: ln 3 x. Logits (0, 4) ln 3, gates 1/2 and 81/82.
    block = set_weights(EfficientMultiScaleAttention(1), norm=[LN3], local=[0, 0, 0, 0, LN3])
    return block, torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[0.5, 3 * 81 / 82]]]])


def ela_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # Row means and column means (1, 3), normalized (-1, 1), times ln 3: gates (1/4, 3/4).
    block = EfficientLocalAttention(1)
    kernel = [0, 0, 0, 1]
    set_weights(block, **{"height.0": kernel, "height.1": [LN3]})
    for name in ("0.weight", "1.weight"):
        block.get_parameter(f"width.{name}").data.copy_(
            block.get_parameter(f"height.{name}").data.view_as(block.get_parameter(f"width.{name}"))
        )
    x = torch.tensor([[[[0.0, 2.0], [2.0, 4.0]]]])
    return block, x, torch.tensor([[[[0, 2 * 3 / 16], [2 * 3 / 16, 4 * 9 / 16]]]])


def triplet_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # Spatial logits (1, 3) ln 3: gates (3/4, 27/28). The row's mean is 2, its logit ln 3: 3/4.
    # Columns: 1/2. Means of the three: 2/3 and 62/84.
    block = TripletAttention(1, kernel_size=1)
    half = LN3 / 2
    values = {"spatial.0": [half, half], "spatial.1": [1], "height.0": [0, half], "height.1": [1]}
    set_weights(block, **values)
    return block, torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[2 / 3, 62 / 28]]]])


def shuffle_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # First channel: mean 2, logit ln 3, gate 3/4. Second: normalized (-1, 1), gates (1/4, 3/4).
    block = set_weights(ShuffleAttention(2), channel=[LN3 / 2], spatial=[LN3])
    x = torch.tensor([[[[1.0, 3.0]], [[1.0, 3.0]]]])
    return block, x, torch.tensor([[[[0.75, 2.25]], [[0.25, 2.25]]]])


def sge_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # Means (2, 1); products 2 and 8, normalized (-1, 1), times ln 3: gates (1/4, 3/4).
    block = set_weights(SpatialGroupEnhance(2, groups=1), norm=[LN3])
    x = torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]]])
    return block, x, torch.tensor([[[[0.25, 2.25]], [[0.0, 1.5]]]])


def nam_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # Scales (3, -1), their parts (3/4, 1/4); both logits ln 3.
    block = set_weights(NormalizationAttention(2), norm=[3, -1])
    x = torch.tensor([4 * LN3 / 9, -4 * LN3]).reshape(1, 2, 1, 1)
    return block, x, 0.75 * x


def gam_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # 1: both gates 3/4. -1 closes both ReLUs: both gates 1/2.
    block = GlobalAttention(1, reduction=1, kernel_size=1)
    values = {"channel.0": [1], "channel.2": [LN3], "spatial.0": [1], "spatial.1": [1]}
    set_weights(block, **values, **{"spatial.3": [LN3 * 4 / 3], "spatial.4": [1]})
    return block, torch.tensor([[[[1.0, -1.0]]]]), torch.tensor([[[[9 / 16, -1 / 4]]]])


def bam_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # Mean 2, channel logit ln 3; spatial logits (1, 3) ln 3; gates 1 + 9/10 and 1 + 81/82.
    block = BAM(1, reduction=1)
    values = {f"spatial.{layer}": [0, 0, 0, 0, 1] for layer in (3, 6)}
    values |= {f"spatial.{layer}": [1] for layer in (0, 1, 4, 7, 10)}
    set_weights(block, reduce=[1], expand=[LN3 / 2], **values, **{"spatial.9": [LN3]})
    return block, torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[1.9, 3 * 163 / 82]]]])


def fca_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # First channel: mean 1. Second: one half-wave across, cosines (1, -1) / sqrt 2: 1. Then as SE.
    block = FrequencyChannelAttention(2, reduction=2, components=2)
    set_weights(block, reduce=[1, 1], expand=[LN3 / 2, 0])
    root = math.sqrt(2)
    x = torch.tensor([[[[2.0, 0.0]], [[root, -root]]]])
    return block, x, torch.tensor([[[[1.5, 0.0]], [[root / 2, -root / 2]]]])


def mlca_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # Each part is one element: gates 3/4, 1/2, 1/2, 1/4. The mean is 0: 1/2. Then their means.
    block = set_weights(MixedLocalChannelAttention(1, grid=2), local=[LN3], whole=[LN3])
    x = torch.tensor([[[[1.0, 0.0], [0.0, -1.0]]]])
    return block, x, torch.tensor([[[[0.625, 0.0], [0.0, -0.375]]]])


def scsa_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # Row and column gates 1/2; the gated map (1, 3) is normalized to (-1, 1). Products of query and
    # key over sqrt(2): (1, -1) ln 3 / 2 and (-1, 1) ln 3 / 2, so attention (3/4, 1/4)
    # and (1/4, 3/4); values (-2, 2) ln 3: logits (-1, 1) ln 3, channel gates (1/4, 3/4).
    block = SpatialChannelSynergy(2, grid=1)
    set_weights(block, query=[LN3 / 2**0.5] * 2, key=[1, 1], value=[2 * LN3] * 2)
    x = torch.tensor([4.0, 12.0]).reshape(1, 2, 1, 1).expand(1, 2, 2, 2)
    return block, x, x * torch.tensor([1 / 16, 3 / 16]).reshape(1, 2, 1, 1)


def caa_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # The window of both elements holds both: 1/49 of their sum 1, times 49 ln 3: gates 3/4.
    block = ContextAnchorAttention(1, kernel_size=1)
    set_weights(block, reduce=[49], across=[1], down=[1], expand=[LN3])
    return block, torch.tensor([[[[2.0, -1.0]]]]), torch.tensor([[[[1.5, -0.75]]]])


def lska_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # The first strip takes the right neighbor, the others the center; twice that is the factor.
    block = LargeSeparableKernelAttention(1, kernel_size=7)
    center = [0, 1, 0]
    values = {"near.0": [0, 0, 1], "near.1": center, "far.0": center, "far.1": center}
    set_weights(block, **values, mix=[2])
    return block, torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[6.0, 0.0]]]])


def gc_case() -> tuple[AttentionBlock, Tensor, Tensor]:
    # Weights (1/4, 3/4), context 3/4; hidden (1, -1) four times each, normalized; logit ln 3.
    block = GlobalContext(1)
    hidden = [4 / 3, -4 / 3] * 4
    set_weights(block, weigh=[LN3], reduce=hidden, norm=[1] * 8, expand=[LN3 / 4, 0] * 4)
    return block, torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[0.0, 0.75]]]])


CASES = {
    "se": squeeze_excite_case,
    "cbam": cbam_case,
    "eca": eca_case,
    "ca": coordinate_case,
    "ca-authors": coordinate_authors_case,
    "simam": simam_case,
    "ema": ema_case,
    "ela": ela_case,
    "triplet": triplet_case,
    "sa": shuffle_case,
    "sge": sge_case,
    "nam": nam_case,
    "gam": gam_case,
    "bam": bam_case,
    "fca": fca_case,
    "mlca": mlca_case,
    "scsa": scsa_case,
    "caa": caa_case,
    "lska": lska_case,
    "gc": gc_case,
}


@pytest.mark.parametrize("name", NAMES)
def test_hand_worked_value(name):
    block, x, expected = CASES[name]()
    assert type(block) is type(create_attention(name, 8))
    torch.testing.assert_close(block(x), expected, rtol=1e-6, atol=1e-6)
