from __future__ import annotations

import contextlib
import io
import json
import logging

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from attendet.detections import Detections
from attendet.evaluation.coco import coco_metrics

SUMMARY = (
    "ap",
    "ap50",
    "ap75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "ar_1",
    "ar_10",
    "ar_100",
    "ar_small",
    "ar_medium",
    "ar_large",
)


def pycocotools_metrics(samples, detections, classes):
    """The twelve numbers and the AP of each class by the reference code; -1 is no value."""
    gt = [
        {
            "image_id": image,
            "category_id": int(class_id) + 1,
            "iscrowd": int(difficult),
            "bbox": [float(x) for x in (*box[:2], *(box[2:] - box[:2]))],
            "area": float((box[2] - box[0]) * (box[3] - box[1])),
        }
        for image, sample in enumerate(samples, 1)
        for box, class_id, difficult in zip(
            sample.boxes_xyxy.astype(float), sample.class_ids, sample.difficult, strict=True
        )
    ]
    for index, entry in enumerate(gt, 1):
        entry["id"] = index
    results = [
        {
            "image_id": image,
            "category_id": int(class_id) + 1,
            "score": float(score),
            "bbox": [float(x) for x in (*box[:2], *(box[2:] - box[:2]))],
        }
        for image, found in enumerate(detections, 1)
        for box, class_id, score in zip(
            found.boxes_xyxy.astype(float), found.class_ids, found.scores, strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        sheet = COCO()
        sheet.dataset = {
            "images": [{"id": index} for index in range(1, len(samples) + 1)],
            "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
            "annotations": gt,
        }
        sheet.createIndex()
        evaluator = COCOeval(sheet, sheet.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision = evaluator.eval["precision"][:, :, :, 0, 2]
    per_class = []
    for index in range(len(classes)):
        values = precision[:, :, index]
        per_class.append(values[values > -1].mean() if (values > -1).any() else -1.0)
    return evaluator.stats, per_class


def assert_equal_to_pycocotools(samples, detections, classes):
    metrics = coco_metrics(samples, detections, classes)
    stats, per_class = pycocotools_metrics(samples, detections, classes)
    ours = [-1.0 if metrics[name] is None else metrics[name] for name in SUMMARY]
    np.testing.assert_allclose(ours, stats, rtol=0, atol=1e-9)
    rows = [metrics["per_class"][name]["ap"] for name in classes]
    rows = [-1.0 if row is None else row for row in rows]
    np.testing.assert_allclose(rows, per_class, rtol=0, atol=1e-9)
    return metrics


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools_on_random_cases(random_case, seed):
    metrics = assert_equal_to_pycocotools(*random_case(seed))
    assert 0.02 < metrics["ap"] < 0.98
    assert metrics["per_class"]["never"]["ap"] is None


def test_equals_pycocotools_on_real_gt(bccd_val, perturbed):
    samples, classes = bccd_val
    rng = np.random.default_rng(0)
    detections = [perturbed(sample, classes, rng, 150) for sample in samples]
    metrics = assert_equal_to_pycocotools(samples, detections, classes)
    assert sum(len(sample.class_ids) for sample in samples) == 1137
    assert metrics["ap"] > 0.2


def test_more_than_a_hundred_of_a_class_in_a_image(make_sample, perturbed):
    sample = make_sample([[10, 10, 60, 60], [20, 30, 90, 80]], [0, 0])
    found = perturbed(sample, ("a",), np.random.default_rng(1), 400)
    assert_equal_to_pycocotools([sample], [found], ("a",))


def test_perfect_detections_score_one(make_sample, make_found):
    sample = make_sample([[10, 10, 20, 20], [40, 40, 90, 90]], [0, 1])
    found = make_found(sample.boxes_xyxy, [0, 1], [0.9, 0.8], ("a", "b"))
    metrics = coco_metrics([sample], [found], ("a", "b"))
    assert metrics["ap"] == metrics["ap50"] == metrics["ar_100"] == 1.0
    assert metrics["ap_small"] == metrics["ap_medium"] == 1.0
    assert metrics["ap_large"] is None


def test_a_detection_of_a_difficult_gt_is_not_wrong(make_sample, make_found):
    boxes = [[10, 10, 30, 30], [50, 50, 90, 90]]
    found = make_found(boxes[::-1], [0, 0], [0.9, 0.8], ("a",))
    easy = coco_metrics([make_sample(boxes[:1], [0])], [found], ("a",))
    spared = coco_metrics([make_sample(boxes, [0, 0], difficult=[0, 1])], [found], ("a",))
    assert easy["ap"] == pytest.approx(0.5)
    assert spared["ap"] == pytest.approx(1.0)


def test_nothing_found_is_zero_and_nothing_to_find_is_none(make_sample):
    nothing = Detections.empty(("a",), (100, 100))
    assert coco_metrics([make_sample([[1, 1, 5, 5]], [0])], [nothing], ("a",))["ap"] == 0.0
    assert coco_metrics([make_sample([], [])], [nothing], ("a",))["ap"] is None
    assert coco_metrics([], [], ("a",))["per_class"] == {
        "a": {"ap": None, "ap50": None, "ap75": None, "ar_100": None}
    }


def test_prints_and_logs_nothing(random_case, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    metrics = coco_metrics(*random_case(0, images=3))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    json.dumps(metrics, allow_nan=False)
