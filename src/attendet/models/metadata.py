"""Metadata of a weights file, readable without torch.

A weights file is a ``.safetensors`` file. Its header maps names to JSON texts, one for each field
of `WeightsMetadata`. The network is rebuilt from the file alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors import SafetensorError, safe_open

from attendet.attention.registry import AttentionInit
from attendet.config import from_mapping
from attendet.errors import ConfigError, WeightsError, list_names

FORMAT = "attendet/1"
"""Name and version of the file layout."""

ResizeMode = Literal["rect", "letterbox", "stretch"]
Color = Literal["rgb", "bgr"]

DEFAULT_ANCHORS = (
    (10.0, 14.0),
    (23.0, 27.0),
    (37.0, 58.0),
    (81.0, 82.0),
    (135.0, 169.0),
    (344.0, 319.0),
)
"""Widths and heights in pixels at 416, as in darknet's yolov4-tiny.cfg."""

DEFAULT_MASKS = ((3, 4, 5), (1, 2, 3))
"""Indices of the anchors of the stride-32 and the stride-16 level, as in darknet's cfg."""

_ANCHORS_OF_3_LEVELS = (
    (12.0, 16.0),
    (19.0, 36.0),
    (40.0, 28.0),
    (36.0, 75.0),
    (76.0, 55.0),
    (72.0, 146.0),
    (142.0, 110.0),
    (192.0, 243.0),
    (459.0, 401.0),
)
"""Widths and heights in pixels at 608, as in darknet's yolov4-tiny-3l.cfg."""

SIZES = {"yolov4-tiny-n": 0.25, "yolov4-tiny-s": 0.5, "yolov4-tiny": 1.0}
"""Name of each size of the reference network to its width multiplier."""


Masks = tuple[tuple[int, ...], ...]


def default_anchors(levels: int, size: int) -> tuple[tuple[tuple[float, float], ...], Masks]:
    """Return darknet's anchors for two or three levels, and the anchor indices of each level.

    Args:
        levels: 2 as in yolov4-tiny.cfg, or 3 as in yolov4-tiny-3l.cfg.
        size: long side of the network input in pixels, to which the anchors are scaled.

    Raises:
        ConfigError: if ``levels`` is not 2 or 3.

    Example:
        >>> anchors, masks = default_anchors(2, 832)
        >>> anchors[0], masks
        ((20.0, 28.0), ((3, 4, 5), (1, 2, 3)))
    """
    ConfigError.check(levels in (2, 3), "levels", "2 or 3", levels)
    anchors: tuple[tuple[float, float], ...] = DEFAULT_ANCHORS
    masks: Masks = DEFAULT_MASKS
    trained_at = 416
    if levels == 3:
        anchors, masks, trained_at = _ANCHORS_OF_3_LEVELS, ((6, 7, 8), (3, 4, 5), (0, 1, 2)), 608
    scale = size / trained_at
    return tuple((width * scale, height * scale) for width, height in anchors), masks


@dataclass(frozen=True)
class Preprocess:
    """Preprocessing of an image to the network input."""

    resize: ResizeMode = "rect"
    """rect: scaled to the long side and padded to multiples of 32; letterbox: scaled and padded to
    the input size; stretch: scaled to the input size without keeping the aspect ratio."""

    color: Color = "rgb"
    """Order of the channels."""


