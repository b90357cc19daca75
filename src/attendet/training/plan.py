"""Plan of a run: data, input size, anchors, network and metadata from the arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from attendet.data import DataSet, ImageCache, Sample, load_dataset
from attendet.data.checks import decode_issues
from attendet.data.stats import SMALL_AREA
from attendet.errors import ConfigError, TrainingError
from attendet.images import common_aspect
from attendet.inference.preprocess import STRIDE
from attendet.models import (
    DetectionNetwork,
    WeightsMetadata,
    build_from_metadata,
    canonical_attention,
    default_anchors,
)
from attendet.models.anchors import AnchorChoice, best_overlap, choose_anchors
from attendet.models.graph import Graph
from attendet.models.graph_sites import backbone_layers
from attendet.models.weights import attention_by_site
from attendet.training.recipe import Recipe
from attendet.training.transfer import (
    Transfer,
    check_class_map,
    choose_init,
    differing_from_pretrained,
    transfer_weights,
)

SAME_ASPECT = 0.1
"""Aspect ratios that differ by less than this fraction count as the same."""


@dataclass(frozen=True)
class Plan:
    """Data, settings, network and metadata of a run."""

    dataset: DataSet
    """The data set, without validation images that cannot be decoded."""

    recipe: Recipe
    """All settings."""

    seed: int
    """Seed of weights, image order and augmentation."""

    input_hw: tuple[int, int]
    """Full input size of training, pixels."""

    cache: ImageCache
    """The training images, resized to the input."""

    anchors: AnchorChoice
    """Anchors and how they were chosen."""

    network: DetectionNetwork
    """The initialized network, on the CPU."""

    metadata: WeightsMetadata
    """Metadata of the weights file."""

    transfer: Transfer | None = None
    """Tensors copied from pretrained weights."""

    differing_from_pretrained: tuple[str, ...] = ()
    """Settings of boxes and images that differ from the pretrained weights."""

    from_scratch: bool = False
    """True for a new run without pretrained weights."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of each split of the data set."""
        fingerprints: dict[str, str] = (self.metadata.data or {})["fingerprints"]
        return fingerprints

    @property
    def small_fraction(self) -> float:
        """Fraction of the training objects that are small by COCO's rule in the network input.

        Their area is below 32 x 32 pixels. 0 without objects.
        """
        areas = _object_sizes(self.cache).prod(axis=1)
        return float((areas < SMALL_AREA).mean()) if len(areas) else 0.0


def choose_input_hw(
    samples: tuple[Sample, ...], recipe: Recipe, base: WeightsMetadata | None = None
) -> tuple[int, int]:
    """Return height and width of the training input, multiples of 32.

    With a square input, a quarter of the input is padding for 640 x 480 images; an input with the
    aspect ratio of the images saves that quarter of the computation. With ``letterbox`` and
    ``stretch``, the input of pretrained weights with the same resize mode and long side is kept,
    square or not.
    """
    size = recipe.size
    whole = recipe.resize in ("letterbox", "stretch")
    if whole and base is not None and recipe.resize == base.preprocessing().resize:
        return base.input_hw if max(base.input_hw) == size else (size, size)
    sizes = [sample.image_hw for sample in samples]
    aspect = common_aspect(sizes)
    if whole:
        return size, size
    alike = [abs(height / width / aspect - 1) < SAME_ASPECT for height, width in sizes]
    if recipe.resize == "auto" and sum(alike) < 0.9 * len(sizes):
        return size, size
    short = min(aspect, 1 / aspect) * size
    side = int(np.ceil(max(short - 1, STRIDE) / STRIDE) * STRIDE)
    return (side, size) if aspect <= 1 else (size, side)


class LoadedData(NamedTuple):
    """A data set in memory, and its training images if they are already decoded."""

    dataset: DataSet
    images: ImageCache | None = None


