"""Training goes on from imported layers: their outputs, anchors and scale, on other classes too."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attendet.errors import ConfigError, WeightsError
from attendet.explain import record_gates
from attendet.interop.darknet.cfg import parse_config
from attendet.interop.darknet.convert import export_darknet, import_darknet
from attendet.models import load_weights, read_metadata, save_weights
from attendet.models.graph import ARCHITECTURE
from attendet.models.metadata import WeightsMetadata
from attendet.models.weights import build_from_metadata
from attendet.training.callback import TrainingCallback
from attendet.training.trainer import TrainingResult, train

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
[dropout]
probability=.2
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
def quick(squares: Path, tmp_path: Path, tiny: dict[str, Any], undrawn: None) -> Quick:
    """Train with the tiny settings but for the width, which such networks have not."""
    del tiny["width_mult"]
    numbers = itertools.count()

    def run(**changes: Any) -> TrainingResult:
        folder = tmp_path / f"run{next(numbers)}"
        settings = {"accelerator": "cpu", "output": folder, **tiny, **changes}
        return train(squares, **settings)

    return run


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
    result = quick(pretrained=base, attention="none")

    network, metadata = load_weights(result.best)
    before, described = load_weights(base)
    assert metadata.architecture == ARCHITECTURE
    assert metadata.level_anchors() == described.level_anchors()
    assert network.strides == (8, 16)
    assert network.scale_x_y == (1.1, 1.3)
    assert len(metadata.classes) != 3
    terms = 5 + len(metadata.classes)
    assert [len(network.layers[index].conv.weight) for index in (2, 6)] == [2 * terms, terms]
    own, old = network.state_dict(), before.state_dict()
    assert not torch.equal(own["layers.0.conv.weight"], old["layers.0.conv.weight"])
    assert result.records[-1]["losses"]["box"] > 0


def test_a_backbone_that_is_not_known_cannot_be_frozen(base: Path, quick: Quick) -> None:
    with pytest.raises(ConfigError, match="freeze_backbone_epochs has no effect"):
        quick(pretrained=base, attention="none", freeze_backbone_epochs=1)


REGION = """
[region]
num=2
anchors=1,1, 2,2
softmax=1
classes={classes}
"""


@pytest.mark.parametrize("coding", ["new_coords", "region"])
def test_other_codings_of_outputs_train_on_other_classes(
    coding: str, quick: Quick, tmp_path: Path
) -> None:
    text = CONFIG.split("[yolo]")[0] + REGION
    if coding == "new_coords":
        text = CONFIG.replace("linear", "logistic").replace("[yolo]", "[yolo]\nnew_coords=1")
    config = tmp_path / "net.cfg"
    config.write_text(text.format(first=2 * 8, second=8, classes=3))
    counts = parse_config(config.read_text(), source="net.cfg").graph.parameters()
    values = np.random.default_rng(0).uniform(0.01, 0.1, sum(counts)).astype("<f4")
    header = np.array([0, 1, 0, 5], dtype="<i4")
    weights = tmp_path / "net.weights"
    weights.write_bytes(header.tobytes() + values.tobytes())
    imported = import_darknet(config, weights)
    base = save_weights(tmp_path / "base.safetensors", imported.network, imported.metadata)

    result = quick(pretrained=base, attention="none")

    network, metadata = load_weights(result.best)
    assert set(network.codings) == {coding}
    assert len(metadata.classes) != 3
    assert "rows of boxes and objectness" in result.plan.transfer.summary()
    assert all(0 < value < 100 for value in result.records[-1]["losses"].values())
    files = export_darknet(network, metadata, tmp_path / "out", stem="net")
    again = import_darknet(*files[:2], names=files[2]).network
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        pairs = [one.decode(one(images)) for one in (network, again)]
    assert all(map(torch.equal, *pairs))


def test_a_resumed_run_keeps_its_layers(base: Path, quick: Quick, same: Any) -> None:
    class Stop(TrainingCallback):
        def after_epoch(self, record: dict[str, Any]) -> None:
            raise KeyboardInterrupt

    settings = {"pretrained": base, "attention": "none"}
    whole = quick(**settings)
    folder = base.parent / "stopped"
    with pytest.raises(KeyboardInterrupt):
        quick(**settings, output=folder, callback=Stop())
    base.unlink()

    resumed = train(resume=folder, accelerator="cpu")

    assert read_metadata(resumed.last).architecture == ARCHITECTURE
    assert same(resumed.last, whole.last)


def test_attention_goes_behind_its_layers(base: Path, quick: Quick) -> None:
    outputs: list[Any] = []

    class Listener(TrainingCallback):
        def before_train(self, plan: Any, folder: str) -> None:
            plan.network.eval()
            outputs.append(plan.network(torch.rand(2, 3, 64, 96, generator=torch.manual_seed(0))))

    plain, attended = (
        quick(pretrained=base, attention=spec, epochs=1, callback=Listener())
        for spec in ("none", "se@layer4+ca@layer0")
    )

    assert all(map(torch.equal, *outputs))  # the identity, as it is put into base weights
    network, metadata = load_weights(attended.last)
    assert (metadata.attention, metadata.attention_init) == ("ca@layer0+se@layer4", "identity")
    assert [block.channels for block in network.attention_blocks().values()] == [8, 8]
    with record_gates(network.eval()) as gates, torch.inference_mode():
        network(torch.zeros(1, 3, 64, 96))
    assert {site: sorted(named) for site, named in gates.items()} == {
        "layer0": ["height", "width"],
        "layer4": ["channel"],
    }
    block = network.attention_blocks()["layer4"]
    assert all(layer.weight.abs().sum() > 0 for layer in block.logit_layers())
    assert plain.records[0]["ap"] == attended.records[0]["ap"]
    with pytest.raises(WeightsError, match="got CoordinateAttention at layer0"):
        export_darknet(network, metadata, base.parent / "out", stem="net")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "ca",
            r"must name its sites in a network without default sites; got 'ca' .* --attention ca@",
        ),
        ("ca@p5", r"got 'p5' in 'ca@p5'"),
        ("ca@layer2", r"got 'layer2' in .* Did you mean"),  # the raw map itself
    ],
)
def test_attention_that_names_no_layer_is_refused(
    base: Path, quick: Quick, spec: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        quick(pretrained=base, attention=spec)


def test_what_its_layers_say_cannot_be_overridden(base: Path, quick: Quick) -> None:
    with pytest.raises(ConfigError, match=r"anchors and scale_x_y cannot be set with pretrained"):
        quick(pretrained=base, attention="none", anchors="data", scale_x_y=1.2)
    with pytest.raises(ConfigError, match="model cannot be set with pretrained"):
        quick(pretrained=base, attention="none", model="yolov4-tiny-s")
