"""The grid of a study: its variants, and the runs of each variant with their content keys."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from attendet.attention import (
    AttentionInit,
    attention_names,
    format_attention_spec,
    parse_attention_spec,
)
from attendet.errors import ConfigError, did_you_mean
from attendet.models import canonical_attention
from attendet.models.graph import Graph
from attendet.models.weights import attention_sites

AUTO_INIT = "auto"
"""Default init with pretrained weights, as in `Recipe.attention_init`: blocks of the weights are
kept, new blocks are the identity."""

REPEAT_SEEDS = 10_000
"""Offset of the training seeds of a variant that is given a second time, which makes it an
independent draw of the same variant."""


@dataclass(frozen=True)
class Variant:
    """A variant of a comparison: its attention, sites and init.

    Example:
        >>> Variant("ca", ("p4", "p5", "up"), "identity").name
        'ca@p4,p5,up:identity'
    """

    attention: str
    """Name of a block, ``none``, or a spec of several blocks such as ``se@p5+ca@up``."""

    sites: tuple[str, ...] = ()
    """Sites, in the order of the network."""

    init: Literal["auto"] | AttentionInit = "paper"
    """Attention init; ``auto``: see `AUTO_INIT`."""

    repeat: int = 1
    """From 2 on: the same variant again, with other seeds (see `REPEAT_SEEDS`)."""

    @property
    def name(self) -> str:
        """Name of the variant, unique in a study."""
        mixed = "@" in self.attention
        name = self.attention + (f"@{','.join(self.sites)}" if self.sites and not mixed else "")
        name += "" if self.init in ("paper", AUTO_INIT) else f":{self.init}"
        return name if self.repeat == 1 else f"{name}#{self.repeat}"

    @property
    def spec(self) -> str:
        """The attention spec that training takes."""
        if "@" in self.attention or not self.sites:
            return self.attention
        return f"{self.attention}@{','.join(self.sites)}"

    def as_dict(self) -> dict[str, Any]:
        """Return the variant as stored in records."""
        plain = {"attention": self.attention, "sites": list(self.sites), "init": self.init}
        return plain if self.repeat == 1 else {**plain, "repeat": self.repeat}


@dataclass(frozen=True)
class Job:
    """One run, with all that another process needs to execute it; plain values only."""

    variant: Variant
    """The variant that is trained."""

    seed: int
    """Seed of the study; the variants of one seed are paired."""

    setup: dict[str, Any]
    """Settings that all runs of the study have in common; see `attendet.comparison.study`."""

    data: str
    """Path of the data set."""

    format: str | None
    """Format of the data set; None: recognized from its files."""

    pretrained: str | None
    """Weights file to start from."""

    accelerator: str
    """Kind of device."""

    study: str
    """Folder of the study."""

    until: int | None = None
    """Pause after this epoch; None: train to the end."""

    @functools.cached_property
    def key(self) -> str:
        """Content key: equal keys are equal runs."""
        return content_key(self.setup, self.variant.spec, self.variant.init, self.run_seed)

    @property
    def run_seed(self) -> int:
        """Seed of training."""
        return self.seed + REPEAT_SEEDS * (self.variant.repeat - 1)

    @property
    def split(self) -> str:
        """Split that the run is measured on."""
        return str(self.setup["split"])

    @property
    def weights(self) -> str:
        """Weights that are measured: ``best`` or ``last``."""
        return measured_weights(self.split)

    @property
    def folder(self) -> str:
        """Folder of the run, relative to the folder of the study."""
        return f"runs/{folder_name(self.variant.name, self.run_seed, self.key)}"

    @property
    def path(self) -> Path:
        """Path of the run's folder."""
        return Path(self.study) / self.folder

    def identity(self) -> dict[str, Any]:
        """Return the fields of a record that identify the run in its study."""
        return {
            "variant": self.variant.as_dict(),
            "variant_name": self.variant.name,
            "seed": self.seed,
            "folder": self.folder,
        }


def measured_weights(split: str) -> str:
    """Return the weights to measure on a split: on val, the best are biased (selected there)."""
    return "best" if split == "test" else "last"


