"""Gain of each optimization of a CPU training step.

    python benchmarks/training_step.py --rounds 5
    python benchmarks/training_step.py --batch 8 --precision bf16 --weights yolo-fastest-xl

Variants of the same step (YOLOv4-tiny with CA at the neck, or a weights file) run alternately, each
in a process of its own: as it comes, with freed memory kept, with layers exchanged for ones that
train faster on this CPU and a fused optimizer, with both; of a weights file also with both and
frozen statistics.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

WARM_UP = 5  # steps before the first that counts: memory grows until then
VARIANTS = {
    "plain": (False, False, False),
    "memory": (True, False, False),
    "layers": (False, True, False),
    "both": (True, True, False),
    "frozen": (True, True, True),
}


def measure(args: argparse.Namespace) -> list[float]:
    """Return the seconds of each step of one variant in this process."""
    import torch

    from attendet.interop.hub import local_weights
    from attendet.losses import DetectionLoss
    from attendet.models import build, load_weights
    from attendet.system import keep_freed_memory
    from attendet.training.cpu import replace_slow_layers
    from attendet.training.frozen_norm import freeze_statistics, pretrained_blocks

    memory, layers, frozen = VARIANTS[args.variant]
    if memory:
        keep_freed_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    batch = args.batch
    if args.weights:
        network = load_weights(local_weights(args.weights))[0]
    else:
        network = build(classes=["a", "b", "c"], attention="ca", scale_x_y=2.0)
    network = network.to(memory_format=torch.channels_last).train()
    if frozen:
        freeze_statistics(network, pretrained_blocks(network, set(network.state_dict())))
    if layers:
        replace_slow_layers(network, "bf16-mixed" if args.precision == "bf16" else "32-true")
    criterion = DetectionLoss(network.level_anchors, network.strides, network.scale_x_y)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=layers)
    images = torch.rand(batch, 3, 320, 416).contiguous(memory_format=torch.channels_last)
    corner = torch.rand(batch, 20, 2) * 250
    boxes = torch.cat([corner, corner + 20 + 40 * torch.rand(batch, 20, 2)], dim=-1)
    class_ids = torch.randint(0, 3, (batch, 20))
    valid = torch.ones(batch, 20, dtype=torch.bool)
    seconds = []
    for _ in range(args.steps + WARM_UP):
        begun = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            maps = network(images)
        terms = criterion([level.float() for level in maps], (boxes, class_ids, valid))
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - begun)
    return seconds[WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps a round and variant")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument("--weights", help="weights file, or a name of: attendet weights list")
    parser.add_argument("--variant", choices=list(VARIANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args)))
        return
    variants = [name for name in VARIANTS if args.weights or name != "frozen"]
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(args.rounds):
        for name in variants:
            command = [sys.executable, __file__, *sys.argv[1:], "--variant", name]
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
