"""The grid of a study: its arms, and the runs of each arm with their content keys."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from attendet.attention import AttentionStart, attention_names, parse_attention_spec
from attendet.errors import ConfigError, did_you_mean
from attendet.models import NECK_SITES, SITES, canonical_attention

__all__ = ["Arm", "Job", "content_key", "make_arms", "pick_baseline"]

AS_TRAINED = "auto"
"""Start of arms in base weights where none is asked for, as `Recipe.attention_start` has it: blocks
that the base brings stay what they are, new ones are the identity."""

REPEAT_SEEDS = 10_000
"""An arm named a second time takes its seeds from this number on, so that it is an independent
draw of the same thing."""


@dataclass(frozen=True)
class Arm:
    """One thing that is compared.

    Example:
        >>> Arm("ca", ("p4", "p5", "up"), "identity").name
        'ca@p4,p5,up:identity'
    """

    attention: str
    """Name of a block, ``none``, or a spec of several blocks such as ``se@p5+ca@up``."""

    sites: tuple[str, ...] = ()
    """Where it stands, in the network's order."""

    start: Literal["auto"] | AttentionStart = "paper"
    """How it starts; ``auto``: see `AS_TRAINED`."""

    repeat: int = 1
    """2 and more: the same again with other seeds (see `REPEAT_SEEDS`)."""

    @property
    def name(self) -> str:
        """One word for the arm, unique in a study."""
        mixed = "@" in self.attention
        name = self.attention + (f"@{','.join(self.sites)}" if self.sites and not mixed else "")
        name += "" if self.start in ("paper", AS_TRAINED) else f":{self.start}"
        return name if self.repeat == 1 else f"{name}#{self.repeat}"

    @property
    def spec(self) -> str:
        """The attention spec that training takes."""
        if "@" in self.attention or not self.sites:
            return canonical_attention(self.attention)
        return canonical_attention(f"{self.attention}@{','.join(self.sites)}")

    def as_dict(self) -> dict[str, Any]:
        """Return the arm as it stands in records."""
        plain = {"attention": self.attention, "sites": list(self.sites), "start": self.start}
        return plain if self.repeat == 1 else {**plain, "repeat": self.repeat}

    def run_seed(self, seed: int) -> int:
        """Return the seed that training takes for one of the study's seeds."""
        return seed + REPEAT_SEEDS * (self.repeat - 1)


