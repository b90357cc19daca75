"""Seconds that the metrics of a data set take beyond inference.

    python benchmarks/evaluation_time.py ../shared/data/bccd --split val

Detections are made up: ground truth moved by a few pixels, some of the wrong class, scores at
random.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from attendet.data import load_dataset
from attendet.detections import Detections
from attendet.evaluation import compute_metrics


def made_up(sample, classes, rng, count):
    """Return `count` detections near the ground truth of a sample."""
    near = rng.integers(max(1, len(sample.class_ids)), size=count)
    gt = sample.boxes_xyxy if len(sample.class_ids) else np.array([[0, 0, 9, 9]], np.float32)
    ids = sample.class_ids if len(sample.class_ids) else np.zeros(1, dtype=np.int64)
    boxes_xyxy = gt[near] + rng.normal(0, 8, (count, 4)).astype(np.float32)
    boxes_xyxy[:, 2:] = np.maximum(boxes_xyxy[:, 2:], boxes_xyxy[:, :2] + 1)
    wrong = rng.random(count) < 0.1
    return Detections(
        boxes_xyxy,
        np.sort(rng.random(count).astype(np.float32))[::-1],
        np.where(wrong, rng.integers(len(classes), size=count), ids[near]),
        tuple(classes),
        sample.image_hw,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--split", default="val")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    data = load_dataset(args.data)
    samples = data.split(args.split)
    gts = sum(len(sample.class_ids) for sample in samples)
    print(f"{len(samples)} images, {gts} ground truth; best and median of {args.rounds} rounds")
    rng = np.random.default_rng(0)
    for count in (20, 100, 300):
        detections = [made_up(sample, data.classes, rng, count) for sample in samples]
        seconds = []
        for _ in range(args.rounds):
            begun = time.perf_counter()
            compute_metrics(samples, detections, data.classes)
            seconds.append(time.perf_counter() - begun)
        print(f"{count:4d} detections an image: {min(seconds):.3f} s, {np.median(seconds):.3f} s")


if __name__ == "__main__":
    main()
