"""Anchors from the data, against exhaustive search and hand-made sets."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attendet.errors import ConfigError
from attendet.models import DEFAULT_ANCHORS, DEFAULT_MASKS, default_anchors
from attendet.models.anchors import best_overlap, choose_anchors, cluster_anchors

OWN_MASKS = ((3, 4, 5), (0, 1, 2))


def _overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    inner = min(a[0], b[0]) * min(a[1], b[1])
    return inner / (a[0] * a[1] + b[0] * b[1] - inner)


def _slow_best_overlap(
    sizes: list[tuple[float, float]], anchors: list[tuple[float, float]]
) -> float:
    return sum(max(_overlap(size, anchor) for anchor in anchors) for size in sizes) / len(sizes)


sizes_st = st.lists(st.tuples(st.floats(0.1, 1e3), st.floats(0.1, 1e3)), min_size=1, max_size=12)


@given(sizes_st, st.lists(st.tuples(st.floats(0.1, 1e3), st.floats(0.1, 1e3)), min_size=1))
def test_best_overlap_is_the_mean_of_the_best(
    sizes: list[tuple[float, float]], anchors: list[tuple[float, float]]
):
    found = best_overlap(np.array(sizes), anchors)
    assert found == pytest.approx(_slow_best_overlap(sizes, anchors))


def test_best_overlap_without_objects_is_no_number():
    assert math.isnan(best_overlap(np.zeros((0, 2)), DEFAULT_ANCHORS))


@pytest.mark.parametrize("seed", range(2))
def test_no_worse_than_the_best_stable_partition_by_exhaustive_search(seed: int):
    """All ways to part eight objects into up to three groups, each with its median as anchor.

    A partition is stable if each object overlaps most with its own group's anchor.
    """
    sizes = np.exp(np.random.default_rng(seed).uniform(np.log(5), np.log(200), (8, 2)))
    best = 0.0
    for labels in itertools.product(range(3), repeat=7):
        member = np.array((0, *labels))
        groups = np.unique(member)
        centers = np.stack([np.median(sizes[member == group], axis=0) for group in groups])
        inner = np.minimum(sizes[:, None], centers).prod(2)
        overlap = inner / (sizes.prod(1)[:, None] + centers.prod(1) - inner)
        if (groups[overlap.argmax(1)] == member).all():
            best = max(best, overlap.max(1).mean())
    found = best_overlap(sizes, cluster_anchors(sizes, 3, seed=seed))
    assert best > 0.4
    assert found >= best - 0.002  # anchors are rounded to a tenth of a pixel


@pytest.mark.parametrize("seed", range(5))
def test_separate_groups_are_found_whatever_the_seed(seed: int):
    groups = np.array([[10, 10], [30, 12], [12, 40], [80, 80], [200, 60], [300, 300]])
    noise = np.random.default_rng(9).uniform(-0.4, 0.4, (40, 6, 2))
    sizes = (groups + noise).reshape(-1, 2)
    found = np.array(cluster_anchors(sizes, seed=seed))
    np.testing.assert_allclose(found, groups[np.argsort(groups.prod(1))], atol=0.4)


def test_one_seed_gives_one_answer_and_small_comes_before_large():
    sizes = np.exp(np.random.default_rng(0).normal(3.5, 0.7, (300, 2)))
    first, again = cluster_anchors(sizes, seed=4), cluster_anchors(sizes, seed=4)
    assert first == again
    areas = [width * height for width, height in first]
    assert areas == sorted(areas)
    assert len(set(first)) == 6


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_input_is_left_as_it_is(dtype: type, count: int):
    sizes = np.exp(np.random.default_rng(0).normal(3.5, 0.7, (50, 2))).astype(dtype)
    before = sizes.copy()
    cluster_anchors(sizes, count)
    np.testing.assert_array_equal(sizes, before)


def test_large_sets_are_sampled():
    sizes = np.random.default_rng(0).uniform(20, 22, (50_000, 2))
    found = cluster_anchors(sizes, 2, starts=1, rounds=3)
    assert all(20 <= side <= 22 for anchor in found for side in anchor)


@settings(max_examples=25)
@given(sizes_st, st.integers(1, 6), st.integers(0, 3))
def test_any_data_gives_as_many_anchors_within_its_bounds(
    sizes: list[tuple[float, float]], count: int, seed: int
):
    array = np.array(sizes)
    found = np.array(cluster_anchors(array, count, seed=seed, starts=2))
    assert found.shape == (count, 2)
    assert (found > 0).all()
    assert (found >= array.min(axis=0) - 0.051).all()
    assert (found <= array.max(axis=0) + 0.051).all()


def test_all_boxes_equal():
    sizes = np.full((50, 2), (33.0, 21.0))
    assert cluster_anchors(sizes) == ((33.0, 21.0),) * 6
    choice = choose_anchors(sizes, DEFAULT_ANCHORS, DEFAULT_MASKS)
    assert choice.data_overlap == pytest.approx(1)
    assert choice.from_data


def test_tiny_boxes_never_give_an_anchor_of_no_size():
    assert cluster_anchors(np.full((8, 2), 0.01)) == ((0.1, 0.1),) * 6


def test_three_levels_have_nine_anchors_the_largest_on_the_first():
    sizes = np.exp(np.random.default_rng(0).normal(3.5, 0.9, (300, 2)))
    defaults, masks = default_anchors(3, 416)
    choice = choose_anchors(sizes, [(1.0, 1.0)] * 9, masks)
    assert choice.from_data
    assert choice.masks == ((6, 7, 8), (3, 4, 5), (0, 1, 2))
    areas = [width * height for width, height in choice.anchors]
    assert areas == sorted(areas)
    assert choose_anchors(sizes[:8], defaults, masks).anchors == defaults  # too few for nine


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_boxes_keep_the_defaults(count: int):
    choice = choose_anchors(np.full((count, 2), 30.0), DEFAULT_ANCHORS, DEFAULT_MASKS)
    assert (choice.anchors, choice.masks) == (DEFAULT_ANCHORS, DEFAULT_MASKS)
    assert not choice.from_data
    assert math.isnan(choice.default_overlap)
    assert math.isnan(choice.data_overlap)


def test_boxes_without_size_are_refused_not_clustered():
    sizes = np.array([[0.0, 10.0], *[[20.0, 20.0]] * 8])
    with pytest.raises(ConfigError, match=r"sizes above 0.*smallest side 0 px"):
        cluster_anchors(sizes)
    with pytest.raises(ConfigError, match="got 0 objects"):
        cluster_anchors(np.zeros((0, 2)))


def test_defaults_stay_where_the_data_is_hardly_better():
    used = np.array(DEFAULT_ANCHORS[1:])
    sizes = np.repeat(used, 10, axis=0) * np.random.default_rng(0).uniform(0.97, 1.03, (50, 2))
    choice = choose_anchors(sizes, DEFAULT_ANCHORS, DEFAULT_MASKS)
    assert choice.data_overlap - choice.default_overlap < 0.05
    assert not choice.from_data
    assert (choice.anchors, choice.masks) == (DEFAULT_ANCHORS, DEFAULT_MASKS)


def test_own_anchors_stand_where_they_are_clearly_better():
    sizes = np.random.default_rng(0).uniform((8, 60), (16, 90), (60, 2))
    choice = choose_anchors(sizes, DEFAULT_ANCHORS, DEFAULT_MASKS, seed=3)
    assert choice.from_data
    assert choice.masks == OWN_MASKS
    assert choice.anchors == cluster_anchors(sizes, seed=3)
    assert choice.default_overlap == pytest.approx(best_overlap(sizes, DEFAULT_ANCHORS[1:]))
    assert choice.data_overlap == pytest.approx(best_overlap(sizes, choice.anchors))
    assert choice.data_overlap - choice.default_overlap >= 0.05


@pytest.mark.parametrize(("side", "own"), [(9.51, False), (9.49, True)])
def test_the_border_of_clearly_better(side: float, own: bool):
    """Objects of 10 x 10 px against anchors of 10 px by ``side``: the gain is 1 - side / 10."""
    choice = choose_anchors(np.full((8, 2), 10.0), [(10.0, side)] * 6, DEFAULT_MASKS)
    assert choice.from_data == own


def test_an_anchor_no_level_uses_plays_no_part():
    """All objects have the shape of anchor 0, which no level of the reference network uses."""
    sizes = np.full((20, 2), DEFAULT_ANCHORS[0])
    choice = choose_anchors(sizes, DEFAULT_ANCHORS, DEFAULT_MASKS)
    assert choice.default_overlap == pytest.approx(10 * 14 / (23 * 27))
    assert choice.from_data
