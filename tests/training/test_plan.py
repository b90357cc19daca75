from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attendet.data import Sample
from attendet.errors import ConfigError
from attendet.models import DEFAULT_ANCHORS
from attendet.training.plan import Plan, choose_input_hw, make_plan
from attendet.training.recipe import Recipe


def _samples(*sizes_hw: tuple[int, int]) -> tuple[Sample, ...]:
    boxes, ids = np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.int64)
    return tuple(
        Sample(Path(f"{n}.png"), hw, boxes, ids, ids.astype(bool), str(n))
        for n, hw in enumerate(sizes_hw)
    )


@pytest.mark.parametrize(
    ("sizes", "resize", "input_hw"),
    [
        ([(480, 640)] * 10, "auto", (320, 416)),  # 312 rounded up to whole cells
        ([(640, 480)] * 10, "auto", (416, 320)),
        ([(480, 640)] * 9 + [(640, 480)], "auto", (320, 416)),
        ([(480, 640)] * 8 + [(640, 480)] * 2, "auto", (416, 416)),
        ([(480, 640)] * 10, "letterbox", (416, 416)),
        ([(480, 640)] * 10, "stretch", (416, 416)),
        ([(500, 500)] * 3, "rect", (416, 416)),
        ([(10, 1000)] * 3, "rect", (32, 416)),
    ],
)
def test_the_input_has_the_aspect_of_the_images(
    sizes: list[tuple[int, int]], resize: Any, input_hw: tuple[int, int]
) -> None:
    assert choose_input_hw(_samples(*sizes), Recipe().replace(resize=resize, size=416)) == input_hw


@pytest.fixture
def plan(squares: Path, tiny: dict[str, Any]) -> Callable[..., Plan]:
    def make(*, seed: int = 0, attention: str = "ca", **changes: Any) -> Plan:
        recipe = Recipe().replace(**{**tiny, **changes})
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


def test_three_levels_get_nine_anchors(plan: Callable[..., Plan]) -> None:
    default, own = plan(levels=3, anchors="default"), plan(levels=3, anchors="data", attention="ca")

    assert own.network.strides == default.network.strides == (32, 16, 8)
    assert default.metadata.anchors[0] == pytest.approx((12 * 64 / 608, 16 * 64 / 608))
    assert own.metadata.anchor_masks == ((6, 7, 8), (3, 4, 5), (0, 1, 2))
    assert set(own.network.attention_blocks()) == {"p3", "p4", "p5", "up", "up2"}


def test_small_objects_are_counted_in_the_network_input(plan: Callable[..., Plan]) -> None:
    made, larger = plan(), plan(size=160)

    def small(one: Plan) -> float:
        sides = np.concatenate([box[:, 2:] - box[:, :2] for box in one.cache.boxes_xyxy])
        return float(np.mean([width * height < 1024 for width, height in sides.tolist()]))

    assert made.small_fraction == small(made) == 1
    assert 0 < larger.small_fraction == small(larger) < 1


def test_the_description_has_data_and_preprocessing(plan: Callable[..., Plan]) -> None:
    made = plan(attention="ca@p4,p5,up", resize="letterbox", seed=4)

    metadata = made.metadata
    assert (metadata.attention, metadata.seed, metadata.input_hw) == ("ca", 4, (64, 64))
    assert metadata.preprocess["resize"] == "letterbox"
    assert metadata.data is not None
    assert metadata.data["images"] == {"train": 10, "val": 4}
    assert len(made.cache) == 10


def test_anchors_of_a_base_need_one(plan: Callable[..., Plan]) -> None:
    with pytest.raises(ConfigError, match=r"must not be 'base' without .* \(--pretrained\)"):
        plan(anchors="base")