def content_key(setup: Mapping[str, Any], spec: str, init: str, seed: int) -> str:
    """Return a hash (16 hex digits) of everything that determines a run.

    Args:
        setup: settings that all runs of a study have in common; plain values.
        spec: attention spec.
        init: attention init.
        seed: training seed.

    Example:
        >>> content_key({"version": "1"}, "none", "paper", 0)
        '6b597e5c041c5f68'
    """
    content = {"setup": dict(setup), "spec": spec, "init": init, "seed": seed}
    line = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(line.encode(), digest_size=8).hexdigest()


def folder_name(variant_name: str, seed: int, key: str) -> str:
    """Return a readable folder name that is unique to a run.

    Example:
        >>> folder_name("ca@p4,p5:identity", 3, "00ff" * 4)
        'ca-p4-p5-identity-seed3-00ff00ff'
    """
    slug = re.sub(r"[^a-z0-9_]+", "-", variant_name.lower()).strip("-")
    return f"{slug}-seed{seed}-{key[:8]}"


def make_variants(
    attention: Sequence[str],
    sites: Sequence[str] | None,
    inits: Sequence[str],
    graph: Graph | None = None,
    levels: int = 2,
) -> tuple[Variant, ...]:
    """Return the variants: each attention at each placement with each init.

    ``none`` is one variant for all placements. A spec with its own sites (``se@p5+ca@up``) ignores
    the placements. An attention that is given twice is a second, independent draw of its variants:
    a study of ``none none`` shows the effect of the noise alone.

    Args:
        attention: names of blocks, or specs.
        sites: placements, each a list of sites joined by commas; None: the sites of the neck.
        inits: ``paper``, ``identity``; or `AUTO_INIT` alone.
        graph: layers of pretrained weights that are not the reference network.
        levels: number of levels of the reference network, 2 or 3.

    Raises:
        ConfigError: if a name, a site or an init is unknown, or there are fewer than two variants.

    Example:
        >>> made = make_variants(["none", "ca"], ["p4,p5,up", "stage3"], ["paper"])
        >>> [variant.name for variant in made]
        ['none', 'ca@p4,p5,up', 'ca@stage3']
    """
    for init in () if tuple(inits) == (AUTO_INIT,) else inits:
        if init not in get_args(AttentionInit):
            choices = get_args(AttentionInit)
            raise ConfigError.unknown("attention_init", init, choices, "--attention-init")
    known, usual = attention_sites(graph, levels)
    if sites is None:
        sites = [",".join(usual)] if usual else []
    parse = functools.partial(
        parse_attention_spec, default_sites=usual, sites=known, known=attention_names()
    )
    seen: Counter[Variant] = Counter()
    variants = []
    for name in attention:
        canonical_attention(name, graph, levels)
        for variant in _variants_of(name, parse, sites, inits):
            seen[variant] += 1
            variants.append(dataclasses.replace(variant, repeat=seen[variant]))
    if len(variants) < 2:
        raise ConfigError(
            f"attention must give at least two variants to compare; got {list(attention)} "
            "(--attention). For example: --attention none ca."
        )
    return tuple(variants)


def _variants_of(
    name: str,
    parse: Callable[[str], dict[str, str]],
    placements: Sequence[str],
    inits: Sequence[str],
) -> list[Variant]:
    """Return the variants of one name or spec, without duplicates."""
    if name == "none":
        return [Variant("none")]
    has_sites = "@" in name or "+" in name
    variants = []
    for spec in [name] if has_sites else [f"{name}@{placement}" for placement in placements]:
        at = parse(spec)
        blocks = set(at.values())
        block = blocks.pop() if len(blocks) == 1 else format_attention_spec(at, ())
        variants += [Variant(block, tuple(at), cast(Any, init)) for init in inits]
    return list(dict.fromkeys(variants))


def pick_baseline(variants: Sequence[Variant], name: str | None = None) -> Variant:
    """Return the baseline: the variant with the given name, else ``none``, else the first.

    Raises:
        ConfigError: if no variant has that name.
    """
    names = {variant.name: variant for variant in variants}
    if name is None:
        return names.get("none", variants[0])
    if name not in names:
        raise ConfigError(
            f"baseline must be one of the variants; got {name!r} (--baseline). "
            f"{did_you_mean(name, names)}"
        )
    return names[name]
