from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attendet.errors import ConfigError
from attendet.evaluation.matching import match_detections
from attendet.evaluation.voc import average_precision, precision_recall, true_positives


def reference_ap(samples, detections, class_id, threshold):
    """VOC's rule written the long way: one detection after the other, one overlap at a time."""

    def overlap(a, b):
        width = min(a[2], b[2]) - max(a[0], b[0])
        height = min(a[3], b[3]) - max(a[1], b[1])
        if width <= 0 or height <= 0:
            return 0.0
        area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
        return width * height / (area - width * height)

    queue = sorted(
        (
            (float(score), image, box.astype(float))
            for image, found in enumerate(detections)
            for box, score, other in zip(
                found.boxes_xyxy, found.scores, found.class_ids, strict=True
            )
            if other == class_id
        ),
        key=lambda entry: -entry[0],
    )
    total = sum(int(((s.class_ids == class_id) & ~s.difficult).sum()) for s in samples)
    taken, marks = set(), []
    for _, image, box in queue:
        gts = [
            (overlap(box, gt.astype(float)), index)
            for index, gt in enumerate(samples[image].boxes_xyxy)
            if samples[image].class_ids[index] == class_id
        ]
        best, index = max(gts, key=lambda pair: pair[0], default=(0.0, -1))
        if index < 0 or best < threshold:
            marks.append(False)
        elif not samples[image].difficult[index]:
            marks.append((image, index) not in taken)
            taken.add((image, index))
    area, found, envelope = 0.0, 0, []
    for rank, mark in enumerate(marks, 1):
        found += mark
        envelope.append(found / rank)
    for rank, mark in enumerate(marks):
        area += max(envelope[rank:]) / total if mark else 0.0
    return area


def voc_ap(matches, class_id, *, iou_threshold=0.5, interpolation="every-point"):
    """Return the average precision of one class, or None without ground truth that counts."""
    count = matches.gt_count(class_id)
    if count == 0:
        return None
    right, _ = true_positives(matches.of_class(class_id), iou_threshold)
    return average_precision(*precision_recall(right, count), interpolation)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_rule_written_the_long_way(random_case, seed, threshold):
    samples, detections, _ = random_case(seed, images=12)
    matches = match_detections(samples, detections)
    for class_id in range(3):
        wanted = reference_ap(samples, detections, class_id, threshold)
        ours = voc_ap(matches, class_id, iou_threshold=threshold)
        assert ours == pytest.approx(wanted, abs=1e-12)
    assert voc_ap(matches, 3) is None


def test_published_case_of_object_detection_metrics(shared_cases, make_sample, make_found):
    """AP 24.57 % at IoU 0.3, published with github.com/rafaelpadilla/Object-Detection-Metrics.

    That tool counts the last row and column as part of a box, hence the one pixel.
    """
    samples, detections = [], []
    for file in sorted((shared_cases / "object-detection-metrics/groundtruths").glob("*.txt")):
        gt = np.array([line.split()[1:] for line in file.read_text().splitlines()], float)
        other = file.parents[1] / "detections" / file.name
        found = np.array([line.split()[1:] for line in other.read_text().splitlines()], float)
        edges = [np.hstack([b[:, :2], b[:, :2] + b[:, 2:] + 1]) for b in (gt, found[:, 1:])]
        samples.append(make_sample(edges[0], [0] * len(gt), key=file.stem))
        detections.append(make_found(edges[1], [0] * len(found), found[:, 0], ("person",)))
    matches = match_detections(samples, detections)
    ap = voc_ap(matches, 0, iou_threshold=0.3)
    assert len(samples) == 7
    assert round(100 * ap, 2) == 24.57
    eleven = voc_ap(matches, 0, iou_threshold=0.3, interpolation="11-point")
    assert round(100 * eleven, 2) == 26.84


def test_every_detection_of_a_difficult_gt_is_ignored(make_sample, make_found):
    sample = make_sample([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0], difficult=[0, 1])
    boxes = [[50, 50, 60, 60], [50, 50, 60, 61], [0, 0, 10, 10]]
    matches = match_detections([sample], [make_found(boxes, [0, 0, 0], [0.9, 0.8, 0.7], ("a",))])
    assert voc_ap(matches, 0) == 1.0


def test_the_second_detection_of_a_gt_is_wrong(make_sample, make_found):
    sample = make_sample([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0])
    boxes = [[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]]
    matches = match_detections([sample], [make_found(boxes, [0, 0, 0], [0.9, 0.8, 0.7], ("a",))])
    assert voc_ap(matches, 0) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_an_overlap_of_exactly_the_threshold_is_enough(make_sample, make_found):
    sample = make_sample([[0, 0, 10, 10]], [0])
    matches = match_detections([sample], [make_found([[0, 0, 10, 5]], [0], [0.9], ("a",))])
    assert voc_ap(matches, 0, iou_threshold=0.5) == 1.0
    assert voc_ap(matches, 0, iou_threshold=0.5001) == 0.0


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 10))
def test_area_is_between_recall_times_worst_and_best(right, missed):
    gts = sum(right) + missed
    if gts == 0:
        return
    precision, recall = precision_recall(np.array(right, dtype=bool), gts)
    area = average_precision(precision, recall)
    reached = sum(right) / gts
    assert 0.0 <= area <= reached + 1e-12
    assert area >= reached * (precision[-1] if right else 0.0) - 1e-12


def test_unknown_interpolation_is_an_error():
    with pytest.raises(ConfigError, match="'every-point' or '11-point'; got 'auto'"):
        average_precision(np.ones(1), np.ones(1), "auto")
