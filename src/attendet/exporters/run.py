"""From weights to a checked file: settings, tracing, writing, checking, putting in place."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attendet.errors import ConfigError, ExportError, did_you_mean
from attendet.exporters.folders import check_replaceable, put_in_place, work_folder
from attendet.inference import Selection
from attendet.interop.hub import hub_file, weights_name
from attendet.models.export_info import ExportInfo
from attendet.models.metadata import WeightsMetadata
from attendet.system import require

if TYPE_CHECKING:
    from attendet.data import DataSet, Sample
    from attendet.exporters.parity import Parity
    from attendet.exporters.ways import Write
    from attendet.models.detector import DetectionNetwork

__all__ = ["DYNAMIC", "FORMATS", "ExportReport", "Format", "export"]

Format = Literal["onnx", "openvino", "torchscript", "torch-export", "ncnn"]
Progress = Callable[[int, int], None]

FORMATS: dict[str, str] = {
    "onnx": ".onnx",
    "openvino": "_openvino",
    "torchscript": ".torchscript",
    "torch-export": ".pt2",
    "ncnn": "_ncnn",
}
"""How the name of a file of each format ends; those of OpenVINO and ncnn are folders."""

TAKES = {
    "half": ("onnx", "openvino", "ncnn"),
    "int8": ("onnx", "openvino"),
    "nms": ("onnx", "openvino"),
}
"""Formats that an option is for."""

DYNAMIC: dict[str, tuple[Literal["batch", "size"], ...]] = {
    "none": (),
    "batch": ("batch",),
    "size": ("batch", "size"),
}
"""What may differ from call to call, by the word for it."""


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far it is from the network."""

    path: Path
    """The file, or the folder of an OpenVINO model."""

    size_bytes: int
    """Of the file, or of all files in the folder."""

    metadata: WeightsMetadata
    """What stands in the file about the network."""

    info: ExportInfo
    """What stands in the file about the export."""

    parity: Parity
    """The check."""

    seconds: float
    """Wall time, checks included."""


