from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from attendet.explain import compute_gates, crop_to_picture, gate_map  # noqa: E402
from attendet.models import YoloV4Tiny, build  # noqa: E402
from attendet.pictures import letterbox  # noqa: E402


def _network(attention: str) -> YoloV4Tiny:
    torch.manual_seed(0)
    return build(classes=["cat", "dog"], attention=attention, width=0.25).eval()


@pytest.fixture
def canvas() -> NDArray[np.uint8]:
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
    canvas: NDArray[np.uint8], attention: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    gates = compute_gates(_network(attention), canvas)

    assert list(gates) == ["p4", "p5", "up"]
    assert {name: gate.shape for name, gate in gates["p4"].items()} == shapes
    for gate in gates["p4"].values():
        assert gate.dtype == np.float32
        assert 0 < gate.min() <= gate.max() < 1


def test_the_gates_are_what_the_network_multiplied_by(canvas: NDArray[np.uint8]) -> None:
    network = _network("ca@p5")
    seen = {}

    def keep(_: object, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen["before"], seen["after"] = inputs[0][0].numpy(), output[0].numpy()

    hook = network.attention["p5"].register_forward_hook(keep)
    with torch.inference_mode():
        network(torch.from_numpy(canvas).permute(2, 0, 1)[None] / 255)
    hook.remove()
    gates = compute_gates(network, canvas)["p5"]

    product = seen["before"] * gates["height"] * gates["width"]
    np.testing.assert_allclose(product, seen["after"], rtol=1e-4, atol=1e-6)


def test_a_network_without_attention_has_no_gates(canvas: NDArray[np.uint8]) -> None:
    assert compute_gates(_network("none"), canvas) == {}


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


def test_the_border_of_the_canvas_is_cut_off() -> None:
    picture = np.full((60, 160, 3), 255, dtype=np.uint8)
    canvas, fit = letterbox(picture, (64, 64))

    inside = crop_to_picture(canvas[:, :, 0].astype(np.float32), fit)

    assert inside.shape == (24, 64)
    assert (inside == 255).all()
    profile = crop_to_picture(np.arange(64, dtype=np.float32)[:, None], fit)[:, 0]
    np.testing.assert_allclose(profile, np.arange(20, 44))
