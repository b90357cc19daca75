"""A static web page that runs a detector in the browser: a folder for any static host.

The page is in ``page/``: HTML, CSS and small JavaScript modules, written by hand, without a build
step. `attendet serve` serves the same page.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attendet import __version__
from attendet.exporters.onnxruntime_web import copy_files
from attendet.inference.postprocess import Selection
from attendet.models.metadata import WeightsMetadata
from attendet.report.draw import color_of, text_color_on, to_hex

PAGE = Path(__file__).with_name("page")
"""Folder of the page's files."""

PAGE_FILES = (
    *("index.html", "style.css", "icon.svg"),
    *(
        f"app/{name}.js"
        for name in ("main", "draw", "files", "frames", "local", "resize", "select", "worker")
    ),
)
"""Files of the page that runs the network in the browser."""

MODEL_FILE = "model.onnx"
DESCRIPTION_FILE = "model.json"
RUNTIME_FOLDER = "onnxruntime"

FILES = (
    *dict.fromkeys(name.partition("/")[0] for name in PAGE_FILES),
    *(MODEL_FILE, DESCRIPTION_FILE, RUNTIME_FOLDER),
)
"""Files and folders in the exported folder."""


def describe_model(metadata: WeightsMetadata, name: str, selection: Selection) -> dict[str, Any]:
    """Return the description of a network that the page reads, as JSON types.

    Args:
        metadata: metadata of the network.
        name: title of the page.
        selection: initial thresholds.

    Example:
        >>> described = describe_model(WeightsMetadata(classes=("cat",)), "cats", Selection())
        >>> described["classes"], described["colors"], described["preprocess"]["resize"]
        (['cat'], [['#0072b2', '#ffffff']], 'rect')
    """
    colors = [color_of(index) for index in range(len(metadata.classes))]
    preprocess = metadata.preprocessing()
    return {
        "name": name,
        "version": __version__,
        "architecture": metadata.architecture,
        "attention": metadata.attention,
        "classes": list(metadata.classes),
        "colors": [[to_hex(color), to_hex(text_color_on(color))] for color in colors],
        "input_hw": list(metadata.input_hw),
        "preprocess": {"resize": preprocess.resize, "color": preprocess.color},
        "confidence": selection.confidence,
        "nms_iou": selection.nms_iou,
        "max_detections": selection.max_detections,
    }


def write_web(model: Path, description: Mapping[str, Any], package: Path, folder: Path) -> Path:
    """Write a folder with the page, ONNX Runtime, a network and its description; return it.

    Args:
        model: ONNX file exported by attendet; it is moved into the folder.
        description: returned by `describe_model`.
        package: onnxruntime-web, a file or folder (`attendet.exporters.onnxruntime_web`).
        folder: created.
    """
    for name in PAGE_FILES:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PAGE / name, target)
    runtime = folder / RUNTIME_FOLDER
    copy_files(package, runtime)
    shutil.copyfile(PAGE / "onnxruntime-LICENSE.txt", runtime / "LICENSE.txt")
    model.replace(folder / MODEL_FILE)
    text = json.dumps({**description, "file": MODEL_FILE}, ensure_ascii=False, indent=1)
    (folder / DESCRIPTION_FILE).write_text(f"{text}\n", encoding="utf-8")
    return folder
