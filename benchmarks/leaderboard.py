"""Publish the leaderboard from the records of a study over several data sets.

    attendet compare DATA1 DATA2 ... --attention none se eca ca ... --output runs/leaderboard
    python benchmarks/leaderboard.py runs/leaderboard [FOLDER]

Writes into docs/leaderboard, or FOLDER: the page, the same as Markdown with figures, CSV, and the
records (`sets.json`, and `runs.jsonl` of each data set without its curves), without paths of this
machine. Nothing is trained. docs/leaderboard.md says how to submit a block or a data set.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from attendet.files import json_line, read_json_lines, write_atomically
from attendet.report.sets_report import read_sets, without_paths, write_sets_report

TITLE = "Leaderboard of attention blocks"


def publish(folder: Path, output: Path) -> Path:
    """Write the leaderboard and return the path of its page."""
    sets = read_sets(folder)
    unfinished = [each["name"] for each in sets.description["sets"] if not each["done"]]
    unfinished += sets.description["waiting"]
    if unfinished:
        sys.exit(f"The study must be complete; these data sets are not: {', '.join(unfinished)}.")
    records = json.dumps(without_paths(sets), indent=1)
    write_atomically(output / "sets.json", records + "\n")
    for name in sets.names():
        runs = read_json_lines(folder / name / "runs.jsonl")
        lines = (json_line({key: run[key] for key in run if key != "curve"}) for run in runs)
        write_atomically(output / "runs" / f"{name}.jsonl", "".join(lines))
    return write_sets_report(sets, output, title=TITLE)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    target = Path(sys.argv[2] if len(sys.argv) > 2 else "docs/leaderboard")
    print(f"written: {publish(Path(sys.argv[1]), target)}")
