"""Training goes on from imported layers: their outputs, anchors and scale, on other classes too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attendet.errors import ConfigError
from attendet.models import load_weights, read_metadata, save_weights
from attendet.models.darknet_cfg import parse_config
from attendet.models.darknet_graph import ARCHITECTURE
from attendet.models.metadata import WeightsMetadata
from attendet.models.weights import build_from_metadata
from attendet.training.events import Silent
from attendet.training.run import TrainingResult, train

Quick = Callable[..., TrainingResult]

CONFIG = """
[net]
width=64
height=64
[convolutional]
batch_normalize=1
filters=8
size=3
stride=8
pad=1
activation=mish
[convolutional]
filters={first}
activation=linear
[yolo]
mask=1,2
anchors=8,8, 16,16, 32,32
classes={classes}
scale_x_y=1.1
[route]
layers=0
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky
[convolutional]
filters={second}
activation=linear
[yolo]
mask=0
anchors=40,40
classes={classes}
scale_x_y=1.3
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Weights with layers of their own and three classes."""
    text = CONFIG.format(first=2 * 8, second=8, classes=3)
    config = parse_config(text, source="net.cfg")
    metadata = WeightsMetadata(
        classes=("a", "b", "c"),
        architecture=ARCHITECTURE,
        graph=config.graph.to_mappings(),
        input_hw=config.input_hw,
        anchors=config.anchors,
        anchor_masks=config.anchor_masks,
        scale_x_y=config.scale_x_y,
    )
    return save_weights(tmp_path / "base.safetensors", build_from_metadata(metadata), metadata)


def test_a_run_takes_over_layers_anchors_and_scales(base: Path, quick: Quick) -> None:
    result = quick(pretrained=base, attention="none", freeze_backbone_epochs=1)

    network, metadata = load_weights(result.best)
    before, described = load_weights(base)
    assert metadata.architecture == ARCHITECTURE
    assert metadata.level_anchors() == described.level_anchors()
    assert network.strides == (8, 16)
    assert network.scale_x_y == (1.1, 1.3)
    assert len(metadata.classes) != 3
    terms = 5 + len(metadata.classes)
    assert [len(network.layers[index].conv.weight) for index in (1, 5)] == [2 * terms, terms]
    own, old = network.state_dict(), before.state_dict()
    assert not torch.equal(own["layers.0.conv.weight"], old["layers.0.conv.weight"])
    assert result.records[-1]["losses"]["box"] > 0


def test_a_resumed_run_keeps_its_layers(base: Path, quick: Quick, same: Any) -> None:
    class Stop(Silent):
        def epoch_ended(self, record: dict[str, Any]) -> None:
            raise KeyboardInterrupt

    settings = {"pretrained": base, "attention": "none"}
    whole = quick(**settings)
    folder = base.parent / "stopped"
    with pytest.raises(KeyboardInterrupt):
        quick(**settings, output=folder, reporter=Stop())
    base.unlink()

    resumed = train(resume=folder, accelerator="cpu")

    assert read_metadata(resumed.last).architecture == ARCHITECTURE
    assert same(resumed.last, whole.last)


def test_attention_has_no_place_in_it(base: Path, quick: Quick) -> None:
    with pytest.raises(ConfigError, match=r"got 'ca' \(--attention\)\. Give --attention none\."):
        quick(pretrained=base, attention="ca")
