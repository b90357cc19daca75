"""Gain of each optimization of a CPU training step.

    python benchmarks/training_step.py --rounds 5

Four variants of the same step (YOLOv4-tiny with CA at the neck, float32) run alternately, each in a
process of its own: as it comes, with freed memory kept, with mixed layouts, with both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

VARIANTS = {
    "plain": (False, False),
    "memory": (True, False),
    "layouts": (False, True),
    "both": (True, True),
}


def measure(variant: str, threads: int, batch: int, steps: int) -> list[float]:
    """Return the seconds of each step of one variant in this process."""
    import torch

    from attendet.losses import DetectionLoss
    from attendet.models import STRIDES, build
    from attendet.system import keep_freed_memory
    from attendet.training.cpu import mix_layouts

    memory, layouts = VARIANTS[variant]
    if memory:
        keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = build(classes=["a", "b", "c"], attention="ca", scale_x_y=2.0)
    network = network.to(memory_format=torch.channels_last).train()
    if layouts:
        mix_layouts(network)
    criterion = DetectionLoss(network.level_anchors, STRIDES, 2.0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    images = torch.rand(batch, 3, 320, 416).contiguous(memory_format=torch.channels_last)
    corner = torch.rand(batch, 20, 2) * 250
    boxes = torch.cat([corner, corner + 20 + 40 * torch.rand(batch, 20, 2)], dim=-1)
    class_ids = torch.randint(0, 3, (batch, 20))
    valid = torch.ones(batch, 20, dtype=torch.bool)
    seconds = []
    for _ in range(steps + 1):
        begun = time.perf_counter()
        terms = criterion(network(images), (boxes, class_ids, valid))
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - begun)
    return seconds[1:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps a round and variant")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variant", choices=list(VARIANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args.variant, args.threads, args.batch, args.steps)))
        return
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(args.rounds):
        for name in VARIANTS:
            command = [sys.executable, __file__, "--variant", name, "--steps", str(args.steps)]
            command += ["--batch", str(args.batch), "--threads", str(args.threads)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds[name] += json.loads(done.stdout.splitlines()[-1])
    plain = statistics.median(seconds["plain"])
    print(f"{'variant':<10}{'images/s':>12}{'speed-up':>10}{'least..most seconds':>24}")
    for name, values in seconds.items():
        middle = statistics.median(values)
        spread = f"{min(values):.2f}..{max(values):.2f}"
        print(f"{name:<10}{args.batch / middle:>12.2f}{plain / middle:>10.2f}{spread:>24}")


if __name__ == "__main__":
    main()