@dataclass(frozen=True)
class WeightsMetadata:
    """Metadata of a weights file: the description of the network and its training."""

    classes: tuple[str, ...]
    """Class names, in the order of the network's outputs."""

    architecture: str = "yolov4-tiny"
    """Architecture: ``yolov4-tiny``, or ``darknet-graph`` for a network with its own layers."""

    graph: tuple[dict[str, Any], ...] | None = None
    """Layers of a ``darknet-graph`` (see `attendet.models.graph`)."""

    attention: str = "none"
    """Attention spec, such as ``ca`` or ``se@p5+ca@up``."""

    attention_init: AttentionInit | dict[str, AttentionInit] = "paper"
    """Init of the attention blocks, one for all or by site: gates are sigmoids (``paper``) or twice
    that (``identity``)."""

    input_hw: tuple[int, int] = (416, 416)
    """Height and width that the network was trained at, pixels."""

    anchors: tuple[tuple[float, float], ...] = DEFAULT_ANCHORS
    """Widths and heights of the anchors in pixels, usually small to large."""

    anchor_masks: tuple[tuple[int, ...], ...] = DEFAULT_MASKS
    """Indices of the anchors of each level: strides 32, 16 and, with three levels, 8; for a graph,
    in the order of its outputs."""

    scale_x_y: float = 1.05
    """Stretch of the center's sigmoid (1.05 in darknet's yolov4-tiny.cfg). A level of a graph can
    have its own value."""

    width_mult: float = 1.0
    """Width multiplier of all channels."""

    bn_eps: float = 1e-5
    """Epsilon of batch normalization."""

    preprocess: dict[str, str] = field(default_factory=lambda: dataclasses.asdict(Preprocess()))
    """Fields of `Preprocess`."""

    recipe: dict[str, Any] | None = None
    """The recipe that trained the weights."""

    seed: int | None = None
    """Seed of the run."""

    data: dict[str, Any] | None = None
    """Fingerprint of the data set, sizes of its splits, and their origin."""

    measured: dict[str, Any] | None = None
    """Average precision, measured when the file was written."""

    origin: dict[str, Any] | None = None
    """Files that the weights were imported from, with their format and their own metadata."""

    version: str = ""
    """Version of attendet that wrote the file."""

    def __post_init__(self) -> None:
        given: Any = self.classes
        is_list = not isinstance(given, str) and all(isinstance(name, str) for name in given)
        advice = 'Write a single class as ["cell"].'
        ConfigError.check(is_list, "classes", "a list of names", given, advice=advice)
        if not self.classes or len(set(self.classes)) != len(self.classes):
            twice = [name for name, count in Counter(self.classes).items() if count > 1]
            got = f"{list_names(map(repr, twice))} more than once" if twice else "none"
            raise ConfigError(f"classes must be distinct names, at least one; got {got}.")
        nearest = tuple(max(32, round(side / 32) * 32) for side in self.input_hw)
        good = len(nearest) == 2 and nearest == tuple(self.input_hw)
        advice = f"Nearest: {nearest}."
        ConfigError.check(good, "input_hw", "multiples of 32", self.input_hw, advice=advice)
        for name in ("scale_x_y", "width_mult", "bn_eps"):
            value = getattr(self, name)
            ConfigError.check(value > 0 and math.isfinite(value), name, "above 0", value)
        self._check_anchors()
        inits: Any = self.attention_init
        values = inits.values() if isinstance(inits, dict) else (inits,)
        known = all(value in get_args(AttentionInit) for value in values)
        rule = "'paper' or 'identity', one for all sites or one for each"
        ConfigError.check(known, "attention_init", rule, inits)
        self.preprocessing()

    def _check_anchors(self) -> None:
        for anchor in self.anchors:
            good = len(anchor) == 2 and all(side > 0 and math.isfinite(side) for side in anchor)
            ConfigError.check(good, "anchors", "pairs of width and height above 0", anchor)
        known = range(len(self.anchors))
        right = self.graph is not None or len(self.anchor_masks) in (2, 3)
        if not right or any(
            not mask or any(index not in known for index in mask) for mask in self.anchor_masks
        ):
            count = (
                "two or three non-empty lists"
                if self.graph is None
                else "a non-empty list per output"
            )
            raise ConfigError(
                f"anchor_masks must be {count} of anchor indices below {len(self.anchors)}; "
                f"got {self.anchor_masks}."
            )

    def preprocessing(self) -> Preprocess:
        """Return the preprocessing as a `Preprocess`.

        Raises:
            ConfigError: if a field is unknown or has an invalid value.
        """
        return from_mapping(Preprocess, self.preprocess, source="preprocess")

    def level_anchors(self) -> tuple[tuple[tuple[float, float], ...], ...]:
        """Return the anchors of each level, in the order of the raw maps, pixels."""
        return tuple(tuple(self.anchors[index] for index in mask) for mask in self.anchor_masks)

    def to_header(self) -> dict[str, str]:
        """Return the entries of the file header.

        Returns:
            Field name to JSON text, and ``format``, the name and version of the layout.

        Example:
            >>> header = WeightsMetadata(classes=("cat", "dog")).to_header()
            >>> header["format"], header["classes"], header["input_hw"]
            ('attendet/1', '["cat", "dog"]', '[416, 416]')
        """
        texts = {key: json.dumps(value) for key, value in dataclasses.asdict(self).items()}
        return {"format": FORMAT, **texts}

    @classmethod
    def from_header(cls, header: dict[str, str], *, source: str) -> WeightsMetadata:
        """Return the metadata in a file header.

        Args:
            header: the ``__metadata__`` of a safetensors file.
            source: name of the file, for errors.

        Returns:
            The metadata; missing optional fields have their defaults.

        Raises:
            WeightsError: if the header is not from attendet, has another layout, is broken, has an
                unknown key, or lacks a key that is needed to build the network.
        """
        if header.get("format") != FORMAT:
            raise WeightsError(
                f"weights file must have format {FORMAT!r}; got {header.get('format')!r} "
                f"({source}). It was not written by this version of attendet."
            )
        values: dict[str, Any] = {}
        for key, text in header.items():
            if key == "format":
                continue
            try:
                values[key] = json.loads(text)
            except (ValueError, TypeError, RecursionError) as error:
                raise WeightsError(
                    f"metadata {key!r} is not JSON ({source}): {error}. The file is damaged."
                ) from None
        lacking = [key for key in _NEEDED if key not in values]
        if lacking:
            raise WeightsError(
                f"metadata of the weights file must contain {', '.join(map(repr, lacking))} "
                f"({source}). The file is damaged."
            )
        try:
            return from_mapping(cls, values, source=source)
        except ConfigError as error:
            raise WeightsError(f"metadata of the weights file is invalid: {error}") from None


