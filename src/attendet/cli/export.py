"""Export a network to a format that other programs run.

onnx, openvino, torchscript, torch-export, ncnn: one file (a folder for openvino and ncnn) that
takes images, returns decoded boxes and scores, and holds its own metadata. It is compared with
PyTorch before it gets its name; if it differs too much, no file is left. --data compares on real
images, average precision included.

darknet: FILE.cfg, FILE.weights and FILE.names, with unchanged values. darknet has no attention: a
network with attention is an error.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from attendet.cli.arguments import given_settings, size_hw
from attendet.errors import ConfigError
from attendet.system import require

if TYPE_CHECKING:
    from attendet.exporters import ExportReport

FORMATS = ("onnx", "openvino", "torchscript", "torch-export", "ncnn", "darknet")

NEEDS = {
    "calibrate": ("int8",),
    "max_ap_loss": ("int8",),
    "confidence": ("nms",),
    "nms_iou": ("nms",),
    "max_detections": ("nms",),
    "split": ("data", "calibrate"),
}
"""Flags that have an effect only with another flag."""

SETTINGS = ("input_hw", "dynamic", "half", "int8", "nms", "data", *NEEDS)
"""Arguments of `attendet.export`; darknet has none of them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add = parser.add_argument
    add("weights", type=Path, metavar="WEIGHTS", help="weights file (.safetensors)")
    add("--format", required=True, choices=FORMATS, help="format to write")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for the files, which get the name of WEIGHTS (default: runs/export)",
        default=Path("runs/export"),
    )
    add(
        "--size",
        dest="input_hw",
        type=size_hw,
        metavar="PX|HxW",
        help="input size in pixels, multiples of 32 (default: that of the weights)",
    )
    add(
        "--dynamic",
        choices=["none", "batch", "size"],
        help="what may differ from call to call; size means batch and size "
        "(default: batch; ncnn: none)",
    )
    add(
        "--half",
        action="store_true",
        help="keep weights in float16: half the file size (onnx, openvino, ncnn)",
    )
    add(
        "--int8",
        action="store_true",
        help="quantize weights and maps (onnx, openvino); needs --calibrate",
    )
    add(
        "--calibrate",
        type=Path,
        metavar="DATA",
        help="with --int8: data set for calibration (its train split) and comparison",
    )
    add(
        "--max-ap-loss",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="with --int8: largest loss of average precision on --split, points "
        "(default: %(default)s)",
    )
    add("--nms", action="store_true", help="append non-maximum suppression (onnx, openvino)")
    add(
        "--confidence",
        type=float,
        default=0.25,
        metavar="SCORE",
        help="with --nms: lowest score of a detection, 0 to 1 (default: %(default)s)",
    )
    add(
        "--nms-iou",
        type=float,
        default=0.5,
        metavar="IOU",
        help="with --nms: IoU threshold of the suppression, 0 to 1 (default: %(default)s)",
    )
    add(
        "--max-detections",
        type=int,
        default=300,
        metavar="N",
        help="with --nms: rows per image (default: %(default)s)",
    )
    add(
        "--data",
        type=Path,
        metavar="DATA",
        help="data set on whose images the file is compared, average precision included "
        "(default: synthetic images)",
    )
    add(
        "--split",
        default="val",
        metavar="NAME",
        help="of DATA: train, val, test or all (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the files and print their names; return 0."""
    require("torch", extra="train", purpose="exporting weights")
    for name in given_settings(args, add_arguments, SETTINGS):
        if args.format == "darknet":
            raise ConfigError(f"{_flag(name)} must be omitted for darknet.")
        needed = NEEDS.get(name, ())
        if needed and not any(getattr(args, other) for other in needed):
            flags = " or ".join(_flag(other) for other in needed)
            raise ConfigError(f"{_flag(name)} needs {flags}; alone it has no effect.")
    if args.format == "darknet":
        return _export_darknet(args)
    from attendet.cli.progress import progress_bar
    from attendet.exporters import export

    settings = {name: getattr(args, name) for name in ("output", *SETTINGS)}
    with progress_bar("compare") as step:
        report = export(args.weights, args.format, progress=step, **settings)
    for line in _lines(report):
        print(line)
    return 0


def _flag(name: str) -> str:
    return "--size" if name == "input_hw" else f"--{name.replace('_', '-')}"


def _export_darknet(args: argparse.Namespace) -> int:
    from attendet.interop.darknet.export import export_darknet
    from attendet.interop.hub import local_weights, weights_name
    from attendet.models import load_weights

    network, metadata = load_weights(local_weights(args.weights))
    for path in export_darknet(network, metadata, args.output, stem=weights_name(args.weights)):
        print(f"written: {path}")
    return 0


def _lines(report: ExportReport) -> list[str]:
    """Return the lines of the report."""
    metadata, info, parity = report.metadata, report.info, report.parity
    height, width = metadata.input_hw
    size = "any size, best" if "size" in info.dynamic else "input"
    batch = "any batch" if "batch" in info.dynamic else "one image at a time"
    origin = f"of {parity.split}" if parity.split else "(synthetic)"
    images = f"on {parity.images} images {origin}"
    lines = [
        f"network      {metadata.architecture}, attention {metadata.attention}; "
        f"{size} {width} x {height} px, {batch}, weights {info.precision}",
        f"boxes        differ by at most {parity.max_box_px:.2g} px, {parity.mean_box_px:.2g} px "
        "on average",
        f"scores       differ by at most {parity.max_score:.2g}, {parity.mean_score:.2g} "
        "on average",
    ]
    if info.precision != "int8":
        lines.append(
            f"detections   {parity.same} of {parity.detections} the same within 1 px and 0.01, "
            f"{parity.extra} others, {images}"
        )
    if parity.ap is not None and parity.ap_exported is not None:
        lines.append(
            f"AP           {parity.ap_exported:.4f} as exported, {parity.ap:.4f} in PyTorch, "
            f"{images}"
        )
    if info.precision == "int8":
        losses = ", ".join(f"{loss:.2f}" for loss in info.parity["ap_losses"].values())
        lines.append(f"in float32   {info.parity['kept_in_float32']}; points of AP lost: {losses}")
    return [*lines, f"written: {report.path} ({report.size_bytes / 1e6:.1f} MB)"]
