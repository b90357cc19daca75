"""From arguments to everything a run needs: data, canvas, anchors, network, description."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from attendet.data import DataSet, PictureCache, Sample, load_dataset
from attendet.data.checks import decode_faults
from attendet.errors import ConfigError, WeightsError
from attendet.models import (
    DEFAULT_ANCHORS,
    Preprocess,
    WeightsMetadata,
    build_from_metadata,
    canonical_attention,
    read_metadata,
)
from attendet.models.anchors import AnchorChoice, best_overlap, choose_anchors
from attendet.models.darknet_graph import Graph
from attendet.pictures import common_aspect
from attendet.training.recipe import Recipe

__all__ = ["Plan", "Transfer", "choose_canvas", "make_plan", "transfer_weights"]

CELL = 32
SAME_ASPECT = 0.1
"""Pictures whose aspect differs less than this share count as of one aspect."""


@dataclass(frozen=True)
class Transfer:
    """What was taken over from base weights, and what was not."""

    source: str
    """The weights file."""

    loaded: tuple[str, ...]
    """Tensors of the base that were taken over."""

    left_out: tuple[tuple[str, str], ...]
    """Tensors of the base that were not, each with the reason."""

    fresh: tuple[str, ...]
    """Tensors of the network that start anew."""

    def in_words(self) -> str:
        """Return one line: the share of the base's tensors that was taken over."""
        total = len(self.loaded) + len(self.left_out)
        share = 100 * len(self.loaded) / max(total, 1)
        text = f"base weights: {share:.0f} % ({len(self.loaded)} of {total} tensors)"
        if self.left_out:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.left_out)
            text += f"; left out: {reasons}"
        return text


@dataclass(frozen=True)
class Plan:
    """A run, ready to start."""

    dataset: DataSet
    """The pictures with their labels; validation pictures that cannot be decoded are left out."""

    recipe: Recipe
    """All settings."""

    seed: int
    """Of weights, order and augmentation."""

    canvas_hw: tuple[int, int]
    """Whole training canvas, pixels."""

    cache: PictureCache
    """The training pictures, letterboxed to the canvas."""

    anchors: AnchorChoice
    """Which anchors, and why."""

    network: nn.Module
    """On the CPU, in its starting state."""

    metadata: WeightsMetadata
    """Travels with the weights."""

    transfer: Transfer | None
    """What came from base weights."""


def choose_canvas(samples: tuple[Sample, ...], recipe: Recipe) -> tuple[int, int]:
    """Return height and width of the training canvas, multiples of 32, the long side as asked.

    A square canvas for 640 x 480 pictures is a quarter grey; a canvas of the pictures' own aspect
    saves that quarter of the arithmetic.
    """
    size = recipe.size
    sizes = [sample.image_hw for sample in samples]
    aspect = common_aspect(sizes)
    if recipe.fit == "square":
        return size, size
    alike = [abs(height / width / aspect - 1) < SAME_ASPECT for height, width in sizes]
    if recipe.fit == "auto" and sum(alike) < 0.9 * len(sizes):
        return size, size
    short = min(aspect, 1 / aspect) * size
    side = int(np.ceil(max(short - 1, CELL) / CELL) * CELL)
    return (side, size) if aspect <= 1 else (size, side)


def transfer_weights(network: nn.Module, path: str | Path) -> Transfer:
    """Copy the tensors of a weights file that fit into a network, and tell which did not and why.

    Raises:
        WeightsError: if the file cannot be read, or nothing in it fits.
    """
    start = read_metadata(path).attention_start
    own_start = getattr(network, "attention_start", start)
    try:
        base = safetensors.torch.load_file(str(path))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"weights file is damaged ({path}): {error}") from None
    own = network.state_dict()
    loaded, left_out = [], []
    for name, tensor in base.items():
        if name not in own:
            left_out.append((name, "the network has no such tensor"))
        elif name.startswith("attention.") and start != own_start:
            left_out.append((name, f"attention_start is {start!r} there, {own_start!r} here"))
        elif own[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)} does not fit {tuple(own[name].shape)}"
            left_out.append((name, shapes))
        else:
            own[name].copy_(tensor)
            loaded.append(name)
    if not loaded:
        raise WeightsError(f"pretrained weights must fit the network; nothing does ({path}).")
    fresh = tuple(name for name in own if name not in loaded)
    return Transfer(str(path), tuple(loaded), tuple(left_out), fresh)


def _object_sizes(cache: PictureCache) -> np.ndarray[Any, np.dtype[np.float32]]:
    boxes = np.concatenate(cache.boxes_xyxy) if len(cache) else np.zeros((0, 4), np.float32)
    sizes = boxes[:, 2:] - boxes[:, :2]
    return sizes[(sizes > 0).all(axis=1)]


