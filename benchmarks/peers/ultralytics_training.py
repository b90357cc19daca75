"""Ultralytics' training as a candidate of training_throughput.py, which starts it.

Runs in the environment of benchmarks/peers.sh. Its default recipe as it comes; validation, plots
and everything that talks to the network are off. No weights are loaded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from candidates import Rounds

INTEGRATIONS = ("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb")


def go_offline(folder: Path):
    """Keep settings and files in a folder, and keep off the network."""
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ["YOLO_CONFIG_DIR"] = str(folder)
    import matplotlib
    from ultralytics import settings
    from ultralytics.utils import USER_CONFIG_DIR

    settings.update({"sync": False, **dict.fromkeys(INTEGRATIONS, False)})
    settings.update({name: str(folder) for name in ("datasets_dir", "weights_dir", "runs_dir")})
    # It would download a font to write on plots with, even if there are none.
    font = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    shutil.copy(font, Path(USER_CONFIG_DIR) / "Arial.ttf")


class Gate:
    """Runs one epoch per round, with Ultralytics' own callbacks."""

    def __init__(self, rounds, threads):
        self.rounds, self.threads = rounds, threads

    def on_train_start(self, trainer):  # noqa: ARG002
        if self.threads:
            import torch

            torch.set_num_threads(self.threads)
        self.rounds.wait()

    def on_train_epoch_start(self, trainer):
        self.left = len(trainer.train_loader.dataset)
        self.rounds.begin_epoch()

    def on_train_batch_end(self, trainer):
        done = min(trainer.batch_size, self.left)
        self.left -= done
        self.rounds.end_step(done)

    def on_train_epoch_end(self, trainer):  # noqa: ARG002
        import torch

        self.rounds.end_epoch(threads=torch.get_num_threads())
        self.rounds.wait()


EVENTS = ("on_train_start", "on_train_epoch_start", "on_train_batch_end", "on_train_epoch_end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="data.yaml")
    parser.add_argument("--model", default="yolo11n.yaml")
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--accelerator", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: as it chooses")
    args = parser.parse_args()
    rounds = Rounds()  # before anything is imported that prints
    with tempfile.TemporaryDirectory() as folder:
        go_offline(Path(folder))
        from ultralytics import YOLO

        gate = Gate(rounds, args.threads)
        model = YOLO(args.model)
        for event in EVENTS:
            model.add_callback(event, getattr(gate, event))
        model.train(
            data=args.data,
            imgsz=args.size,
            batch=args.batch,
            epochs=1000,
            device="cpu" if args.accelerator == "cpu" else 0,
            val=False,
            plots=False,
            project=folder,
            name="run",
        )


if __name__ == "__main__":
    main()
