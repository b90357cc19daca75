"""Detect objects in images, videos, cameras and streams.

A SOURCE is an image or video file, a folder, a pattern such as 'shots/*.jpg', a .txt list of
paths, an http(s) address of an image, video or stream, an rtsp address, 0 or camera:0 for a
camera, or - for an image on standard input. Sources that cannot be read are skipped
and listed at the end. A camera or stream runs until Ctrl-C; its results are kept.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attendet.cli.arguments import (
    Folder,
    Pixels,
    RuntimeFlags,
    ThresholdFlags,
    add_settings,
    flag,
    given_settings,
    names,
)
from attendet.errors import ConfigError, list_names

if TYPE_CHECKING:
    from attendet.inference import Detector
    from attendet.inference.runtimes.base import Mode
    from attendet.media import Result
    from attendet.media.sinks import Sink
    from attendet.media.sources import Skipped, Source

MAX_LISTED_ISSUES = 20
"""Maximum number of issues that are printed; the others are counted."""

REQUIRED_FLAGS = {"overlap": "tile", "port": "show"}
"""Setting to the setting that it needs."""

VIDEO_KINDS = ("annotated", "video")
"""Values of --save that write videos."""

LABEL_KINDS = ("voc", "yolo", "coco")
"""Values of --save that --as-labels changes."""


Seconds = Annotated[float, "SECONDS", float]  # may be infinite


@dataclass(frozen=True)
class _Positionals:
    weights: Path
    """Weights file, exported file, hf://owner/name, or a name of: attendet weights list."""

    sources: Annotated[tuple[str, ...], "SOURCE"]
    """Image, video, folder, pattern, list, camera, address or - (see above)."""


@dataclass(frozen=True)
class _DetectionFlags:
    max_detections: int | None = None
    """Maximum detections per image or tile (default: 300, or that of a file with NMS inside)."""

    classes: Annotated[Sequence[str], "NAME[,NAME]", names] | None = None
    """Classes to detect (default: all)."""


@dataclass(frozen=True)
class _ResultFlags:
    output: Folder = Path("runs/predict")
    """Folder for results."""

    save: Annotated[Sequence[str], "KIND[,KIND]", names] = ("annotated",)
    """What to write: annotated, image, video, crops, json, jsonl, csv, yolo, coco, or none
    (default: annotated: images as JPEG, videos as MP4, with boxes)."""

    as_labels: bool = False
    """With --save voc, yolo or coco: write images and detections as a data set without scores, to
    be corrected in labelImg, CVAT or Label Studio."""

    max_side: Pixels | None = None
    """Longest side of written videos and the live view, which are scaled down to it (default: the
    video's own; 1280 for the view)."""

    show: bool = False
    """Show the detections while the command runs, on a page in the browser of this machine."""

    port: int = 0
    """With --show: port of the page (default: any free one)."""


@dataclass(frozen=True)
class _FrameFlags:
    tile: Pixels | None = None
    """Detect also in tiles with this side (default: in the whole image only)."""

    overlap: Annotated[float, "FRACTION"] = 0.2
    """With --tile: overlap of neighboring tiles as a fraction of their side, 0 to 0.9."""

    track: bool = False
    """Track objects over frames; each gets a track id (needs the extra `track`)."""


@dataclass(frozen=True)
class _ReadingFlags:
    every: int = 1
    """Use only every Nth frame."""

    stop_after: Seconds = math.inf
    """Stop a camera or stream after this time (default: at Ctrl-C)."""

    all_frames: bool = False
    """Use all frames of a camera or stream, even if they are late (default: the newest)."""

    reconnect: Seconds = 60
    """Time to reconnect to a broken camera or stream; inf: no limit, 0: do not reconnect."""

    timeout: Seconds = 10
    """Time without data after which a camera or stream counts as broken."""


