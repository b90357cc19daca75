"""List, describe or download pretrained weights by name.

attendet weights list                    names, sizes, published results
attendet weights info yolo-fastest-xl    all details, and whether the file is downloaded
attendet weights get yolo-fastest-xl     download and convert it now; prints the path

Commands that take a weights file also accept a name; the first use downloads the weights to the
user's cache directory, or to ATTENDET_CACHE. ATTENDET_MIRROR is a prefix of each download address.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from attendet.cli.arguments import add_action
from attendet.errors import ConfigError
from attendet.interop.zoo import ZooEntry, cached_weights, zoo_entries, zoo_weights
from attendet.report.tables import plain_table
from attendet.system import cache_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = add_action(commands, "list", "List the names with sizes and published results", _list)
    info = add_action(commands, "info", "Show the details of one name", _info)
    get = add_action(
        commands, "get", "Download and convert weights now, and print their path", _get
    )
    for sub in (info, get):
        sub.add_argument("name", metavar="NAME", help="a name of: attendet weights list")
    for sub in (listing, info):
        sub.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    return int(args.action(args))


def _list(args: argparse.Namespace) -> int:
    entries = zoo_entries()
    if args.json:
        print(json.dumps([_facts(entry) for entry in entries.values()], indent=2))
        return 0
    header = ["name", "parameters", "input", "classes", "attention", "published", "downloaded"]
    rows = [
        [
            entry.name,
            f"{entry.parameters:,}",
            f"{entry.input_hw[1]} x {entry.input_hw[0]}",
            str(len(entry.classes)),
            entry.attention,
            "; ".join(
                f"{one['data']} {one['metric']} {one['value']}" for one in entry.published_results
            ),
            "yes" if cached_weights(entry) else "no",
        ]
        for entry in entries.values()
    ]
    print(plain_table(header, rows, text_columns=(2, 4, 5, 6)))
    return 0


def _facts(entry: ZooEntry) -> dict[str, Any]:
    facts = dataclasses.asdict(entry)
    path = cached_weights(entry)
    facts["path"] = None if path is None else str(path)
    return facts


def _info(args: argparse.Namespace) -> int:
    entry = _entry(args.name)
    if args.json:
        print(json.dumps(_facts(entry), indent=2))
        return 0
    height, width = entry.input_hw
    path = cached_weights(entry)
    rows = [
        ("name", f"{entry.name}: {entry.summary}"),
        ("network", f"{entry.architecture}, attention {entry.attention}"),
        ("parameters", f"{entry.parameters:,}"),
        ("images", f"{width} x {height} px, {entry.resize}, {entry.color}"),
        ("classes", f"{len(entry.classes)}: {', '.join(entry.classes)}"),
        *(
            ("published", f"{one['metric']} {one['value']} on {one['data']} ({one['source']})")
            for one in entry.published_results
        ),
        ("source", f"{entry.source}, license: {entry.license}"),
    ]
    for file in entry.files:
        size = "size not known" if file.bytes is None else f"{file.bytes:,} bytes"
        digest = "checksum not known" if file.sha256 is None else f"sha256 {file.sha256}"
        rows.append(("file", f"{file.url}, {size}, {digest}"))
    place = f"no; get writes it to {cache_folder() / entry.name}" if path is None else str(path)
    rows.append(("downloaded", place))
    for name, text in rows:
        print(f"{name:<12}{text}")
    return 0


def _get(args: argparse.Namespace) -> int:
    path = zoo_weights(_entry(args.name).name)
    print(path)
    if sys.stderr.isatty():
        print(f"use it by name: attendet predict {args.name} IMAGE", file=sys.stderr)
    return 0


def _entry(name: str) -> ZooEntry:
    if name not in zoo_entries():
        raise ConfigError.unknown("weights", name, zoo_entries())
    return zoo_entries()[name]
