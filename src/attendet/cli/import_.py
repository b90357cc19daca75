"""Convert darknet files or a PyTorch checkpoint to a weights file.

FILE.cfg FILE.weights: darknet. YOLOv4-tiny becomes the reference network; other detectors become a
network with the layers of their configuration. FILE.pth: a state dict of one of the widely used
YOLOv4-tiny projects; attention is recognized. No code in a checkpoint is executed.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from attendet.cli.arguments import File, add_settings, flag, weights_output
from attendet.errors import ConfigError
from attendet.system import require

if TYPE_CHECKING:
    from attendet.interop.imported import Imported

OTHER_SUFFIXES = (".weights", ".safetensors", ".onnx")
"""Suffixes of files that are not PyTorch checkpoints."""


@dataclass(frozen=True)
class _Flags:
    files: Annotated[tuple[Path, ...], "FILE"]
    """FILE.cfg and FILE.weights, or a PyTorch checkpoint (.pth, .pt)."""

    output: File | None = None
    """Weights file to write, .safetensors (default: the name of FILE, in the current folder)."""

    resize: Literal["rect", "letterbox", "stretch"] | None = None
    """Resize mode: rect and letterbox keep the aspect ratio (default: that of the program that
    wrote the darknet files; stretch for checkpoints)."""


@dataclass(frozen=True)
class _DarknetFlags:
    cutoff: int | None = None
    """Load only the first N layers from FILE.weights, such as a backbone; the others are newly
    initialized."""


@dataclass(frozen=True)
class _CheckpointFlags:
    input_hw: tuple[int, int] | None = None
    """Input size of the training in pixels, multiples of 32 (default: 416)."""

    anchors: File | None = None
    """File of six widths and heights in pixels, separated by commas (default: those of
    yolov4-tiny.cfg)."""

    color: Literal["rgb", "bgr"] | None = None
    """Order of the channels (default: rgb)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_settings(parser, _Flags)
    text = "class names, one per line (default: class_0, class_1, ...)"
    parser.add_argument("--names", type=Path, metavar="FILE", help=text)
    add_settings(parser.add_argument_group("darknet"), _DarknetFlags)
    add_settings(parser.add_argument_group("PyTorch checkpoints"), _CheckpointFlags)


def run(args: argparse.Namespace) -> int:
    """Import, write the weights file, print a summary; return 0."""
    require("torch", extra="train", purpose="importing weights")
    from attendet.models import save_weights

    configs = [path for path in args.files if path.suffix.lower() == ".cfg"]
    others = [path for path in args.files if path not in configs]
    if len(configs) == 1 and len(others) == 1:
        _refuse(args, "checkpoints", ("input_hw", "anchors", "color"))
    elif len(args.files) == 1 and others and others[0].suffix.lower() not in OTHER_SUFFIXES:
        _refuse(args, "darknet files", ("cutoff",))
    else:
        raise ConfigError(
            f"files must be FILE.cfg FILE.weights, or one PyTorch checkpoint; "
            f"got {' '.join(path.name for path in args.files)}."
        )
    source = others[0]
    output = weights_output(args.output, Path(source.stem + ".safetensors"))
    imported = _import(args, configs, source)
    for line in _summary(imported):
        print(line)
    print(f"written: {save_weights(output, imported.network, imported.metadata)}")
    return 0


def _refuse(args: argparse.Namespace, kind: str, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(args, name) is not None:
            raise ConfigError(f"{flag(name)} must be omitted: it is only for {kind}.")


def _import(args: argparse.Namespace, configs: list[Path], source: Path) -> Imported:
    if configs:
        from attendet.interop.darknet.convert import import_darknet

        return import_darknet(
            configs[0], source, names=args.names, cutoff=args.cutoff, resize=args.resize
        )
    from attendet.interop.checkpoints import import_checkpoint, read_anchors

    settings = {"input_hw": args.input_hw, "resize": args.resize, "color": args.color}
    given = {name: value for name, value in settings.items() if value is not None}
    if args.anchors is not None:
        given["anchors"] = read_anchors(args.anchors)
    return import_checkpoint(source, names=args.names, **given)


def _summary(imported: Imported) -> list[str]:
    metadata, preprocess = imported.metadata, imported.metadata.preprocessing()
    parameters = sum(one.numel() for one in imported.network.parameters())
    height, width = metadata.input_hw
    layers = f" of {len(metadata.graph)} layers" if metadata.graph else ""
    strides = ", ".join(map(str, imported.network.strides))
    return [
        f"network      {metadata.architecture}{layers}, attention {metadata.attention}, "
        f"{parameters:,} parameters",
        f"classes      {len(metadata.classes)}; output strides: {strides}",
        f"images       {width} x {height} px, {preprocess.resize}, {preprocess.color}",
        *(f"note         {note}" for note in imported.notes),
    ]
