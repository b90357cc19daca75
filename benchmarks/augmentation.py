"""Time of augmented batches, in ms an image: wall clock, and the calling thread's CPU time.

    python benchmarks/augmentation.py ../shared/data/bccd --size 416 --batch 16

Median over the batches. Where other work runs on the machine, read the CPU time. `gather` is the
accelerators' renderer run on the CPU, which is why the CPU has one of its own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from attendet.data import AugmentConfig, Augmenter, Batch, ImageCache, load_dataset
from attendet.data.augment_render import DeviceRenderer


def median_ms(make: Callable[[int], Batch], batches: int) -> tuple[float, float]:
    """Return wall and CPU time of a batch, ms."""
    make(0)
    wall, cpu = [], []
    for step in range(batches):
        started, thread_started = time.perf_counter(), time.thread_time()
        if make(step).images.is_cuda:
            torch.cuda.synchronize()
        wall.append(time.perf_counter() - started)
        cpu.append(time.thread_time() - thread_started)
    return statistics.median(wall) * 1e3, statistics.median(cpu) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    started = time.perf_counter()
    samples = load_dataset(args.data).split("train")
    loaded = time.perf_counter()
    cache = ImageCache(samples, (args.size, args.size))
    print(f"load {loaded - started:.2f} s, cache {time.perf_counter() - loaded:.2f} s")
    print(f"{len(cache)} images, {cache.images.nbytes / 2**20:.0f} MiB, batch {args.batch}")

    settings = AugmentConfig(mixup=0.1)
    augmenter = Augmenter(cache, settings, device=args.device, seed=0)
    gather = Augmenter(cache, settings, device=args.device, seed=0)
    gather._renderer = DeviceRenderer(cache.images, torch.device(args.device))

    def indices(step: int) -> list[int]:
        return [(step * args.batch + row) % len(cache) for row in range(args.batch)]

    small = (args.size * 3 // 4, args.size * 3 // 4)
    cases: dict[str, tuple[Callable[[int], Batch], int]] = {
        "mosaic + affine + color + mix-up 0.1": (
            lambda step: augmenter.batch(indices(step), epoch=0, step=step),
            args.batches,
        ),
        "the same, three quarters of the size": (
            lambda step: augmenter.batch(indices(step), epoch=0, step=step, input_hw=small),
            args.batches,
        ),
        "affine + color": (
            lambda step: augmenter.batch(indices(step), epoch=0, step=step, mosaic_on=False),
            args.batches,
        ),
        "gather": (lambda step: gather.batch(indices(step), epoch=0, step=step), 2),
    }
    for name, (make, batches) in cases.items():
        wall, cpu = median_ms(make, batches)
        print(f"{name:40s} {wall / args.batch:7.2f} wall {cpu / args.batch:7.2f} CPU")


if __name__ == "__main__":
    main()
