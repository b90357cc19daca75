"""Attention in networks of torchvision and timm: the same output at first, the same names."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import attendet
from attendet.attention import AttentionBlock, inserted_blocks


def torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        pytest.importorskip("torchvision")
        module, _, function = name.rpartition(".")
        made = getattr(
            importlib.import_module(f"torchvision.models.{module}".rstrip(".")), function
        )
        network: nn.Module = made(weights=None, **options)
        return network

    return make


def timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        network: nn.Module = pytest.importorskip("timm").create_model(
            name, pretrained=False, **options
        )
        return network

    return make


NETWORKS = {
    "resnet18": (
        torchvision("resnet18", num_classes=4),
        {"layer2": "ca", "layer3.0.conv2": "se", "layer4.?.bn2": "eca", "maxpool": "cbam"},
    ),
    "mobilenet_v3_small": (
        torchvision("mobilenet_v3_small", num_classes=4),
        {"features.[1-9]": "ca", "features.1?.block.0": "se", "features": "eca"},
    ),
    "ssdlite320": (
        torchvision(
            "detection.ssdlite320_mobilenet_v3_large",
            weights_backbone=None,
            num_classes=3,
        ),
        {"backbone.features.0.13": "ca", "backbone.extra.0": "se", "backbone": "ca"},
    ),
    "fasterrcnn backbone": (
        torchvision(
            "detection.backbone_utils.resnet_fpn_backbone",
            backbone_name="resnet18",
            trainable_layers=5,
        ),
        {"body.layer4": "ca", "fpn": "se", "fpn.layer_blocks.*": "eca"},
    ),
    "timm resnet": (
        timm("resnet10t", num_classes=4),
        {"layer?": "ca", "conv1.3": "se"},
    ),
    "timm mobilenetv3": (
        timm("mobilenetv3_small_050", num_classes=4),
        {"blocks.2": "ca", "blocks.*.0.conv_pw": "eca", "bn1": "se"},
    ),
    "timm convnext": (
        timm("convnext_atto", num_classes=4),
        {"stages.*.blocks.0": "ca", "stem.1": "eca", "stages.3": "se"},
    ),
    "timm features": (
        timm("resnet10t", features_only=True),
        {"layer3": "ca"},
    ),
}


def flat(output: Any) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output
    return [tensor for part in parts for tensor in flat(part)]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_output_is_the_same_at_first_and_everything_comes_back(name):
    make, places = NETWORKS[name]
    network = make().eval()
    x = torch.rand(1, 3, 64, 64)
    types = {key: type(module) for key, module in network.named_modules()}
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with torch.no_grad():
        before = flat(network(x))
        part = getattr(network, "backbone", network)  # what a detector finds may be nothing
        features = flat(part(x))

        attendet.attend(network, places)
        blocks = inserted_blocks(network)
        assert len(blocks) >= len(places)
        after = flat(network(x))
        assert all(torch.equal(one, two) for one, two in zip(after, before, strict=True))

        for block in blocks.values():
            for parameter in block.parameters():
                torch.nn.init.normal_(parameter)
        changed = flat(part(x))
        assert not all(torch.equal(one, two) for one, two in zip(changed, features, strict=True))

    new = network.state_dict()
    assert all(torch.equal(new[key], tensor) for key, tensor in state.items())
    assert all(".attention_block." in f".{key}" for key in set(new) - set(state))
    attendet.detach(network)
    assert {key: type(module) for key, module in network.named_modules()} == types
    assert list(network.state_dict()) == list(state)


def test_sites_of_resnet18():
    found = {site.name: site for site in attendet.sites(NETWORKS["resnet18"][0]())}
    assert found["layer2"].shapes == ((1, 128, 8, 8),)
    assert found["layer4.0.conv2"].shapes == ((1, 512, 2, 2),)
    assert found["layer1.0.relu"].shapes == ((1, 64, 16, 16),) * 2
    assert "fc" not in found
    assert found["avgpool"].shapes == ((1, 512, 1, 1),)


def test_a_detector_that_takes_a_list_of_images_is_run_on_one():
    network = NETWORKS["ssdlite320"][0]()
    example = ([torch.rand(3, 48, 64)],)
    names = [site.name for site in attendet.sites(network, example)]
    assert "backbone.features.0.0" in names
    assert "backbone.features" not in names  # it is iterated over and never runs itself
    attendet.attend(network, {"backbone.features.0.0": "ca"}, example_input=example)
    assert inserted_blocks(network)["backbone.features.0.0"].channels == 16


def test_features_that_torchvision_extracts_are_attended():
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    network = attendet.attend(NETWORKS["resnet18"][0](), {"layer1": "ca", "layer2.0": "ca"}).eval()
    for block in inserted_blocks(network).values():
        for parameter in block.parameters():
            nn.init.normal_(parameter)
    x = torch.rand(1, 3, 64, 64)
    taken: list[torch.Tensor] = []
    handle = network.layer2.register_forward_hook(lambda _m, _a, output: taken.append(output))
    with torch.no_grad():
        network(x)
        handle.remove()
        extractor = extraction.create_feature_extractor(
            network, {"layer2": "map"}, tracer_kwargs={"leaf_modules": [AttentionBlock]}
        )
    torch.testing.assert_close(extractor(x)["map"], taken[0])
