"""Remove attention blocks that do nothing, within a tolerance of average precision.

A block with the same gates for all images and positions is replaced by these constant gates,
folded into the adjacent convolution. A removal is kept if AP on --split of DATA stays within
--max-ap-loss points of the AP of WEIGHTS. Choose blocks on the validation split, and measure the
test split once, at the end.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from attendet.cli.arguments import DataFormat, File, add_settings, weights_output
from attendet.system import require


@dataclass(frozen=True)
class _Flags:
    weights: Path
    """Weights file (.safetensors), hf://owner/name, or a name of: attendet weights list."""

    split: str = "val"
    """Split on which gates and AP are measured: train, val, test or all."""

    format: DataFormat | None = None
    """Format of DATA (default: detected)."""

    class_map: str | None = None
    """Classes of DATA that have another name in WEIGHTS, such as auto=car,lorry=truck."""

    max_ap_loss: Annotated[float, "POINTS"] = 0.2
    """Largest total loss of AP in points, 0 to 100."""

    every: bool = False
    """Try every block, not only those with constant gates."""

    output: File | None = None
    """Weights file to write (default: WEIGHTS with -pruned in its name)."""

    device: str | None = None
    """cpu, cuda, cuda:1 (default: a GPU if available)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_settings(parser, _Flags)
    parser.add_argument("--data", type=Path, required=True, metavar="DATA", help="data set")


def run(args: argparse.Namespace) -> int:
    """Prune, print the decisions, and write the weights if a block was removed; return 0."""
    require("torch", extra="train", purpose="attendet prune")
    from attendet.data import load_dataset
    from attendet.data.class_names import parse_class_map
    from attendet.evaluation.matching import remap_sample_classes
    from attendet.explain import prune_attention
    from attendet.explain.health import percent
    from attendet.inference.runtimes.torch_runtime import choose_device
    from attendet.interop.hub import local_weights
    from attendet.models import load_weights, save_weights

    weights = local_weights(args.weights)
    folder = args.weights.parent if weights == args.weights else Path()
    output = weights_output(args.output, folder / f"{args.weights.stem}-pruned.safetensors")
    network, metadata = load_weights(weights)
    network = network.to(choose_device(args.device))
    data = load_dataset(args.data, format=args.format, require_train=False)
    class_map, classes = parse_class_map(args.class_map), metadata.classes
    samples, match = remap_sample_classes(
        data.split(args.split), data.classes, classes, class_map=class_map, source=data.root
    )
    if match.note:
        print(f"note         {match.note}")
    result = prune_attention(
        network, metadata, samples, max_ap_loss=args.max_ap_loss, every=args.every, progress=print
    )
    for one in result.decisions:
        print(f"{one.site:<12} {'folded' if one.folded else 'kept':<7} {one.reason}")
    points = 100 * (result.ap_after - result.ap_before)
    print(f"AP           {result.ap_before:.4f} -> {result.ap_after:.4f} ({points:+.2f} points)")
    for label, name in (("parameters", "parameters"), ("MACs", "macs")):
        old, new = getattr(result.before, name), getattr(result.after, name)
        saved = f"{old - new:,} saved, {percent((old - new) / old, 2)}"
        print(f"{label:<12} {old:,} -> {new:,} ({saved})")
    if not any(one.folded for one in result.decisions):
        print("no block was removed: nothing is written")
        return 0
    print(f"written: {save_weights(output, result.network.cpu(), result.metadata)}")
    return 0
