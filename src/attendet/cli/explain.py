"""Show what a detector looks at: the gates of its attention blocks and class activation maps.

An IMAGE is an image, a folder, a pattern such as 'shots/*.jpg' or a .txt list of paths. Writes
OUTPUT/explain.html, which works offline, a PNG and an NPZ with the numbers for each image, and
statistics over all images. Pass several images: they show whether a gate depends on the content.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from attendet.cli.arguments import WEIGHTS_HELP
from attendet.errors import ConfigError
from attendet.system import require


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add = parser.add_argument
    add("weights", type=Path, metavar="WEIGHTS", help=WEIGHTS_HELP)
    add("images", nargs="+", metavar="IMAGE", help="image, folder, pattern, list")
    add(
        "--output",
        type=Path,
        default=Path("runs/explain"),
        metavar="DIR",
        help="folder for results (default: %(default)s)",
    )
    add(
        "--max-images",
        type=int,
        default=12,
        metavar="N",
        help="images to draw; the statistics include all images (default: %(default)s)",
    )
    add(
        "--confidence",
        type=float,
        default=0.25,
        metavar="SCORE",
        help="lowest score of a detection, 0 to 1 (default: %(default)s)",
    )
    add(
        "--nms-iou",
        type=float,
        default=0.5,
        metavar="IOU",
        help="IoU threshold of non-maximum suppression, 0 to 1 (default: %(default)s)",
    )
    add("--no-cam", action="store_true", help="no class activation maps, only gates (faster)")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")


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
    command = shlex.join(["attendet", *sys.argv[1:]])
    page = write_explanation(explanation, args.output, command=command)
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
