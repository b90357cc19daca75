from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attendet.detections import Detections
from attendet.errors import ConfigError, ImageError
from attendet.evaluation import compute_metrics, detect, evaluate
from attendet.inference.stream import NetworkInput


class PixelDetector:
    """Finds the one bright box that a test image holds; remembers how it was asked."""

    min_confidence = 0.0

    def __init__(self, classes=("a", "b")):
        self.classes = classes
        self.batches: list[int] = []
        self.settings: dict = {}
        self.read = 0

    def select(self, **settings):
        self.settings = settings

    def preprocess(self, image):
        self.read += 1
        return NetworkInput(image, image, None)

    def predict_inputs(self, network_inputs, selection):
        self.batches.append(len(network_inputs))
        return [self._look(one.padded) for one in network_inputs]

    def _look(self, image):
        rows, columns = np.nonzero(image[..., 0] > 128)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return Detections(
            np.array([box], dtype=np.float32),
            np.array([0.9], dtype=np.float32),
            np.array([self.classes.index("a")]),
            self.classes,
            image.shape[:2],
        )


@pytest.fixture
def bright_boxes(tmp_path, make_sample):
    samples = []
    for index in range(5):
        image = np.zeros((40, 60, 3), dtype=np.uint8)
        image[5 + index : 20, 10 : 30 + index] = 255
        path = tmp_path / f"{index}.png"
        Image.fromarray(image).save(path)
        box = [10, 5 + index, 30 + index, 20]
        samples.append(make_sample([box], [0], image_hw=(40, 60), key=str(index), path=path))
    return samples


