"""Upload a weights file to the Hugging Face Hub, with a model card written from its metadata.

Needs an access token: hf auth login, or HF_TOKEN. Afterwards, commands that take a weights file
also accept hf://OWNER/NAME.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add = parser.add_argument
    add("weights", type=Path, metavar="WEIGHTS", help="weights file (.safetensors)")
    add("repository", metavar="OWNER/NAME", help="repository; created if it does not exist")
    add("--private", action="store_true", help="make a new repository private")
    add(
        "--license",
        metavar="ID",
        help="license in the model card, such as apache-2.0 (default: none)",
    )
    add("--replace-card", action="store_true", help="replace an existing model card")


def run(args: argparse.Namespace) -> int:
    """Upload the weights and print their address; return 0."""
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
