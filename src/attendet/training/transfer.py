"""Transfer from pretrained weights: settings of boxes and images, and tensors.

A run starts as the pretrained network, with its anchors, input and colors, so that its first
evaluation gives the average precision of the pretrained weights. Settings of the pretrained weights
replace those of the recipe, and settings of the user replace both.

A is the number of anchors per level, K the number of classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
from torch import Tensor

from attendet.attention import AttentionInit
from attendet.data.class_names import match_classes, parse_class_map
from attendet.errors import ConfigError, WeightsError, list_names
from attendet.models import DetectionNetwork, WeightsMetadata, read_metadata
from attendet.models.detector import common_init
from attendet.models.weights import attention_by_site
from attendet.training.recipe import Recipe

_RESIZE_OF_BASE = {"rect": "auto", "letterbox": "letterbox", "stretch": "stretch"}

BOX_TERMS = 5
"""Outputs per anchor before the class outputs: four for the box and one for objectness."""


@dataclass(frozen=True)
class Transfer:
    """Tensors of pretrained weights that were copied, partly copied or skipped."""

    source: str
    """The weights file."""

    loaded: tuple[str, ...]
    """Tensors that were copied completely."""

    skipped: tuple[tuple[str, str], ...]
    """Tensors of the file that were not copied, each with the reason."""

    partial: tuple[tuple[str, str], ...] = ()
    """Tensors that were partly copied, each with the copied rows."""

    note: str = ""
    """How classes in another order, or without names, were matched."""

    def summary(self) -> str:
        """Return one line with the percentage of copied tensors, and the reasons for the others."""
        total = len(self.loaded) + len(self.partial) + len(self.skipped)
        percent = 100 * len(self.loaded) // max(total, 1)  # 100 only if all were copied
        text = f"pretrained weights: {percent} % copied ({len(self.loaded)} of {total} tensors)"
        for title, named in (("partly copied", self.partial), ("not copied", self.skipped)):
            if named:
                text += f"; {title}: {_by_reason(named)}"
        return text + (f"; {self.note}" if self.note else "")


def _by_reason(named: Sequence[tuple[str, str]]) -> str:
    groups: dict[str, list[str]] = {}
    for name, reason in named:
        groups.setdefault(reason, []).append(name)
    return "; ".join(f"{list_names(names)}: {reason}" for reason, names in groups.items())


# Settings -----------------------------------------------------------------------------------------


def apply_pretrained_settings(
    recipe: Recipe, base: WeightsMetadata, given: Collection[str] = ()
) -> Recipe:
    """Return a recipe with the input, boxes and width of pretrained weights.

    Args:
        recipe: the settings.
        base: metadata of the pretrained weights.
        given: names of settings that the user set; they are kept.

    Raises:
        ConfigError: if a setting is given that the layers of the pretrained network determine.

    Example:
        >>> base = WeightsMetadata(classes=("cell",), input_hw=(256, 320), scale_x_y=1.05)
        >>> followed = apply_pretrained_settings(Recipe(), base, given={"scale_x_y"})
        >>> followed.size, followed.anchors, followed.scale_x_y
        (320, 'base', 2.0)
    """
    of_layers = {
        "anchors": "base",
        "scale_x_y": base.scale_x_y,
        "width_mult": base.width_mult,
        "levels": 2 if base.graph else len(base.anchor_masks),  # a graph defines its own levels
    }
    fixed = [k for k, own in of_layers.items() if k in given and getattr(recipe, k) != own]
    if "model" in given and recipe.width_mult is None:
        fixed += ["model"]
        given = {*given, "width_mult"}
    if base.graph and fixed:
        raise ConfigError(
            f"{' and '.join(fixed)} cannot be set with pretrained weights of architecture "
            f"{base.architecture}: the layers of the network determine the value. "
            "Remove the setting."
        )
    if "levels" in fixed:  # the anchors of the base fit only its own levels
        del of_layers["anchors"]
    resize = base.preprocessing().resize
    changes: dict[str, Any] = {
        "size": max(base.input_hw),
        "resize": recipe.resize
        if resize == "rect" and recipe.resize in ("auto", "rect")
        else _RESIZE_OF_BASE[resize],
        **of_layers,
    }
    return recipe.replace(**{name: value for name, value in changes.items() if name not in given})


def choose_init(
    attention: Mapping[str, str],
    wanted: Literal["auto"] | AttentionInit,
    base: WeightsMetadata | None,
) -> AttentionInit | dict[str, AttentionInit]:
    """Return the attention init of a run in the form of its metadata.

    Args:
        attention: site to name of its block.
        wanted: init of all blocks, or ``auto``: blocks of the pretrained weights keep their init,
            new blocks get ``identity``; without pretrained weights, all blocks get ``paper``.
        base: metadata of the pretrained weights.
    """
    if wanted != "auto":
        return wanted
    existing = attention_by_site(base) if base is not None else {}
    new: AttentionInit = "paper" if base is None else "identity"
    inits = {
        site: existing[site][1] if site in existing and existing[site][0] == name else new
        for site, name in attention.items()
    }
    return common_init(inits)


def check_class_map(
    recipe: Recipe, classes: Sequence[str], base: WeightsMetadata | None
) -> dict[str, str]:
    """Return the class map of a recipe: name in the data to name in the pretrained weights.

    Raises:
        ConfigError: if it has an unknown name, or there are no pretrained weights.
    """
    class_map = parse_class_map(recipe.class_map)
    if class_map and base is None:
        raise ConfigError(
            "class_map has no effect without pretrained weights (--class-map, --pretrained)."
        )
    if base is not None:
        match_classes(classes, base.classes, class_map)
    return class_map


def differing_from_pretrained(metadata: WeightsMetadata, base: WeightsMetadata) -> tuple[str, ...]:
    """Return the settings of boxes and images that differ from the pretrained weights.

    Example:
        >>> base = WeightsMetadata(classes=("cell",), scale_x_y=1.05)
        >>> differing_from_pretrained(dataclasses.replace(base, scale_x_y=2.0), base)
        ('scale_x_y 2 (pretrained: 1.05)',)
    """
    own = _input_settings(metadata)
    return tuple(
        f"{name} {own[name]} (pretrained: {value})"
        for name, value in _input_settings(base).items()
        if own[name] != value
    )


def _input_settings(metadata: WeightsMetadata) -> dict[str, str]:
    preprocess = metadata.preprocessing()
    rect = preprocess.resize == "rect"
    height, width = metadata.input_hw
    anchors = (f"{w:g},{h:g}" for level in metadata.level_anchors() for w, h in level)
    return {
        "input": f"{max(height, width)} px" if rect else f"{width} x {height} px",
        "resize": preprocess.resize,
        "color": preprocess.color,
        "anchors": " ".join(anchors),
        "scale_x_y": f"{metadata.scale_x_y:g}",
        "width_mult": f"{metadata.width_mult:g}",
        "levels": str(len(metadata.anchor_masks)),
        "bn_eps": f"{metadata.bn_eps:g}",
    }


# Tensors ------------------------------------------------------------------------------------------


def transfer_weights(
    network: DetectionNetwork,
    metadata: WeightsMetadata,
    path: str | Path,
    class_map: Mapping[str, str] | None = None,
) -> Transfer:
    """Copy the tensors of a weights file that fit into a network, and return what was copied.

    The output convolutions have rows for boxes, objectness and each class. The rows for boxes,
    objectness and common classes are copied; those for other classes keep their initial values.
    `attendet.data.class_names.match_classes` decides which classes are common.

    Args:
        network: changed in place.
        metadata: metadata of the network.
        path: the pretrained weights.
        class_map: class name of the network to name in the pretrained weights, where they differ.

    Raises:
        ConfigError: if the class map has an unknown name.
        WeightsError: if the file cannot be read, or nothing in it fits.
    """
    base = read_metadata(path)
    try:
        tensors = safetensors.torch.load_file(str(path))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"weights file is damaged ({path}): {error}") from None
    classes = _ClassRows.between(base.classes, metadata.classes, class_map)
    outputs = tuple(f"{name}." for name in network.output_layers())
    changed = _changed_attention(base, metadata)
    own = network.state_dict()
    loaded: list[str] = []
    partial: list[tuple[str, str]] = []
    skipped: list[tuple[str, str]] = []
    for name, tensor in tensors.items():
        site = name.split(".")[1] if name.startswith("attention.") else ""
        if site in changed:
            skipped.append((name, changed[site]))
        elif name not in own:
            skipped.append((name, "not in the network"))
        elif name.startswith(outputs) and tensor.dim() and not classes.same:
            if not classes.copy(tensor, own[name]):
                skipped.append((name, f"other classes, {_shapes(tensor, own[name])}"))
            elif classes.all_common:
                loaded.append(name)
            else:
                partial.append((name, classes.kept))
        elif own[name].shape != tensor.shape:
            skipped.append((name, _shapes(tensor, own[name])))
        else:
            own[name].copy_(tensor)
            loaded.append(name)
    copied = (*loaded, *(name for name, _ in partial))
    if not any(own[name].ndim > 1 for name in copied):
        raise WeightsError(
            f"pretrained weights must fit the network; no convolution fits ({path}): "
            f"{_by_reason(skipped)}."
        )
    return Transfer(str(path), tuple(loaded), tuple(skipped), tuple(partial), classes.note)


def _shapes(there: Tensor, here: Tensor) -> str:
    return f"shape is {tuple(there.shape)} in the file, {tuple(here.shape)} in the network"


def _changed_attention(base: WeightsMetadata, metadata: WeightsMetadata) -> dict[str, str]:
    """Return the sites whose block differs from that of the base, each with the reason."""
    here = attention_by_site(metadata)
    reasons = {}
    for site, (name, init) in attention_by_site(base).items():
        own_name, own_init = here.get(site, ("none", init))
        if own_name != name:
            reasons[site] = f"attention at {site} is {name} in the file, {own_name} in the network"
        elif own_init != init:
            reasons[site] = f"attention_init is {init!r} in the file, {own_init!r} in the network"
    return reasons


@dataclass(frozen=True)
class _ClassRows:
    """Mapping of the rows of an output convolution by class name."""

    pairs: tuple[tuple[int, int], ...]
    """Index of each common class in the network and in the base."""

    here: int
    """K of the network."""

    there: int
    """K of the base."""

    same: bool = False
    """True if the rows can be copied unchanged."""

    kept: str = ""
    """Description of the rows that are copied."""

    note: str = ""
    """Note about the order and names of the classes."""

    @classmethod
    def between(
        cls,
        there: Sequence[str],
        here: Sequence[str],
        class_map: Mapping[str, str] | None = None,
    ) -> _ClassRows:
        match = match_classes(here, there, class_map)
        if match.ids == tuple(range(len(there))):
            return cls((), len(here), len(there), same=True, note=match.note)
        pairs = tuple((own, other) for own, other in enumerate(match.ids) if other is not None)
        new = [name for name, other in zip(here, match.ids, strict=True) if other is None]
        rest = f"; those of {list_names(new)} are initialized" if new else ""
        common = list_names(here[own] for own, _ in pairs)
        kept = f"rows of boxes and objectness{f', and of {common}' if common else ''}{rest}"
        rows = cls(pairs, len(here), len(there), kept=kept, note=match.note)
        if not rows.all_common:
            return rows
        notes = [*([match.note] if match.note else []), "the rows of the classes were reordered"]
        return dataclasses.replace(rows, note="; ".join(notes))

    @property
    def all_common(self) -> bool:
        """True if both have the same classes."""
        return len({other for _, other in self.pairs}) == self.here == self.there

    def copy(self, there: Tensor, here: Tensor) -> bool:
        """Copy the rows of boxes, objectness and common classes; return False if they do not fit.

        Rows for boxes and objectness of other classes are a better start than new rows
        (docs/training.md).
        """
        anchors, rest = divmod(len(here), BOX_TERMS + self.here)
        fits = not rest and len(there) == anchors * (BOX_TERMS + self.there)
        if not fits or here.shape[1:] != there.shape[1:]:
            return False
        source = there.view(anchors, BOX_TERMS + self.there, *there.shape[1:])
        target = here.view(anchors, BOX_TERMS + self.here, *here.shape[1:])
        target[:, :BOX_TERMS] = source[:, :BOX_TERMS]
        for own, other in self.pairs:
            target[:, BOX_TERMS + own] = source[:, BOX_TERMS + other]
        return True
