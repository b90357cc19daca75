"""List the attention blocks: paper, gates, parameters, multiply-accumulates, time on this machine.

Parameters and multiply-accumulates are sums over one block per feature map. A time is the fastest
run of one image in eager PyTorch. "identity": a new block with identity init returns its input
exactly. "any size": torch.export traces the block for all map sizes at once, as the ONNX export
needs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Annotated, Any

from attendet.cli.arguments import add_settings
from attendet.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class _Flags:
    attention: tuple[str, ...] = ()
    """Blocks to list, including those of timm, such as timm:cbam (default: all except timm's)."""

    maps: Annotated[tuple[str, ...], "CxHxW"] = ("512x13x13", "256x26x26", "128x52x52")
    """Shapes of the feature maps: channels, rows, columns."""

    fast: bool = False
    """Skip the time measurements and the export test."""

    rounds: int = 20
    """Number of timed runs of each block on each map."""

    threads: int | None = None
    """CPU threads of PyTorch (default: one per core)."""

    json: bool = False
    """Print one JSON object per block."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_settings(parser, _Flags)


def run(args: argparse.Namespace) -> int:
    """Run the command; return 0."""
    from rich.console import Console

    from attendet.attention import attention_names
    from attendet.bench.attention_blocks import block_facts, map_shape
    from attendet.report.tables import plain_table
    from attendet.system import require

    torch = require("torch", extra="train", purpose="listing attention blocks")
    ConfigError.check(args.rounds > 0, "rounds", "at least 1", args.rounds, "--rounds")
    if args.threads is not None:
        ConfigError.check(args.threads > 0, "threads", "at least 1", args.threads, "--threads")
        torch.set_num_threads(args.threads)
    names = args.attention or [name for name in attention_names()[1:] if ":" not in name]
    with Console(stderr=True).status("blocks") as status:  # nothing if stderr is not a terminal
        facts = block_facts(
            names,
            [map_shape(text) for text in args.maps],
            measure=not args.fast,
            rounds=args.rounds,
            progress=status.update,
        )
    if args.json:
        for one in facts:
            print(json.dumps(dataclasses.asdict(one)))
        return 0
    header = ["name", "paper", "gates", "parameters", "million MACs", "identity"]
    header += [] if args.fast else ["any size", *(f"ms {text}" for text in args.maps)]
    rows = [_row(dataclasses.asdict(one)) for one in facts]
    print(plain_table(header, rows, text_columns=(1, 2)))
    return 0


def _row(facts: dict[str, Any]) -> list[str]:
    answers = {True: ["yes"], False: ["no"], None: []}
    return [
        facts["name"],
        facts["paper"],
        ", ".join(facts["gates"]) or "-",
        f"{facts['parameters']:,}",
        f"{facts['macs'] / 1e6:.2f}",
        *answers[facts["identity"]],
        *answers[facts["exports"]],
        *(f"{value:.2f}" for value in facts["milliseconds"]),
    ]
