"""What a run takes over from base weights: settings of boxes and images, and tensors.

A run that inits from base weights begins as the network that they are: with their anchors, their
input and their colors, so that its first evaluation gives the base's own average precision. A flag
of the user wins over the base, and the base over the recipe.

A counts the anchors of a level, K the classes.
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
from attendet.errors import ConfigError, WeightsError
from attendet.models import DetectionNetwork, WeightsMetadata, read_metadata
from attendet.models.detector import common_init
from attendet.models.weights import attention_of
from attendet.training.recipe import Recipe

__all__ = [
    "Transfer",
    "choose_init",
    "follow_base",
    "transfer_weights",
    "unlike_base",
]

_RESIZE_OF_BASE = {"rect": "auto", "letterbox": "letterbox", "stretch": "stretch"}

BOX_TERMS = 5
"""Outputs of an anchor before those of the classes: four of the box, and objectness."""


@dataclass(frozen=True)
class Transfer:
    """What was taken over from base weights, and what was not."""

    source: str
    """The weights file."""

    loaded: tuple[str, ...]
    """Tensors of the base that were taken over whole."""

    left_out: tuple[tuple[str, str], ...]
    """Tensors of the base that were not, each with the reason."""

    fresh: tuple[str, ...]
    """Tensors of the network that start anew, wholly or in part."""

    in_part: tuple[tuple[str, str], ...] = ()
    """Tensors of the base of which some rows were taken over, each with which."""

    note: str = ""
    """What was done about classes that the base has in another order, or without names."""

    def in_words(self) -> str:
        """Return one line: the share of the base's tensors that was taken over."""
        total = len(self.loaded) + len(self.in_part) + len(self.left_out)
        share = 100 * len(self.loaded) // max(total, 1)  # 100 is all of them
        text = f"base weights: {share} % ({len(self.loaded)} of {total} tensors)"
        for title, named in (("in part", self.in_part), ("left out", self.left_out)):
            if named:
                text += f"; {title}: {_by_reason(named)}"
        return text + (f"; {self.note}" if self.note else "")


def _by_reason(named: Sequence[tuple[str, str]]) -> str:
    groups: dict[str, list[str]] = {}
    for name, reason in named:
        groups.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in groups.items())


# Settings -----------------------------------------------------------------------------------------


def follow_base(recipe: Recipe, base: WeightsMetadata, given: Collection[str] = ()) -> Recipe:
    """Return a recipe with the input, the boxes and the width of base weights.

    Args:
        recipe: the settings.
        base: description of the base weights.
        given: names of settings that the user gave, which stay.

    Raises:
        ConfigError: if a setting is given that a network with layers of its own has already.

    Example:
        >>> base = WeightsMetadata(classes=("cell",), input_hw=(256, 320), scale_x_y=1.05)
        >>> followed = follow_base(Recipe(), base, given={"scale_x_y"})
        >>> followed.size, followed.anchors, followed.scale_x_y
        (320, 'base', 2.0)
    """
    said = [name for name in ("anchors", "scale_x_y", "width_mult") if name in given]
    if base.graph and said:
        raise ConfigError(
            f"{' and '.join(said)} must be left out where the base weights have layers of their "
            f"own ({base.architecture}), which say it."
        )
    resize = base.preprocessing().resize
    theirs: dict[str, Any] = {
        "size": max(base.input_hw),
        "resize": recipe.resize
        if resize == "rect" and recipe.resize in ("auto", "rect")
        else _RESIZE_OF_BASE[resize],
        "width_mult": base.width_mult,
        "scale_x_y": base.scale_x_y,
        "anchors": "base",
    }
    changes = {name: value for name, value in theirs.items() if name not in given}
    return dataclasses.replace(recipe, **changes)


def choose_init(
    attention: Mapping[str, str],
    wanted: Literal["auto"] | AttentionInit,
    base: WeightsMetadata | None,
) -> AttentionInit | dict[str, AttentionInit]:
    """Return how the attention of a run inits, as its description says it.

    Args:
        attention: site to name of a block.
        wanted: ``auto``: blocks that base weights bring stay what they are, new ones start as the
            identity; without base weights all start as published. Else the start of all.
        base: description of the base weights.
    """
    if wanted != "auto":
        return wanted
    brought = attention_of(base) if base is not None else {}
    new: AttentionInit = "paper" if base is None else "identity"
    inits = {
        site: brought[site][1] if site in brought and brought[site][0] == name else new
        for site, name in attention.items()
    }
    return common_init(inits)


def unlike_base(metadata: WeightsMetadata, base: WeightsMetadata) -> tuple[str, ...]:
    """Return where boxes and images of a run are not those of its base, a phrase each.

    Example:
        >>> base = WeightsMetadata(classes=("cell",), scale_x_y=1.05)
        >>> unlike_base(dataclasses.replace(base, scale_x_y=2.0), base)
        ('scale_x_y 2 (base 1.05)',)
    """
    pairs = {name: (_shown(metadata)[name], said) for name, said in _shown(base).items()}
    return tuple(
        f"{name} {own} (base {said})" for name, (own, said) in pairs.items() if own != said
    )


def _shown(metadata: WeightsMetadata) -> dict[str, str]:
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
        "bn_eps": f"{metadata.bn_eps:g}",
    }


