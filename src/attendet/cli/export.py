"""Write a network in a form that other programs read.

darknet: FILE.cfg, FILE.weights and FILE.names, with the values as they are. Attention does not go
there: a network with attention is refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from attendet.extras import require


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add = parser.add_argument
    add("weights", type=Path, metavar="WEIGHTS", help="weights file (.safetensors)")
    add("--format", required=True, choices=["darknet"], help="what to write")
    add("--output", type=Path, metavar="DIR",
        help="folder for the files, which take the name of WEIGHTS (default: "
        "runs/export)", default=Path("runs/export"))  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Write the files and name them; return 0."""
    require("torch", extra="train", purpose="exporting weights")
    from attendet.models import load_weights
    from attendet.models.darknet_export import export_darknet

    network, metadata = load_weights(args.weights)
    for path in export_darknet(network, metadata, args.output, stem=args.weights.stem):
        print(f"written: {path}")
    return 0
