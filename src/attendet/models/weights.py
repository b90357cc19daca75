"""Networks from descriptions, and weights files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from attendet import __version__
from attendet.attention import attention_names, format_attention_spec, parse_attention_spec
from attendet.errors import ConfigError, WeightsError, did_you_mean
from attendet.files import replacing
from attendet.models.metadata import DEFAULT_ANCHORS, WeightsMetadata, read_metadata
from attendet.models.yolov4_tiny import NECK_SITES, SITES, YoloV4Tiny

__all__ = [
    "build",
    "build_from_metadata",
    "canonical_attention",
    "load_weights",
    "save_weights",
]

ARCHITECTURES = ("yolov4-tiny",)


def build_from_metadata(metadata: WeightsMetadata) -> YoloV4Tiny:
    """Return the network that a description tells of, freshly initialised.

    Raises:
        ConfigError: if the architecture or the attention spec is unknown.
    """
    if metadata.architecture not in ARCHITECTURES:
        raise ConfigError(
            f"architecture must be one that attendet knows; got {metadata.architecture!r}. "
            f"{did_you_mean(metadata.architecture, ARCHITECTURES)}"
        )
    if metadata.width <= 0:
        raise ConfigError(f"width must be above 0; got {metadata.width!r}.")
    spec = parse_attention_spec(
        metadata.attention, default_sites=NECK_SITES, sites=SITES, known=attention_names()
    )
    return YoloV4Tiny(
        len(metadata.classes),
        metadata.level_anchors(),
        spec,
        scale_x_y=metadata.scale_x_y,
        width=metadata.width,
        bn_eps=metadata.bn_eps,
    )


def build(
    architecture: str = "yolov4-tiny",
    *,
    classes: Sequence[str],
    attention: str = "none",
    input_hw: tuple[int, int] = (416, 416),
    anchors: Sequence[tuple[float, float]] = DEFAULT_ANCHORS,
    scale_x_y: float = 1.05,
    width: float = 1.0,
    bn_eps: float = 1e-5,
) -> YoloV4Tiny:
    """Return a detection network, freshly initialised.

    Args:
        architecture: ``yolov4-tiny``.
        classes: class names; their number is K.
        attention: spec such as ``ca``, ``ca@p5`` or ``se@p5+ca@up``.
        input_hw: height and width of training pictures, multiples of 32 (kept as description).
        anchors: six widths and heights in pixels, small to large.
        scale_x_y: stretch of the centre's sigmoid.
        width: multiplier of all channels.
        bn_eps: epsilon of batch normalisation.

    Raises:
        ConfigError: if an argument is not what it must be; names the argument.

    Example:
        >>> network = build("yolov4-tiny", classes=["RBC", "WBC"], attention="ca@p5")
        >>> list(network.attention_blocks())
        ['p5']
    """
    metadata = WeightsMetadata(
        classes=tuple(classes),
        architecture=architecture,
        attention=attention,
        input_hw=(input_hw[0], input_hw[1]),
        anchors=tuple((float(w), float(h)) for w, h in anchors),
        scale_x_y=scale_x_y,
        width=width,
        bn_eps=bn_eps,
    )
    return build_from_metadata(metadata)


def canonical_attention(spec: str) -> str:
    """Return an attention spec in its one canonical spelling.

    Raises:
        ConfigError: if a block or a site is unknown.

    Example:
        >>> canonical_attention("ca@p4,p5,up")
        'ca'
    """
    parsed = parse_attention_spec(
        spec, default_sites=NECK_SITES, sites=SITES, known=attention_names()
    )
    return format_attention_spec(parsed, NECK_SITES)


def save_weights(path: str | Path, network: torch.nn.Module, metadata: WeightsMetadata) -> Path:
    """Write a network and its description as one file, whole or not at all; return its path.

    Args:
        path: ends in ``.safetensors``.
        network: what the metadata describes.
        metadata: its ``version`` is set to this version.
    """
    path = Path(path)
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in network.state_dict().items()
    }
    header = dataclasses.replace(metadata, version=__version__).to_header()
    with replacing(path) as partial:
        safetensors.torch.save_file(tensors, partial, metadata=header)
    return path


def load_weights(path: str | Path) -> tuple[YoloV4Tiny, WeightsMetadata]:
    """Return the network of a weights file, in eval mode on the CPU, and its description.

    Raises:
        WeightsError: if the file is missing, not ours, damaged, or does not fit its description.
    """
    path = Path(path)
    metadata = read_metadata(path)
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"weights file is damaged ({path}): {error}") from None
    _check_fit(path, metadata, tensors)
    network = build_from_metadata(metadata)
    network.load_state_dict(tensors)
    return network.eval(), metadata


def _check_fit(path: Path, metadata: WeightsMetadata, tensors: dict[str, torch.Tensor]) -> None:
    """Raise where tensors do not fit a description; allocates nothing, however wide it claims."""
    try:
        with torch.device("meta"):
            wanted = build_from_metadata(metadata).state_dict()
    except (ConfigError, RuntimeError, OverflowError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"the network of {path} cannot be built: {reason}") from None
    problems = [f"missing {name}" for name in wanted if name not in tensors]
    problems += [f"unknown {name}" for name in tensors if name not in wanted]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    if problems:
        raise WeightsError(
            f"tensors do not fit the description ({path}): {'; '.join(problems[:3])}"
            f"{f' and {len(problems) - 3} more' if len(problems) > 3 else ''}."
        )