@dataclass(frozen=True)
class _SpeedFlags:
    batch: int | None = None
    """Images per batch; not with --tile; 1 for cameras and streams (default: depends on the
    runtime)."""

    mode: Literal["latency", "throughput"] | None = None
    """latency: all threads on one image; throughput: several images in parallel (default: latency
    for one image, tiles, cameras and streams, else throughput)."""

    threads: int | None = None
    """CPU threads of the network (default: one per core)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_settings(parser, _Positionals)
    detections = parser.add_argument_group("detections")
    add_settings(detections, ThresholdFlags)
    add_settings(detections, _DetectionFlags)
    add_settings(parser.add_argument_group("results"), _ResultFlags)
    frames = parser.add_argument_group("large images, tracks and counts")
    add_settings(frames, _FrameFlags)
    repeated: dict[str, Any] = {"type": _numbers, "action": "append", "default": []}
    frames.add_argument(
        "--count-line",
        metavar="X1,Y1,X2,Y2",
        help="count objects that cross this line, in pixels; implies --track; may be repeated",
        **repeated,
    )
    frames.add_argument(
        "--count-zone",
        metavar="X,Y,X,Y,X,Y[,..]",
        help="count objects in this polygon, in pixels; may be repeated",
        **repeated,
    )
    add_settings(parser.add_argument_group("videos, cameras and streams"), _ReadingFlags)
    running = parser.add_argument_group("runtime")
    add_settings(running, RuntimeFlags)
    add_settings(running, _SpeedFlags)


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be numbers separated by commas; got {text!r}"
        ) from None


def _check_needs(args: argparse.Namespace) -> None:
    """Check the ranges of flags, and that each flag has the other flags that it needs.

    Raises:
        ConfigError: if a flag is out of range, needs another flag or conflicts with one.
    """
    for name in given_settings(args, add_arguments, REQUIRED_FLAGS):
        if not getattr(args, REQUIRED_FLAGS[name]):
            raise ConfigError(f"--{name} needs --{REQUIRED_FLAGS[name]}; it has no effect alone.")
    for name, least in (("batch", 1), ("max_side", 32)):
        value = getattr(args, name)
        ConfigError.check(value is None or value >= least, flag(name), f"{least} or more", value)
    if args.max_side is not None and not (args.show or set(VIDEO_KINDS) & set(args.save)):
        raise ConfigError(
            f"--max-side needs --save {' or '.join(VIDEO_KINDS)}, or --show; it has no effect "
            "alone."
        )
    if args.as_labels and not set(LABEL_KINDS) & set(args.save):
        raise ConfigError(
            f"--as-labels needs --save {list_names(LABEL_KINDS)}; it has no effect alone."
        )
    if "voc" in args.save and not args.as_labels:
        raise ConfigError("--save voc needs --as-labels: Pascal VOC has no scores.")
    if args.batch is not None and args.tile is not None:
        raise ConfigError(
            "--batch must be omitted with --tile: the tiles of an image are one batch."
        )


@dataclass
class _RunSummary:
    """Counts of processed items, detections and errors."""

    every: int = 1
    images: int = 0
    frames: int = 0
    dropped: int = 0
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    skipped: list[Skipped] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)
    has_unfit_regions: bool = False
    counted: dict[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def done(self) -> int:
        return self.images + self.frames

    def add(self, result: Result) -> None:
        frame = result.frame
        if frame.is_still:
            self.images += 1
        else:
            self.frames += 1
        if frame.source.is_live:
            self.dropped = frame.index // self.every + 1 - self.frames
        self.counts.update(result.detections.names)
        if result.counts:
            self.counted["images" if frame.is_still else frame.source.label] = result.counts

    def add_misfit(self, skipped: Skipped) -> None:
        self.skipped.append(skipped)
        self.has_unfit_regions = True


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code.

    It is 1 if nothing was read, a result was not written, or a line or zone does not fit an image.
    """
    from attendet.cli.interrupts import until_interrupted
    from attendet.cli.progress import speed_bar
    from attendet.media import FrameOptions, LiveOptions, predict_frames, read_frames
    from attendet.media.sinks import open_sinks
    from attendet.media.sources import find_sources
    from attendet.report.fonts import numbered_classes

    _check_needs(args)
    sources = find_sources(args.sources)
    options = FrameOptions(
        tile=args.tile,
        overlap=args.overlap,
        track=args.track,
        lines=args.count_line,
        zones=args.count_zone,
        only=args.classes,
    )
    live = LiveOptions(
        drop=not args.all_frames,
        reconnect=args.reconnect,
        timeout=args.timeout,
        stop_after=args.stop_after,
        on_event=_print_event,
    )
    detector = _detector(args, sources)
    tally = _RunSummary(args.every)
    frames = read_frames(
        sources,
        every=args.every,
        on_skip=tally.skipped.append,
        live=live,
        ahead=2 * (args.batch or 8),
    )
    kinds = [kind for kind in args.save if kind != "none"]
    total, unit = _size_of(sources)
    with (
        open_sinks(
            kinds,
            args.output,
            sources,
            on_fail=tally.unwritten.append,
            max_side=args.max_side,
            as_labels=args.as_labels,
        ) as sinks,
        _live_view(args, sources) as views,
        speed_bar("predict", total, unit) as step,
    ):
        started = time.perf_counter()
        results = predict_frames(
            detector, frames, options, batch=args.batch, on_skip=tally.add_misfit
        )
        if any(source.is_live or source.kind == "address" for source in sources):
            results = until_interrupted(results)
        with contextlib.closing(results):
            _write_results(results, sources, [*sinks, *views], tally, step)
        seconds = time.perf_counter() - started
    _summarize(detector, tally, seconds)
    if kinds and tally.done:
        print(f"written: {', '.join(kinds)} in {args.output}")
    if args.show or {"annotated", "image", "video"} & set(kinds):
        numbered = numbered_classes(detector.classes)
        if numbered:
            print(numbered)
    return 0 if tally.done and not (tally.unwritten or tally.has_unfit_regions) else 1


