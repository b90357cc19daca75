"""AP on the test split after training on a part of the training images.

    python benchmarks/fine_tuning.py DATA/boards --fraction 0.25 --pretrained yolo-fastest-xl
    python benchmarks/fine_tuning.py DATA/boards --set model=yolov4-tiny-s epochs=60 batch=8

Every part of a fraction holds the same images for every seed and setting. The weights of the last
epoch are measured, so that nothing is chosen by the validation split. One line of JSON a run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import yaml
from candidates import describe_machine

from attendet.data import DataSet, load_dataset
from attendet.evaluation import evaluate
from attendet.inference import load
from attendet.training import train


def part_of(dataset: DataSet, fraction: float) -> DataSet:
    """Return the set with a fraction of its training images."""
    images = dataset.split("train")
    order = np.random.default_rng(0).permutation(len(images))
    chosen = sorted(order[: max(1, round(fraction * len(images)))])
    splits = {**dataset.splits, "train": tuple(images[index] for index in chosen)}
    return dataclasses.replace(dataset, splits=splits)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--fraction", type=float, default=1.0, help="of the training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--pretrained", help="weights file, or a name of: attendet weights list")
    parser.add_argument("--recipe", help="default: fine-tune with --pretrained, else default")
    parser.add_argument("--output", type=Path, help="keep the run folders here, as DATA-SEED")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", dest="changes")
    args = parser.parse_args()
    changes = {
        name: yaml.safe_load(value) for name, value in (one.split("=") for one in args.changes)
    }
    print(json.dumps({"machine": describe_machine()}))
    for path in args.data:
        dataset = part_of(load_dataset(path), args.fraction)
        samples = dataset.split("test")
        for seed in args.seeds:
            with TemporaryDirectory() as folder:
                result = train(
                    dataset,
                    recipe=args.recipe,
                    pretrained=args.pretrained,
                    seed=seed,
                    output=(args.output or Path(folder)) / f"{path.name}-{seed}",
                    **changes,
                )
                detector = load(result.last)
                record = evaluate(detector, samples, classes=detector.classes)
            line = {
                "data": path.name,
                "images": len(dataset.split("train")),
                "seed": seed,
                "epochs": result.epochs,
                "seconds": round(result.seconds),
                "ap": round(record["ap"], 4),
                "ap50": round(record["ap50"], 4),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