def export(
    weights: str | Path | DetectionNetwork,
    format: Format = "onnx",
    *,
    metadata: WeightsMetadata | None = None,
    output: str | Path | None = None,
    name: str | None = None,
    input_hw: tuple[int, int] | None = None,
    dynamic: Literal["none", "batch", "size"] | None = None,
    half: bool = False,
    int8: bool = False,
    calibrate: str | Path | None = None,
    max_ap_loss: float = 0.5,
    nms: bool = False,
    confidence: float = 0.25,
    nms_iou: float = 0.5,
    max_detections: int = 300,
    data: str | Path | None = None,
    split: str = "val",
    progress: Progress | None = None,
) -> ExportReport:
    """Write a network in a form that runs without attendet's training parts; return a report.

    The file takes uint8 images (N, H, W, 3) as ``images`` and gives ``boxes_xyxy`` (N, B, 4),
    network input pixels, and ``scores`` (N, B, K), or with ``nms`` ``detections`` (N,
    max_detections, 6). Normalization and decode are inside, batch normalization is folded, and the
    file describes itself. It is compared with eager PyTorch before it gets its name.

    Args:
        weights: a weights file, or a network, attended anywhere, with its ``metadata``.
        format: ``onnx``, ``openvino``, ``torchscript``, ``torch-export`` or ``ncnn``.
        metadata: description of a network that is given itself.
        output: folder for the file; that of the weights, or the current one, if left out.
        name: of the file, without ending; that of the weights if left out.
        input_hw: height and width of the input, pixels, multiples of 32; those of the weights if
            left out.
        dynamic: what may differ from call to call: ``none``, ``batch``, or ``size`` (and batch);
            ``batch`` if left out, for ncnn ``none``.
        half: keep weights in float16: half the file. ONNX, OpenVINO and ncnn.
        int8: quantize weights and maps by calibration. ONNX and OpenVINO. Where average precision
            falls too far, more of the network is left in float32.
        calibrate: data set whose train split (the given one if there is none) is calibrated on,
            with ``int8``; average precision is compared on it, unless ``data`` is given.
        max_ap_loss: most points of average precision that ``int8`` may cost.
        nms: put non-maximum suppression inside. ONNX and OpenVINO.
        confidence: lowest score of a detection, with ``nms``; 0 to 1.
        iou: of two boxes of a class that overlap more, the better stays, with ``nms``; 0 to 1.
        max_detections: rows of an image, with ``nms``.
        data: data set on whose images detections and average precision are compared; drawn
            images, and no average precision, if left out.
        split: part of the data set: train, val, test or all.
        progress: called with images compared and images in all.

    Returns:
        Where the file is, and how far it is from the network.

    Raises:
        ConfigError: if a setting is not what it must be.
        ExportError: if the network cannot be exported, or the file says otherwise than the network;
            nothing is left under its name.
        WeightsError: if the weights file cannot be used.
        DataError: if the data cannot be read.
        MissingExtraError: if a library of the format is not installed.
    """
    begun = time.perf_counter()
    require("torch", extra="train", purpose="exporting")
    from attendet.exporters.ways import ways

    selection = Selection(confidence, nms_iou, max_detections) if nms else None
    dynamic = dynamic or ("none" if format == "ncnn" else "batch")
    chosen = _settings(format, dynamic, half, int8, selection)
    if int8 and (calibrate is None or not max_ap_loss >= 0):
        raise ConfigError(
            f"calibrate must be a data set for int8, max_ap_loss 0 or more; got {calibrate!r}, "
            f"{max_ap_loss!r} (--calibrate, --max-ap-loss)."
        )
    network, described = _load(weights, metadata)
    described = _at_size(described, input_hw, dynamic)
    images = _open_data(data if data is not None else calibrate if int8 else None, split)
    folder, stem = _destination(weights, output, name, chosen)
    final = folder / f"{stem}{FORMATS[format]}"
    check_replaceable(final)
    with work_folder(folder) as work:
        made = work / final.name
        samples = _calibration(calibrate, split) if int8 else ()
        header = described.to_header()
        parity, told, write = _first_that_holds(
            ways(network, described, chosen, work, samples),
            lambda write: write(made, header | chosen.to_header()),
            lambda: _check(network, described, chosen, made, images, split, progress),
            max_ap_loss if int8 else None,
        )
        chosen = dataclasses.replace(chosen, parity=told)
        write(made, header | chosen.to_header())
        put_in_place(made, final)
    files = [path for path in final.rglob("*") if path.is_file()] if final.is_dir() else [final]
    size = sum(path.stat().st_size for path in files)
    return ExportReport(final, size, described, chosen, parity, time.perf_counter() - begun)


def _first_that_holds(
    ways: Iterator[tuple[str, Write]],
    try_writing: Callable[[Write], Path],
    check: Callable[[], Parity],
    max_ap_loss: float | None,
) -> tuple[Parity, dict[str, Any], Write]:
    """Return the check of the first way that does not lose too much, what to tell, and the way.

    Without ``max_ap_loss`` there is one way, and the check itself judges.
    """
    drops: dict[str, float] = {}
    for kept, write in ways:
        try_writing(write)
        parity = check()
        if max_ap_loss is None:
            return parity, parity.to_mapping(), write
        if parity.ap is None or parity.ap_exported is None:
            raise ExportError(
                f"split must have boxes to measure average precision on; got {parity.split!r} with "
                "none. Choose another --split."
            )
        drops[kept] = round(parity.ap_drop, 4)
        if parity.ap_drop <= max_ap_loss:
            told = {"kept_in_float32": kept, "ap_drops": drops}
            return parity, parity.to_mapping() | told, write
    said = ", ".join(f"{drop:.2f}" for drop in drops.values())
    raise ExportError(
        f"average precision must not fall by more than {max_ap_loss:g} points in int8; got {said}, "
        "with more and more left in float32. Nothing was written. Calibrate on other images, or "
        "allow more with --max-ap-loss."
    )