def test_evaluate_asks_in_batches_and_scores_the_answers(bright_boxes):
    detector, steps = PixelDetector(), []
    record = evaluate(
        detector,
        bright_boxes,
        classes=("a", "b"),
        batch=2,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert record["ap"] == 1.0
    assert record["per_class"]["b"]["ap"] is None
    assert detector.batches == [2, 2, 1]
    assert detector.settings == {
        "confidence": 0.001,
        "nms_iou": None,
        "max_detections": None,
        "multi_label": True,
    }
    assert steps == [(2, 5), (4, 5), (5, 5)]
    assert set(record["seconds"]) == {"inference", "metrics"}
    assert record["counts"] == {
        "images": 5,
        "images_unreadable": 0,
        "images_without_gt": 0,
        "gt": 5,
        "difficult": 0,
        "detections": 5,
    }


def test_a_file_with_suppression_is_asked_for_all_it_has(bright_boxes):
    detector = PixelDetector()
    detector.min_confidence = 0.25
    detect(detector, bright_boxes)
    assert detector.settings["confidence"] == 0.25
    detect(detector, bright_boxes, confidence=0.5, max_detections=9)
    assert (detector.settings["confidence"], detector.settings["max_detections"]) == (0.5, 9)


def test_inputs_that_are_kept_are_read_once(bright_boxes):
    detector, kept = PixelDetector(), {}
    first = detect(detector, bright_boxes, batch=2, kept=kept)
    again = detect(detector, bright_boxes, batch=3, kept=kept)
    assert detector.read == len(kept) == 5
    assert detector.batches == [2, 2, 1, 3, 2]
    for one, other in zip(first, again, strict=True):
        assert one.boxes_xyxy.tolist() == other.boxes_xyxy.tolist()


def test_classes_in_another_order_are_matched_by_name(bright_boxes):
    record = evaluate(PixelDetector(("b", "a")), bright_boxes, classes=("a", "b"))
    assert record["ap"] == 1.0


def test_classes_that_the_detector_alone_knows_have_no_average(bright_boxes):
    record = evaluate(PixelDetector(("c", "b", "a")), bright_boxes, classes=("a", "b"))

    assert record["ap"] == 1.0
    assert {name: row["gt"] for name, row in record["per_class"].items()} == {
        "c": 0,
        "b": 0,
        "a": 5,
    }
    assert record["per_class"]["c"]["ap"] is None


def test_an_image_that_cannot_be_read_is_skipped_and_reported(bright_boxes):
    whole = bright_boxes[1].path.read_bytes()
    bright_boxes[1].path.write_bytes(whole[: len(whole) // 2])
    skipped, steps = [], []
    ways = {"classes": ("a", "b"), "batch": 2}

    record = evaluate(
        PixelDetector(("a", "b")),
        bright_boxes,
        **ways,
        on_skip=lambda sample, error: skipped.append((sample, str(error))),
        progress=lambda done, total: steps.append((done, total)),
    )

    assert record["ap"] == 1.0
    assert (record["counts"]["images"], record["counts"]["images_unreadable"]) == (4, 1)
    assert [sample for sample, _ in skipped] == [bright_boxes[1]]
    assert str(bright_boxes[1].path) in skipped[0][1]
    assert steps == [(2, 5), (4, 5), (5, 5)]
    with pytest.raises(ImageError):
        evaluate(PixelDetector(("a", "b")), bright_boxes, **ways)


def test_with_no_image_left_there_is_no_record(bright_boxes):
    for sample in bright_boxes:
        sample.path.write_bytes(b"no image")

    with pytest.raises(ImageError):
        evaluate(PixelDetector(("a", "b")), bright_boxes, classes=("a",), on_skip=lambda *_: None)


def test_classes_with_other_names_are_an_error(bright_boxes):
    with pytest.raises(ConfigError, match="only in the data: 'b'; only in the weights: 'c'"):
        evaluate(PixelDetector(("a", "c")), bright_boxes, classes=("a", "b"))


def test_a_missing_image_is_named(bright_boxes):
    bright_boxes[3].path.unlink()
    with pytest.raises(ImageError, match=r"3\.png"):
        evaluate(PixelDetector(), bright_boxes, classes=("a", "b"), batch=2)


def test_a_batch_of_none_is_an_error(bright_boxes):
    with pytest.raises(ConfigError, match="batch must be at least 1; got 0"):
        evaluate(PixelDetector(), bright_boxes, classes=("a", "b"), batch=0)


def test_record_is_json_with_the_declared_keys(random_case):
    samples, detections, classes = random_case(0, images=6)
    record = compute_metrics(samples, detections, classes)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    never = record["per_class"]["never"]
    page = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text("utf-8")
    documented = set(re.findall(r"`(\w+)`", page.split("## The record")[1].split("The file of")[0]))
    parts = [never, record["best_f1"], record["voc"], record["counts"], record["confusion"]]
    parts += [record["precision_recall"], *record["precision_recall"]["per_class"].values()]
    written = set(record).union(*parts) - {"a", "b", "c"}
    assert written - documented == set()
    assert documented - written == {"null", "None", "evaluate", "seconds", "inference", "metrics"}
    assert never["ap"] is never["voc_every_point"] is never["best_f1"] is None
    assert record["confusion"]["labels"] == [*classes, "background"]
    rows = [row for row in record["per_class"].values() if row["gt"]]
    mean = sum(row["voc_every_point"] for row in rows) / len(rows)
    assert record["voc"]["every_point"] == pytest.approx(mean)
    assert sum(row["difficult"] for row in rows) == record["counts"]["difficult"] > 0


def test_without_curves_the_record_is_short(random_case):
    record = compute_metrics(*random_case(0, images=2), curves=False)
    assert "precision_recall" not in record
    assert "confusion" not in record


def test_nothing_at_all_is_a_record_of_none():
    record = compute_metrics([], [], ("a",))
    assert record["ap"] is record["voc"]["every_point"] is record["best_f1"] is None
    assert record["counts"]["images"] == 0


def test_numbers_of_samples_and_detections_must_agree(make_sample):
    with pytest.raises(ConfigError, match=r"one entry per sample \(1\); got 0"):
        compute_metrics([make_sample([], [])], [], ("a",))


def test_importing_evaluation_imports_neither_torch_nor_the_evaluator():
    code = (
        "import sys, attendet.evaluation;"
        "print(sys.modules.keys() & {'torch', 'matplotlib', 'faster_coco_eval'} or 'none')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "none"


@pytest.mark.slow
def test_the_numbers_of_87_images_take_under_half_a_second(bccd_val, perturbed):
    """The bound is generous: `benchmarks/evaluation_time.py` measures it."""
    samples, classes = bccd_val
    rng = np.random.default_rng(0)
    detections = [perturbed(sample, classes, rng, 100) for sample in samples]
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        compute_metrics(samples, detections, classes)
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.5
