"""Attention modules of timm by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from attendet.attention import attend, attention_names, create_attention, sites
from attendet.attention.init import GateMix
from attendet.errors import ConfigError, MissingExtraError
from attendet.explain import record_gates
from attendet.models import WeightsMetadata, build, build_from_metadata, load_weights, save_weights

layers = pytest.importorskip("timm.layers")
NAMES = [name for name in attention_names() if name.startswith("timm:")]


@pytest.mark.parametrize("name", NAMES)
def test_the_module_of_timm_at_any_size_and_the_identity_at_first(name):
    block = create_attention(name, 32).eval()
    theirs = layers.create_attn(name.removeprefix("timm:"), 32).eval()
    theirs.load_state_dict(block.module.state_dict())
    identity = create_attention(name, 32, init="identity")
    assert isinstance(identity, GateMix)
    assert not block.is_gated
    for image_hw in [(5, 7), (1, 1)]:
        x = torch.randn(2, 32, *image_hw)
        assert block(x).shape == x.shape
        assert torch.equal(block(x), theirs(x))
        assert torch.equal(identity(x), x)


def test_options_reach_the_module_and_wrong_ones_are_refused():
    assert create_attention("timm:se", 32, rd_ratio=0.5).module.fc1.out_channels == 16
    with pytest.raises(ConfigError, match=r"'timm:se' must have .*got 32 channels.*'ratio'"):
        create_attention("timm:se", 32, ratio=2)
    with pytest.raises(ConfigError, match=r"got 32 channels, options \{'kind': 'cbam'\}"):
        create_attention("timm:se", 32, kind="cbam")
    with pytest.raises(ConfigError, match="got 7 channels"):
        create_attention("timm:splat", 7)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"got 'timm:cbma'.*'timm:cbam'"):
        create_attention("timm:cbma", 8)
    with pytest.raises(ConfigError, match=r"got 'timm:cbma'.*'timm:cbam'"):
        build(classes=["a"], attention="timm:cbma@p5")


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm.layers", None)
    with pytest.raises(MissingExtraError, match=r"'timm:se' needs 'timm'.*attendet\[timm\]"):
        create_attention("timm:se", 8)


def test_a_weights_file_names_it(tmp_path: Path):
    metadata = WeightsMetadata(classes=("a",), attention="timm:gca@p5+se@up", width_mult=0.125)
    network = build_from_metadata(metadata).eval()
    loaded, read = load_weights(save_weights(tmp_path / "x.safetensors", network, metadata))
    assert read.attention == "timm:gca@p5+se@up"
    x = torch.rand(1, 3, 64, 64)
    assert all(map(torch.equal, network(x), loaded(x)))


def test_it_is_inserted_and_has_no_gates_to_show():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    (first, *_) = sites(network, attention="timm:se")
    assert first.parameters == sum(p.numel() for p in layers.create_attn("se", 8).parameters())
    attend(network, {"0": "timm:se", "1": "se"})
    with record_gates(network.eval()) as gates:
        network(torch.zeros(1, 3, 8, 8))
    assert list(gates) == ["1"]
