"""Write the report of a study from its records.

FOLDER is the output folder of attendet compare. Writes report.html, which works offline,
report.md with the same content and its figures, and variants.csv, runs.csv and report.json. Nothing
is trained or measured. Example images need the data set. For a study over several data sets, writes
one report on all of them and one per data set.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from attendet.cli.arguments import Data, Folder, add_settings
from attendet.errors import ConfigError


@dataclass(frozen=True)
class _Flags:
    folder: Path
    """Folder of a study."""

    output: Folder | None = None
    """Folder for the report (default: FOLDER)."""

    data: Data | None = None
    """Folder of the data set, if it has moved."""

    examples: int = 3
    """Number of example images, those with the largest differences; 0 for none."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_settings(parser, _Flags)


def run(args: argparse.Namespace) -> int:
    """Write the report and print its path; return 0."""
    from attendet.report.study_report import write_report

    ConfigError.check(args.examples >= 0, "--examples", "0 or more", args.examples)
    page = write_report(args.folder, args.output, data=args.data, examples=args.examples)
    print(f"written: {page}")
    return 0
