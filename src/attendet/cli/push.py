"""Put a weights file on the Hugging Face Hub, with a card written from what it says of itself.

Needs an account's token: hf auth login, or HF_TOKEN. From then on hf://OWNER/NAME is good wherever
a weights file is.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add = parser.add_argument
    add("weights", type=Path, metavar="WEIGHTS", help="weights file (.safetensors)")
    add("repository", metavar="OWNER/NAME", help="made if it is not there")
    add("--private", action="store_true", help="make a new repository private")
    add("--license", metavar="ID", help="license in the card, such as apache-2.0 (default: none)")
    add("--replace-card", action="store_true", help="replace an existing card")


def run(args: argparse.Namespace) -> int:
    """Push, and say where the weights are; return 0."""
    from attendet.interop.hub import push_to_hub

    address = push_to_hub(
        args.weights,
        args.repository,
        private=args.private,
        license=args.license,
        replace_card=args.replace_card,
    )
    print(f"pushed: {address}")
    return 0
