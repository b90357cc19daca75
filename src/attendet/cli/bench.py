"""Compare the speed of files and runtimes on this machine in one run.

WEIGHTS are weights files and exported files. Each file runs in every installed runtime that can run
it, in its own process. These candidates run alternately for some seconds, so that other load on the
machine affects all of them equally. With --data, the average precision of each candidate is
measured, and the fastest is chosen from the candidates within --max-ap-loss of the best. On a noisy
machine, no candidate is named as the fastest.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attendet.bench.measure import BenchSettings
from attendet.cli.arguments import (
    Data,
    DataFlags,
    Folder,
    add_settings,
    command_line,
    settings_from,
)
from attendet.errors import ConfigError, DataError, MissingExtraError, WeightsError

if TYPE_CHECKING:
    from attendet.bench.candidates import Candidate
    from attendet.bench.measure import MeasureAP
    from attendet.data import DataSet, Sample
    from attendet.data.class_names import ClassMatch

IMAGES = 8
"""Number of synthetic images."""


@dataclass(frozen=True)
class _Flags:
    weights: tuple[Path, ...]
    """Weights files and exported files (.safetensors, .onnx, OpenVINO or ncnn folder)."""

    data: Data | None = None
    """Data set for the images and the AP (default: synthetic images of 640 x 480, no AP)."""

    runtimes: tuple[str, ...] = ()
    """torch, onnx, openvino, ncnn (default: all that are installed)."""

    threads: tuple[int, ...] = ()
    """CPU threads of the network (default: one per core)."""

    mode: tuple[Literal["latency", "throughput"], ...] = ("latency",)
    """latency: all threads on one batch; throughput: several batches in parallel."""

    output: Folder = Path("runs/bench")
    """Folder for bench.json, bench.md, bench.html and bench.png."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    for flags in (_Flags, DataFlags, BenchSettings):
        add_settings(parser, flags)


def run(args: argparse.Namespace) -> int:
    """Run the command; return 0."""
    from rich.console import Console

    from attendet.bench import plan_candidates, run_bench
    from attendet.files import write_atomically
    from attendet.interop.hub import local_weights
    from attendet.report.bench import bench_table, bench_verdicts
    from attendet.report.tables import markdown_table, plain_table

    batches = tuple(sorted(set(args.batches)))
    settings = BenchSettings(**settings_from(args, BenchSettings) | {"batches": batches})
    candidates = plan_candidates(
        [local_weights(path) for path in args.weights],
        runtimes=args.runtimes,
        threads=args.threads,
        modes=args.mode,
    )
    data = None if args.data is None else _load_data(args)
    status = Console(stderr=True).status("bench")  # nothing if stderr is not a terminal
    with tempfile.TemporaryDirectory() as folder, status:
        if data is None:
            paths, measure_ap = write_images(Path(folder)), None
        else:
            paths = [sample.path for sample in data[1]]
            measure_ap = _ap_measure(args, candidates, *data)
        record = run_bench(
            candidates, paths, settings, measure_ap=measure_ap, progress=status.update
        )
    record["data"] = None if data is None else {"root": str(data[0].root), "split": args.split}
    header, rows = bench_table(record)
    lines = [*bench_verdicts(record), *_notes(record)]
    print(plain_table(header, rows), "", *lines, sep="\n")
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    page = "\n".join([markdown_table(header, rows), "", *(f"- {line}" for line in lines), ""])
    written = [
        write_atomically(args.output / "bench.json", text),
        write_atomically(args.output / "bench.md", page),
        *_draw(record, args.output, command_line()),
    ]
    print(f"written: {', '.join(path.name for path in written)} in {args.output}")
    return 0


def write_images(folder: Path, count: int = IMAGES) -> list[Path]:
    """Write synthetic JPEG files of 640 x 480 pixels, always the same, and return their paths."""
    from PIL import Image

    from attendet.exporters.parity import synthetic_images

    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path, image in zip(paths, synthetic_images(count), strict=True):
        Image.fromarray(image).save(path, quality=95)
    return paths


def _load_data(args: argparse.Namespace) -> tuple[DataSet, Sequence[Sample]]:
    """Return the data set and the samples whose images can be read."""
    from attendet.data import load_dataset
    from attendet.data.checks import decode_issues

    data = load_dataset(args.data, format=args.format, require_train=False)
    samples = data.split(args.split)
    issues = {issue.file: issue for issue in decode_issues(samples)}
    for issue in issues.values():
        print(f"skipped: {issue.file}: {issue.message}")
    readable = [sample for sample in samples if sample.path not in issues]
    if not readable:
        raise DataError(f"split must contain a readable image; got none in {args.split} (--split).")
    return data, readable


def _ap_measure(
    args: argparse.Namespace,
    candidates: Sequence[Candidate],
    data: DataSet,
    samples: Sequence[Sample],
) -> MeasureAP:
    """Return the function that measures AP and AP50 of a candidate on the samples.

    Raises:
        ConfigError: if the classes of a file do not fit the data; checked before the timing.
    """
    from attendet.data.class_names import parse_class_map
    from attendet.evaluation import evaluate
    from attendet.evaluation.matching import remap_sample_classes
    from attendet.inference import Detector, load

    class_map = parse_class_map(args.class_map)

    def in_classes_of(classes: Sequence[str], file: Path) -> tuple[list[Sample], ClassMatch]:
        source = f"{data.root}, {file.name}"
        return remap_sample_classes(
            samples, data.classes, classes, class_map=class_map, source=source
        )

    for file, runtime in {one.weights: one.runtime for one in candidates}.items():
        with suppress(WeightsError, MissingExtraError):  # reported as failed, with the reason
            classes = load(file, runtime, "cpu").classes
            _, match = in_classes_of(classes, file)
            if match.note:
                print(f"{file.name}: {match.note}")

    def measure(candidate: Candidate) -> tuple[float | None, float | None]:
        loaded = load(candidate.weights, candidate.runtime, "cpu", precision=candidate.precision)
        detector = Detector(loaded.runtime, input_hw=args.input_hw)
        record: Any = evaluate(
            detector,
            in_classes_of(detector.classes, candidate.weights)[0],
            classes=detector.classes,
            curves=False,
        )
        return record["ap"], record["ap50"]

    return measure


def _notes(record: dict[str, Any]) -> list[str]:
    noise = record["noise"]
    line = f"noise: the time of the probe varied by {100 * noise['probe_spread']:.1f} %"
    if noise["other_load"] is not None:
        line += f", other programs took {100 * noise['other_load']:.0f} % of the processors"
    return [line, *(f"failed: {one['name']}: {one['reason']}" for one in record["failed"])]


def _draw(record: dict[str, Any], folder: Path, command: str) -> list[Path]:
    from attendet.files import write_atomically
    from attendet.report.bench import bench_figure, bench_page
    from attendet.report.charts import save_figure

    try:
        return [
            save_figure(bench_figure(record), folder / "bench.png"),
            write_atomically(folder / "bench.html", bench_page(record, command=command)),
        ]
    except (MissingExtraError, ConfigError) as error:
        print(f"chart and page were not written: {error}")
        return []
