"""Publish the leaderboard from the records of a study over several data sets.

    attendet compare DATA1 DATA2 ... --attention none se eca ca ... --output runs/leaderboard
    python benchmarks/leaderboard.py publish runs/leaderboard --latency latency.json
    python benchmarks/leaderboard.py restore runs/leaderboard

``publish`` writes into docs/leaderboard, or into another folder (``--board``): the page, the same
as Markdown with figures, CSV, and the records, without paths of this machine: `sets.json`, and of
each data set `runs/NAME.jsonl` (one record a run, without its curve) and `runs/NAME.npz` (AP of
each run on the draws of the test images). ``restore`` makes a study folder of them, in which the
command that is on the page trains only what is new. Nothing is trained here. docs/leaderboard.md
says how to submit a block or a data set.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from attendet.comparison.records import RECORD, read_runs
from attendet.comparison.summary import draws_path
from attendet.files import json_line, read_json_lines, write_atomically
from attendet.report.sets_report import (
    MultiDatasetStudy,
    read_sets,
    without_paths,
    write_sets_report,
)

TITLE = "Leaderboard of attention blocks"
BOARD = Path(__file__).parents[1] / "docs" / "leaderboard"


def publish(
    folder: Path, output: Path = BOARD, latency: Path | None = None, title: str = TITLE
) -> Path:
    """Write the leaderboard and return the path of its page.

    Args:
        folder: of the study.
        output: folder of the leaderboard.
        latency: what `export_cost.py --json` wrote, in place of the latencies of the study.
        title: heading of the page.
    """
    sets = read_sets(folder)
    unfinished = [each["name"] for each in sets.description["sets"] if not each["done"]]
    unfinished += sets.description["waiting"]
    if unfinished:
        sys.exit(f"The study must be complete; these data sets are not: {', '.join(unfinished)}.")
    description = without_paths(sets)
    if latency is not None:
        description |= json.loads(latency.read_text())
    write_atomically(output / "sets.json", json.dumps(description, indent=1) + "\n")
    for name in sets.names():
        runs = [run for run in read_runs(folder / name) if run["stopped"] is None]
        lines = (json_line({key: run[key] for key in run if key != "curve"}) for run in runs)
        write_atomically(output / "runs" / f"{name}.jsonl", "".join(lines))
        draws = {run["key"]: np.load(draws_path(folder / name, run)) for run in runs}
        np.savez_compressed(output / "runs" / f"{name}.npz", **draws)
    return write_sets_report(MultiDatasetStudy(output, description), output, title=title)


def restore(folder: Path, board: Path = BOARD) -> int:
    """Write the published runs into the folder of a study; return how many were missing there.

    Args:
        folder: of the study; runs that it has stay as they are.
        board: folder of the leaderboard.
    """
    restored = 0
    for name in read_sets(board).names():
        with np.load(board / "runs" / f"{name}.npz", allow_pickle=False) as draws:
            for run in read_json_lines(board / "runs" / f"{name}.jsonl"):
                record = folder / name / run["folder"] / RECORD
                if record.is_file():
                    continue
                record.parent.mkdir(parents=True, exist_ok=True)
                np.save(draws_path(folder / name, run), draws[run["key"]])
                write_atomically(record, json_line({**run, "curve": []}))
                restored += 1
    return restored


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("publish", "restore"))
    parser.add_argument("folder", type=Path, help="folder of the study")
    parser.add_argument("--board", type=Path, default=BOARD, help="default: docs/leaderboard")
    parser.add_argument("--title", default=TITLE, help="heading of the page")
    parser.add_argument("--latency", type=Path, help="file of export_cost.py --json")
    args = parser.parse_args()
    if args.action == "publish":
        print(f"written: {publish(args.folder, args.board, args.latency, args.title)}")
    else:
        print(f"{restore(args.folder, args.board)} runs restored in {args.folder}")


if __name__ == "__main__":
    main()
