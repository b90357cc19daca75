from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from attendet.attention import attend, create_attention  # noqa: E402
from attendet.attention.init import GateMix  # noqa: E402
from attendet.explain import (  # noqa: E402
    cells_of_image,
    crop_to_image,
    gate_map,
    gated_sites,
    record_gates,
)
from attendet.images import Letterbox, letterbox  # noqa: E402
from attendet.inference.preprocess import Stretch  # noqa: E402
from attendet.models import GraphDetector, YoloV4Tiny, build  # noqa: E402
from attendet.models.graph import (  # noqa: E402
    AvgPool,
    Convolutional,
    Graph,
    ScaleChannels,
    Yolo,
)


def _network(attention: str) -> YoloV4Tiny:
    torch.manual_seed(0)
    return build(classes=["cat", "dog"], attention=attention, width_mult=0.25).eval()


def gates_of(network: torch.nn.Module, padded: NDArray[np.uint8]) -> dict[str, dict[str, Any]]:
    """Return the recorded gates of one image."""
    with record_gates(network) as gates, torch.inference_mode():
        network(torch.from_numpy(padded).permute(2, 0, 1)[None] / 255)
    return {site: {name: g[0].numpy() for name, g in one.items()} for site, one in gates.items()}


@pytest.fixture
def padded() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("attention", "shapes"),
    [
        ("ca", {"height": (64, 4, 1), "width": (64, 1, 6)}),
        ("se", {"channel": (64, 1, 1)}),
        ("eca", {"channel": (64, 1, 1)}),
        ("cbam", {"channel": (64, 1, 1), "spatial": (1, 4, 6)}),
    ],
)
def test_gates_come_by_site_and_name(
    padded: NDArray[np.uint8], attention: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    gates = gates_of(_network(attention), padded)

    assert list(gates) == ["p4", "p5", "up"]
    assert {name: gate.shape for name, gate in gates["p4"].items()} == shapes
    for gate in gates["p4"].values():
        assert gate.dtype == np.float32
        assert 0 < gate.min() <= gate.max() < 1


def test_the_gates_are_the_factors_of_the_feature_map(padded: NDArray[np.uint8]) -> None:
    network = _network("ca@p5")
    seen = {}

    def keep(_: object, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen["before"], seen["after"] = inputs[0][0].numpy(), output[0].numpy()

    hook = network.attention["p5"].register_forward_hook(keep)
    with torch.inference_mode():
        network(torch.from_numpy(padded).permute(2, 0, 1)[None] / 255)
    hook.remove()
    gates = gates_of(network, padded)["p5"]

    product = seen["before"] * gates["height"] * gates["width"]
    np.testing.assert_allclose(product, seen["after"], rtol=1e-4, atol=1e-6)


def test_a_network_without_attention_has_no_gates(padded: NDArray[np.uint8]) -> None:
    assert gates_of(_network("none"), padded) == {}


def test_the_map_is_the_mean_over_channels_of_the_product() -> None:
    rng = np.random.default_rng(1)
    gates = {
        "channel": rng.random((5, 1, 1), dtype=np.float32),
        "spatial": rng.random((1, 3, 4), dtype=np.float32),
    }
    expected = np.zeros((3, 4))
    for channel in gates["channel"].ravel():
        expected += channel * gates["spatial"][0] / 5

    opened = gate_map(gates)

    assert opened is not None
    np.testing.assert_allclose(opened, expected, rtol=1e-6)


def test_channel_gates_have_no_map() -> None:
    assert gate_map({"channel": np.full((8, 1, 1), 0.5, dtype=np.float32)}) is None


def test_the_padding_of_the_input_is_cropped() -> None:
    image = np.full((60, 160, 3), 255, dtype=np.uint8)
    padded, fit = letterbox(image, (64, 64))

    inside = crop_to_image(padded[:, :, 0].astype(np.float32), fit)

    assert inside.shape == (24, 64)
    assert (inside == 255).all()
    profile = crop_to_image(np.arange(64, dtype=np.float32)[:, None], fit)[:, 0]
    np.testing.assert_allclose(profile, np.arange(20, 44))


def test_gates_of_attention_anywhere_are_recorded(padded: NDArray[np.uint8]) -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3)
    )
    attend(network, {"0": "se", "2": "ca"}, init="paper")
    images = torch.rand(2, 3, 12, 10)

    with record_gates(network.eval()) as gates, torch.inference_mode():
        network(images)

    assert list(gates) == list(gated_sites(network)) == ["0", "2"]
    assert {name: tuple(gate.shape) for name, gate in gates["2"].items()} == {
        "height": (2, 8, 8, 1),
        "width": (2, 8, 1, 6),
    }
    assert not network._forward_hooks
    assert not network[0]._forward_hooks


def test_a_block_that_runs_twice_has_two_sets_of_gates() -> None:
    shared = create_attention("se", 3)
    network = torch.nn.Sequential(shared, torch.nn.ReLU(), shared).eval()

    with record_gates(network) as gates:
        network(torch.rand(1, 3, 4, 4))

    assert list(gates) == ["0", "0 (2)"]


def test_a_block_that_mixes_its_gates_is_one_site() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), GateMix(create_attention("se", 8)))

    with record_gates(network.eval()) as gates:
        network(torch.rand(1, 3, 4, 4))

    assert list(gates) == ["1"]
    assert (gates["1"]["channel"] == 1).all()


def test_a_network_that_is_a_block_is_one_site() -> None:
    block = create_attention("simam", 8, init="identity").eval()

    with record_gates(block) as gates:
        block(torch.rand(1, 8, 4, 4))

    assert list(gates) == list(gated_sites(block)) == ["itself"]


def test_squeeze_and_excitation_of_darknet_layers_is_recorded() -> None:
    layers = (
        Convolutional(8, 3, 4, 1),
        AvgPool(),
        Convolutional(8, 1, 1, 0, activation="logistic"),
        ScaleChannels(0),
        Convolutional(7, 1, 1, 0, activation="linear"),
        Yolo(),
    )
    network = GraphDetector(Graph(layers), 2, [[(10, 20)]], input_hw=(64, 64)).eval()
    seen = []
    network.layers[3].register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    padded = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)

    gates = gates_of(network, padded)

    assert list(gates) == ["layer 3"]
    np.testing.assert_array_equal(gates["layer 3"]["channel"], seen[0][0][0].detach().numpy())
    assert gates["layer 3"]["channel"].shape == (8, 1, 1)


def test_a_stretched_image_fills_its_input() -> None:
    fit = Stretch((50, 200), (64, 96))

    assert crop_to_image(np.ones((2, 3), dtype=np.float32), fit).shape == (64, 96)
    assert cells_of_image(fit, (2, 3)) == (slice(0, 2), slice(0, 3))


@pytest.mark.parametrize("image_hw", [(480, 640), (1, 900), (900, 1), (33, 32)])
def test_there_are_always_cells_in_the_image(image_hw: tuple[int, int]) -> None:
    fit = Letterbox.for_image(image_hw, (64, 64))
    for cells_hw in ((1, 1), (2, 2), (4, 4), (16, 16)):
        rows, columns = cells_of_image(fit, cells_hw)
        assert 0 <= rows.start < rows.stop <= cells_hw[0]
        assert 0 <= columns.start < columns.stop <= cells_hw[1]
