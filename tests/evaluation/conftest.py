"""Ground truth and made-up detections for the evaluation tests."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attendet.data.sample import Sample
from attendet.detections import Detections

BCCD_CLASSES = ("RBC", "WBC", "Platelets")


def _sample(boxes, class_ids, *, difficult=None, image_hw=(100, 100), key="a", path="a.png"):
    boxes_xyxy = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    ids = np.asarray(class_ids, dtype=np.int64)
    flags = np.zeros(len(ids), dtype=bool) if difficult is None else np.asarray(difficult, bool)
    return Sample(Path(path), image_hw, boxes_xyxy, ids, flags, key)


def _found(boxes, class_ids, scores, classes, image_hw=(100, 100)):
    order = np.argsort(-np.asarray(scores, dtype=np.float32), kind="stable")
    return Detections(
        np.asarray(boxes, dtype=np.float32).reshape(-1, 4)[order],
        np.asarray(scores, dtype=np.float32)[order],
        np.asarray(class_ids, dtype=np.int64)[order],
        tuple(classes),
        image_hw,
    )


def _perturbed(sample, classes, rng, count):
    """Return detections near the ground truth with some wrong classes, and some anywhere."""
    height, width = sample.image_hw
    if len(sample.class_ids):
        near = rng.integers(len(sample.class_ids), size=count)
        boxes = sample.boxes_xyxy[near] + rng.normal(0, 6, (count, 4))
        right = rng.random(count) < 0.9
        ids = np.where(right, sample.class_ids[near], rng.integers(len(classes), size=count))
    else:
        boxes = rng.random((count, 4)) * [width, height, width, height]
        ids = rng.integers(len(classes), size=count)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    scores = (rng.random(count) * 200).round() / 200  # equal scores happen
    return _found(boxes, ids, scores, classes, sample.image_hw)


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    return _sample


@pytest.fixture
def make_found() -> Callable[..., Detections]:
    return _found


@pytest.fixture
def perturbed() -> Callable[..., Detections]:
    return _perturbed


@pytest.fixture
def random_case():
    """Random ground truth with difficult ones, empty images and a class without ground truth."""

    def build(seed, images=30, classes=("a", "b", "c", "never")):
        rng = np.random.default_rng(seed)
        samples, detections = [], []
        for index in range(images):
            count = int(rng.integers(0, 9))
            corner = rng.random((count, 2)) * 300
            size = rng.choice([12, 50, 150], size=(count, 1)) * rng.uniform(0.7, 1.4, (count, 2))
            sample = _sample(
                np.concatenate([corner, corner + size], axis=1),
                rng.integers(3, size=count),
                difficult=rng.random(count) < 0.15,
                image_hw=(400, 400),
                key=str(index),
            )
            samples.append(sample)
            detections.append(_perturbed(sample, classes, rng, int(rng.integers(0, 260))))
        return samples, detections, classes

    return build


@pytest.fixture(scope="session")
def bccd_val(shared_data):
    """The ground truth of the 87 validation images of BCCD, not read by the package's own code."""
    root = shared_data / "bccd"
    samples = []
    for key in (root / "ImageSets/Main/val.txt").read_text().split():
        objects = list(ET.parse(root / "Annotations" / f"{key}.xml").iter("object"))
        ids = [BCCD_CLASSES.index(entry.findtext("name")) for entry in objects]
        sides = ("xmin", "ymin", "xmax", "ymax")
        boxes = [[float(entry.findtext(f"bndbox/{side}")) for side in sides] for entry in objects]
        whole = [box[0] < box[2] and box[1] < box[3] for box in boxes]
        boxes = [box for box, good in zip(boxes, whole, strict=True) if good]
        ids = [class_id for class_id, good in zip(ids, whole, strict=True) if good]
        path = root / "JPEGImages" / f"{key}.jpg"
        samples.append(_sample(boxes, ids, image_hw=(480, 640), key=key, path=path))
    return samples, BCCD_CLASSES