def decode_images(
    train: tuple[Sample, ...],
    recipe: Recipe,
    base: WeightsMetadata | None = None,
    *,
    shared: bool = False,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> ImageCache:
    """Return the training images, resized to the input of a run; see `ImageCache`."""
    return ImageCache(
        train,
        choose_input_hw(train, recipe, base),
        stretch=recipe.resize == "stretch",
        shared=shared,
        processes=processes,
        progress=progress,
    )


def _object_sizes(cache: ImageCache) -> np.ndarray[Any, np.dtype[np.float32]]:
    boxes = np.concatenate(cache.boxes_xyxy) if len(cache) else np.zeros((0, 4), np.float32)
    sizes = boxes[:, 2:] - boxes[:, :2]
    return sizes[(sizes > 0).all(axis=1)]


def _choose_anchors(cache: ImageCache, recipe: Recipe, seed: int) -> AnchorChoice:
    defaults, masks = default_anchors(recipe.levels, recipe.size)
    choice = choose_anchors(_object_sizes(cache), defaults, masks, seed=seed)
    if recipe.anchors == "default":
        return dataclasses.replace(choice, anchors=defaults, masks=masks, from_data=False)
    if recipe.anchors == "data" and not choice.from_data and not np.isnan(choice.data_overlap):
        forced = choose_anchors(
            _object_sizes(cache), [(1.0, 1.0)] * len(defaults), masks, seed=seed
        )
        return dataclasses.replace(forced, default_overlap=choice.default_overlap)
    return choice


def _without_unreadable(dataset: DataSet, cache: ImageCache) -> DataSet:
    """Return the data set without the validation images that cannot be decoded.

    The cache has already skipped such training images. Without this check, an unreadable validation
    image would stop the run hours later.
    """
    samples = dataset.splits.get("val", ())
    issues = decode_issues(samples)
    broken = {issue.file for issue in issues}
    kept = tuple(sample for sample in samples if sample.path not in broken)
    splits = {name: part for name, part in dataset.splits.items() if name != "val"}
    if kept:
        splits["val"] = kept
    all_issues = (*dataset.issues, *cache.issues, *issues)
    return dataclasses.replace(dataset, splits=splits, issues=all_issues)


def _anchors_of(base: WeightsMetadata, cache: ImageCache) -> AnchorChoice:
    """Return the anchors of pretrained weights, with which their outputs are decoded."""
    used = [anchor for level in base.level_anchors() for anchor in level]
    sizes = _object_sizes(cache)
    overlap = best_overlap(sizes, used) if len(sizes) else float("nan")
    return AnchorChoice(base.anchors, base.anchor_masks, overlap, float("nan"), from_data=False)


def _settings_of(base: WeightsMetadata, num_classes: int) -> dict[str, Any]:
    """Return the metadata fields that a run takes from pretrained weights.

    The layers of a graph are adapted to the number of classes of the run.
    """
    settings: dict[str, Any] = {"bn_eps": base.bn_eps}
    if not base.graph:
        return settings
    layers = Graph.from_mappings(base.graph)
    counts = [len(mask) for mask in base.anchor_masks]
    return settings | {
        "architecture": base.architecture,
        "graph": layers.with_classes(num_classes, counts).to_mappings(),
        "scale_x_y": base.scale_x_y,
        "width_mult": base.width_mult,
        "origin": base.origin,
    }


def _check_base(recipe: Recipe, base: WeightsMetadata | None, graph: Graph | None) -> None:
    """Raise an error if a setting cannot be used with these pretrained weights, or without any."""
    if base is None and recipe.anchors == "base":
        raise ConfigError("anchors must not be 'base' without pretrained weights (--pretrained).")
    if base is None and recipe.batch_norm == "frozen":
        raise ConfigError(
            "batch_norm must not be 'frozen' without pretrained weights (--pretrained)."
        )
    if base is not None and not base.graph and recipe.anchors == "base":
        rule = f"{len(base.anchor_masks)} with the anchors of the pretrained weights"
        fits = recipe.levels == len(base.anchor_masks)
        ConfigError.check(fits, "levels", rule, recipe.levels, advice="Set --anchors auto.")
    if graph is not None and recipe.freeze_backbone_epochs and not backbone_layers(graph):
        raise ConfigError(
            "freeze_backbone_epochs has no effect with these pretrained weights: the backbone of "
            "their network is unknown (--freeze-backbone-epochs). Remove it."
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
    loaded: LoadedData | None = None,
    fingerprints: Iterable[tuple[str, str]] = (),
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Return the plan of a run.

    Args:
        data: path of a data set, or a `DataSet`.
        attention: spec such as ``ca`` or ``se@p5+ca@up``.
        recipe: all settings.
        seed: seed of weights, image order and augmentation.
        pretrained: weights file to start from; needs ``base``.
        base: metadata of the weights that the run starts from or resumes. The run takes their
            layers, batch norm epsilon, color order and, where the recipe says so, boxes and input.
        format: format of the data set; default: detected.
        loaded: contents of ``data``, if they are already in memory.
        fingerprints: pairs of split name and fingerprint that the data must have.
        processes: processes of this machine that train, each with its own cache of images.
        progress: called with the images decoded and their total.

    Raises:
        DataError: if the data cannot be read.
        ConfigError: if a spec or a setting is wrong.
        TrainingError: if the data has changed.
        WeightsError: if the pretrained weights do not fit.
    """
    graph = Graph.from_mappings(base.graph) if base is not None and base.graph else None
    _check_base(recipe, base, graph)
    attention = canonical_attention(attention, graph, recipe.levels)
    if loaded is None:
        dataset = data if isinstance(data, DataSet) else load_dataset(data, format=format)  # type: ignore[arg-type]
        loaded = LoadedData(dataset)
    dataset, cache = loaded
    class_map = {}
    if base is None or pretrained is not None:  # a resumed run has already copied the rows
        class_map = check_class_map(recipe, dataset.classes, base)
    found = {name: dataset.fingerprint(name) for name in dataset.splits}
    changed = dict.fromkeys(name for name, old in fingerprints if found.get(name) != old)
    if changed:
        source = (data.root if isinstance(data, DataSet) else Path(data)).resolve()
        raise TrainingError(
            f"data must be the same as at the start of the run; changed: {' and '.join(changed)} "
            f"({source}). Restore the data, pass its new path, or start a new run."
        )
    train = dataset.split("train")
    recipe = recipe.for_images(len(train))
    if cache is None:
        cache = decode_images(train, recipe, base, processes=processes, progress=progress)
    input_hw = cache.input_hw
    if base is not None and (recipe.anchors == "base" or base.graph):
        anchors = _anchors_of(base, cache)
    else:
        anchors = _choose_anchors(cache, recipe, seed)
    data_facts = {
        "fingerprints": found,
        "images": {name: len(samples) for name, samples in dataset.splits.items()},
        "split_source": dataset.split_source,
    }
    settings: dict[str, Any] = {
        "scale_x_y": recipe.scale_x_y,
        "width_mult": recipe.resolved_width_mult,
    }
    if base is not None:
        settings |= _settings_of(base, len(dataset.classes))
    metadata = WeightsMetadata(
        classes=dataset.classes,
        attention=attention,
        input_hw=input_hw,
        anchors=anchors.anchors,
        anchor_masks=anchors.masks,
        preprocess={
            "resize": recipe.resize if recipe.resize in ("letterbox", "stretch") else "rect",
            "color": "rgb" if base is None else base.preprocessing().color,
        },
        recipe=recipe.as_dict(),
        seed=seed,
        data=data_facts,
        **settings,
    )
    blocks = {site: name for site, (name, _) in attention_by_site(metadata).items()}
    init = choose_init(blocks, recipe.attention_init, base)
    metadata = dataclasses.replace(metadata, attention_init=init)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_from_metadata(metadata)
    transfer: Transfer | None = None
    unlike: tuple[str, ...] = ()
    if pretrained is not None and base is not None:
        transfer = transfer_weights(network, metadata, pretrained, class_map)
        unlike = differing_from_pretrained(metadata, base)
    return Plan(
        dataset=_without_unreadable(dataset, cache),
        recipe=recipe,
        seed=seed,
        input_hw=input_hw,
        cache=cache,
        anchors=anchors,
        network=network,
        metadata=metadata,
        transfer=transfer,
        differing_from_pretrained=unlike,
        from_scratch=base is None,
    )
