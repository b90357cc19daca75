"""Exported networks compute the same as the original ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import attendet  # noqa: E402
from attendet.exporters.exported_network import (  # noqa: E402
    ExportedNetwork,
    SplitCoordinateAttention,
    SplitCSP,
    first_convolutions,
    optimize_for_inference,
)
from attendet.inference.runtimes.torch_runtime import TorchRuntime  # noqa: E402
from attendet.models import default_anchors  # noqa: E402

SPECS = ["none", "se", "cbam", "eca", "ca", "ca-authors", "ca@stage1,stage3,p5+se@up"]


@pytest.fixture
def inputs() -> Any:
    return np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)


def _agree(network: Any, metadata: Any, inputs: Any, **options: Any) -> None:
    with torch.no_grad():
        found = ExportedNetwork(network, **options)(torch.from_numpy(inputs))
    boxes_xyxy, scores = TorchRuntime(network, metadata).run(inputs)
    assert np.ptp(scores) > 0.05
    np.testing.assert_allclose(found[0].numpy(), boxes_xyxy, rtol=2e-3, atol=2e-2)
    np.testing.assert_allclose(found[1].numpy(), scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("init", ["paper", "identity"])
def test_every_attention(reference: Any, inputs: Any, spec: str, init: str) -> None:
    _agree(*reference(spec, attention_init=init), inputs)


@pytest.mark.parametrize(
    "options", [{"fold_scale": False}, {"channels_last": True}], ids=["divided", "channels_last"]
)
def test_every_layout(reference: Any, inputs: Any, options: Any) -> None:
    _agree(*reference("ca"), inputs, **options)


SITES = [
    {"backbone.conv1": "ca"},
    {"backbone.conv1.conv": "se", "backbone.csp2.conv1.conv": "ca"},
    {"backbone.csp1.conv1": "ca", "backbone.csp2.conv1.bn": "eca", "backbone.csp3": "se"},
    {"backbone.csp?.conv4": "cbam", "head_p4": "ca"},
    {"backbone.csp1.pool": "se", "backbone.csp2.pool": "eca"},
]


@pytest.mark.parametrize("sites", SITES, ids=lambda sites: ",".join(sites))
def test_inserted_attention(reference: Any, inputs: Any, sites: dict[str, str]) -> None:
    network, metadata = reference("none")
    attendet.attend(network, sites, init="paper")
    torch.manual_seed(0)
    _agree(network, metadata, inputs)


def test_three_levels(reference: Any, inputs: Any) -> None:
    anchors, masks = default_anchors(3, 96)
    _agree(*reference("ca", anchors=anchors, anchor_masks=masks), inputs)


def test_a_darknet_graph(graph: Any, inputs: Any) -> None:
    _agree(*graph, inputs)


def test_optimizing_is_exact_in_double_precision(reference: Any) -> None:
    network = reference("ca@stage2,p5")[0].double()
    images = torch.rand(2, 3, 64, 96, dtype=torch.float64)

    with torch.no_grad():
        expected, found = network(images), optimize_for_inference(network)(images)

    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_normalization_is_folded_and_blocks_are_split(reference: Any) -> None:
    network, _ = reference("ca")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    made = optimize_for_inference(network)

    kinds = [type(module) for module in made.modules()]
    assert torch.nn.BatchNorm2d not in kinds
    assert kinds.count(SplitCoordinateAttention) == kinds.count(SplitCSP) == 3
    after = network.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_first_convolutions(reference: Any, graph: Any, one_level: Any) -> None:
    network, _ = reference("none")
    darknet, _ = graph

    assert first_convolutions(network) == (network.backbone.conv1.conv,)
    assert first_convolutions(darknet) == (darknet.layers[0].conv,)
    assert first_convolutions(one_level("none")[0]) == ()


def test_boxes_are_clipped_to_the_input(reference: Any, inputs: Any) -> None:
    network, _ = reference("none")
    images = torch.from_numpy(inputs)
    with torch.no_grad():
        whole, _ = ExportedNetwork(network)(images)
        clipped, _ = ExportedNetwork(network, clip=True)(images)
    expected = torch.stack([whole[..., edge].clamp(0, (96, 64)[edge % 2]) for edge in range(4)], -1)

    assert (whole < 0).any()
    assert torch.equal(clipped, expected)
