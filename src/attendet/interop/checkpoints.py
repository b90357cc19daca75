"""Import PyTorch checkpoints of widely used YOLOv4-tiny ports into the reference network.

Their tensors are named ``backbone.conv1.conv.weight``, ``backbone.resblock_body1.conv1...``,
``conv_for_P5``, ``yolo_headP5``, ``upsample.upsample.0`` and ``yolo_headP4``; attention blocks, if
any, ``feat1_att``, ``feat2_att`` and ``upsample_att``.
"""

from __future__ import annotations

import dataclasses
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attendet.attention import format_attention_spec
from attendet.errors import ConfigError, WeightsError, first_line, list_names
from attendet.interop.imported import Imported, class_names
from attendet.models.metadata import DEFAULT_ANCHORS, Color, Preprocess, ResizeMode, WeightsMetadata
from attendet.models.weights import build_from_metadata
from attendet.models.yolov4_tiny import NECK_SITES

ANCHORS_A_LEVEL = 3

_RENAMED = {
    "backbone.resblock_body": "backbone.csp",
    "backbone.conv": "backbone.conv",
    "conv_for_P5.": "conv_p5.",
    "yolo_headP5.0.": "head_p5.",
    "yolo_headP5.1.": "out_p5.",
    "upsample.upsample.0.": "conv_up.",
    "yolo_headP4.0.": "head_p4.",
    "yolo_headP4.1.": "out_p4.",
}
"""Tensor name prefixes in the checkpoints, mapped to those in attendet."""

_SITES = {"feat1_att": "p4", "feat2_att": "p5", "upsample_att": "up"}
"""Names of attention blocks in the checkpoints, mapped to sites in attendet."""

_ATTENTION: Mapping[str, Mapping[str, str]] = {
    "se": {"fc.0.weight": "reduce.weight", "fc.2.weight": "expand.weight"},
    "cbam": {
        "channelattention.fc1.weight": "reduce.weight",
        "channelattention.fc2.weight": "expand.weight",
        "spatialattention.conv1.weight": "spatial.weight",
    },
    "eca": {"conv.weight": "conv.weight"},
    "ca": {
        "conv_1x1.weight": "squeeze.weight",
        "F_h.weight": "height.weight",
        "F_w.weight": "width.weight",
        **{
            f"bn.{part}": f"norm.{part}"
            for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        },
    },
}
"""For each attention block, tensor names in the checkpoints, mapped to those in attendet."""


def import_checkpoint(
    path: str | Path,
    *,
    names: str | Path | None = None,
    input_hw: tuple[int, int] = (416, 416),
    anchors: tuple[tuple[float, float], ...] = DEFAULT_ANCHORS,
    resize: ResizeMode = "stretch",
    color: Color = "rgb",
) -> Imported:
    """Return the network of a PyTorch checkpoint.

    Only tensors and plain values are read: no code in the file is executed.

    Args:
        path: file with a state dict, at the top level or under ``state_dict``, ``model`` or
            ``model_state_dict``; tensor names may begin with ``module.``.
        names: text file with one class name per line.
        input_hw: height and width that the network was trained at, pixels.
        anchors: widths and heights in pixels; stride 32 uses indices 3 to 5, stride 16 indices 1
            to 3.
        resize: resize mode of the program that wrote the checkpoint.
        color: channel order of that program.

    Raises:
        WeightsError: if the file is missing or damaged, or tensors are missing, unknown or of
            another shape; the message names them.
        ConfigError: if the names file is wrong, or does not have one name per class.
    """
    path = Path(path)
    theirs = _read_state(path)
    spec, skipped, notes = _recognize_attention(theirs, path)
    tensors = _rename(theirs, spec, skipped, path)
    num_classes, base = _sizes(tensors, path)
    metadata = WeightsMetadata(
        classes=class_names(names, num_classes, source=str(path)),
        attention=format_attention_spec(spec, NECK_SITES),
        input_hw=input_hw,
        anchors=anchors,
        scale_x_y=1.0,
        width_mult=base / 64,
        preprocess=dataclasses.asdict(Preprocess(resize=resize, color=color)),
        origin={"format": "pytorch", "weights": path.name},
    )
    network = build_from_metadata(metadata)
    _load(network, tensors, path)
    if names is None:
        notes.append(
            "the classes are named class_0, class_1 and so on; set their names with --names"
        )
    return Imported(network.eval(), metadata, tuple(notes))


