from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import attendet  # noqa: E402
from attendet.inference.runtimes import torch_runtime  # noqa: E402
from attendet.inference.runtimes.torch_runtime import (  # noqa: E402
    PackedConvolution,
    can_pack,
    fold_batch_norm,
    pack_convolutions,
)
from attendet.models import WeightsMetadata, build_from_metadata  # noqa: E402

needs_operators = pytest.mark.skipif(not can_pack(), reason="this PyTorch has no such operators")


def _folded(attention: str = "ca") -> Any:
    torch.manual_seed(0)
    metadata = WeightsMetadata(
        ("cat", "dog"), attention=attention, width_mult=0.25, input_hw=(96, 96)
    )
    return fold_batch_norm(build_from_metadata(metadata).eval().requires_grad_(False))


def _packed_in(network: nn.Module) -> list[str]:
    return [name for name, part in network.named_modules() if isinstance(part, PackedConvolution)]


@needs_operators
@pytest.mark.parametrize("attention", ["none", "se", "cbam", "eca", "ca@stage1,p5"])
def test_packing_changes_nothing_but_rounding(attention: str) -> None:
    plain = _folded(attention)
    packed = pack_convolutions(copy.deepcopy(plain))
    assert len(_packed_in(packed)) == 19  # 21 convolutions, of which the two outputs have no block

    # The packed weights are those of the first size; others follow, then the first again.
    with torch.inference_mode():
        for shape in ((1, 3, 64, 96), (3, 3, 96, 32), (1, 3, 32, 32), (1, 3, 64, 96)):
            images = torch.rand(shape).to(memory_format=torch.channels_last)
            for ours, expected in zip(packed(images), plain(images), strict=True):
                torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@needs_operators
@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (nn.LeakyReLU(0.1), lambda x: torch.where(x > 0, x, 0.1 * x)),
        (nn.ReLU(), lambda x: torch.where(x > 0, x, 0 * x)),
        (nn.Identity(), lambda x: x),
    ],
    ids=["leaky", "relu", "none"],
)
@pytest.mark.parametrize("groups", [1, 4])
def test_one_operator_is_convolution_then_activation(
    activation: Any, expected: Any, groups: int
) -> None:
    conv = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=groups)
    features = torch.randn(2, 8, 9, 7)
    with torch.no_grad():
        found = PackedConvolution(conv, activation)(features)
        wanted = expected(conv.double()(features.double()))

    assert wanted.min() < 0 or isinstance(activation, nn.ReLU)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


@needs_operators
@pytest.mark.parametrize("site", ["conv_up.conv", "conv_up.act", "conv_up"])
def test_attention_inside_a_block_is_kept(site: str) -> None:
    torch.manual_seed(0)
    network = attendet.attend(_folded("none"), {site: "se"}, init="paper").eval()
    network.requires_grad_(False)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = network(images)
        packed = pack_convolutions(network)
        found = packed(images)

    assert ("conv_up.conv" in _packed_in(packed)) == (site != "conv_up.conv")
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def test_a_network_in_double_precision_stays_as_it_is() -> None:
    assert not _packed_in(pack_convolutions(_folded().double()))


def test_a_network_that_was_not_folded_stays_as_it_is() -> None:
    metadata = WeightsMetadata(("cat",), attention="ca", width_mult=0.25, input_hw=(96, 96))
    assert not _packed_in(pack_convolutions(build_from_metadata(metadata).eval()))


def test_without_the_operators_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_runtime, "can_pack", lambda: False)
    assert not _packed_in(pack_convolutions(_folded()))
