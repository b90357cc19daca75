"""Export a network to a format that other programs run.

onnx, openvino, torchscript, torch-export, ncnn, litert: one file (a folder for openvino, ncnn and
litert) that takes images, returns decoded boxes and scores, and holds its own metadata. Its outputs
are compared with PyTorch first; if they differ too much, no file is written. With --data, the
comparison uses real images and includes average precision.

web: a folder with a page that runs the detector in the browser, for any static web host. ONNX
Runtime for the browser is downloaded once, from registry.npmjs.org.

darknet: FILE.cfg, FILE.weights and FILE.names, with unchanged values. darknet has no attention: a
network with attention is an error.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attendet.cli.arguments import Folder, add_settings, flag, given_settings, settings_from
from attendet.config import settings_of
from attendet.errors import ConfigError
from attendet.exporters.settings import FORMATS, ExportSettings
from attendet.system import require

if TYPE_CHECKING:
    from attendet.exporters import ExportReport


@dataclass(frozen=True)
class _Flags:
    weights: Path
    """Weights file (.safetensors), hf://owner/name, or a name of: attendet weights list."""

    output: Folder = Path("runs/export")
    """Folder for the files, which are named after WEIGHTS."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_settings(parser, _Flags)
    formats = [*FORMATS, "darknet"]
    parser.add_argument("--format", required=True, choices=formats, help="format to write")
    add_settings(parser, ExportSettings, without=("format",))


def run(args: argparse.Namespace) -> int:
    """Write the files and print their names; return 0."""
    require("torch", extra="train", purpose="exporting weights")
    if args.format == "darknet":
        return _export_darknet(args)
    from attendet.cli.progress import progress_bar
    from attendet.exporters import export

    settings = settings_from(args, ExportSettings)
    with progress_bar("compare") as step:
        report = export(args.weights, output=args.output, progress=step, **settings)
    for line in _lines(report):
        print(line)
    return 0


def _export_darknet(args: argparse.Namespace) -> int:
    from attendet.interop.darknet.convert import export_darknet
    from attendet.interop.hub import local_weights, weights_name
    from attendet.models import load_weights

    names = [name for name in settings_of(ExportSettings) if name != "format"]
    for name in given_settings(args, add_arguments, names):
        raise ConfigError(f"{flag(name)} must be omitted for darknet.")
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
            f"detections   {parity.same} of {parity.detections} match within 1 px and 0.01, "
            f"{parity.extra} are only in the file, {images}"
        )
    if parity.ap is not None and parity.ap_exported is not None:
        lines.append(
            f"AP           {parity.ap_exported:.4f} as exported, {parity.ap:.4f} in PyTorch, "
            f"{images}"
        )
    if info.precision == "int8":
        losses = ", ".join(f"{loss:.2f}" for loss in info.parity["ap_losses"].values())
        lines.append(f"in float32   {info.parity['kept_in_float32']}; AP points lost: {losses}")
    if report.class_note:
        lines.append(f"note         {report.class_note}")
    return [*lines, f"written: {report.path} ({report.size_bytes / 1e6:.1f} MB)"]