def _choose_anchors(cache: PictureCache, recipe: Recipe, seed: int) -> AnchorChoice:
    masks = ((3, 4, 5), (1, 2, 3))
    scale = recipe.size / 416
    defaults = [(w * scale, h * scale) for w, h in DEFAULT_ANCHORS]
    choice = choose_anchors(_object_sizes(cache), defaults, masks, seed=seed)
    if recipe.anchors == "default":
        kept = tuple((float(w), float(h)) for w, h in defaults)
        return dataclasses.replace(choice, anchors=kept, masks=masks, from_data=False)
    if recipe.anchors == "data" and not choice.from_data and not np.isnan(choice.data_overlap):
        forced = choose_anchors(_object_sizes(cache), [(1.0, 1.0)] * 6, masks, seed=seed)
        return dataclasses.replace(forced, default_overlap=choice.default_overlap)
    return choice


def _without_unreadable(dataset: DataSet, cache: PictureCache) -> DataSet:
    """Return the set less the validation pictures that cannot be decoded, all of them faults.

    The cache has left such training pictures out already. One of them must not end a run hours
    later, when it is evaluated.
    """
    samples = dataset.splits.get("val", ())
    faults = decode_faults(samples)
    broken = {fault.file for fault in faults}
    kept = tuple(sample for sample in samples if sample.path not in broken)
    splits = {name: part for name, part in dataset.splits.items() if name != "val"}
    if kept:
        splits["val"] = kept
    all_faults = (*dataset.faults, *cache.faults, *faults)
    return dataclasses.replace(dataset, splits=splits, faults=all_faults)


def _anchors_of(base: WeightsMetadata, cache: PictureCache) -> AnchorChoice:
    """Return the anchors of base weights: their outputs count in them."""
    used = [anchor for level in base.level_anchors() for anchor in level]
    sizes = _object_sizes(cache)
    overlap = best_overlap(sizes, used) if len(sizes) else float("nan")
    return AnchorChoice(base.anchors, base.anchor_masks, overlap, float("nan"), from_data=False)


def _with_layers_of(base: WeightsMetadata, metadata: WeightsMetadata) -> WeightsMetadata:
    """Return the description of a run with the layers of base weights, made for its classes."""
    layers = Graph.from_mappings(base.graph or ())
    counts = [len(mask) for mask in base.anchor_masks]
    return dataclasses.replace(
        metadata,
        architecture=base.architecture,
        graph=layers.with_classes(len(metadata.classes), counts).to_mappings(),
        scale_x_y=base.scale_x_y,
        width=base.width,
        bn_eps=base.bn_eps,
        origin=base.origin,
    )


def make_plan(
    data: str | Path | DataSet,
    *,
    attention: str,
    recipe: Recipe,
    seed: int,
    pretrained: str | Path | None = None,
    base: WeightsMetadata | None = None,
    format: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Return a run, ready to start.

    Args:
        data: path of a data set, or the set itself.
        attention: spec such as ``ca`` or ``se@p5+ca@up``.
        recipe: all settings.
        seed: of weights, order and augmentation.
        pretrained: weights file to start from.
        base: description whose layers the run takes, with their anchors and ``scale_x_y``, where
            they are not those of the reference network; that of ``pretrained`` if left out.
        format: of the data set, where it is not to be recognised.
        progress: called with the pictures decoded and their total.

    Raises:
        DataError: if the data cannot be read.
        ConfigError: if a spec is wrong.
        WeightsError: if the pretrained weights do not fit.
    """
    attention = canonical_attention(attention)
    if base is None and pretrained is not None:
        base = read_metadata(pretrained)
    base = base if base is not None and base.graph else None
    if base and attention != "none":
        raise ConfigError(
            f"attention must be none on a {base.architecture}, which has no named sites; got "
            f"{attention!r} (--attention). Give --attention none."
        )
    dataset = data if isinstance(data, DataSet) else load_dataset(data, format=format)  # type: ignore[arg-type]
    train = dataset.split("train")
    canvas_hw = choose_canvas(train, recipe)
    cache = PictureCache(train, canvas_hw, progress=progress)
    anchors = _anchors_of(base, cache) if base else _choose_anchors(cache, recipe, seed)
    square = canvas_hw[0] == canvas_hw[1] and recipe.fit == "square"
    metadata = WeightsMetadata(
        classes=dataset.classes,
        attention=attention,
        attention_start=recipe.attention_start,
        input_hw=canvas_hw,
        anchors=anchors.anchors,
        anchor_masks=anchors.masks,
        scale_x_y=recipe.scale_x_y,
        width=recipe.width,
        preprocess=dataclasses.asdict(Preprocess(fit="square" if square else "rect")),
        recipe=recipe.as_dict(),
        seed=seed,
        data={
            "fingerprints": {name: dataset.fingerprint(name) for name in dataset.splits},
            "pictures": {name: len(samples) for name, samples in dataset.splits.items()},
            "split_source": dataset.split_source,
        },
    )
    if base:
        metadata = _with_layers_of(base, metadata)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_from_metadata(metadata)
    transfer = transfer_weights(network, pretrained) if pretrained is not None else None
    dataset = _without_unreadable(dataset, cache)
    return Plan(dataset, recipe, seed, canvas_hw, cache, anchors, network, metadata, transfer)
