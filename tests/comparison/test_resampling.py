from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attendet.comparison.resampling import draw_images, match_detections_by_class, resampled_ap
from attendet.data import Sample
from attendet.detections import Detections
from attendet.evaluation.coco import coco_metrics

CLASSES = ("a", "b", "c")
IMAGE_HW = (100, 120)


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner = rng.uniform(0, 70, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(5, 30, (count, 2))], axis=1).astype("f4")


def _images(
    count: int, seed: int = 0, *, crowded: bool = False
) -> tuple[list[Sample], list[Detections]]:
    """Make images whose detections are the ground truth, shaken, some twice, some missed, and
    noise."""
    rng = np.random.default_rng(seed)
    samples, found = [], []
    for number in range(count):
        gts = int(rng.integers(0, 8))
        boxes, ids = _boxes(rng, gts), rng.integers(0, len(CLASSES), gts)
        difficult = rng.random(gts) < (0.3 if crowded else 0.0)
        samples.append(
            Sample(Path(f"{number}.png"), IMAGE_HW, boxes, ids, difficult, f"{number}.png")
        )
        copies = rng.integers(0, 3, gts)
        shaken = np.repeat(boxes, copies, axis=0)
        shaken = shaken + rng.normal(0, 1.5, shaken.shape)
        shaken = np.concatenate([np.minimum(shaken[:, :2], shaken[:, 2:] - 1), shaken[:, 2:]], 1)
        noise = int(rng.integers(0, 120 if crowded else 15))
        every = np.concatenate([shaken, _boxes(rng, noise)]).astype("f4")
        every_id = np.concatenate([np.repeat(ids, copies), rng.integers(0, len(CLASSES), noise)])
        if crowded:
            every_id[-noise:] = 0  # more of a class than the 100 that count
        scores = rng.permutation(len(every)).astype("f4") / 1000 + number / 1e5
        order = np.argsort(-scores)
        found.append(Detections(every[order], scores[order], every_id[order], CLASSES, IMAGE_HW))
    return samples, found


@pytest.mark.parametrize("crowded", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_with_weights_of_one_it_is_the_evaluators_ap(seed: int, crowded: bool) -> None:
    samples, found = _images(25, seed, crowded=crowded)

    (ap,) = resampled_ap(match_detections_by_class(samples, found, len(CLASSES)), np.ones((1, 25)))

    assert ap == pytest.approx(coco_metrics(samples, found, CLASSES)["ap"], abs=1e-12)


def test_a_weight_is_as_many_copies_of_the_image() -> None:
    samples, found = _images(12, 5)
    weights = draw_images(12, 6, seed=3)

    ours = resampled_ap(match_detections_by_class(samples, found, len(CLASSES)), weights)

    for ap, row in zip(ours, weights.astype(int), strict=True):
        picked = np.repeat(np.arange(12), row)
        copied = [samples[index] for index in picked], [found[index] for index in picked]
        assert ap == pytest.approx(coco_metrics(*copied, CLASSES)["ap"], abs=1e-12)


def test_draws_are_of_so_many_images_and_the_same_each_time() -> None:
    weights = draw_images(9, 200)

    assert weights.shape == (200, 9)
    assert (weights.sum(axis=1) == 9).all()
    assert weights.mean() == 1
    assert np.array_equal(weights, draw_images(9, 200))


def test_a_class_without_gt_in_a_draw_has_no_average() -> None:
    samples, found = _images(6, 2)
    only_a = [np.flatnonzero(sample.class_ids != 0).size == 0 for sample in samples]
    weights = np.array([[float(index == 0) for index in range(6)], [0.0] * 6])
    assert not all(only_a)

    first, none = resampled_ap(match_detections_by_class(samples, found, len(CLASSES)), weights)

    wanted = coco_metrics(samples[:1], found[:1], CLASSES)["ap"]
    assert np.isnan(none)
    assert first == pytest.approx(wanted) if wanted is not None else np.isnan(first)


def test_nothing_found_is_an_ap_of_zero() -> None:
    samples, _ = _images(4, 1)
    nothing = [Detections.empty(CLASSES, IMAGE_HW) for _ in samples]

    assert resampled_ap(
        match_detections_by_class(samples, nothing, 3), np.ones((2, 4))
    ).tolist() == [0, 0]


def test_the_bootstrap_knows_the_noise_of_images() -> None:
    """Its spread is that of AP over fresh sets of images of the same kind."""
    fresh = []
    for seed in range(100, 160):
        samples, found = _images(40, seed)
        fresh.append(
            resampled_ap(match_detections_by_class(samples, found, 3), np.ones((1, 40)))[0]
        )
    samples, found = _images(40, 1)

    drawn = resampled_ap(match_detections_by_class(samples, found, 3), draw_images(40, 400))

    assert drawn.std() == pytest.approx(np.std(fresh), rel=0.4)
