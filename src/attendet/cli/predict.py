"""Detect objects in pictures.

A SOURCE is a picture, a folder, a pattern such as 'shots/*.jpg' or a .txt list of paths. Pictures
that cannot be read are named at the end and left out; the rest is done.
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attendet.cli.arguments import size_hw
from attendet.errors import ConfigError, PictureError

if TYPE_CHECKING:
    from attendet.inference import Detector
    from attendet.inference.sinks import Sink
    from attendet.inference.sources import Skipped, Source
    from attendet.pictures import Picture

SAVE_KINDS = "picture, json, csv, yolo, coco"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="weights file (.safetensors)")
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="picture, folder, pattern, list"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/predict"), metavar="DIR",
        help="folder for results (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--save", type=_words, default=["picture"], metavar="KIND[,KIND]",
        help=f"what to write: {SAVE_KINDS}, or none (default: picture)",
    )  # fmt: skip
    parser.add_argument(
        "--confidence", type=float, default=0.25, metavar="SCORE",
        help="lowest score that counts, 0 to 1 (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--iou", type=float, default=0.5, metavar="IOU",
        help="of two boxes of a class that overlap more, the better stays, 0 to 1 "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-detections", type=int, default=300, metavar="N",
        help="at most this many a picture (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--classes",
        type=_words,
        metavar="NAME[,NAME]",
        help="classes that are wanted (default: all)",
    )
    parser.add_argument(
        "--size", type=size_hw, metavar="PX|HxW",
        help="input size in pixels, multiples of 32 (default: that of the weights)",
    )  # fmt: skip
    parser.add_argument(
        "--batch", type=int, default=8, metavar="N",
        help="pictures that run together (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: a GPU where there is one)"
    )


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def run(args: argparse.Namespace) -> int:
    """Run the command; return 0, or 1 where no picture could be read."""
    from attendet.cli.progress import paced_bar
    from attendet.inference import Detector, load
    from attendet.inference.postprocess import class_ids_of
    from attendet.inference.sinks import open_sinks
    from attendet.inference.sources import find_sources

    if args.batch < 1:
        raise ConfigError(f"--batch must be 1 or more; got {args.batch}.")
    sources = find_sources(args.sources)
    loaded = load(args.weights, device=args.device)
    detector = Detector(
        loaded.runtime, args.confidence, args.iou, args.max_detections, input_hw=args.size
    )
    if args.classes:
        class_ids_of(args.classes, detector.classes)
    kinds = [kind for kind in args.save if kind != "none"]
    with (
        open_sinks(kinds, args.output, sources) as sinks,
        paced_bar("predict", len(sources)) as step,
    ):
        started = time.perf_counter()
        counts, done, skipped = _predict(detector, sources, sinks, args, step)
        seconds = time.perf_counter() - started
    _summarise(detector, counts, done, skipped, seconds)
    if kinds and done:
        print(f"written: {', '.join(kinds)} in {args.output}")
    return 0 if done else 1


def _predict(
    detector: Detector,
    sources: Sequence[Source],
    sinks: Sequence[Sink],
    args: argparse.Namespace,
    step: Callable[[int], None],
) -> tuple[collections.Counter[str], int, list[Skipped]]:
    """Return detections per class, the number of pictures done, and those that were skipped."""
    from attendet.inference.sources import Skipped, read_ahead

    counts: collections.Counter[str] = collections.Counter()
    skipped: list[Skipped] = []
    done = 0
    read = read_ahead(sources, on_skip=skipped.append, ahead=2 * args.batch)
    for chunk in _chunks(read, args.batch):
        found = detector.predict_batch([picture for _, picture in chunk], only=args.classes)
        for (source, picture), detections in zip(chunk, found, strict=True):
            try:
                for sink in sinks:
                    sink.write(source, picture, detections)
            except PictureError as error:
                skipped.append(Skipped(source.path, str(error)))
                continue
            counts.update(detections.names)
            done += 1
        step(done + len(skipped))
    step(done + len(skipped))
    return counts, done, skipped


def _chunks(
    pairs: Iterator[tuple[Source, Picture]], size: int
) -> Iterator[list[tuple[Source, Picture]]]:
    chunk: list[tuple[Source, Picture]] = []
    for pair in pairs:
        chunk.append(pair)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _summarise(
    detector: Detector,
    counts: collections.Counter[str],
    done: int,
    skipped: Sequence[Skipped],
    seconds: float,
) -> None:
    rate = done / max(seconds, 1e-9)
    print(f"{done} {_plural('picture', done)} in {seconds:.1f} s ({rate:.1f} pictures/s)")
    total = counts.total()
    print(f"{total} {_plural('detection', total)}")
    for name in detector.classes:
        if counts[name]:
            print(f"  {name:<16} {counts[name]}")
    if skipped:
        print(f"{len(skipped)} skipped:", file=sys.stderr)
        for one in skipped:
            print(f"  {one.reason}", file=sys.stderr)


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
