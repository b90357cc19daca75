"""attendet, or the baseline that stands for the usual project, as a contender of peers.py.

It times each picture from its file to its detections, so many pictures a turn.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from pathlib import Path

from turns import Turns


class OnSquare:
    """A runtime whose pictures are letterboxed into the whole square, as peers do it."""

    def __init__(self, runtime):
        self._runtime = runtime
        preprocess = {**runtime.metadata.preprocess, "fit": "square"}
        self.metadata = dataclasses.replace(runtime.metadata, preprocess=preprocess)
        self.run = runtime.run


def passing_confidence(candidates, scores):
    """Return the score that so many boxes a picture reach, given all scores of each picture."""
    pooled = sorted(itertools.chain.from_iterable(scores), reverse=True)
    return float(pooled[min(candidates * len(scores), len(pooled)) - 1]) * (1 - 1e-6)


def load_ours(args, examples):
    """Return what predicts a file."""
    import attendet

    runtime = attendet.load(args.weights, args.runtime, "cpu", threads=args.threads or None).runtime
    if args.canvas == "square":
        runtime = OnSquare(runtime)
    size = (args.size, args.size) if args.resize else None
    detector = attendet.Detector(runtime, input_hw=size)
    confidence = args.confidence
    if confidence is None:
        every = {"confidence": detector.least_confidence, "iou": 1.0, "max_detections": 3000}
        scores = [detector.predict(example, **every).scores for example in examples]
        confidence = passing_confidence(args.candidates, scores)
    return attendet.Detector(runtime, confidence, 0.5, input_hw=size).predict


def load_usual(args, examples):
    """Return the baseline's prediction of a file; its weights are random."""
    import torch
    from seed_baseline import SeedNetwork, SeedPredictor

    torch.manual_seed(0)
    if args.threads:
        torch.set_num_threads(args.threads)
    predictor = SeedPredictor(SeedNetwork(args.classes), args.size, confidence=0.0, iou=1.0)
    scores = [predictor.predict(example)[:, 4].tolist() for example in examples]
    predictor.confidence, predictor.iou = passing_confidence(args.candidates, scores), 0.5
    return predictor.predict


def take_turns(turns, predict, files, pictures):
    """Time so many pictures each turn, until ended."""
    for file in files[:3]:
        predict(file)
    remaining = itertools.cycle(files)
    while True:
        turns.wait()
        turns.begin_epoch()
        found = 0
        for _ in range(pictures):
            file = next(remaining)
            begun = time.perf_counter()
            detections = predict(file)
            turns.end_step(time.perf_counter() - begun)
            found += len(detections)
        turns.end_epoch(detections=found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("files", type=Path, help="JSON list of picture files")
    add("--weights", type=Path, help="a file of attendet; without one the baseline runs")
    add("--runtime", default="auto")
    add("--canvas", choices=["rect", "square"], default="rect")
    add("--size", type=int, default=416)
    add("--resize", action="store_true", help="run the weights at --size, not at their own size")
    add("--confidence", type=float, help="lowest score (default: so that --candidates pass)")
    add("--candidates", type=int, default=40)
    add("--classes", type=int, default=3, help="of the baseline")
    add("--threads", type=int, default=0)
    add("--pictures", type=int, default=10, help="a turn")
    args = parser.parse_args()
    turns = Turns()  # before anything is imported that prints
    files = json.loads(args.files.read_text())
    predict = (load_ours if args.weights else load_usual)(args, files[:5])
    take_turns(turns, predict, files, args.pictures)


if __name__ == "__main__":
    main()
