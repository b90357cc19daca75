"""Make the report of a study again, from its records alone.

FOLDER is what attendet compare left. Writes report.html, which opens offline, the same as report.md
with its figures, and variants.csv, runs.csv and report.json. Nothing is trained or measured;
example images are shown where the data set can be read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from attendet.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="folder of a study")
    add("--output", type=Path, metavar="DIR", help="folder for the report (default: FOLDER)")
    add(
        "--data",
        type=Path,
        metavar="DATA",
        help="folder of the data set, if it is not where it was",
    )
    add(
        "--examples",
        type=int,
        default=3,
        metavar="N",
        help="images on which the variants disagree most, 0 for none (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the report and name it; return 0."""
    from attendet.report.study_report import write_report

    if args.examples < 0:
        raise ConfigError(f"--examples must be 0 or more; got {args.examples}.")
    page = write_report(args.folder, args.output, data=args.data, examples=args.examples)
    print(f"written: {page}")
    return 0
