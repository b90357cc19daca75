"""Show what a detector looks at: the gates of its attention blocks and class activation maps.

An IMAGE is an image, a folder, a pattern such as 'shots/*.jpg' or a .txt list of paths. Writes
OUTPUT/explain.html, which works offline, a PNG and an NPZ with the numbers for each image, and
statistics over all images. Pass several images to see whether a gate depends on the image content.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from attendet.cli.arguments import Folder, Iou, Score, add_settings, command_line
from attendet.errors import ConfigError
from attendet.system import require


@dataclass(frozen=True)
class _Flags:
    weights: Path
    """Weights file (.safetensors), hf://owner/name, or a name of: attendet weights list."""

    images: Annotated[tuple[str, ...], "IMAGE"]
    """Image, folder, pattern, list."""

    output: Folder = Path("runs/explain")
    """Folder for results."""

    max_images: int = 12
    """Maximum number of images to draw; the statistics include all images."""

    confidence: Score = 0.25
    """Lowest score of a detection, 0 to 1."""

    nms_iou: Iou = 0.5
    """IoU threshold of non-maximum suppression, 0 to 1."""

    no_cam: bool = False
    """Show only gates, no class activation maps (faster)."""

    device: str | None = None
    """cpu, cuda, cuda:1 (default: a GPU if available)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_settings(parser, _Flags)


def run(args: argparse.Namespace) -> int:
    """Explain the images, write the page and print the verdicts on the gates; return 0."""
    require("torch", extra="train", purpose="attendet explain")
    from attendet.cli.progress import speed_bar
    from attendet.explain import explain, write_explanation
    from attendet.inference import Selection
    from attendet.media.sources import find_sources
    from attendet.report.fonts import numbered_classes

    ConfigError.check(args.max_images >= 0, "--max-images", "0 or more", args.max_images)
    count = len(find_sources(args.images))
    with speed_bar("explain", count) as step:
        explanation = explain(
            args.weights,
            args.images,
            cam=not args.no_cam,
            max_images=args.max_images,
            selection=Selection(args.confidence, args.nms_iou),
            device=args.device,
            progress=lambda done: step(done, None),
        )
    page = write_explanation(explanation, args.output, command=command_line())
    for site, one in explanation.health().items():
        print(f"{site:<12} {one.verdict:<9} {one.sentence}")
    if not explanation.statistics:
        print("this network has no attention: there are no gates to show")
    numbered = numbered_classes(explanation.metadata.classes)
    if numbered:
        print(numbered)
    for skipped in explanation.skipped:
        print(f"skipped: {skipped.reason}", file=sys.stderr)
    print(f"written: {page}")
    return 0
