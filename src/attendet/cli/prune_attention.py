"""Take out attention blocks that do nothing, as long as average precision stays.

A block whose gates are the same for all images and places is replaced by that constant, folded
into the convolution beside it. Each step is kept if AP on --split of DATA stays within
--max-ap-loss points of that of WEIGHTS. Choose blocks on the validation split, and report the test
split once.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from attendet.errors import ConfigError
from attendet.system import require

if TYPE_CHECKING:
    from attendet.explain import Pruned


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add = parser.add_argument
    add("weights", type=Path, metavar="WEIGHTS", help="weights file (.safetensors)")
    add("--data", type=Path, required=True, metavar="DATA", help="data set")
    add(
        "--split",
        default="val",
        metavar="NAME",
        help="images on which gates are judged and AP is measured: train, val, test or all "
        "(default: %(default)s)",
    )
    add("--format", choices=["voc", "yolo", "coco"], help="of DATA (default: recognized)")
    add(
        "--max-ap-loss",
        type=float,
        default=0.2,
        metavar="POINTS",
        help="points of AP, 0 to 100, that may be lost in all (default: %(default)s)",
    )
    add(
        "--every",
        action="store_true",
        help="try every block, not only those whose gates are constant",
    )
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help="weights file to write (default: WEIGHTS with -pruned in its name)",
    )
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: a GPU where there is one)")


def run(args: argparse.Namespace) -> int:
    """Prune, say what was done, and write the weights if a block went; return 0."""
    require("torch", extra="train", purpose="attendet prune-attention")
    from attendet.data import load_dataset
    from attendet.explain import prune_attention
    from attendet.inference.runtimes.torch_runtime import choose_device
    from attendet.interop.hub import local_weights
    from attendet.models import load_weights, save_weights

    weights = local_weights(args.weights)
    beside = args.weights.parent if weights == args.weights else Path()
    output = args.output or beside / f"{args.weights.stem}-pruned.safetensors"
    if output.suffix != ".safetensors":
        raise ConfigError(f"output must end in .safetensors; got {str(output)!r} (--output).")
    if args.output is None and output.exists():
        raise ConfigError(f"output must be named where {output} is there already (--output).")
    network, metadata = load_weights(weights)
    network = network.to(choose_device(args.device))
    data = load_dataset(args.data, format=args.format, require_train=False)
    result = prune_attention(
        network,
        metadata,
        data.split(args.split),
        classes=data.classes,
        max_ap_loss=args.max_ap_loss,
        every=args.every,
        progress=print,
    )
    for line in _told(result):
        print(line)
    if not any(one.folded for one in result.decisions):
        print("no block went: nothing written")
        return 0
    print(f"written: {save_weights(output, result.network.cpu(), result.metadata)}")
    return 0


def _told(result: Pruned) -> list[str]:
    lines = [
        f"{one.site:<12} {'folded' if one.folded else 'kept':<7} {one.reason}"
        for one in result.decisions
    ]
    before, after = result.before, result.after
    lines.append(
        f"AP           {result.ap_before:.4f} -> {result.ap_after:.4f} "
        f"({100 * (result.ap_after - result.ap_before):+.2f} points)"
    )
    for name in ("parameters", "macs"):
        old, new = getattr(before, name), getattr(after, name)
        saved = f"{old - new:,} saved, {(old - new) / old:.2%}"
        lines.append(f"{'MACs' if name == 'macs' else name:<12} {old:,} -> {new:,} ({saved})")
    return lines
