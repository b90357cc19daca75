"""attendet, or the baseline, as a candidate of peers.py.

Measures each image from its file to its detections, a number of images per round.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from pathlib import Path

from candidates import Rounds


def passing_confidence(boxes_before_nms, scores):
    """Return the score that this many boxes per image reach, from all scores of each image."""
    pooled = sorted(itertools.chain.from_iterable(scores), reverse=True)
    return float(pooled[min(boxes_before_nms * len(scores), len(pooled)) - 1]) * (1 - 1e-6)


def load_ours(args, examples):
    """Return the function that predicts a file."""
    import attendet

    runtime = attendet.load(args.weights, args.runtime, "cpu", threads=args.threads or None).runtime
    if args.network_input == "letterbox":
        preprocess = {**runtime.metadata.preprocess, "resize": "letterbox"}
        runtime.metadata = dataclasses.replace(runtime.metadata, preprocess=preprocess)
    size = (args.size, args.size) if args.resize else None
    detector = attendet.Detector(runtime, input_hw=size)
    confidence = args.confidence
    if confidence is None:
        every = {"confidence": detector.min_confidence, "nms_iou": 1.0, "max_detections": 3000}
        scores = [detector.predict(example, **every).scores for example in examples]
        confidence = passing_confidence(args.boxes_before_nms, scores)
    return attendet.Detector(runtime, confidence, 0.5, input_hw=size).predict


def load_baseline(args, examples):
    """Return the prediction function of the baseline, with random weights."""
    import torch
    from seed_baseline import SeedNetwork, SeedPredictor

    torch.manual_seed(0)
    if args.threads:
        torch.set_num_threads(args.threads)
    predictor = SeedPredictor(SeedNetwork(args.classes), args.size, confidence=0.0, iou=1.0)
    scores = [predictor.predict(example)[:, 4].tolist() for example in examples]
    predictor.confidence, predictor.iou = passing_confidence(args.boxes_before_nms, scores), 0.5
    return predictor.predict


def run_rounds(rounds, predict, files, images):
    """Measure this number of images per round until the end."""
    for file in files[:3]:
        predict(file)
    remaining = itertools.cycle(files)
    while True:
        rounds.wait()
        rounds.begin_epoch()
        found = 0
        for _ in range(images):
            file = next(remaining)
            begun = time.perf_counter()
            detections = predict(file)
            rounds.end_step(time.perf_counter() - begun)
            found += len(detections)
        rounds.end_epoch(detections=found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("files", type=Path, help="JSON list of image files")
    add("--weights", type=Path, help="a file of attendet; without one the baseline runs")
    add("--runtime", default="auto")
    add("--network-input", choices=["rect", "letterbox"], default="rect")
    add("--size", type=int, default=416)
    add("--resize", action="store_true", help="run the weights at --size, not at their own size")
    add("--confidence", type=float, help="lowest score (default: so that --boxes-before-nms pass)")
    add("--boxes-before-nms", type=int, default=40)
    add("--classes", type=int, default=3, help="of the baseline")
    add("--threads", type=int, default=0)
    add("--images", type=int, default=10, help="per round")
    args = parser.parse_args()
    rounds = Rounds()  # before anything is imported that prints
    files = json.loads(args.files.read_text())
    predict = (load_ours if args.weights else load_baseline)(args, files[:5])
    run_rounds(rounds, predict, files, args.images)


if __name__ == "__main__":
    main()
