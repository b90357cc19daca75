"""Networks in the form in which they are exported compute what they computed before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import attendet  # noqa: E402
from attendet.exporters.forms import (  # noqa: E402
    AxesApart,
    SplitCSP,
    first_convolutions,
    inference_form,
)
from attendet.exporters.network import ImageNetwork  # noqa: E402
from attendet.inference.runtimes.torch_runtime import TorchRuntime  # noqa: E402

SPECS = ["none", "se", "cbam", "eca", "ca", "ca-authors", "ca@stage1,stage3,p5+se@up"]


@pytest.fixture
def inputs() -> Any:
    return np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)


def _agree(network: Any, metadata: Any, inputs: Any, **options: Any) -> None:
    with torch.no_grad():
        found = ImageNetwork(network, **options)(torch.from_numpy(inputs))
    boxes_xyxy, scores = TorchRuntime(network, metadata).run(inputs)
    assert np.ptp(scores) > 0.05
    np.testing.assert_allclose(found[0].numpy(), boxes_xyxy, rtol=2e-3, atol=2e-2)
    np.testing.assert_allclose(found[1].numpy(), scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("start", ["paper", "identity"])
def test_every_attention(reference: Any, inputs: Any, spec: str, start: str) -> None:
    _agree(*reference(spec, attention_init=start), inputs)


@pytest.mark.parametrize(
    "options", [{"fold_scale": False}, {"channels_last": True}], ids=["divided", "channels_last"]
)
def test_every_layout(reference: Any, inputs: Any, options: Any) -> None:
    _agree(*reference("ca"), inputs, **options)


PLACES = [
    {"backbone.conv1": "ca"},
    {"backbone.conv1.conv": "se", "backbone.csp2.conv1.conv": "ca"},
    {"backbone.csp1.conv1": "ca", "backbone.csp2.conv1.bn": "eca", "backbone.csp3": "se"},
    {"backbone.csp?.conv4": "cbam", "head_p4": "ca"},
]


@pytest.mark.parametrize("places", PLACES, ids=lambda places: ",".join(places))
def test_attention_put_anywhere(reference: Any, inputs: Any, places: dict[str, str]) -> None:
    network, metadata = reference("none")
    attendet.attend(network, places, init="paper")
    torch.manual_seed(0)
    _agree(network, metadata, inputs)


def test_a_darknet_graph(graph: Any, inputs: Any) -> None:
    _agree(*graph, inputs)


def test_in_double_precision_the_form_is_exact(reference: Any) -> None:
    network = reference("ca@stage2,p5")[0].double()
    images = torch.rand(2, 3, 64, 96, dtype=torch.float64)

    with torch.no_grad():
        expected, found = network(images), inference_form(network)(images)

    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_no_normalization_is_left_and_the_forms_are_taken(reference: Any) -> None:
    network, _ = reference("ca")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    made = inference_form(network)

    kinds = [type(module) for module in made.modules()]
    assert torch.nn.BatchNorm2d not in kinds
    assert kinds.count(AxesApart) == kinds.count(SplitCSP) == 3
    after = network.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_residual_start_keeps_its_mix(reference: Any, inputs: Any) -> None:
    network, metadata = reference("none")
    attendet.attend(network, {"backbone.csp1": "ca"}, init="residual")  # type: ignore[arg-type]
    for name, parameter in network.named_parameters():
        if name.endswith("share"):
            parameter.data.fill_(0.7)
    _agree(network, metadata, inputs)


def test_what_takes_the_image(reference: Any, graph: Any, one_level: Any) -> None:
    network, _ = reference("none")
    darknet, _ = graph

    assert first_convolutions(network) == (network.backbone.conv1.conv,)
    assert first_convolutions(darknet) == (darknet.layers[0].conv,)
    assert first_convolutions(one_level("none")[0]) == ()


def test_boxes_are_cut_at_the_input(reference: Any, inputs: Any) -> None:
    network, _ = reference("none")
    images = torch.from_numpy(inputs)
    with torch.no_grad():
        whole, _ = ImageNetwork(network)(images)
        cut, _ = ImageNetwork(network, clip=True)(images)
    expected = torch.stack([whole[..., edge].clamp(0, (96, 64)[edge % 2]) for edge in range(4)], -1)

    assert (whole < 0).any()
    assert torch.equal(cut, expected)
