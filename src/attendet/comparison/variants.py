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

AS_TRAINED = "auto"
"""Init of variants from pretrained weights by default, as in `Recipe.attention_init`: blocks of the
weights are kept, new ones are the identity."""

REPEAT_SEEDS = 10_000
"""A variant named a second time takes its seeds from this number on, so that it is an independent
draw of the same thing."""


@dataclass(frozen=True)
class Variant:
    """One thing that is compared.

    Example:
        >>> Variant("ca", ("p4", "p5", "up"), "identity").name
        'ca@p4,p5,up:identity'
    """

    attention: str
    """Name of a block, ``none``, or a spec of several blocks such as ``se@p5+ca@up``."""

    sites: tuple[str, ...] = ()
    """Sites, in the order of the network."""

    init: Literal["auto"] | AttentionInit = "paper"
    """Attention init; ``auto``: see `AS_TRAINED`."""

    repeat: int = 1
    """2 and more: the same again with other seeds (see `REPEAT_SEEDS`)."""

    @property
    def name(self) -> str:
        """One word for the variant, unique in a study."""
        mixed = "@" in self.attention
        name = self.attention + (f"@{','.join(self.sites)}" if self.sites and not mixed else "")
        name += "" if self.init in ("paper", AS_TRAINED) else f":{self.init}"
        return name if self.repeat == 1 else f"{name}#{self.repeat}"

    @property
    def spec(self) -> str:
        """The attention spec that training takes."""
        if "@" in self.attention or not self.sites:
            return self.attention
        return f"{self.attention}@{','.join(self.sites)}"

    def as_dict(self) -> dict[str, Any]:
        """Return the variant as in records."""
        plain = {"attention": self.attention, "sites": list(self.sites), "init": self.init}
        return plain if self.repeat == 1 else {**plain, "repeat": self.repeat}


@dataclass(frozen=True)
class Job:
    """One run, with all that a process elsewhere needs to make it; plain values only."""

    variant: Variant
    """What is trained."""

    seed: int
    """Of the study; the variants of one seed are paired."""

    setup: dict[str, Any]
    """What all runs of the study have in common; see `attendet.comparison.study`."""

    data: str
    """Path of the data set."""

    format: str | None
    """Of the data set, where it is not to be recognized."""

    pretrained: str | None
    """Weights file to start from."""

    accelerator: str
    """Kind of device."""

    study: str
    """Folder of the study."""

    until: int | None = None
    """Stop after this epoch, to go on later; None: train to the end."""

    @functools.cached_property
    def key(self) -> str:
        """Content key: the same key is the same run."""
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
        """``best`` or ``last``: which weights are measured."""
        return measured_weights(self.split)

    @property
    def folder(self) -> str:
        """Folder of the run, relative to that of the study."""
        return f"runs/{folder_name(self.variant.name, self.run_seed, self.key)}"

    @property
    def path(self) -> Path:
        """Folder of the run."""
        return Path(self.study) / self.folder

    def identity(self) -> dict[str, Any]:
        """Return the fields of a record that say which run of the study it is."""
        return {
            "variant": self.variant.as_dict(),
            "variant_name": self.variant.name,
            "seed": self.seed,
            "folder": self.folder,
        }


def measured_weights(split: str) -> str:
    """Return which weights are measured on a split: the best on val must not be measured there."""
    return "best" if split == "test" else "last"


def content_key(setup: Mapping[str, Any], spec: str, init: str, seed: int) -> str:
    """Return 16 hex digits over all that decides a run: equal keys are equal runs.

    Args:
        setup: what all runs of a study have in common; plain values.
        spec: the attention spec.
        init: attention init.
        seed: of training.

    Example:
        >>> content_key({"version": "1"}, "none", "paper", 0)
        '6b597e5c041c5f68'
    """
    content = {"setup": dict(setup), "spec": spec, "init": init, "seed": seed}
    line = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(line.encode(), digest_size=8).hexdigest()


def folder_name(variant_name: str, seed: int, key: str) -> str:
    """Return a folder name that people can read and that no other run has.

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

    ``none`` is one variant for all placements. A spec that names its own sites
    (``se@p5+ca@up``) stands where it says. An attention given twice is a second, independent draw
    of its variants: a study of ``none none`` shows what the noise alone does.

    Args:
        attention: names of blocks, or specs.
        sites: placements, each sites joined by commas; None for those of the network's neck.
        inits: ``paper``, ``identity``; or `AS_TRAINED` alone.
        graph: layers of pretrained weights that are not the reference network.
        levels: of the reference network, 2 or 3.

    Raises:
        ConfigError: if a name, a site or an init is unknown, or there are not two variants.

    Example:
        >>> made = make_variants(["none", "ca"], ["p4,p5,up", "stage3"], ["paper"])
        >>> [variant.name for variant in made]
        ['none', 'ca@p4,p5,up', 'ca@stage3']
    """
    for init in () if tuple(inits) == (AS_TRAINED,) else inits:
        if init not in get_args(AttentionInit):
            raise ConfigError(
                f"attention_init must be known; got {init!r} (--attention-init). "
                f"{did_you_mean(init, get_args(AttentionInit))}"
            )
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
            "(--attention). Give none and another, say."
        )
    return tuple(variants)


def _variants_of(
    name: str,
    parse: Callable[[str], dict[str, str]],
    placements: Sequence[str],
    inits: Sequence[str],
) -> list[Variant]:
    """Return the variants of one name or spec, each once."""
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
    """Return the variant that the others are compared with: as named, else ``none``, else the
    first.

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
