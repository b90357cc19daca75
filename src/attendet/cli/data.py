"""Check, describe, split, convert or get a data set.

attendet data check bccd               issues of labels and images, by kind, file and line
attendet data stats bccd --json        counts and sizes of each split
attendet data split cells --output s   write a seeded split to a file
attendet data convert bccd out --to yolo
attendet data get digits               the built-in sample set
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attendet.cli.arguments import add_action
from attendet.cli.progress import progress_bar
from attendet.data.checks import ISSUE_KINDS, decode_issues
from attendet.data.convert import convert_dataset
from attendet.data.dataset import DataSet, load_dataset
from attendet.data.formats import FORMATS
from attendet.data.sample import Issue
from attendet.data.splits import write_splits
from attendet.data.stats import describe
from attendet.errors import DataError, list_names
from attendet.report.tables import plain_table

_LISTED = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def data_command(
        name: str,
        summary: str,
        action: Callable[[argparse.Namespace], int],
        seed_help: str = "random seed of splits that the data set lacks (default: 0)",
    ) -> Any:
        sub = add_action(commands, name, summary, action)
        sub.add_argument("data", type=Path, help="folder, YOLO data.yaml or COCO .json")
        sub.add_argument("--format", choices=FORMATS, help="default: recognized from DATA")
        sub.add_argument("--seed", type=int, help=seed_help)
        return sub

    check = data_command("check", "Report issues of labels and images", _check)
    check.add_argument("--strict", action="store_true", help="exit with 3 if there is any issue")
    check.add_argument(
        "--decode",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="decode every image to find truncated ones (default: yes)",
    )
    check.add_argument(
        "--all", action="store_true", help=f"list all issues (default: the first {_LISTED})"
    )
    check.add_argument("--json", action="store_true", help="print JSON instead")
    stats = data_command("stats", "Count images and boxes by split, with their sizes", _stats)
    stats.add_argument("--json", action="store_true", help="print JSON instead")
    split = data_command(
        "split",
        "Write the split of each image to a file",
        _split,
        "random seed of splits that the data set lacks; attendet-splits.json is ignored (default: "
        "the splits in that file, else seed 0)",
    )
    split.add_argument(
        "--output",
        type=Path,
        help="folder (default: that of the data set); others also get train.txt, ...",
    )
    convert = data_command("convert", "Write a data set in another format", _convert)
    convert.add_argument("output", type=Path, help="empty or new folder")
    convert.add_argument("--to", choices=FORMATS, required=True, help="format to write")
    convert.add_argument("--link", action="store_true", help="hard-link images if possible")
    get = add_action(commands, "get", "Make or download a sample data set", _get)
    get.add_argument("name", choices=("digits", "bccd"), help="name of the sample data set")
    get.add_argument("--output", type=Path, help="folder (default: datasets/NAME)")
    get.add_argument("--seed", type=int, default=0, help="random seed of digits (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    return int(args.action(args))


def _load(args: argparse.Namespace, *, ignore_splits_file: bool = False) -> DataSet:
    return load_dataset(
        args.data,
        format=args.format,
        seed=args.seed or 0,
        ignore_splits_file=ignore_splits_file,
        require_train=False,
    )


def _check(args: argparse.Namespace) -> int:
    dataset = _load(args)
    issues = list(dataset.issues)
    if args.decode:
        samples = dataset.split("all")
        with progress_bar("decoding", len(samples)) as step:
            issues += decode_issues(samples, progress=step)
    if args.json:
        record = {
            "data": str(args.data),
            "format": dataset.format,
            "classes": list(dataset.classes),
            "splits": {name: len(samples) for name, samples in dataset.splits.items()},
            "split_source": dataset.split_source,
            "overlaps": [list(overlap) for overlap in dataset.overlaps],
            "issues": [{**asdict(issue), "file": str(issue.file)} for issue in issues],
        }
        print(json.dumps(record, indent=1))
    else:
        _print_summary(dataset)
        _print_issues(issues, len(issues) if args.all else _LISTED)
    return DataError.exit_code if args.strict and issues else 0


def _print_summary(dataset: DataSet) -> None:
    sizes = ", ".join(f"{name} {len(samples)}" for name, samples in dataset.splits.items())
    boxes = sum(len(sample.class_ids) for sample in dataset.split("all"))
    print(f"{dataset.root} ({dataset.format}), {boxes} boxes of {len(dataset.classes)} classes")
    print(f"classes: {list_names(dataset.classes)}")
    print(f"splits: {sizes} ({dataset.split_source})")
    print(f"identical images across splits: {len(dataset.overlaps)}")


def _print_issues(issues: list[Issue], limit: int) -> None:
    if not issues:
        print("no issues")
        return
    counts = sorted(Counter(issue.kind for issue in issues).items())
    rows = [[kind, str(count), ISSUE_KINDS[kind]] for kind, count in counts]
    print(plain_table(["issue", "count", "meaning and rule"], rows, text_columns=[2]))
    for issue in issues[:limit]:
        print(issue)
    if len(issues) > limit:
        print(f"and {len(issues) - limit} more; --all lists them")


def _stats(args: argparse.Namespace) -> int:
    record = describe(_load(args))
    if args.json:
        print(json.dumps(record, indent=1))
        return 0
    splits: dict[str, dict[str, Any]] = record["splits"]
    rows = [
        [label, *values] for label, values in _stats_rows(record["classes"], list(splits.values()))
    ]
    print(f"{record['root']} ({record['format']})")
    print(plain_table(["", *splits], rows))
    print(f"splits: {record['split_source']}")
    return 0


def _stats_rows(classes: list[str], parts: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Yield the label of each row and its value for each split."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    def pair(values: list[float] | None) -> str:
        return "-" if values is None else f"{values[0]:.0f} x {values[1]:.0f}"

    def commonest(sizes: list[dict[str, int]]) -> str:
        more = f" +{len(sizes) - 1}" if len(sizes) > 1 else ""
        return f"{sizes[0]['width']} x {sizes[0]['height']}{more}"

    for key in ("images", "background_images", "boxes", "difficult_boxes"):
        yield key.replace("_", " "), [str(part[key]) for part in parts]
    for name in classes:
        yield f"  {name}", [str(part["per_class"][name]) for part in parts]
    yield "small (< 32² px)", [str(part["small_boxes"]) for part in parts]
    yield "medium (< 96² px)", [str(part["medium_boxes"]) for part in parts]
    yield "large", [str(part["large_boxes"]) for part in parts]
    yield "median box w x h", [pair(part["median_box_wh"]) for part in parts]
    yield "median box w / h", [number(part["median_box_aspect"]) for part in parts]
    yield "image size", [commonest(part["image_sizes_wh"]) for part in parts]
    yield "median image w / h", [number(p["median_image_aspect"]) for p in parts]
    yield "fingerprint", [part["fingerprint"] for part in parts]


def _split(args: argparse.Namespace) -> int:
    dataset = _load(args, ignore_splits_file=args.seed is not None)
    path = write_splits(
        dataset.splits, args.output or dataset.root, root=dataset.root, source=dataset.split_source
    )
    sizes = ", ".join(f"{name} {len(samples)}" for name, samples in dataset.splits.items())
    print(f"{path}: {sizes} ({dataset.split_source})")
    return 0


def _convert(args: argparse.Namespace) -> int:
    dataset = _load(args)
    total = sum(len(samples) for samples in dataset.splits.values())
    with progress_bar("converting", total) as step:
        done = convert_dataset(dataset, args.output, args.to, link=args.link, progress=step)
    left = f"; {done.not_written} difficult boxes not written" if done.not_written else ""
    issues = f"; {len(dataset.issues)} issues in images or labels" if dataset.issues else ""
    print(f"{args.output}: {done.images} images, {done.boxes} boxes as {args.to}{left}{issues}")
    return 0


def _get(args: argparse.Namespace) -> int:
    folder = args.output or Path("datasets") / args.name
    if args.name == "digits":
        from attendet.data.sample_sets.digits import make_digits

        with progress_bar("composing", None) as move:
            path = make_digits(folder, seed=args.seed, progress=move)
    else:
        from attendet.data.sample_sets.bccd import get_bccd

        with progress_bar("downloading", None) as move:
            path = get_bccd(folder, progress=move)
    print(path)
    return 0
