"""The first epochs of a whole training by Ultralytics, validation included, for training_whole.py.

Runs in the environment of benchmarks/peers.sh. Its default recipe for all `--epochs`, of which it
does `--stop-after`; plots and everything that talks to the network are off, no weights are loaded.
Prints, as JSON, the seconds from the start of the program to the end of each epoch.
"""

from __future__ import annotations

import time

BEGUN = time.perf_counter()  # before the imports, which are part of a run

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

from ultralytics_training import go_offline  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="data.yaml")
    parser.add_argument("--model", default="yolo11n.yaml")
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--stop-after", type=int, default=4)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    ends: list[float] = []

    def epoch_ended(trainer):  # noqa: ARG001
        ends.append(time.perf_counter() - BEGUN)
        if len(ends) == args.stop_after:
            json.dump({"epoch_ends": ends}, answers)
            answers.flush()
            sys.exit(0)

    with tempfile.TemporaryDirectory() as folder:
        go_offline(Path(folder))
        from ultralytics import YOLO

        model = YOLO(args.model)
        model.add_callback("on_fit_epoch_end", epoch_ended)
        model.train(
            data=args.data,
            imgsz=args.size,
            batch=args.batch,
            epochs=args.epochs,
            device="cpu",
            plots=False,
            project=folder,
            name="run",
        )


if __name__ == "__main__":
    main()