def _settings(
    format: str, dynamic: str, half: bool, int8: bool, selection: Selection | None
) -> ExportInfo:
    for name, value, known in (("format", format, FORMATS), ("dynamic", dynamic, DYNAMIC)):
        if value not in known:
            raise ConfigError(
                f"{name} must be one of {', '.join(known)}; got {value!r}. "
                f"{did_you_mean(str(value), known)}"
            )
    if half and int8:
        raise ConfigError("half must be left out for int8 (--half, --int8).")
    for name, wanted in (("half", half), ("int8", int8), ("nms", selection is not None)):
        if wanted and format not in TAKES[name]:
            raise ConfigError(
                f"{name} must be left out for {format}; it is for {', '.join(TAKES[name])} "
                f"(--{name})."
            )
    if format == "ncnn" and dynamic != "none":
        raise ConfigError(f"dynamic must be 'none' for ncnn; got {dynamic!r} (--dynamic).")
    return ExportInfo(
        format=format,  # type: ignore[arg-type]
        precision="int8" if int8 else "float16" if half else "float32",
        nms=selection is not None,
        dynamic=DYNAMIC[dynamic],
        confidence=selection.confidence if selection else None,
        nms_iou=selection.nms_iou if selection else None,
        max_detections=selection.max_detections if selection else None,
    )


def _load(
    weights: str | Path | DetectionNetwork, metadata: WeightsMetadata | None
) -> tuple[DetectionNetwork, WeightsMetadata]:
    from attendet.interop.hub import local_weights
    from attendet.models import DetectionNetwork, load_weights

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
            f"metadata must be given with a network, and name its {weights.num_classes} classes; "
            f"got {got}. Describe the network."
        )
    return weights, metadata


def _at_size(
    metadata: WeightsMetadata, input_hw: tuple[int, int] | None, dynamic: str
) -> WeightsMetadata:
    """Return the description of the network as exported.

    With one size of network input, images are letterboxed into the whole of it.
    """
    changed: dict[str, Any] = {"input_hw": tuple(input_hw or metadata.input_hw)}
    if dynamic != "size" and metadata.preprocessing().resize == "rect":
        changed["preprocess"] = {**metadata.preprocess, "resize": "letterbox"}
    return dataclasses.replace(metadata, **changed)


def _open_data(path: str | Path | None, split: str) -> DataSet | None:
    if path is None:
        return None
    from attendet.data import load_dataset

    data = load_dataset(path, require_train=False)
    if not data.split(split):
        raise ConfigError(f"split must hold images; got {split!r} of {path} with none.")
    return data


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


def _calibration(path: str | Path | None, split: str) -> tuple[Sample, ...]:
    if path is None:
        return ()
    from attendet.data import load_dataset

    data = load_dataset(path, require_train=False)
    return data.split("train" if "train" in data.splits else split)


def _check(
    network: DetectionNetwork,
    metadata: WeightsMetadata,
    info: ExportInfo,
    path: Path,
    data: DataSet | None,
    split: str,
    progress: Progress | None,
) -> Parity:
    from attendet.exporters.differences import Subject
    from attendet.exporters.parity import LIMITS, check_parity
    from attendet.exporters.running import open_exported
    from attendet.inference.runtimes.torch_runtime import TorchRuntime

    reference = TorchRuntime(copy.deepcopy(network).cpu().float(), metadata)
    try:
        run = open_exported(path, info)
    except (RuntimeError, ValueError) as error:  # the libraries' own
        reason = str(error).splitlines()[0]
        raise ExportError(
            f"the exported file cannot be run: {reason}. Nothing was written."
        ) from error
    return check_parity(
        Subject(reference, run, metadata, info),
        data.split(split) if data else (),
        split=split if data else None,
        classes=data.classes if data else (),
        limits=LIMITS.get(info.precision),
        progress=progress,
    )
