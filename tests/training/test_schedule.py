from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attendet.training.recipe import Recipe
from attendet.training.schedule import evaluates_at, input_hw_at, lr_factor, mosaic_at


@pytest.mark.parametrize(
    ("progress", "factor"),
    # Warm-up over 2 of 10 epochs; then 0.1 + 0.9 (1 + cos(pi x)) / 2, x from 0 to 1 over 8 epochs.
    [(0.5, 0.25), (2, 1.0), (4, 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2), (6, 0.55), (10, 0.1)],
)
def test_cosine_after_warm_up(progress: float, factor: float) -> None:
    recipe = Recipe().replace(epochs=10, schedule="cosine", warmup_epochs=2, min_lr_ratio=0.1)

    assert lr_factor(progress, recipe=recipe) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("progress", "factor"), [(0.5, 0.5), (1, 1), (5, 1), (7.5, 0.6), (10, 0.2)]
)
def test_flat_for_the_first_half_then_cosine(progress: float, factor: float) -> None:
    recipe = Recipe().replace(epochs=10, schedule="flat-cosine", warmup_epochs=1, min_lr_ratio=0.2)

    assert lr_factor(progress, recipe=recipe) == pytest.approx(factor)


def test_warm_up_takes_at_most_a_third_of_a_short_run() -> None:
    recipe = Recipe().replace(epochs=3, warmup_epochs=5)

    assert lr_factor(0.5, recipe=recipe) == pytest.approx(0.5)
    assert lr_factor(1, recipe=recipe) == 1


@given(
    epochs=st.integers(1, 50),
    warmup=st.floats(0, 10),
    at=st.floats(0.001, 1),
    schedule=st.sampled_from(["cosine", "flat-cosine"]),
)
def test_the_rate_is_never_zero_nor_above_the_highest(
    epochs: int, warmup: float, at: float, schedule: str
) -> None:
    recipe = Recipe().replace(epochs=epochs, warmup_epochs=warmup, schedule=schedule)  # type: ignore[arg-type]

    assert 0 < lr_factor(at * epochs, recipe=recipe) <= 1


def test_mosaic_is_off_in_the_last_epochs() -> None:
    recipe = Recipe().replace(epochs=20, no_aug_fraction=0.15)

    assert [mosaic_at(epoch, recipe=recipe) for epoch in (0, 16, 17, 19)] == [
        True,
        True,
        False,
        False,
    ]
    assert all(
        mosaic_at(epoch, recipe=Recipe().replace(epochs=4, no_aug_fraction=0)) for epoch in range(4)
    )
    assert not any(
        mosaic_at(epoch, recipe=Recipe().replace(epochs=4, no_aug_fraction=1)) for epoch in range(4)
    )


def test_sizes_rise_to_the_whole_and_stay() -> None:
    recipe = Recipe().replace(epochs=10, start_size_fraction=0.5, full_size_fraction=0.6)

    sizes = [input_hw_at(e, 3, input_hw=(320, 640), recipe=recipe, seed=0) for e in range(10)]

    assert sizes[0] == (160, 320)
    assert sizes == sorted(sizes)
    assert sizes[6:] == [(320, 640)] * 4
    assert all(height % 32 == width % 32 == 0 for height, width in sizes)


def test_multi_scale_draws_by_seed_epoch_and_step_alone() -> None:
    recipe = Recipe().replace(epochs=10, start_size_fraction=1, multi_scale=0.5)

    def sizes(seed: int) -> list[tuple[int, int]]:
        places = [(epoch, step) for epoch in range(10) for step in range(20)]
        return [input_hw_at(*at, input_hw=(320, 416), recipe=recipe, seed=seed) for at in places]

    drawn = sizes(0)
    assert drawn == sizes(0)
    assert drawn != sizes(1)
    assert {height for height, _ in drawn} == set(range(160, 481, 32))
    assert max(width for _, width in drawn) <= 416 * 1.5


def test_a_input_never_shrinks_below_two_cells() -> None:
    recipe = Recipe().replace(start_size_fraction=0.1)

    assert input_hw_at(0, 0, input_hw=(64, 96), recipe=recipe, seed=0) == (64, 64)


def test_evaluations_come_every_few_epochs_and_in_each_of_the_last_tenth() -> None:
    recipe = Recipe().replace(epochs=23, evaluate_every=5)

    epochs = [epoch + 1 for epoch in range(23) if evaluates_at(epoch, recipe=recipe)]

    assert epochs == [5, 10, 15, 20, 22, 23]
