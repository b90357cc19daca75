from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from attendet.errors import ConfigError
from attendet.explain.health import BlockHealth, GateStatistics

Arrays = dict[str, np.ndarray]


def health(images: list[Arrays], *, top: float | None = 1.0) -> BlockHealth:
    statistics = GateStatistics("p5", "Block", top=top)
    for gates in images:
        statistics.add({name: gate.astype(np.float32) for name, gate in gates.items()})
    return statistics.health()


def test_the_three_standard_deviations_split_the_total_variance():
    rng = np.random.default_rng(0)
    images = [{"spatial": rng.random((1, 16, 16))} for _ in range(7)]
    whole = np.stack([one["spatial"] for one in images])

    numbers = health(images).gates["spatial"]

    deviations = (numbers.std_images, numbers.std_positions, numbers.std_channels)
    assert sum(one**2 for one in deviations) == pytest.approx(whole.var(), rel=1e-6)
    assert numbers.std_images == pytest.approx(np.sqrt(whole.var(axis=0).mean()), rel=1e-6)
    assert numbers.std_positions == pytest.approx(whole.mean(axis=0).std(), rel=1e-6)
    assert numbers.std_channels == 0


def test_each_cause_shows_in_its_own_standard_deviation():
    by_image = [{"channel": np.full((4, 1, 1), value)} for value in (0.2, 0.6)]
    by_channel = [{"channel": np.array([0.2, 0.6]).reshape(2, 1, 1)}] * 2
    ramp = np.linspace(0.2, 0.6, 16).reshape(1, 16, 1)
    by_position = [{"spatial": np.tile(ramp, (1, 1, 16))}] * 2

    assert health(by_image).product.std_images == pytest.approx(0.2)
    assert health(by_channel).product.std_channels == pytest.approx(0.2)
    assert health(by_position).product.std_positions == pytest.approx(ramp.std(), rel=1e-6)
    for one, name in ((by_image, "images"), (by_channel, "channels"), (by_position, "positions")):
        others = {"images", "channels", "positions"} - {name}
        assert all(getattr(health(one).product, f"std_{other}") < 1e-7 for other in others)


def test_each_verdict_has_a_sentence_with_numbers():
    rng = np.random.default_rng(0)
    ramp = np.tile(np.linspace(0.3, 0.7, 8).reshape(1, 8, 1), (1, 1, 8))
    cases = {
        "idle": [{"channel": np.full((8, 1, 1), value)} for value in (0.998, 1.002)],
        "constant": [{"channel": np.full((8, 1, 1), value)} for value in (0.4999, 0.5001)],
        "mask": [{"spatial": ramp}, {"spatial": ramp}],
        "switch": [{"channel": rng.choice([0.001, 0.999], (8, 1, 1))} for _ in range(4)],
        "unknown": [{"spatial": ramp}],
        "works": [{"channel": rng.uniform(0.2, 0.8, (8, 1, 1))} for _ in range(4)],
    }
    sentences = {
        "idle": "does nothing (standard deviation 0.002, at most 0.002 from 1)",
        "constant": "the same for all images and positions",
        "mask": "(standard deviation 0.0 % of its mean) and differs by position",
        "switch": "100 % of its values are at the ends",
        "unknown": "one image cannot show",
        "works": "depends on the image: it varies by",
    }

    for verdict, images in cases.items():
        found = health(images)
        assert found.verdict == verdict
        assert sentences[verdict] in found.sentence


def test_a_gate_of_range_two_is_saturated_at_two():
    images = [{"channel": np.array([1.999, 0.001]).reshape(2, 1, 1)}] * 2

    assert health(images, top=2.0).gates["channel"].saturated == 1.0
    assert health(images, top=None).gates["channel"].saturated is None


def test_channels_closed_in_every_image_are_counted():
    closed = np.array([0.001, 0.5, 0.5, 0.002]).reshape(4, 1, 1)
    awake = np.array([0.001, 0.5, 0.5, 0.2]).reshape(4, 1, 1)

    assert "2 of 4 channels are closed in every image" in health([{"channel": closed}] * 2).sentence
    assert health([{"channel": closed}, {"channel": awake}]).closed_channels == 1


def test_gates_of_any_sign_are_compared_with_their_absolute_values():
    noise = np.random.default_rng(0).normal(0, 1e-6, (2, 4, 1, 1))
    signs = np.array([-0.5, 0.5, -0.5, 0.5]).reshape(4, 1, 1)

    for constant in (-0.5, signs):
        found = health([{"element": constant + one} for one in noise], top=None)
        assert (found.verdict, found.closed_channels) == ("constant", 0)
        assert "0.0 % of its mean absolute value" in found.sentence
    ramp = -np.tile(np.linspace(0.3, 0.7, 8).reshape(1, 8, 1), (1, 1, 8))
    assert health([{"element": ramp}] * 2, top=None).verdict == "mask"


def test_images_of_different_sizes_are_compared_by_relative_position():
    def ramp(rows: int, columns: int) -> Arrays:
        positions = (np.arange(rows) + 0.5) / rows
        return {
            "height": np.tile(positions.reshape(1, rows, 1), (3, 1, 1)),
            "width": np.full((3, 1, columns), 1.0),
        }

    same = health([ramp(16, 4), ramp(32, 9), ramp(64, 1)]).product

    # The ends of the coarser ramp are not extrapolated: a small difference remains.
    assert same.std_images < 0.01
    assert same.std_positions == pytest.approx(0.288, abs=0.01)


def test_no_image_is_an_error():
    with pytest.raises(ConfigError, match="images must be at least one"):
        GateStatistics("p5", "Block").health()


def test_the_record_is_plain_json():
    record = asdict(health([{"channel": np.full((8, 1, 1), 0.5)}] * 2))

    assert json.loads(json.dumps(record, allow_nan=False))["gates"]["channel"]["mean"] == 0.5
