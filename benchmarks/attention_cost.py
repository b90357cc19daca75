"""Milliseconds that each attention block takes at the three neck sites of the reference network.

    python benchmarks/attention_cost.py --threads 2
    python benchmarks/attention_cost.py --threads 1 --clock cpu     # on a machine that is shared

Every round runs every block once, in random order, so that a slow spell of the machine and
what a neighbor left to the allocator fall on all of them; the median is printed. `copy` writes
the map once more and is the yardstick; `ca plain` is Coordinate Attention with the same layers as
it is usually written, over (N, C, H, W) whichever way the map lies in memory.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import torch

from attendet.attention import CoordinateAttention, attention_names, create_attention

SITES = {"p5": (512, 13), "p4": (256, 26), "up": (128, 26)}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


class PlainCoordinateAttention(CoordinateAttention):
    def forward(self, x):
        height, width = x.shape[2:]
        pooled = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).mT], dim=2)
        hidden = self.activation(self.norm(self.squeeze(pooled)))
        along_height, along_width = hidden.split([height, width], dim=2)
        gate_h = torch.sigmoid(self.height(along_height))
        gate_w = torch.sigmoid(self.width(along_width.mT))
        return x * gate_h * gate_w


class Copy(torch.nn.Module):
    def forward(self, x):
        return x.clone()


def make_blocks(channels, memory_format):
    names = [name for name in attention_names() if ":" not in name]  # without timm's
    blocks = {name: create_attention(name, channels) for name in names}
    blocks |= {"ca plain": PlainCoordinateAttention(channels), "copy": Copy()}
    return {name: block.to(memory_format=memory_format) for name, block in blocks.items()}


def forward(block, x, _):
    with torch.no_grad():
        block(x)


def forward_backward(block, x, grad):
    torch.autograd.grad(block(x), [x, *block.parameters()], grad)


def medians(step, blocks, x, grad, *, rounds, clock):
    """Return milliseconds by block."""
    seconds = {name: [] for name in blocks}
    order = random.Random(0)
    for number in range(rounds + 2):
        for name, block in order.sample(list(blocks.items()), len(blocks)):
            begun = clock()
            step(block, x, grad)
            if number > 1:
                seconds[name].append(clock() - begun)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def measure(memory_format, args):
    """Return name -> milliseconds, two columns a site."""
    rows = {}
    for channels, side in SITES.values():
        torch.manual_seed(0)
        x = torch.randn(args.batch, channels, side, side).to(memory_format=memory_format)
        grad = torch.randn_like(x)
        blocks = make_blocks(channels, memory_format)
        for step, training in ((forward, False), (forward_backward, True)):
            for block in blocks.values():
                block.train(training)
            leaf = x.clone().requires_grad_(training)
            times = medians(step, blocks, leaf, grad, rounds=args.rounds, clock=CLOCKS[args.clock])
            for name, value in times.items():
                rows.setdefault(name, []).append(value)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16, help="images (default 16)")
    parser.add_argument("--rounds", type=int, default=60, help="timed rounds (default 60)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="default wall")
    parser.add_argument("--format", choices=FORMATS, default="channels_last")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    heads = [
        f"{site} ({channels}x{side}x{side}) {step}"
        for site, (channels, side) in SITES.items()
        for step in ("forward", "forward + backward")
    ]
    print(f"{args.format}, float32, batch {args.batch}, {args.clock} milliseconds\n")
    print("| block | " + " | ".join(heads) + " |\n|---|" + "--:|" * len(heads))
    for name, values in measure(FORMATS[args.format], args).items():
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")


if __name__ == "__main__":
    main()
