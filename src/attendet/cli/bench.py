"""How fast files and runtimes are on this machine, side by side in one run.

WEIGHTS are weights files and exported files. Each runs through every installed runtime that can, in
a process of its own; turns of some seconds go round, so that what else the machine does falls on
all alike. With --data the average precision of each is measured, and the fastest is sought among
those within --max-ap-loss of the best. Nobody is called the fastest on a noisy machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attendet.cli.arguments import size_hw
from attendet.errors import ConfigError, DataError, MissingExtraError, WeightsError

if TYPE_CHECKING:
    from attendet.bench.candidates import Candidate
    from attendet.data import DataSet, Sample

IMAGES = 8
"""Images that are made where none are given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add = parser.add_argument
    add(
        "weights",
        nargs="+",
        type=Path,
        metavar="WEIGHTS",
        help="weights files and exported ones (.safetensors, .onnx, OpenVINO folder)",
    )
    add(
        "--data",
        type=Path,
        metavar="DATA",
        help="data set whose images are used and whose ground truth gives the AP (default: made-up "
        "images of 640 x 480, no AP)",
    )
    add(
        "--split",
        default="test",
        metavar="NAME",
        help="train, val, test or all (default: %(default)s)",
    )
    add("--format", choices=["voc", "yolo", "coco"], help="of DATA (default: recognized)")
    add(
        "--runtimes",
        nargs="+",
        default=[],
        metavar="NAME",
        help="torch, onnx, openvino (default: all that are installed)",
    )
    add(
        "--batch",
        nargs="+",
        type=int,
        default=[1],
        metavar="N",
        help="images that go through the network together (default: 1)",
    )
    add(
        "--threads",
        nargs="+",
        type=int,
        default=[],
        metavar="N",
        help="processor threads of the network (default: one a core)",
    )
    add(
        "--mode",
        nargs="+",
        choices=["latency", "throughput"],
        default=["latency"],
        help="all threads on one image, or several images side by side (default: latency)",
    )
    add(
        "--rounds",
        type=int,
        default=7,
        metavar="N",
        help="turns of each, 5 or more (default: %(default)s)",
    )
    add(
        "--seconds",
        type=float,
        default=0.7,
        metavar="S",
        help="for each of the four things that are timed in a turn (default: %(default)s)",
    )
    add(
        "--max-ap-loss",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="AP that the fastest may be below the best, points of 100 (default: %(default)s)",
    )
    add(
        "--confidence",
        type=float,
        metavar="SCORE",
        help="lowest score that counts while timing, 0 to 1 (default: 0.25; that of a file with "
        "suppression inside)",
    )
    add(
        "--size",
        type=size_hw,
        metavar="PX|HxW",
        help="input size in pixels, multiples of 32 (default: that of the files)",
    )
    add(
        "--output",
        type=Path,
        default=Path("runs/bench"),
        metavar="DIR",
        help="folder for bench.json, bench.md and bench.png (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; return 0."""
    from attendet.bench import BenchSettings, plan_candidates, run_bench
    from attendet.files import write_atomically
    from attendet.report.bench import bench_table, bench_verdicts
    from attendet.report.tables import markdown_table, plain_table

    if not 0 <= args.max_ap_loss <= 100:
        raise ConfigError(f"--max-ap-loss must be from 0 to 100; got {args.max_ap_loss:g}.")
    settings = BenchSettings(
        tuple(sorted(set(args.batch))), args.rounds, args.seconds, args.confidence, args.size
    )
    candidates = plan_candidates(
        args.weights, runtimes=args.runtimes, threads=args.threads, modes=args.mode
    )
    data = _load_data(args)
    with tempfile.TemporaryDirectory() as folder, _status() as say:
        if data:
            _check_classes(candidates, *data)
        paths = [sample.path for sample in data[1]] if data else make_images(Path(folder))
        record = run_bench(
            candidates,
            paths,
            settings,
            measure_ap=None if data is None else _ap_measure(args, *data),
            max_ap_loss=args.max_ap_loss / 100,
            progress=say,
        )
    record["data"] = None if data is None else {"root": str(data[0].root), "split": args.split}
    header, rows = bench_table(record)
    print(plain_table(header, rows))
    print()
    lines = [*bench_verdicts(record), *_notes(record)]
    print("\n".join(lines))
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    written = [write_atomically(args.output / "bench.json", text)]
    page = "\n".join([markdown_table(header, rows), "", *(f"- {line}" for line in lines), ""])
    written.append(write_atomically(args.output / "bench.md", page))
    written += _draw(record, args.output)
    print(f"written: {', '.join(path.name for path in written)} in {args.output}")
    return 0


@contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """Give a function that shows on a terminal's stderr what is done now; silent elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("bench") as status:
        yield status.update


def make_images(folder: Path, count: int = IMAGES) -> list[Path]:
    """Return JPEG files of 640 x 480 pixels: smooth colors with grain, always the same."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = rng.integers(60, 220, (8, 10, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
        grain = rng.normal(0, 4, image.shape)
        path = folder / f"{number}.jpg"
        cv2.imwrite(str(path), np.clip(image + grain, 0, 255).astype(np.uint8))
        paths.append(path)
    return paths


def _load_data(args: argparse.Namespace) -> tuple[DataSet, Sequence[Sample]] | None:
    """Return the data set and those of its images that can be read."""
    if args.data is None:
        return None
    from attendet.data import load_dataset
    from attendet.data.checks import decode_issues

    data = load_dataset(args.data, format=args.format, require_train=False)
    samples = data.split(args.split)
    issues = {issue.file: issue for issue in decode_issues(samples)}
    for issue in issues.values():
        print(f"left out: {issue.file}: {issue.message}")
    readable = [sample for sample in samples if sample.path not in issues]
    if not readable:
        raise DataError(f"split must hold an image that can be read; {args.split} holds none.")
    return data, readable


def _check_classes(
    candidates: Sequence[Candidate], data: DataSet, samples: Sequence[Sample]
) -> None:
    """Refuse weights whose classes are not the data's now, not after the timing.

    Raises:
        ConfigError: naming the classes.
    """
    from attendet.evaluation.matching import samples_in_classes
    from attendet.inference import load

    for candidate in {candidate.weights: candidate for candidate in candidates}.values():
        try:
            classes = load(candidate.weights, candidate.runtime, "cpu").classes
        except (WeightsError, MissingExtraError):
            continue  # it will be left out, with the reason
        source = f"{data.root}, {candidate.file}"
        samples_in_classes(samples, data.classes, classes, source=source)


def _ap_measure(
    args: argparse.Namespace, data: DataSet, samples: Sequence[Sample]
) -> Callable[[Candidate], tuple[float | None, float | None]]:
    """Return what measures AP and AP50 of a candidate on the samples."""

    def measure(candidate: Candidate) -> tuple[float | None, float | None]:
        from attendet.evaluation import evaluate
        from attendet.evaluation.matching import samples_in_classes
        from attendet.inference import Detector, load

        loaded = load(candidate.weights, candidate.runtime, "cpu", precision=candidate.precision)
        detector = Detector(loaded.runtime, input_hw=args.size)
        least = max(0.001, detector.least_confidence)
        record: Any = evaluate(
            detector,
            samples_in_classes(samples, data.classes, detector.classes, source=data.root),
            classes=detector.classes,
            confidence=least,
            max_detections=detector.selection.max_detections,
            curves=False,
        )
        return record["ap"], record["ap50"]

    return measure


def _notes(record: dict[str, Any]) -> list[str]:
    noise = record["noise"]
    other = (
        ""
        if noise["other_load"] is None
        else (f", other programs took {100 * noise['other_load']:.0f} % of the processors")
    )
    lines = [f"noise: the probe spread by {100 * noise['probe_spread']:.1f} %{other}"]
    lines += [f"left out: {one['name']}: {one['reason']}" for one in record["left_out"]]
    return lines


def _draw(record: dict[str, Any], folder: Path) -> list[Path]:
    from attendet.report.bench import bench_figure
    from attendet.report.charts import save_figure

    try:
        return [save_figure(bench_figure(record), folder / "bench.png")]
    except (MissingExtraError, ConfigError) as error:
        print(f"no figure: {error}")
        return []