_NEEDED = (
    *("classes", "architecture", "attention", "input_hw", "anchors", "anchor_masks"),
    *("scale_x_y", "width_mult", "bn_eps", "preprocess"),
)
"""Keys that are needed to rebuild the network, so they must not fall back to a default."""


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a weights file to read its header."""
    if path.is_dir():
        raise WeightsError(f"weights must be a file; got a folder ({path}).")
    try:
        with safe_open(path, "numpy") as file:
            yield file
    except FileNotFoundError:
        raise WeightsError(f"weights file not found ({path}). Check the path.") from None
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(f"weights file cannot be read ({path}): {reason}.") from None
    except SafetensorError as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"weights must be a .safetensors file; this file is not one, or is damaged ({path}): "
            f"{reason}."
        ) from None


def read_metadata(path: str | Path) -> WeightsMetadata:
    """Return the metadata of a weights file, without reading the tensors; needs no torch.

    Args:
        path: a file that `attendet.models.save_weights` wrote.

    Returns:
        The metadata, validated. Whether the tensors fit it is checked only when they are loaded.

    Raises:
        WeightsError: if the file is missing, no safetensors file, or not from attendet.
    """
    path = Path(path)
    with _opened(path) as file:
        header = file.metadata()
    if not header:
        raise WeightsError(
            f"weights file must have metadata that describes the network; got none ({path}). "
            "It was not written by attendet."
        )
    return WeightsMetadata.from_header(header, source=str(path))


def read_tensor_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in a weights file, from its header only.

    Args:
        path: a safetensors file, from attendet or not.

    Returns:
        Tensor name to shape.

    Raises:
        WeightsError: if the file is missing or no safetensors file.
    """
    with _opened(Path(path)) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def count_parameters(shapes: dict[str, tuple[int, ...]]) -> int:
    """Return the number of trained values, without batch normalization's running statistics.

    Args:
        shapes: tensor name to shape, as `read_tensor_shapes` returns them.

    Example:
        >>> count_parameters({"a.weight": (2, 3), "a.running_mean": (3,)})
        6
    """
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(buffers))
