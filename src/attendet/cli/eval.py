"""Measure the average precision of a detector on a data set.

DATA is a folder in Pascal VOC, YOLO or COCO format, a YOLO data.yaml or a COCO .json. Classes are
matched by name; --class-map matches classes with different names. Prints the COCO and Pascal VOC
metrics per class and over all classes; --output writes all numbers, the curves and the confusion
matrix as JSON.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attendet import __version__
from attendet.cli.arguments import (
    DataFlags,
    File,
    RuntimeFlags,
    Score,
    ThresholdFlags,
    add_settings,
)
from attendet.data.class_names import ClassMatch, parse_class_map
from attendet.errors import ConfigError, ImageError, list_names

if TYPE_CHECKING:
    from attendet.data import DataSet
    from attendet.inference import Detector, Selection

LAYOUT = "attendet/evaluation/1"
"""Name and version of the layout of the record file."""


@dataclass(frozen=True)
class _Flags:
    weights: Path
    """Weights file, exported file, hf://owner/name, or a name of: attendet weights list."""

    data: Path
    """Data set."""

    batch: int = 16
    """Images per batch."""

    confidence: Score | None = None
    """Lowest score of a detection, 0 to 1; AP needs a low value (default: 0.001, or that of a file
    with NMS inside)."""

    max_detections: int | None = None
    """Maximum detections per image (default: 300, or that of a file with NMS inside)."""

    output: File | None = None
    """JSON file to write."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_settings(parser, _Flags)
    add_settings(parser, ThresholdFlags, without=("confidence",))
    for flags in (DataFlags, RuntimeFlags):
        add_settings(parser, flags)


def run(args: argparse.Namespace) -> int:
    """Run the command; return 0."""
    from attendet.cli.progress import progress_bar
    from attendet.data import load_dataset
    from attendet.evaluation import evaluate
    from attendet.evaluation.matching import remap_sample_classes
    from attendet.evaluation.metrics import evaluation_selection
    from attendet.files import write_atomically
    from attendet.inference import Detector, load
    from attendet.report.tables import class_table, plain_table

    if args.output is not None and args.output.is_dir():
        raise ConfigError(f"output must be a file; {args.output} is a folder (--output).")
    loaded = load(args.weights, runtime=args.runtime, device=args.device)
    detector = Detector(loaded.runtime, input_hw=args.input_hw)
    selection = evaluation_selection(detector, args.confidence, args.nms_iou, args.max_detections)
    data = load_dataset(args.data, format=args.format, require_train=False)
    class_map, classes = parse_class_map(args.class_map), detector.classes
    samples, match = remap_sample_classes(
        data.split(args.split), data.classes, classes, class_map=class_map, source=data.root
    )
    fingerprint = data.fingerprint(args.split)
    for line in _introduction(args, detector, data, match, fingerprint):
        print(line)
    skipped: list[ImageError] = []
    with progress_bar("evaluate", len(samples)) as step:
        record = evaluate(
            detector,
            samples,
            classes=detector.classes,
            batch=args.batch,
            confidence=selection.confidence,
            nms_iou=selection.nms_iou,
            max_detections=selection.max_detections,
            progress=step,
            on_skip=lambda _, error: skipped.append(error),
        )
    for error in skipped:
        print(f"skipped      {error}")
    print()
    print(plain_table(*class_table(record)))
    for line in _summary(record):
        print(line)
    if args.output is not None:
        content = _file_content(args, detector, selection, data, match, fingerprint, record)
        write_atomically(args.output, json.dumps(content, indent=1, allow_nan=False) + "\n")
        print(f"written: {args.output}")
    return 0


def _introduction(
    args: argparse.Namespace, detector: Detector, data: DataSet, match: ClassMatch, fingerprint: str
) -> list[str]:
    metadata = detector.metadata
    height, width = detector.input_hw
    lines = [
        f"weights      {args.weights} ({metadata.architecture}, attention {metadata.attention}, "
        f"input {width} x {height} px)",
        f"data         {data.root} ({data.format}; {data.split_source})",
        f"split        {args.split}, fingerprint {fingerprint}",
    ]
    trained = (metadata.data or {}).get("fingerprints", {})
    if fingerprint == trained.get("train"):
        lines.append("note         the weights were trained on these images")
    if data.issues:
        lines.append(f"note         {len(data.issues)} issues in the labels (attendet data check)")
    if match.note:
        lines.append(f"note         {match.note}")
    absent = [name for index, name in enumerate(detector.classes) if index not in match.ids]
    if absent:
        lines.append(f"note         no boxes of: {list_names(absent)}")
    return lines


def _summary(record: Any) -> list[str]:
    from attendet.report.tables import format_value

    counts, seconds, best = record["counts"], record["seconds"], record["best_f1"]
    missing = counts["images_unreadable"]
    unreadable = f"; {missing} more cannot be read" if missing else ""
    by_size = ", ".join(
        f"{size} {format_value(record[f'ap_{size}'])}" for size in ("small", "medium", "large")
    )
    recalls = ", ".join(
        f"AR{count} {format_value(record[f'ar_{count}'])}" for count in (1, 10, 100)
    )
    rate = counts["images"] / max(seconds["inference"], 1e-9)
    best_f1 = (
        []
        if best is None
        else [
            f"best F1      {best['f1']:.3f} at confidence {best['confidence']:.3f} "
            f"(precision {best['precision']:.3f}, recall {best['recall']:.3f})"
        ]
    )
    return [
        "",
        f"AP by size   {by_size}",
        f"recall       {recalls}",
        *best_f1,
        f"images       {counts['images']} ({counts['images_without_gt']} without ground truth"
        f"{unreadable})",
        f"boxes        {counts['gt']} ground truth, {counts['difficult']} difficult (ignored), "
        f"{counts['detections']} detected",
        f"time         inference {seconds['inference']:.1f} s ({rate:.1f} images/s), "
        f"metrics {seconds['metrics']:.2f} s",
    ]


def _file_content(
    args: argparse.Namespace,
    detector: Detector,
    selection: Selection,
    data: DataSet,
    match: ClassMatch,
    fingerprint: str,
    record: dict[str, Any],
) -> dict[str, Any]:
    """Return the content of the record file: weights, data, settings and metrics."""
    return {
        "layout": LAYOUT,
        "version": __version__,
        "weights": {
            "file": str(args.weights),
            "architecture": detector.metadata.architecture,
            "attention": detector.metadata.attention,
            "classes": list(detector.classes),
            "seed": detector.metadata.seed,
            "preprocess": asdict(detector.metadata.preprocessing()),
        },
        "data": {
            "root": str(data.root),
            "format": data.format,
            "split": args.split,
            "split_source": data.split_source,
            "fingerprint": fingerprint,
            "issues": len(data.issues),
            "classes": list(data.classes),
            "class_note": match.note,
        },
        "settings": {
            "input_hw": list(detector.input_hw),
            "confidence": selection.confidence,
            "nms_iou": selection.nms_iou,
            "max_detections": selection.max_detections,
            "batch": args.batch,
        },
        "metrics": record,
    }
