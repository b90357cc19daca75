"""Compare attention blocks on your images: does one help, by how much, at what cost?

Trains every variant (attention x sites x init) with the same seeds and the same recipe, measures
all variants on the same test images and prints a verdict on each: helps, hurts, no difference
larger than --margin, or not enough seeds, with the number of seeds to add. The output folder keeps
a record per run: the same command resumes a stopped study, and a larger grid reuses finished runs.
With several data sets, each has its own study, and the verdicts are over all data sets.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attendet.cli.arguments import (
    Accelerator,
    DataFormat,
    File,
    Folder,
    add_settings,
    command_line,
)
from attendet.cli.progress import duration
from attendet.cli.recipe_flags import add_recipe_flags, recipe_overrides
from attendet.comparison.callback import StudyCallback

if TYPE_CHECKING:
    from attendet.comparison import Study
    from attendet.comparison.variants import Job

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def _seconds(text: str) -> float:
    """Return a duration such as ``90m``, ``2h`` or ``1h30m`` in seconds.

    Raises:
        argparse.ArgumentTypeError: if the text is not a duration.

    Example:
        >>> _seconds("1h30m"), _seconds("45s")
        (5400.0, 45.0)
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)(min|[smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise argparse.ArgumentTypeError(f"must be like 45m, 2h or 1h30m; got {text!r}")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


@dataclass(frozen=True)
class _Flags:
    data: tuple[str, ...]
    """Data set, measured on its test split, else on val; several also get a verdict over all of
    them."""

    attention: Annotated[tuple[str, ...], "SPEC"] = ("none", "ca")
    """none, se, cbam, eca, ca, or specs such as se@p5+ca@up; repeat none to measure the noise
    between seeds."""

    sites: Annotated[tuple[str, ...], "SITES"] | None = None
    """Sites of each block, separated by commas (default: those of the neck, p4,p5,up)."""

    attention_init: Annotated[tuple[str, ...], "INIT"] | None = None
    """Init of attention: paper, identity (default: identity in --pretrained weights, else
    paper)."""

    seeds: int = 3
    """Number of seeds of each variant."""

    baseline: Annotated[str, "VARIANT"] | None = None
    """Variant that the others are compared with (default: none, else the first)."""

    margin: Annotated[float, "AP"] = 0.5
    """Largest difference in AP points that counts as no difference."""

    budget: Annotated[float, "TIME", _seconds] | None = None
    """Time limit of this call, such as 90m or 2h; if the grid needs more, worse variants are
    stopped early (default: the whole grid)."""

    output: Folder = Path("runs/compare")
    """Folder of the study."""

    pretrained: File | None = None
    """Weights that all runs start from: a file, hf://owner/name, or a name of: attendet weights
    list."""

    format: DataFormat | None = None
    """Format of DATA (default: recognized)."""

    accelerator: Accelerator = "auto"
    """Kind of device."""

    devices: int | None = None
    """Number of devices to use on this machine (default: all GPUs, else one CPU)."""

    runs_per_device: Annotated[int | Literal["auto"], "{auto,N}"] = 1
    """Number of concurrent runs per device; auto: from the memory of the first run and the CPU
    cores."""

    ray: Annotated[str, "ADDRESS"] | None = None
    """Run on a Ray cluster: auto, HOST:PORT, or local to start one here."""

    runtimes: tuple[str, ...] | None = None
    """Runtimes in which latency is measured: torch, onnx, openvino; the latter two on an exported
    file (default: all that are installed)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command: its own, and one for each setting of the recipe."""
    add_settings(parser, _Flags)
    add_recipe_flags(parser, without=("attention_init",))


class _Lines(StudyCallback):
    """Callback that prints a line per event of a run."""

    def __init__(self) -> None:
        self.runs, self.ended = 0, 0

    def say(self, text: str) -> None:
        """Print a line immediately."""
        print(text, flush=True)

    def before_runs(self, runs: int, done: int, folder: str) -> None:
        """Print the number of runs, and how many are done already."""
        self.runs, self.ended = runs, done
        self.say(f"study: {runs} runs, {done} done already ({folder})")

    def run_event(self, job: Job, event: dict[str, Any]) -> None:
        """Print when a run starts, after each tenth of its epochs, and when its process is lost."""
        name = f"{job.variant.name} seed {job.seed}"
        if event["event"] == "planned":
            self.say(f"{name}: training")
        elif event["event"] == "lost":
            self.say(f"{name}: attempt {event['attempt']} ended early ({event['why']})")
        elif event["event"] == "runs_chosen":
            self.say(f"{event['device']}: {event['runs']} runs in parallel")
        elif event["event"] == "epoch":
            epoch, epochs = event["epoch"], event["epochs"]
            if epoch % max(1, epochs // 10) == 0 and epoch < epochs:
                ap = "" if event["ap"] is None else f", val AP {100 * event['ap']:.1f}"
                self.say(f"{name}: epoch {epoch}/{epochs}{ap}")

    def run_ended(self, job: Job, record: dict[str, Any]) -> None:
        """Print the result of a run."""
        name = f"{job.variant.name} seed {job.seed}"
        if record["stopped"] == "failed":
            self.say(f"{name}: failed: {record['error']}")
        elif record["stopped"] is None:
            self.ended += 1
            self.say(
                f"[{self.ended}/{self.runs}] {name}: {record['split']} AP "
                f"{100 * (record['metrics']['ap'] or 0):.1f}, {duration(record['seconds'])}"
            )
        else:
            self.say(f"{name}: paused after {record['epochs_done']} epochs")

    def note(self, text: str) -> None:
        """Print a message."""
        self.say(text)


def run(args: argparse.Namespace) -> int:
    """Run the study, print its progress and verdicts; return 1 if a run failed, else 0."""
    from attendet.comparison import compare
    from attendet.report import write_report

    recipe_overrides(args, without=("attention_init",))
    lines = _Lines()
    settings = vars(args)
    data = settings.pop("data")
    source = data[0] if len(data) == 1 else data
    study = compare(source, **settings, callback=lines, command=command_line())
    for line in _result(study, several=len(data) > 1):
        lines.say(line)
    lines.say(f"report: {write_report(study.folder)}")
    return 1 if study.summary["failed"] else 0


def _result(study: Study, *, several: bool) -> list[str]:
    """Return the tables of the report and the verdicts as lines.

    Args:
        study: the result.
        several: whether the study is over several data sets.
    """
    from attendet.report.sets_report import read_sets, set_effects_table
    from attendet.report.study import read_study
    from attendet.report.study_tables import cost_table, verdict_table

    if several:
        tables = [set_effects_table(read_sets(study.folder))]
    else:
        records = read_study(study.folder)
        tables = [verdict_table(records), cost_table(records)]
    lines = [line for table in tables if table.rows for line in ("", table.as_text())]
    lines += ["", *(f"{name}: {v['text']}" for name, v in study.summary["verdicts"].items())]
    for each in study.summary["failed"]:
        where = f"{each['data_set']}, " if several else ""
        run = f"{where}{each['variant_name']} seed {each['seed']}"
        lines.append(f"failed: {run}: {each['error']}")
    return [*lines, f"records: {study.folder}"]