def read_anchors(path: str | Path) -> tuple[tuple[float, float], ...]:
    """Return the anchors in a text file: six comma-separated widths and heights, pixels.

    Raises:
        ConfigError: if the file is missing or holds something else.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except OSError as error:
        raise ConfigError(f"anchors cannot be read: {error.strerror or error} ({path}).") from None
    except ValueError:
        numbers = []
    if len(numbers) != 2 * len(DEFAULT_ANCHORS) or not all(0 < side < 1e5 for side in numbers):
        raise ConfigError(
            f"anchors must be {len(DEFAULT_ANCHORS)} widths and heights in pixels, separated by "
            f"commas ({path})."
        )
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"checkpoint not found ({path}). Check the path.") from None
    except pickle.UnpicklingError as error:
        kind = re.search(r"GLOBAL ([\w.]+)", str(error))
        if kind is None:
            raise WeightsError(
                f"checkpoint must be an intact torch.save file; this file is not ({path})."
            ) from None
        raise WeightsError(
            f"checkpoint must contain only tensors; it contains an object of {kind[1]}, and "
            f"loading that could run code ({path}). Save model.state_dict() in the original "
            "project and import that file."
        ) from None
    except Exception as error:  # on broken files torch.load raises almost anything
        reason = first_line(error)
        raise WeightsError(
            f"checkpoint must be an intact torch.save file; this file is not ({path}): {reason}"
        ) from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"checkpoint must contain a state dict; got {type(content).__name__} ({path})."
        )
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsError(f"checkpoint must contain a state dict; it has no tensors ({path}).")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _recognize_attention(
    theirs: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, str], frozenset[str], list[str]]:
    """Return the block at each site, the names of skipped modules, and notes."""
    spec: dict[str, str] = {}
    never_ran = []
    for module, site in _SITES.items():
        own = {
            name.removeprefix(f"{module}.") for name in theirs if name.startswith(f"{module}.")
        } - {"bn.num_batches_tracked"}
        if not own:
            continue
        kinds = [
            kind
            for kind, keys in _ATTENTION.items()
            if own == set(keys) - {"bn.num_batches_tracked"}
        ]
        if not kinds:
            raise WeightsError(
                f"attention must be SE, CBAM, ECA or CA; {module} has "
                f"{list_names(sorted(own))} ({path})."
            )
        if _never_ran(theirs, module):
            never_ran.append(module)
        else:
            spec[site] = kinds[0]
    notes = []
    if never_ran:
        notes.append(
            f"modules that were never run in training are skipped: {list_names(never_ran)}"
        )
    return spec, frozenset(never_ran), notes


def _never_ran(theirs: Mapping[str, Tensor], module: str) -> bool:
    """Return whether a block was never run while the rest of the network was trained.

    A widely copied version of these ports runs only its blocks 1 to 3. Coordinate Attention, block
    4, is built and saved but never called.
    """
    block = theirs.get(f"{module}.bn.num_batches_tracked")
    stem = theirs.get("backbone.conv1.bn.num_batches_tracked")
    return block is not None and stem is not None and int(block) == 0 and int(stem) > 0


def _rename(
    theirs: Mapping[str, Tensor], spec: Mapping[str, str], skipped: frozenset[str], path: Path
) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in theirs.items():
        module, _, rest = name.partition(".")
        if module in skipped:
            continue
        if module in _SITES:
            site = _SITES[module]
            own = _ATTENTION[spec[site]][rest]
            linear = own in ("reduce.weight", "expand.weight") and tensor.shape[2:] == (1, 1)
            ours[f"attention.{site}.{own}"] = tensor.flatten(1) if linear else tensor
            continue
        renamed = _replace_prefix(name, _RENAMED)
        if renamed is None:
            unknown.append(name)
        else:
            ours[renamed] = tensor
    if unknown:
        raise WeightsError(
            f"checkpoint must contain only the tensors of YOLOv4-tiny; it also has "
            f"{list_names(unknown)} ({path})."
        )
    return ours


def _sizes(tensors: Mapping[str, Tensor], path: Path) -> tuple[int, int]:
    """Return the number of classes and the channels of the second convolution."""
    for name in ("out_p5.weight", "out_p4.weight", "backbone.conv2.conv.weight"):
        if name not in tensors or tensors[name].ndim != 4:
            raise WeightsError(
                f"checkpoint must contain a 4-D tensor {_theirs(name)}; it does not ({path})."
            )
    outputs = {len(tensors[name]) for name in ("out_p5.weight", "out_p4.weight")}
    terms, rest = divmod(min(outputs), ANCHORS_A_LEVEL)
    if len(outputs) != 1 or rest or terms < 6:
        raise WeightsError(
            f"outputs must be {ANCHORS_A_LEVEL} anchors x (5 + classes) on both levels; "
            f"got {sorted(outputs)} ({path})."
        )
    return terms - 5, len(tensors["backbone.conv2.conv.weight"])


def _load(network: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    wanted = network.state_dict()
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = [_theirs(name) for name in wanted if name not in tensors and name not in optional]
    unknown = [_theirs(name) for name in tensors if name not in wanted]
    shapes = [
        f"{_theirs(name)} {tuple(tensors[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    broken = [
        _theirs(name)
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    for what, found in (
        ("all tensors of YOLOv4-tiny; missing:", missing),
        ("only the tensors of YOLOv4-tiny; it also has", unknown),
        ("tensors with the shapes of the network; got", shapes),
        ("only finite numbers; not finite:", broken),
    ):
        if found:
            raise WeightsError(f"checkpoint must contain {what} {list_names(found)} ({path}).")
    network.load_state_dict({**wanted, **tensors})


def _theirs(name: str) -> str:
    """Return the name that a tensor of attendet has in the checkpoints."""
    for module, site in _SITES.items():
        if name.startswith(f"attention.{site}."):
            return f"{module} ({name.split('.', 2)[2]})"
    return _replace_prefix(name, {ours: theirs for theirs, ours in _RENAMED.items()}) or name


def _replace_prefix(name: str, starts: Mapping[str, str]) -> str | None:
    """Return a name with its prefix replaced; None if it has none of the prefixes."""
    for old, new in starts.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return None