def _print_event(text: str) -> None:
    # A progress bar replaces sys.stderr while it is shown, so it is looked up here.
    print(text, file=sys.stderr, flush=True)


def _detector(args: argparse.Namespace, sources: Sequence[Source]) -> Detector:
    from attendet.inference import Detector, load
    from attendet.inference.postprocess import class_ids_of

    one_by_one = args.tile is not None or any(source.is_live for source in sources)
    alone = len(sources) == 1 and sources[0].kind != "video"
    mode: Mode = args.mode or ("latency" if one_by_one or alone else "throughput")
    loaded = load(args.weights, args.runtime, args.device, threads=args.threads, mode=mode)
    detector = Detector(
        loaded.runtime, args.confidence, args.nms_iou, args.max_detections, input_hw=args.input_hw
    )
    if args.classes:
        class_ids_of(args.classes, detector.classes)
    return detector


def _size_of(sources: Sequence[Source]) -> tuple[int | None, str]:
    """Return the number of results, None if unknown, and their unit."""
    if all(source.kind == "image" for source in sources):
        return len(sources), "images"
    return None, "frames"


@contextlib.contextmanager
def _live_view(args: argparse.Namespace, sources: Sequence[Source]) -> Iterator[list[Sink]]:
    if not args.show:
        yield []
        return
    from attendet.media.live_view import LiveView

    title = ", ".join(source.label for source in sources[:3])  # without passwords
    view = LiveView(args.port, max_side=args.max_side or 1280, title=title)
    print(f"live view: {view.address}", flush=True)
    try:
        yield [view]
    finally:
        view.close(whole=True)


def _write_results(
    results: Iterator[Result],
    sources: Sequence[Source],
    sinks: Sequence[Sink],
    tally: _RunSummary,
    step: Callable[[int, int | None], None],
) -> None:
    is_alone = len(sources) == 1
    for result in results:
        for sink in sinks:
            sink.write(result)
        tally.add(result)
        frame = result.frame
        step(tally.done + len(tally.skipped), frame.total if is_alone else None)
    step(tally.done + len(tally.skipped), None)


def _summarize(detector: Detector, tally: _RunSummary, seconds: float) -> None:
    parts = [(tally.images, "image"), (tally.frames, "frame")]
    done = [f"{count} {_plural(word, count)}" for count, word in parts if count]
    unit = "frames" if tally.frames else "images"
    rate = tally.done / max(seconds, 1e-9)
    print(f"{', '.join(done) or '0 images'} in {seconds:.1f} s ({rate:.1f} {unit}/s)")
    if tally.dropped:
        print(f"{tally.dropped} {_plural('frame', tally.dropped)} dropped because they were late")
    total = tally.counts.total()
    print(f"{total} {_plural('detection', total)}")
    for name in detector.classes:
        if tally.counts[name]:
            print(f"  {name:<16} {tally.counts[name]}")
    for label, counts in tally.counted.items():
        for count in counts:
            print(f"  {label}: {_count_text(count)}")
    _name_issues("skipped", [one.reason for one in tally.skipped if not one.frames])
    _name_issues("not read to the end", [one.reason for one in tally.skipped if one.frames])
    _name_issues("not written", tally.unwritten)


def _count_text(count: Mapping[str, Any]) -> str:
    kind = next(iter(count))
    at = ",".join(f"{value:g}" for value in count[kind])
    numbers = ", ".join(f"{name} {value}" for name, value in count.items() if name != kind)
    return f"{kind} {at}: {numbers}"


def _name_issues(what: str, issues: Sequence[str]) -> None:
    if not issues:
        return
    print(f"{len(issues)} {what}:", file=sys.stderr)
    for issue in issues[:MAX_LISTED_ISSUES]:
        print(f"  {issue}", file=sys.stderr)
    if len(issues) > MAX_LISTED_ISSUES:
        print(f"  and {len(issues) - MAX_LISTED_ISSUES} more", file=sys.stderr)


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
