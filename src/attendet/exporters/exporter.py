"""The `export` function: write a file, check its parity, and move it to its final name."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attendet.data import Sample, load_dataset
from attendet.data.class_names import parse_class_map
from attendet.errors import ConfigError, ExportError, WeightsError, first_line
from attendet.evaluation.matching import remap_sample_classes
from attendet.exporters import litert_file, ncnn_file, openvino_file, web_folder
from attendet.exporters.litert_file import LiteRtRuntime
from attendet.exporters.onnxruntime_web import find_package
from attendet.exporters.parity import TOLERANCES, Parity, ParityCheck
from attendet.exporters.settings import FORMATS, ExportSettings, Format
from attendet.exporters.torch_files import ProgramRuntime
from attendet.exporters.web_folder import MODEL_FILE, describe_model, write_web
from attendet.exporters.writers import Writer, writers
from attendet.files import files_of, replace_folder, size_of
from attendet.inference import Runtime, Selection, load
from attendet.inference.runtimes.torch_runtime import TorchRuntime
from attendet.interop.hub import hub_file, local_weights, weights_name
from attendet.models import DetectionNetwork, load_weights
from attendet.models.export_info import ExportInfo
from attendet.models.metadata import WeightsMetadata

FOLDER_FILES = {
    *openvino_file.FILES,
    *ncnn_file.FILES,
    *litert_file.FILES,
    *web_folder.FILES,
}
"""Names of the files in exported folders; a folder with any other file is not replaced."""


@dataclass(frozen=True)
class ExportReport:
    """Result of an export: the file and its differences from the network.

    Attributes:
        path: the file, or the folder of an OpenVINO, ncnn or LiteRT model.
        size_bytes: size of the file, or of all files in the folder.
        metadata: metadata of the network in the file.
        info: metadata of the export in the file.
        parity: result of the parity check.
        class_note: classes of data and network that were matched although their names differ;
            empty if there are none.
    """

    path: Path
    size_bytes: int
    metadata: WeightsMetadata
    info: ExportInfo
    parity: Parity
    class_note: str = ""


def export(
    weights: str | Path | DetectionNetwork,
    format: Format = "onnx",
    *,
    metadata: WeightsMetadata | None = None,
    output: str | Path | None = None,
    name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> ExportReport:
    """Write a network in a format that runs without attendet's training code; return a report.

    The file takes uint8 images (N, H, W, 3) as ``images`` and returns ``boxes_xyxy`` (N, B, 4),
    network input pixels, and ``scores`` (N, B, K), or with ``nms`` ``detections`` (N,
    max_detections, 6). Normalization, decode and metadata are inside. The file is compared with
    eager PyTorch before it gets its name.

    Args:
        weights: a weights file, its name in the zoo or its address on the Hugging Face Hub; or a
            network, with attention at any site, and its ``metadata``.
        format: ``onnx``, ``openvino``, ``torchscript``, ``torch-export``, ``ncnn`` or ``litert``;
            or ``web``: a folder with a page that runs the ONNX file in the browser.
        metadata: description of the network; required if ``weights`` is a network, else ignored.
        output: folder for the file; default: the folder of the weights, or the current folder.
        name: file name without suffix; default: the name of the weights. ``-half``, ``-int8`` and
            ``-nms`` are appended.
        progress: called with the number of compared images and the total.
        **settings: the other fields of `attendet.exporters.ExportSettings`: input_hw, dynamic,
            half, int8, calibrate, max_ap_loss, nms, confidence, nms_iou, max_detections, data,
            split, class_map, onnxruntime_web.

    Returns:
        The path, and the differences from the network.

    Raises:
        ConfigError: if a setting is wrong.
        ExportError: if the network cannot be exported, or the file differs too much from it.
        WeightsError: if the weights file cannot be used.
        DataError: if the data cannot be read.
        MissingExtraError: if a library of the format is not installed.
        DownloadError: if ONNX Runtime for the browser cannot be downloaded.
    """
    chosen = ExportSettings(format, **settings)
    info = chosen.info()
    network, metadata = _load(weights, metadata)
    package = find_package(chosen.onnxruntime_web) if format == "web" else None
    metadata = _at_size(metadata, chosen.input_hw, info)
    source = chosen.data or chosen.calibrate
    samples, classes = _load_split(source, chosen.split)
    class_map = parse_class_map(chosen.class_map)
    samples, match = remap_sample_classes(
        samples, classes, metadata.classes, class_map=class_map, source=source
    )
    calibration = _load_split(chosen.calibrate, chosen.split, prefer_train=True)[0]
    folder, stem = _destination(weights, output, name, info)
    final = folder / f"{stem}{FORMATS[format]}"
    _check_replaceable(final, is_folder=not FORMATS[format].startswith("."))
    check = ParityCheck(
        TorchRuntime(copy.deepcopy(network).cpu().float(), metadata),
        samples=samples,
        split=chosen.split if samples else None,
        classes=metadata.classes,
        tolerance=TOLERANCES.get(info.precision),
        progress=progress,
    )
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".export.", ignore_cleanup_errors=True) as work:
        path = Path(work) / (MODEL_FILE if package else final.name)
        tries = writers(network, metadata, info, Path(work), calibration)
        info, parity = _write_checked(tries, path, metadata, info, check, chosen.max_ap_loss)
        if package is not None:
            description = describe_model(metadata, stem, Selection(*chosen.thresholds))
            path = write_web(path, description, package, Path(work) / final.name)
        _move(path, final)
    return ExportReport(final, size_of(final), metadata, info, parity, match.note)


def _write_checked(
    tries: Iterator[tuple[str, Writer]],
    path: Path,
    metadata: WeightsMetadata,
    info: ExportInfo,
    check: ParityCheck,
    max_ap_loss: float,
) -> tuple[ExportInfo, Parity]:
    """Write the file with its parity; for int8, use the first try within ``max_ap_loss``."""
    ap_losses: dict[str, float] = {}
    for in_float32, write in tries:
        write(path, metadata.to_header() | info.to_header())
        parity = check.compare(_open(path, info.format))
        record = parity.to_mapping()
        if info.precision == "int8":
            if parity.ap is None or parity.ap_exported is None:
                raise ExportError(
                    "split must have boxes, to measure average precision; got "
                    f"{parity.split!r} without boxes. Choose another --split."
                )
            ap_losses[in_float32] = round(parity.ap_loss, 4)
            record |= {"kept_in_float32": in_float32, "ap_losses": ap_losses}
            if parity.ap_loss > max_ap_loss:
                continue
        info = dataclasses.replace(info, parity=record)
        write(path, metadata.to_header() | info.to_header())
        return info, parity
    losses = ", ".join(f"{loss:.2f}" for loss in ap_losses.values())
    raise ExportError(
        f"int8 must lose at most {max_ap_loss:g} points of average precision; got {losses} with "
        "an increasing number of layers in float32. Nothing was written. Calibrate on other "
        "images, or increase --max-ap-loss."
    )


def _load(
    weights: str | Path | DetectionNetwork, metadata: WeightsMetadata | None
) -> tuple[DetectionNetwork, WeightsMetadata]:
    if isinstance(weights, str | Path):
        return load_weights(local_weights(weights))
    if not isinstance(weights, DetectionNetwork):
        raise ConfigError(
            "weights must be a weights file or a network of attendet.models; got "
            f"{type(weights).__name__}."
        )
    if metadata is None or len(metadata.classes) != weights.num_classes:
        got = "none" if metadata is None else f"{len(metadata.classes)} classes"
        raise ConfigError(
            f"metadata must be passed with a network, and list its {weights.num_classes} classes; "
            f"got {got}. Pass the WeightsMetadata of the network."
        )
    return weights, metadata


def _at_size(
    metadata: WeightsMetadata, input_hw: tuple[int, int] | None, info: ExportInfo
) -> WeightsMetadata:
    """Return the metadata of the exported network; with a fixed size, rect becomes letterbox."""
    changed: dict[str, Any] = {"input_hw": tuple(input_hw or metadata.input_hw)}
    if "size" not in info.dynamic and metadata.preprocessing().resize == "rect":
        changed["preprocess"] = {**metadata.preprocess, "resize": "letterbox"}
    return dataclasses.replace(metadata, **changed)


def _load_split(
    path: str | Path | None, split: str, *, prefer_train: bool = False
) -> tuple[Sequence[Sample], Sequence[str]]:
    """Return the samples of a split and the classes; both are empty without a path."""
    if path is None:
        return (), ()
    data = load_dataset(path, require_train=False)
    samples = data.split("train" if prefer_train and "train" in data.splits else split)
    if not samples:
        raise ConfigError(f"split must contain images; got {split!r} of {path} without images.")
    return samples, data.classes


def _destination(
    weights: object, output: str | Path | None, name: str | None, info: ExportInfo
) -> tuple[Path, str]:
    stem, beside = "network", Path()
    if isinstance(weights, str | Path):
        stem = weights_name(weights)
        beside = Path() if hub_file(weights) else Path(weights).parent
    marks = [info.precision.replace("float16", "half")] if info.precision != "float32" else []
    marks += ["nms"] if info.nms else []
    return Path(output) if output is not None else beside, "-".join([name or stem, *marks])


def _check_replaceable(path: Path, *, is_folder: bool) -> None:
    """Raise if the path is a symbolic link, or exists and is not an older export."""
    advice = "Choose another --output."
    if path.is_symlink():
        raise ConfigError(f"output must not be a symbolic link; got {path}. {advice}")
    others = sorted({each.name for each in path.iterdir()} - FOLDER_FILES) if path.is_dir() else []
    if others or (path.exists() and path.is_dir() != is_folder):
        got = ", ".join(others[:3]) or ("a file" if is_folder else "a folder")
        raise ConfigError(
            f"output must be a new path or an earlier export; got {got} ({path}). {advice}"
        )


def _open(path: Path, format: str) -> Runtime:
    """Return the runtime of the new file: the one that `load` uses, if it supports the format."""
    try:
        if format == "litert":
            return LiteRtRuntime(path)
        if format == "torch-export":
            return ProgramRuntime(path)
        return load(path, device="cpu").runtime
    except (RuntimeError, ValueError, WeightsError) as error:
        raise ExportError(
            f"the exported file cannot be run: {first_line(error)}. Nothing was written."
        ) from error


def _move(path: Path, final: Path) -> None:
    """Move a finished file or folder to its final name, in place of an older one."""
    for file in files_of(path):
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())
    if path.is_dir():
        replace_folder(path, final)
    else:
        path.replace(final)
