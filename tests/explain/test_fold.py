from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from attendet.attention import attend, inserted_blocks  # noqa: E402
from attendet.errors import ConfigError  # noqa: E402
from attendet.explain import can_fold, fold_gate, gated_sites  # noqa: E402
from attendet.models import SITES, default_anchors  # noqa: E402
from attendet.models.backbone import ConvBlock  # noqa: E402


def settle(module: nn.Module) -> nn.Module:
    """Give batch norms statistics that do something."""
    generator = torch.Generator().manual_seed(1)
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.running_mean.normal_(generator=generator)
            each.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.normal_(each.weight, 1, 0.3, generator=generator)
            nn.init.normal_(each.bias, 0, 0.3, generator=generator)
    return module.eval()


def make_constant(block: nn.Module) -> torch.Tensor:
    """Make the gates of a CoordAttention with biases constant; return their product."""
    generator = torch.Generator().manual_seed(2)
    product = torch.ones(block.channels)
    for layer in block.logit_layers():
        nn.init.zeros_(layer.weight)
        nn.init.normal_(layer.bias, generator=generator)
        product = product * block.gate_from_logits(layer.bias.detach())
    return product


@pytest.mark.parametrize(
    ("site", "levels"), [*((site, 2) for site in SITES), ("up", 3), ("p3", 3), ("up2", 3)]
)
def test_a_constant_gate_is_folded_exactly_at_every_site(tiny, site, levels):
    anchors, masks = default_anchors(levels, 64)
    network, _ = tiny(f"ca-authors@{site}", anchors=anchors, anchor_masks=masks)
    settle(network)
    scale = make_constant(network.attention[site])
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        before = network(images)

    assert can_fold(network, site)
    fold_gate(network, site, scale)

    assert gated_sites(network) == {}
    with torch.no_grad():
        after = network(images)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-5)


def test_two_sites_with_a_common_convolution_are_folded(tiny):
    network, _ = tiny("ca-authors@p4,up")
    settle(network)
    scales = {site: make_constant(block) for site, block in network.attention.items()}
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = network(images)
        for site, scale in scales.items():
            fold_gate(network, site, scale)
        after = network(images)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


PRODUCERS = {
    "convolution": lambda: nn.Conv2d(3, 8, 3),
    "transposed": lambda: nn.ConvTranspose2d(3, 8, 3, stride=2),
    "transposed, grouped": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 8, 3, groups=2)
    ),
    "normed": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)),
    "leaky": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU(0.1)),
    "block of ours": lambda: ConvBlock(3, 8, 3),
}


@pytest.mark.parametrize("kind", PRODUCERS)
def test_an_inserted_constant_goes_into_the_module_before_it(kind):
    torch.manual_seed(0)
    network = settle(nn.Sequential(PRODUCERS[kind](), nn.Sigmoid()))
    attend(network, {"0": "ca-authors"}, init="paper", example_input=torch.rand(1, 3, 9, 9))
    scale = make_constant(inserted_blocks(network)["0"])
    images = torch.rand(2, 3, 9, 9)
    network.eval()
    with torch.no_grad():
        before = network(images)

        fold_gate(network, "0", scale)

        torch.testing.assert_close(network(images), before, rtol=1e-5, atol=1e-6)
    assert inserted_blocks(network) == {}


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU()),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False)),
        nn.ReLU(),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)),
        nn.utils.spectral_norm(nn.Conv2d(3, 8, 3)),
    ],
    ids=["silu", "no weights", "bare", "parametrized", "hooked"],
)
def test_a_block_that_cannot_be_folded_exactly_is_an_error_and_stays(module):
    network = nn.Sequential(copy.deepcopy(module)).eval()
    attend(network, {"0": "se"}, example_input=torch.rand(1, 3, 9, 9))

    assert not can_fold(network, "0")
    with pytest.raises(ConfigError, match="must be after a convolution"):
        fold_gate(network, "0", torch.ones(8))
    assert list(inserted_blocks(network)) == ["0"]


def test_a_module_that_contains_another_block_is_not_folded():
    network = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())).eval()
    attend(network, {"0": "se", "0.1": "eca"}, example_input=torch.rand(1, 3, 9, 9))

    assert not can_fold(network, "0")


def test_wrong_sites_and_scales_are_errors(tiny):
    network, _ = tiny("se@p5")
    with pytest.raises(ConfigError, match="site must be a known name; got 'p4'"):
        fold_gate(network, "p4", torch.ones(64))
    with pytest.raises(ConfigError, match="scale must be 64 finite numbers"):
        fold_gate(network, "p5", torch.ones(3))
    with pytest.raises(ConfigError, match="scale must be 64 finite numbers"):
        fold_gate(network, "p5", torch.full((64,), torch.nan))


def test_a_negative_constant_goes_into_the_next_convolution_only(tiny):
    network, _ = tiny("lska@p5")
    settle(network)
    factor = network.attention["p5"].mix
    nn.init.zeros_(factor.weight)
    nn.init.normal_(factor.bias)
    inserted = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())).eval()
    attend(inserted, {"0": "se"}, example_input=torch.rand(1, 3, 9, 9))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = network(images)

        fold_gate(network, "p5", factor.bias)

        torch.testing.assert_close(network(images), before, rtol=1e-4, atol=1e-5)
    assert can_fold(inserted, "0")
    assert not can_fold(inserted, "0", negative=True)
    with pytest.raises(ConfigError, match="scale must be 0 or more to be folded"):
        fold_gate(inserted, "0", -torch.ones(8))
