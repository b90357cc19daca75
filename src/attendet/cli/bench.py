"""How fast files and runtimes are on this machine, side by side in one run.

WEIGHTS are weights files and exported files. Each runs through every installed runtime that can, in
a process of its own; turns of some seconds go round, so that what else the machine does falls on
all alike. With --data the average precision of each is measured, and the fastest is sought among
those within --max-loss of the best. Nobody is called the fastest on a noisy machine.
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
    from attendet.bench.contenders import Contender
    from attendet.data import DataSet, Sample

PICTURES = 8
"""Pictures that are made where none are given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add = parser.add_argument
    add("weights", nargs="+", type=Path, metavar="WEIGHTS",
        help="weights files and exported ones (.safetensors, .onnx, OpenVINO folder)")  # fmt: skip
    add("--data", type=Path, metavar="DATA",
        help="data set whose pictures are used and whose truth gives the AP (default: made-up "
        "pictures of 640 x 480, no AP)")  # fmt: skip
    add("--split", default="test", metavar="NAME",
        help="train, val, test or all (default: %(default)s)")  # fmt: skip
    add("--format", choices=["voc", "yolo", "coco"], help="of DATA (default: recognised)")
    add("--runtimes", nargs="+", default=[], metavar="NAME",
        help="torch, onnx, openvino (default: all that are installed)")  # fmt: skip
    add("--batch", nargs="+", type=int, default=[1], metavar="N",
        help="pictures that go through the network together (default: 1)")  # fmt: skip
    add("--threads", nargs="+", type=int, default=[], metavar="N",
        help="processor threads of the network (default: one a core)")  # fmt: skip
    add("--mode", nargs="+", choices=["latency", "throughput"], default=["latency"],
        help="all threads on one picture, or several pictures side by side "
        "(default: latency)")  # fmt: skip
    add("--rounds", type=int, default=7, metavar="N",
        help="turns of each, 5 or more (default: %(default)s)")  # fmt: skip
    add("--seconds", type=float, default=0.7, metavar="S",
        help="for each of the four things that are timed in a turn (default: "
        "%(default)s)")  # fmt: skip
    add("--max-loss", type=float, default=0.5, metavar="POINTS",
        help="AP that the fastest may be below the best, points of 100 "
        "(default: %(default)s)")  # fmt: skip
    add("--confidence", type=float, metavar="SCORE",
        help="lowest score that counts while timing, 0 to 1 (default: 0.25; that of a file with "
        "suppression inside)")  # fmt: skip
    add("--size", type=size_hw, metavar="PX|HxW",
        help="input size in pixels, multiples of 32 (default: that of the files)")  # fmt: skip
    add("--output", type=Path, default=Path("runs/bench"), metavar="DIR",
        help="folder for bench.json, bench.md and bench.png (default: %(default)s)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the command; return 0."""
    from attendet.bench import BenchSettings, plan_contenders, run_bench
    from attendet.files import write_atomically
    from attendet.report.bench import bench_table, bench_verdicts
    from attendet.report.tables import markdown_table, plain_table

    if not 0 <= args.max_loss <= 100:
        raise ConfigError(f"--max-loss must be from 0 to 100; got {args.max_loss:g}.")
    settings = BenchSettings(
        tuple(sorted(set(args.batch))), args.rounds, args.seconds, args.confidence, args.size
    )
    contenders = plan_contenders(
        args.weights, runtimes=args.runtimes, threads=args.threads, modes=args.mode
    )
    data = _load_data(args)
    with tempfile.TemporaryDirectory() as folder, _status() as say:
        if data:
            _check_classes(contenders, *data)
        paths = [sample.path for sample in data[1]] if data else make_pictures(Path(folder))
        record = run_bench(
            contenders,
            paths,
            settings,
            measure_ap=None if data is None else _ap_measure(args, *data),
            max_loss=args.max_loss / 100,
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


def make_pictures(folder: Path, count: int = PICTURES) -> list[Path]:
    """Return JPEG files of 640 x 480 pixels: smooth colours with grain, always the same."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = rng.integers(60, 220, (8, 10, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
        grain = rng.normal(0, 4, picture.shape)
        path = folder / f"{number}.jpg"
        cv2.imwrite(str(path), np.clip(picture + grain, 0, 255).astype(np.uint8))
        paths.append(path)
    return paths


def _load_data(args: argparse.Namespace) -> tuple[DataSet, Sequence[Sample]] | None:
    """Return the data set and those of its pictures that can be read."""
    if args.data is None:
        return None
    from attendet.data import load_dataset
    from attendet.data.checks import decode_faults

    data = load_dataset(args.data, format=args.format, require_train=False)
    samples = data.split(args.split)
    faults = {fault.file: fault for fault in decode_faults(samples)}
    for fault in faults.values():
        print(f"left out: {fault.file}: {fault.message}")
    readable = [sample for sample in samples if sample.path not in faults]
    if not readable:
        raise DataError(f"split must hold a picture that can be read; {args.split} holds none.")
    return data, readable


def _check_classes(
    contenders: Sequence[Contender], data: DataSet, samples: Sequence[Sample]
) -> None:
    """Refuse weights whose classes are not the data's now, not after the timing.

    Raises:
        ConfigError: naming the classes.
    """
    from attendet.evaluation.matching import samples_in_classes
    from attendet.inference import load

    for contender in {contender.weights: contender for contender in contenders}.values():
        try:
            classes = load(contender.weights, contender.runtime, "cpu").classes
        except (WeightsError, MissingExtraError):
            continue  # it will be left out, with the reason
        source = f"{data.root}, {contender.file}"
        samples_in_classes(samples, data.classes, classes, source=source)


def _ap_measure(
    args: argparse.Namespace, data: DataSet, samples: Sequence[Sample]
) -> Callable[[Contender], tuple[float | None, float | None]]:
    """Return what measures AP and AP50 of a contender on the samples."""

    def measure(contender: Contender) -> tuple[float | None, float | None]:
        from attendet.evaluation import evaluate
        from attendet.evaluation.matching import samples_in_classes
        from attendet.inference import Detector, load

        loaded = load(contender.weights, contender.runtime, "cpu", precision=contender.precision)
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
    other = "" if noise["other_load"] is None else (
        f", other programs took {100 * noise['other_load']:.0f} % of the processors"
    )  # fmt: skip
    lines = [f"noise: the probe spread by {100 * noise['probe_spread']:.1f} %{other}"]
    lines += [f"left out: {one['name']}: {one['reason']}" for one in record["left_out"]]
    return lines


def _draw(record: dict[str, Any], folder: Path) -> list[Path]:
    from attendet.report.bench import bench_figure
    from attendet.report.figures import save_figure

    try:
        return [save_figure(bench_figure(record), folder / "bench.png")]
    except (MissingExtraError, ConfigError) as error:
        print(f"no figure: {error}")
        return []
