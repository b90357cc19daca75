from __future__ import annotations

import numpy as np
import pytest

from attendet.evaluation.confusion import (
    best_f1,
    class_curve,
    confusion_matrix,
    pr_curves,
)
from attendet.evaluation.matching import greedy_pairs, match_detections

CLASSES = ("a", "b")


def test_each_kind_of_error_has_its_cell(make_sample, make_found):
    sample = make_sample(
        [[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50], [60, 60, 70, 70]],
        [0, 1, 0, 1],
        difficult=[0, 0, 0, 1],
    )
    found = make_found(
        [[0, 0, 10, 10], [20, 20, 30, 30], [80, 80, 90, 90], [60, 60, 70, 70], [40, 40, 50, 50]],
        [0, 0, 1, 1, 0],
        [0.9, 0.9, 0.9, 0.9, 0.1],
        CLASSES,
    )
    counts = confusion_matrix([sample], [found], 2, confidence=0.25)
    # a found; b taken for a; the low score leaves an a missed; a b where nothing is; difficult out.
    assert counts.tolist() == [[1, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_rows_add_up_to_the_gt_and_columns_to_the_detections(random_case):
    samples, detections, classes = random_case(3)
    easy = [
        type(s)(s.path, s.image_hw, s.boxes_xyxy, s.class_ids, s.difficult & False, s.key)
        for s in samples
    ]
    counts = confusion_matrix(easy, detections, len(classes), confidence=0.5)
    gts = np.bincount(np.concatenate([s.class_ids for s in easy]), minlength=4)
    found = np.bincount(
        np.concatenate([d.class_ids[d.scores >= 0.5] for d in detections]), minlength=4
    )
    assert counts[:4].sum(axis=1).tolist() == gts.tolist()
    assert counts[:, :4].sum(axis=0).tolist() == found.tolist()
    assert counts[4, 4] == 0


def test_pairs_take_the_largest_overlap_first():
    overlap = np.array([[0.9, 0.0], [0.8, 0.6], [0.55, 0.7]])
    assert greedy_pairs(overlap, 0.5) == [(0, 0), (2, 1)]
    assert greedy_pairs(np.zeros((0, 3)), 0.5) == []


def test_curve_has_the_precision_at_each_recall(make_sample, make_found):
    sample = make_sample([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 0])
    found = make_found(
        [[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 30]], [0, 0, 0], [0.75, 0.5, 0.25], ("a",)
    )
    curve = class_curve(match_detections([sample], [found]), 0, iou_threshold=0.5)
    points = pr_curves({"a": curve})["a"]
    assert points["precision"][0] == points["precision"][50] == 1.0
    assert points["precision"][51] == points["precision"][100] == pytest.approx(2 / 3, abs=1e-6)
    assert (points["confidence"][50], points["confidence"][100]) == (0.75, 0.25)
    best = best_f1([curve])
    assert best["confidence"] == 0.001
    assert (best["precision"], best["recall"]) == (pytest.approx(2 / 3), 1.0)


def test_best_f1_is_the_best_of_a_slow_scan(random_case):
    samples, detections, _ = random_case(5)
    curve = class_curve(match_detections(samples, detections), 0, iou_threshold=0.5)
    scan = []
    for confidence in np.arange(1, 1000) / 1000:
        kept = int((curve.scores >= confidence).sum())
        precision = curve.precision[kept - 1] if kept else 1.0
        recall = curve.recall[kept - 1] if kept else 0.0
        scan.append(2 * precision * recall / max(precision + recall, 1e-12))
    best = best_f1([curve])
    assert best["f1"] == pytest.approx(max(scan))
    assert scan.index(max(scan)) == round(best["confidence"] * 1000) - 1


def test_a_class_without_gt_has_no_curve(make_sample, make_found):
    found = make_found([[0, 0, 10, 10]], [0], [0.5], ("a",))
    assert (
        class_curve(match_detections([make_sample([], [])], [found]), 0, iou_threshold=0.5) is None
    )
    assert best_f1([]) is None
