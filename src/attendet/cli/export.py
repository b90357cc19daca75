"""Write a network in a form that other programs run.

onnx, openvino, torchscript, torch-export, ncnn: one file (a folder for openvino and ncnn) that
takes images, gives decoded boxes and scores, and describes itself. It is compared with PyTorch
before it gets its name; a file that says otherwise is an error, and none is left. --data compares
on real images, average precision included.

darknet: FILE.cfg, FILE.weights and FILE.names, with the values as they are. Attention does not go
there: a network with attention is refused.
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
"""Settings that are settings of something else."""

SETTINGS = ("size", "dynamic", "half", "int8", "nms", "data", *NEEDS)
"""All but where the files go; darknet has none of them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add = parser.add_argument
    add("weights", type=Path, metavar="WEIGHTS", help="weights file (.safetensors)")
    add("--format", required=True, choices=FORMATS, help="what to write")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for the files, which take the name of WEIGHTS (default: runs/export)",
        default=Path("runs/export"),
    )
    add(
        "--size",
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
        help="keep weights in float16: half the file (onnx, openvino, ncnn)",
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
        help="with --int8: data set to calibrate on (its train split) and to compare on",
    )
    add(
        "--max-ap-loss",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="with --int8: most average precision that may be lost on --split, of 100 "
        "(default: %(default)s)",
    )
    add("--nms", action="store_true", help="put non-maximum suppression inside (onnx, openvino)")
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
        help="with --nms: of two boxes of a class that overlap more, the better stays, 0 to 1 "
        "(default: %(default)s)",
    )
    add(
        "--max-detections",
        type=int,
        default=300,
        metavar="N",
        help="with --nms: rows of an image (default: %(default)s)",
    )
    add(
        "--data",
        type=Path,
        metavar="DATA",
        help="data set on whose images the file is compared, average precision included "
        "(default: drawn images)",
    )
    add(
        "--split",
        default="val",
        metavar="NAME",
        help="of DATA: train, val, test or all (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the files and name them; return 0."""
    require("torch", extra="train", purpose="exporting weights")
    if args.format == "darknet":
        return _darknet(args)
    _check_needs(args)
    from attendet.cli.progress import progress_bar
    from attendet.exporters import export

    with progress_bar("compare") as step:
        report = export(
            args.weights,
            args.format,
            output=args.output,
            input_hw=args.size,
            dynamic=args.dynamic,
            half=args.half,
            int8=args.int8,
            calibrate=args.calibrate,
            max_ap_loss=args.max_ap_loss,
            nms=args.nms,
            confidence=args.confidence,
            nms_iou=args.nms_iou,
            max_detections=args.max_detections,
            data=args.data,
            split=args.split,
            progress=step,
        )
    for line in _lines(report):
        print(line)
    return 0


def _check_needs(args: argparse.Namespace) -> None:
    """Refuse a setting that would change nothing, as its user means it to.

    Raises:
        ConfigError: if one is given without that which it is a setting of.
    """
    for name in given_settings(args, add_arguments, SETTINGS):
        needed = NEEDS.get(name, ())
        if needed and not any(getattr(args, other) for other in needed):
            ways = " or ".join(_flag(other) for other in needed)
            raise ConfigError(f"{_flag(name)} needs {ways}; alone it changes nothing.")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _darknet(args: argparse.Namespace) -> int:
    from attendet.interop.darknet.export import export_darknet
    from attendet.interop.hub import local_weights, weights_name
    from attendet.models import load_weights

    for name in given_settings(args, add_arguments, SETTINGS):
        raise ConfigError(
            f"{_flag(name)} must be left out for darknet, whose files keep values alone."
        )
    network, metadata = load_weights(local_weights(args.weights))
    for path in export_darknet(network, metadata, args.output, stem=weights_name(args.weights)):
        print(f"written: {path}")
    return 0


def _lines(report: ExportReport) -> list[str]:
    """Return what was written and how it compares, in words."""
    metadata, info, parity = report.metadata, report.info, report.parity
    height, width = metadata.input_hw
    size = "any size, best" if "size" in info.dynamic else "input"
    batch = "any batch" if "batch" in info.dynamic else "one image at a time"
    where = f"of {parity.split}" if parity.split else "(drawn)"
    lines = [
        f"network      {metadata.architecture}, attention {metadata.attention}; "
        f"{size} {width} x {height} px, {batch}, weights {info.precision}",
        f"boxes        differ by {parity.max_box_px:.2g} px at most, {parity.mean_box_px:.2g} px "
        "on average",
        f"scores       differ by {parity.max_score:.2g} at most, {parity.mean_score:.2g} "
        "on average",
    ]
    if info.precision != "int8":
        lines.append(
            f"detections   {parity.same} of {parity.detections} the same within 1 px and 0.01, "
            f"{parity.extra} others, on {parity.images} images {where}"
        )
    if parity.ap is not None and parity.ap_exported is not None:
        lines.append(
            f"AP           {parity.ap_exported:.4f} as exported, {parity.ap:.4f} in PyTorch, "
            f"on {parity.images} images {where}"
        )
    if info.precision == "int8":
        drops = ", ".join(f"{drop:.2f}" for drop in info.parity["ap_drops"].values())
        lines.append(f"in float32   {info.parity['kept_in_float32']}; points of AP lost: {drops}")
    lines.append(f"written: {report.path} ({report.size_bytes / 1e6:.1f} MB)")
    return lines
