"""Print what a weights file holds: network, attention, classes, preprocessing, training, results.

Only the header of the file is read: this is fast and needs no torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from attendet.cli.arguments import add_settings


@dataclasses.dataclass(frozen=True)
class _Flags:
    weights: Path
    """Weights file (.safetensors), hf://owner/name, or a name of: attendet weights list."""

    json: bool = False
    """Print one JSON object."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_settings(parser, _Flags)


def run(args: argparse.Namespace) -> int:
    """Run the command; return 0."""
    from attendet.interop.hub import local_weights
    from attendet.models.graph import Graph
    from attendet.models.graph_sites import describe_sites
    from attendet.models.metadata import count_parameters, read_metadata, read_tensor_shapes

    args.weights = local_weights(args.weights)
    metadata = read_metadata(args.weights)
    facts: dict[str, Any] = {
        "file": str(args.weights),
        "bytes": args.weights.stat().st_size,
        "parameters": count_parameters(read_tensor_shapes(args.weights)),
        **dataclasses.asdict(metadata),
    }
    if metadata.graph:
        facts["sites"] = describe_sites(Graph.from_mappings(metadata.graph))
    print(json.dumps(facts, indent=2) if args.json else _as_text(facts))
    return 0


def _as_text(facts: dict[str, Any]) -> str:
    sides = [f"{side} px" for side in facts["input_hw"]]
    shown = dict(facts)
    shown["bytes"] = f"{facts['bytes']:,} ({facts['bytes'] / 2**20:.1f} MiB)"
    shown["parameters"] = f"{facts['parameters']:,}"
    shown["classes"] = f"{len(facts['classes'])}: {', '.join(facts['classes'])}"
    shown["input_hw"] = " x ".join(sides)
    shown["anchors"] = " ".join(f"{width:g},{height:g}" for width, height in facts["anchors"])
    if facts["graph"]:
        shown["graph"] = f"{len(facts['graph'])} layers"
        shown["sites"] = {
            name: f"layer {one['layer']}, {one['channels']} channels, stride {one['stride']}"
            for name, one in facts["sites"].items()
        }
    shown["anchor_masks"] = " ".join(str(list(mask)) for mask in facts["anchor_masks"])
    return "\n".join(_lines(shown))


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """Return one line per fact, nested mappings indented below their name."""
    lines = []
    width = max((len(name) for name in facts), default=0) + 2
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            lines.append(f"{indent}{name}")
            lines += _lines(value, indent + "  ")
        elif value not in (None, "", {}):
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            lines.append(f"{indent}{name:<{width}}{text}")
    return lines
