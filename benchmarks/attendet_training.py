"""attendet's own training as a candidate of training_throughput.py, which starts it.

The image size is the full one from the first epoch on, in every recipe.
"""

from __future__ import annotations

import argparse
import resource
import tempfile

from candidates import Rounds

from attendet import train
from attendet.training.callback import TrainingCallback


class RoundCallback(TrainingCallback):
    """Runs one epoch per round; called by the training loop at every step."""

    def __init__(self, batch, images):
        self.rounds = Rounds()
        self.batch, self.images = batch, images
        self.input_hw = None

    def before_train(self, plan, folder):  # noqa: ARG002
        self.input_hw = plan.input_hw
        self.images = len(plan.cache)
        self._await_round()

    def after_step(self, epoch, step, steps, losses):  # noqa: ARG002
        # The last batch is filled with repeated images; each image counts once, as with the others.
        self.rounds.end_step(min(self.batch, self.images - step * self.batch))

    def after_epoch(self, record):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.rounds.end_epoch(
            overhead_fraction=record["overhead_fraction"],
            process_memory_mib=round(peak),
            input_hw=self.input_hw,
        )
        self._await_round()

    def _await_round(self):
        self.rounds.wait()
        self.rounds.begin_epoch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--resize", choices=("rect", "letterbox"), required=True)
    parser.add_argument("--attention", default="ca")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--cuda-graphs", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        train(
            args.data,
            attention=args.attention,
            recipe=args.recipe,
            output=f"{folder}/run",
            callback=RoundCallback(args.batch, 0),
            resize=args.resize,
            size=args.size,
            batch=args.batch,
            epochs=1000,
            evaluate_every=1000,
            start_size_fraction=1.0,
            multi_scale=0.0,
            accelerator=args.accelerator,
            cuda_graphs=args.cuda_graphs,
        )


if __name__ == "__main__":
    main()
