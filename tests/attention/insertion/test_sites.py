"""The places that attendet.sites lists."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import attendet
from attendet.attention import (
    AttentionBlock,
    CoordinateAttention,
    create_attention,
    inserted_blocks,
)
from attendet.errors import ConfigError
from attendet.models import build


def test_sites_lists_what_returns_maps_with_shape_and_cost(network_class):
    network = network_class()
    found = {site.name: site for site in attendet.sites(network, torch.zeros(2, 3, 16, 12))}
    assert [n for n, m in network.named_modules() if n not in found] == ["", "fc", "spare"]
    site = found["stage2.1"]
    assert (site.kind, site.shapes) == ("Residual", ((2, 16, 8, 6),))
    block = CoordinateAttention(16)
    assert site.parameters == sum(p.numel() for p in block.parameters())
    assert site.macs == 16 * 8 * 14 + 8 * 16 * 14  # squeeze, and both ends, over 8 + 6 positions
    assert str(site).split() == [
        *("stage2.1", "Residual", "2x16x8x6", f"{site.parameters:,}", "parameters"),
        *(f"{site.macs:,}", "MACs"),
    ]


def test_sites_of_other_blocks_and_attended_networks(network_class, four_places):
    network = attendet.attend(network_class(), four_places)
    plain = {site.name: site for site in attendet.sites(network_class(), attention="none")}
    found = {
        site.name: site for site in attendet.sites(network, attention=("se", {"reduction": 4}))
    }
    assert set(found) == set(plain)
    assert found["stage1"].parameters == 2 * 8 * 2
    assert found["stage1"].macs == 2 * 8 * 2
    assert {(site.parameters, site.macs) for site in plain.values()} == {(0, 0)}
    with pytest.raises(ConfigError, match="got 'sse'"):
        attendet.sites(network, attention="sse")


def test_sites_adds_up_maps_and_calls(neck_class):
    network = nn.Sequential(nn.Conv2d(3, 16, 1), neck_class("dict"))
    found = attendet.sites(network, torch.zeros(1, 3, 4, 4), attention="eca")
    site = next(site for site in found if site.name == "1")
    assert site.shapes == ((1, 16, 4, 4), (1, 24, 2, 2))
    assert site.parameters == 3 + 3
    assert site.macs == 3 * (16 + 24)


def test_a_network_that_is_a_block_has_no_sites():
    assert attendet.sites(create_attention("caa", 8), torch.zeros(1, 8, 9, 9)) == ()


def test_places_of_sites_can_be_attended():
    network = build(classes=["a"], width_mult=0.125, attention="ca")
    names = [site.name for site in attendet.sites(network)]
    assert "backbone.csp1.conv4.bn" in names
    assert not [name for name in names if name.startswith("attention.")]
    attendet.attend(network, dict.fromkeys(names, "eca"))
    assert len(inserted_blocks(network)) >= len(names)
    assert all(isinstance(block, AttentionBlock) for block in inserted_blocks(network).values())