@dataclass(frozen=True)
class Job:
    """One run, with all that a process elsewhere needs to make it; plain values only."""

    key: str
    """Content key: the same key is the same run."""

    arm: dict[str, Any]
    """As `Arm.as_dict` gives it."""

    arm_name: str
    """The arm in one word."""

    spec: str
    """The attention spec that training takes."""

    seed: int
    """Of the study; the arms of one seed are paired."""

    run_seed: int
    """Of training."""

    data: str
    """Path of the data set."""

    format: str | None
    """Of the data set, where it is not to be recognised."""

    fingerprints: dict[str, str]
    """Of the data's splits; a process that finds other data refuses."""

    recipe: dict[str, Any]
    """All settings."""

    pretrained: str | None
    """Weights file to start from."""

    accelerator: str
    """Kind of device."""

    study: str
    """Folder of the study."""

    folder: str
    """Folder of the run, relative to that of the study."""

    split: str
    """Split that the run is measured on."""

    weights: str
    """``best`` or ``last``: which weights are measured."""

    until: int | None = None
    """Stop after this epoch, to go on later; None: train to the end."""

    @property
    def path(self) -> Path:
        """Folder of the run."""
        return Path(self.study) / self.folder

    def to_json(self) -> str:
        """Return the job as one line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Job:
        """Return the job that `to_json` wrote."""
        return cls(**json.loads(line))


def content_key(setup: Mapping[str, Any], spec: str, start: str, seed: int) -> str:
    """Return 16 hex digits over all that decides a run: equal keys are equal runs.

    Args:
        setup: what all runs of a study have in common; plain values.
        spec: the attention spec.
        start: how attention starts.
        seed: of training.

    Example:
        >>> content_key({"version": "1"}, "none", "paper", 0)
        '6339d1360a4a8db3'
    """
    content = {"setup": dict(setup), "spec": spec, "start": start, "seed": seed}
    line = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(line.encode(), digest_size=8).hexdigest()


def folder_name(arm_name: str, seed: int, key: str) -> str:
    """Return a folder name that people can read and that no other run has.

    Example:
        >>> folder_name("ca@p4,p5:identity", 3, "00ff" * 4)
        'ca-p4-p5-identity-seed3-00ff00ff'
    """
    words = re.sub(r"[^a-z0-9_]+", "-", arm_name.lower()).strip("-")
    return f"{words}-seed{seed}-{key[:8]}"


def make_arms(
    attention: Sequence[str], sites: Sequence[str], starts: Sequence[str]
) -> tuple[Arm, ...]:
    """Return the arms: each attention at each placement with each start.

    ``none`` is one arm whatever the placements. A spec that names its own sites (``se@p5+ca@up``)
    stands where it says. An attention given twice is a second, independent draw of its arms: a
    study of ``none none`` shows what the noise alone does.

    Args:
        attention: names of blocks, or specs.
        sites: placements, each sites joined by commas.
        starts: ``paper``, ``identity``; or `AS_TRAINED` alone.

    Raises:
        ConfigError: if a name, a site or a start is unknown, or there are not two arms.

    Example:
        >>> [arm.name for arm in make_arms(["none", "ca"], ["p4,p5,up", "stage3"], ["paper"])]
        ['none', 'ca@p4,p5,up', 'ca@stage3']
    """
    for start in () if tuple(starts) == (AS_TRAINED,) else starts:
        if start not in get_args(AttentionStart):
            raise ConfigError(
                f"starts must be known; got {start!r} (--starts). "
                f"{did_you_mean(start, get_args(AttentionStart))}"
            )
    placements = list(dict.fromkeys(map(_sites_of, sites)))
    arms: list[Arm] = []
    for name in attention:
        canonical_attention(name)
        arms += _arms_of(name, placements, tuple(dict.fromkeys(starts)))
    seen: Counter[Arm] = Counter()
    numbered = []
    for arm in arms:
        seen[arm] += 1
        numbered.append(dataclasses.replace(arm, repeat=seen[arm]))
    if len(numbered) < 2:
        raise ConfigError(
            f"attention must give at least two arms to compare; got {list(attention)} "
            "(--attention). Give none and another, say."
        )
    return tuple(numbered)


def _sites_of(placement: str) -> tuple[str, ...]:
    chosen = parse_attention_spec(
        f"ca@{placement}", default_sites=NECK_SITES, sites=SITES, known=None
    )
    return tuple(chosen)


def _arms_of(name: str, placements: list[tuple[str, ...]], starts: tuple[str, ...]) -> list[Arm]:
    if name == "none":
        return [Arm("none")]
    kinds = [cast(Any, start) for start in starts]
    if "@" in name or "+" in name:
        at = parse_attention_spec(
            name, default_sites=NECK_SITES, sites=SITES, known=attention_names()
        )
        blocks = set(at.values())
        word = next(iter(blocks)) if len(blocks) == 1 else _spelt_out(at)
        return [Arm(word, tuple(at), start) for start in kinds]
    return [Arm(name, sites, start) for sites in placements for start in kinds]


def _spelt_out(at: Mapping[str, str]) -> str:
    places: dict[str, list[str]] = {}
    for site, block in at.items():
        places.setdefault(block, []).append(site)
    return "+".join(f"{block}@{','.join(sites)}" for block, sites in places.items())


def pick_baseline(arms: Sequence[Arm], name: str | None = None) -> Arm:
    """Return the arm that the others are compared with: as named, else ``none``, else the first.

    Raises:
        ConfigError: if no arm has that name.
    """
    names = {arm.name: arm for arm in arms}
    if name is None:
        return names.get("none", arms[0])
    if name not in names:
        raise ConfigError(
            f"baseline must be one of the arms; got {name!r} (--baseline). "
            f"{did_you_mean(name, names)}"
        )
    return names[name]