# Tensors ------------------------------------------------------------------------------------------


def transfer_weights(
    network: DetectionNetwork, metadata: WeightsMetadata, path: str | Path
) -> Transfer:
    """Copy the tensors of a weights file that resize into a network, and tell which did not and
    why.

    The convolutions that make the raw maps hold rows for each class. With the same classes in
    another order their rows are put into the network's order; with some classes in common, the rows
    of boxes, objectness and the common classes are taken over; with none, they start anew.

    Args:
        network: is changed in place.
        metadata: its description.
        path: the base weights.

    Raises:
        WeightsError: if the file cannot be read, or nothing in it fits.
    """
    base = read_metadata(path)
    try:
        tensors = safetensors.torch.load_file(str(path))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"weights file is damaged ({path}): {error}") from None
    classes = _ClassRows.between(base, metadata)
    outputs = tuple(f"{name}." for name in network.output_layers())
    gone = _unfit_attention(base, metadata)
    own = network.state_dict()
    loaded: list[str] = []
    in_part: list[tuple[str, str]] = []
    left_out: list[tuple[str, str]] = []
    for name, tensor in tensors.items():
        site = name.split(".")[1] if name.startswith("attention.") else ""
        if site in gone:
            left_out.append((name, gone[site]))
        elif name not in own:
            left_out.append((name, "the network has no such tensor"))
        elif name.startswith(outputs) and tensor.dim() and not classes.same:
            if not classes.copy(tensor, own[name]):
                left_out.append((name, classes.why_not(tensor, own[name])))
            elif classes.all_common:
                loaded.append(name)
            else:
                in_part.append((name, classes.kept))
        elif own[name].shape != tensor.shape:
            left_out.append((name, _shapes(tensor, own[name])))
        else:
            own[name].copy_(tensor)
            loaded.append(name)
    if not loaded:
        raise WeightsError(f"pretrained weights must fit the network; nothing does ({path}).")
    fresh = tuple(name for name in own if name not in loaded)
    return Transfer(str(path), tuple(loaded), tuple(left_out), fresh, tuple(in_part), classes.note)


def _shapes(there: Tensor, here: Tensor) -> str:
    return f"{tuple(there.shape)} does not fit {tuple(here.shape)}"


def _unfit_attention(base: WeightsMetadata, metadata: WeightsMetadata) -> dict[str, str]:
    """Return the sites whose block in the base cannot go over, each with the reason."""
    here = attention_of(metadata)
    reasons = {}
    for site, (name, start) in attention_of(base).items():
        own_name, own_init = here.get(site, ("none", start))
        if own_name != name:
            reasons[site] = f"attention at {site} is {name} there, {own_name} here"
        elif own_init != start:
            reasons[site] = f"attention_init is {start!r} there, {own_init!r} here"
    return reasons


@dataclass(frozen=True)
class _ClassRows:
    """Which rows of an output convolution go where, by the names of the classes."""

    pairs: tuple[tuple[int, int], ...]
    """Number of a class here and there, for each that both know."""

    here: int
    """K of the network."""

    there: int
    """K of the base."""

    same: bool = False
    """Whether the rows can be taken as they stand."""

    kept: str = ""
    """The rows that are taken over, in words."""

    note: str = ""
    """What is to be told of the order and the names."""

    @classmethod
    def between(cls, base: WeightsMetadata, metadata: WeightsMetadata) -> _ClassRows:
        there, here = base.classes, metadata.classes
        nameless = there == tuple(f"class_{number}" for number in range(len(here)))
        if there == here or nameless:
            told = "the base's classes have no names and were taken for the data's, in their order"
            return cls((), len(here), len(there), same=True, note=told * (there != here))
        common = [name for name in here if name in there]
        pairs = tuple((here.index(name), there.index(name)) for name in common)
        new = [name for name in here if name not in there]
        anew = f"; those of {', '.join(new)} start anew" if new else ""
        kept = f"rows of boxes, objectness and {', '.join(common)}{anew}"
        rows = cls(pairs, len(here), len(there), kept=kept)
        told = "classes stand in another order here, and their rows with them"
        return dataclasses.replace(rows, note=told * rows.all_common)

    @property
    def all_common(self) -> bool:
        """Whether both know the same classes."""
        return len(self.pairs) == self.here == self.there

    def why_not(self, there: Tensor, here: Tensor) -> str:
        """Return why `copy` took nothing over."""
        if not self.pairs:
            return "no class in common, starts anew"
        return f"other classes, {_shapes(there, here)}"

    def copy(self, there: Tensor, here: Tensor) -> bool:
        """Copy the rows in common; return whether there were any that fit."""
        anchors, rest = divmod(len(here), BOX_TERMS + self.here)
        fits = not rest and len(there) == anchors * (BOX_TERMS + self.there)
        if not fits or here.shape[1:] != there.shape[1:] or not self.pairs:
            return False
        source = there.view(anchors, BOX_TERMS + self.there, *there.shape[1:])
        target = here.view(anchors, BOX_TERMS + self.here, *here.shape[1:])
        target[:, :BOX_TERMS] = source[:, :BOX_TERMS]
        for own, other in self.pairs:
            target[:, BOX_TERMS + own] = source[:, BOX_TERMS + other]
        return True
