"""Milliseconds from a JPEG file to its detections in eager PyTorch: attendet and a baseline.

    .venv/bin/python benchmarks/prediction_latency.py ../shared/data/bccd

Both take every image one after the other in one process, in an order that reverses each time,
so that other load on the machine affects both. The baseline is seed_baseline.py. Both run
YOLOv4-tiny with Coordinate Attention. Where weights are random (the baseline's are, attendet's are
unless --weights) the confidence is set so that about --boxes-before-nms boxes an image pass it, as
with a trained network.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from candidates import describe_machine, warn_of_load
from seed_baseline import SeedNetwork, SeedPredictor

import attendet
from attendet.data import load_dataset
from attendet.models import WeightsMetadata, build_from_metadata, save_weights

OURS, BASELINE = "attendet", "seed baseline"


def random_weights(path: Path, classes: tuple[str, ...], size: int) -> Path:
    """Write a weights file of the reference network as it is before training."""
    metadata = WeightsMetadata(classes=classes, attention="ca", input_hw=(size, size))
    return save_weights(path, build_from_metadata(metadata), metadata)


def confidence_that_passes(boxes_before_nms, scores):
    """Return the score that this many boxes per image reach, from all scores of each image."""
    pooled = np.sort(np.concatenate(scores))[::-1]
    return float(pooled[min(boxes_before_nms * len(scores), len(pooled)) - 1])


def load_ours(args, classes, examples):
    """Return the detector."""
    if args.weights:
        detector = attendet.load(args.weights, device="cpu")
        return attendet.inference.Detector(
            detector.runtime, args.confidence, input_hw=(args.size, args.size)
        )
    with tempfile.TemporaryDirectory() as folder:
        file = random_weights(Path(folder) / "random.safetensors", classes, args.size)
        detector = attendet.load(file, device="cpu")
    every = {"confidence": 0.0, "nms_iou": 1.0, "max_detections": 3000}
    scores = [detector.predict(example, **every).scores for example in examples]
    confidence = confidence_that_passes(args.boxes_before_nms, scores)
    return attendet.inference.Detector(detector.runtime, confidence)


def load_baseline(args, classes, examples):
    """Return the baseline's predictor, with random weights: it cannot read weights files."""
    predictor = SeedPredictor(SeedNetwork(len(classes)), size=args.size, confidence=0.0, iou=1.0)
    scores = [predictor.predict(example)[:, 4] for example in examples]
    predictor.confidence, predictor.iou = confidence_that_passes(args.boxes_before_nms, scores), 0.3
    return predictor


def measure(candidates, files, rounds):
    """Return name -> milliseconds of every prediction, and name -> detections in all."""
    times = {name: [] for name in candidates}
    found = dict.fromkeys(candidates, 0)
    for predictor in candidates.values():
        for file in files[:5]:
            predictor.predict(file)
    for repeat in range(rounds):
        for number, file in enumerate(files):
            order = list(candidates.items())
            for name, predictor in order if (repeat + number) % 2 else order[::-1]:
                begun = time.perf_counter()
                detections = predictor.predict(file)
                times[name].append((time.perf_counter() - begun) * 1e3)
                found[name] += len(detections)
    return times, found


def summarize(times, found):
    """Return the figures of the table."""
    table = {}
    for name, values in times.items():
        low, median, high = np.percentile(values, (10, 50, 90))
        table[name] = {
            "median_ms": round(float(median), 2),
            "p10_ms": round(float(low), 2),
            "p90_ms": round(float(high), 2),
            "detections_a_image": round(found[name] / len(values), 1),
        }
    pairs = [ours / theirs for ours, theirs in zip(times[OURS], times[BASELINE], strict=True)]
    table[OURS]["ratio_to_baseline"] = round(
        table[OURS]["median_ms"] / table[BASELINE]["median_ms"], 3
    )
    table[OURS]["ratio_image_by_image"] = round(statistics.median(pairs), 3)
    return table


def print_table(table):
    """Print the figures as Markdown."""
    print("| path | median, ms | 10 % to 90 %, ms | detections an image | ratio to baseline |")
    print("|---|--:|--:|--:|--:|")
    for name, row in table.items():
        ratio = row.get("ratio_to_baseline")
        print(
            f"| {name} | {row['median_ms']:.1f} | {row['p10_ms']:.1f} to {row['p90_ms']:.1f} "
            f"| {row['detections_a_image']:.1f} "
            f"| {'' if ratio is None else f'{100 * ratio:.1f} %'} |"
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", help="data set in any form that attendet reads")
    add("--split", default="test", help="whose images (default test)")
    add(
        "--size", type=int, default=416, help="long side of the network input, pixels (default 416)"
    )
    add("--rounds", type=int, default=6, help="times through the images (default 6)")
    add("--images", type=int, help="only this number of images, for a trial")
    add("--threads", type=int, default=0, help="of PyTorch (default: as it chooses)")
    add("--weights", type=Path, metavar="FILE", help="attendet's weights (default: random)")
    add("--confidence", type=float, default=0.25, help="with --weights (default 0.25)")
    add("--boxes-before-nms", type=int, default=40, help="boxes before suppression (default 40)")
    add("--output", type=Path, default=Path("runs/prediction-latency.json"), metavar="FILE")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    machine = describe_machine()
    warn_of_load(machine)
    begun = time.perf_counter()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dataset = load_dataset(args.data)
    files = [sample.path for sample in dataset.split(args.split)[: args.images]]
    candidates = {
        OURS: load_ours(args, dataset.classes, files[:5]),
        BASELINE: load_baseline(args, dataset.classes, files[:5]),
    }
    times, found = measure(candidates, files, args.rounds)
    table = summarize(times, found)
    print_table(table)
    record = {
        "machine": {**machine, "torch": torch.__version__, "threads": torch.get_num_threads()},
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "seconds": round(time.perf_counter() - begun, 1),
        "table": table,
        "milliseconds": {name: [round(v, 2) for v in values] for name, values in times.items()},
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{record['seconds']:.0f} s; {args.output}")


if __name__ == "__main__":
    main()
