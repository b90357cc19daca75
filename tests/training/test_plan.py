from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attendet.data import Sample
from attendet.errors import WeightsError
from attendet.models import DEFAULT_ANCHORS, WeightsMetadata, build, save_weights
from attendet.training.plan import Plan, choose_canvas, make_plan, transfer_weights
from attendet.training.recipe import Recipe


def _samples(*sizes_hw: tuple[int, int]) -> tuple[Sample, ...]:
    boxes, ids = np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.int64)
    return tuple(
        Sample(Path(f"{n}.png"), hw, boxes, ids, ids.astype(bool), str(n))
        for n, hw in enumerate(sizes_hw)
    )


@pytest.mark.parametrize(
    ("sizes", "fit", "canvas_hw"),
    [
        ([(480, 640)] * 10, "auto", (320, 416)),  # 312 rounded up to whole cells
        ([(640, 480)] * 10, "auto", (416, 320)),
        ([(480, 640)] * 9 + [(640, 480)], "auto", (320, 416)),
        ([(480, 640)] * 8 + [(640, 480)] * 2, "auto", (416, 416)),
        ([(480, 640)] * 10, "square", (416, 416)),
        ([(500, 500)] * 3, "rect", (416, 416)),
        ([(10, 1000)] * 3, "rect", (32, 416)),
    ],
)
def test_the_canvas_has_the_aspect_of_the_pictures(
    sizes: list[tuple[int, int]], fit: Any, canvas_hw: tuple[int, int]
) -> None:
    assert choose_canvas(_samples(*sizes), Recipe(fit=fit, size=416)) == canvas_hw


@pytest.fixture
def plan(squares: Path, tiny: dict[str, Any]) -> Callable[..., Plan]:
    def make(*, seed: int = 0, attention: str = "ca", **changes: Any) -> Plan:
        recipe = Recipe(**{**tiny, **changes})
        return make_plan(squares, attention=attention, recipe=recipe, seed=seed)

    return make


def test_the_seed_makes_the_weights_and_leaves_torch_s_generator(
    plan: Callable[..., Plan],
) -> None:
    before = torch.get_rng_state()
    one, again, other = (plan(seed=seed).network.state_dict() for seed in (0, 0, 1))

    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(before, torch.get_rng_state())


def test_anchors_are_the_default_ones_or_the_data_s(plan: Callable[..., Plan]) -> None:
    default, own = plan(anchors="default"), plan(anchors="data")

    scaled = [(w * 64 / 416, h * 64 / 416) for w, h in DEFAULT_ANCHORS]
    assert np.array(default.anchors.anchors) == pytest.approx(np.array(scaled))
    assert not default.anchors.from_data
    assert own.anchors.from_data
    assert own.anchors.data_overlap > own.anchors.default_overlap
    assert own.metadata.anchors == own.anchors.anchors
    assert all(5 < side < 35 for pair in own.anchors.anchors for side in pair)


def test_the_description_tells_data_and_preprocessing(plan: Callable[..., Plan]) -> None:
    made = plan(attention="ca@p4,p5,up", fit="square", seed=4)

    metadata = made.metadata
    assert (metadata.attention, metadata.seed, metadata.input_hw) == ("ca", 4, (64, 64))
    assert metadata.preprocess["fit"] == "square"
    assert metadata.data is not None
    assert metadata.data["pictures"] == {"train": 10, "val": 4}
    assert len(made.cache) == 10


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Weights of two classes with coordinate attention."""
    torch.manual_seed(1)
    network = build(classes=["a", "b"], attention="ca", width=0.125)
    return save_weights(
        tmp_path / "base.safetensors",
        network,
        WeightsMetadata(classes=("a", "b"), attention="ca", width=0.125),
    )


def test_all_tensors_go_over_to_the_same_network(base: Path) -> None:
    network = build(classes=["x", "y"], attention="ca", width=0.125)

    transfer = transfer_weights(network, base)

    total = len(network.state_dict())
    assert transfer.in_words() == f"base weights: 100 % ({total} of {total} tensors)"
    assert transfer.fresh == transfer.left_out == ()


def test_what_does_not_fit_is_listed_with_the_reason(base: Path) -> None:
    network = build(classes=["x"], attention="se@p5", width=0.125)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    transfer = transfer_weights(network, base)

    reasons = dict(transfer.left_out)
    heads = {"out_p5.weight", "out_p5.bias", "out_p4.weight", "out_p4.bias"}
    assert heads <= set(reasons)
    assert reasons["out_p5.bias"] == "(21,) does not fit (18,)"
    assert {name for name in reasons if name.startswith("attention.")} == set(reasons) - heads
    assert all(name.startswith(("out_", "attention.p5")) for name in transfer.fresh)
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in transfer.fresh)
    loaded = len(transfer.loaded)
    total = loaded + len(reasons)
    words = transfer.in_words()
    assert words.startswith(f"base weights: {100 * loaded / total:.0f} % ({loaded} of {total} tens")
    assert "out_p5.bias: (21,) does not fit (18,)" in words


def test_attention_that_started_otherwise_is_left_out(base: Path) -> None:
    network = build(classes=["a", "b"], attention="ca", attention_start="identity", width=0.125)

    transfer = transfer_weights(network, base)

    assert set(transfer.fresh) == {name for name, _ in transfer.left_out}
    assert all(name.startswith("attention.") for name in transfer.fresh)
    assert {why for _, why in transfer.left_out} == {
        "attention_start is 'paper' there, 'identity' here"
    }
    x = torch.rand(1, 3, 64, 64)
    plain = build(classes=["a", "b"], width=0.125)
    transfer_weights(plain, base)
    assert all(map(torch.equal, network.eval()(x), plain.eval()(x)))


def test_weights_of_which_nothing_fits_are_refused(base: Path) -> None:
    network = build(classes=["x"], width=0.5)
    for name, buffer in network.named_buffers():
        if name.endswith("num_batches_tracked"):  # the only tensors whose shape fits
            buffer.resize_(1)

    with pytest.raises(WeightsError, match=r"nothing does .*base\.safetensors"):
        transfer_weights(network, base)


def test_damaged_base_weights_are_one_clear_error(base: Path) -> None:
    base.write_bytes(base.read_bytes()[:-100])

    with pytest.raises(WeightsError, match=r"damaged .*base\.safetensors"):
        transfer_weights(build(classes=["x"], width=0.125), base)
