"""Write the report of a study from its records.

FOLDER is the output folder of attendet compare. Writes report.html, which works offline, the same
content as report.md with its figures, and variants.csv, runs.csv and report.json. Nothing is
trained or measured. Example images need the data set.
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
        help="folder of the data set, if it has moved",
    )
    add(
        "--examples",
        type=int,
        default=3,
        metavar="N",
        help="images with the largest differences to show, 0 for none (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the report and print its path; return 0."""
    from attendet.report.study_report import write_report

    ConfigError.check(args.examples >= 0, "--examples", "0 or more", args.examples)
    page = write_report(args.folder, args.output, data=args.data, examples=args.examples)
    print(f"written: {page}")
    return 0
