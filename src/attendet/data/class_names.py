"""Matching of class names between data and weights, and similar names within a data set.

Case, spaces, underscores and hyphens are ignored. `SYNONYMS` lists names that COCO and darknet
spell differently. Any other pair needs ``--class-map``.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attendet.errors import ConfigError, list_names

SYNONYMS = {
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "sofa": "couch",
    "tvmonitor": "tv",
    "television": "tv",
    "hairdryer": "hairdrier",
    "doughnut": "donut",
}
"""Name in Pascal VOC, darknet's coco.names and other data sets to name in COCO, as in `_key`."""

_SEPARATORS = re.compile(r"[\s_-]+")


def _key(name: str) -> str:
    """Return a name in lower case without separators, with synonyms in one spelling.

    Example:
        >>> _key("TV-Monitor") == _key("tv"), _key("potted plant")
        (True, 'pottedplant')
    """
    plain = _SEPARATORS.sub("", name.casefold()) or name
    return SYNONYMS.get(plain, plain)


@dataclass(frozen=True)
class ClassMatch:
    """Classes of the weights that match the classes of the data.

    Attributes:
        ids: for each class of the data, its class id in the weights; None if they do not have it.
        note: message about matches between different names; empty if there are none.
    """

    ids: tuple[int | None, ...]
    note: str = ""


def parse_class_map(text: str | None) -> dict[str, str]:
    """Return a map from names in the data to names in the weights.

    Args:
        text: ``DATA=WEIGHTS,DATA=WEIGHTS``; None for an empty map.

    Raises:
        ConfigError: if the text has another form, or a name of the data occurs twice.

    Example:
        >>> parse_class_map("auto=car, lorry=truck")
        {'auto': 'car', 'lorry': 'truck'}
    """
    pairs = [tuple(map(str.strip, part.split("=", 1))) for part in (text or "").split(",") if text]
    good = all(len(pair) == 2 and all(pair) for pair in pairs)
    good = good and len({pair[0] for pair in pairs}) == len(pairs)
    rule = "DATA=WEIGHTS[,DATA=WEIGHTS...] with unique DATA names"
    ConfigError.check(good, "class_map", rule, text, "--class-map")
    return dict(pairs)  # type: ignore[arg-type]


def match_classes(
    data: Sequence[str], weights: Sequence[str], class_map: Mapping[str, str] | None = None
) -> ClassMatch:
    """Return the class of the weights that matches each class of the data.

    The class map takes precedence, then an identical name, then a name with the same meaning if
    only one class on each side has it. If either side has no class names, and there is no class
    map, classes are matched by position, provided that both sides have the same number of classes.

    Args:
        data: class names of the data.
        weights: class names of the weights.
        class_map: name in the data to name in the weights.

    Raises:
        ConfigError: if the class map contains an unknown name.

    Example:
        >>> match_classes(["Sofa", "cat", "cup"], ["cat", "couch"])
        ClassMatch(ids=(1, 0, None), note='matched classes of data and weights: Sofa = couch')
    """
    class_map = class_map or {}
    for name, other in class_map.items():
        for given, known, owner in ((name, data, "data"), (other, weights, "weights")):
            if given not in known:
                raise ConfigError.unknown(f"class of the {owner}", given, known, "--class-map")
    if len(data) == len(weights) and not class_map and set(data).isdisjoint(weights):
        nameless = "data" if _is_nameless(data) else "weights" if _is_nameless(weights) else ""
        if nameless:
            note = f"the classes of the {nameless} have no names and were matched by position"
            return ClassMatch(tuple(range(len(data))), note)
    in_data, in_weights = Counter(map(_key, data)), Counter(map(_key, weights))
    by_key = {_key(name): name for name in weights}
    found: dict[str, str] = {}
    for name in data:
        key = _key(name)
        if name in class_map or name in weights:
            found[name] = class_map.get(name, name)
        elif in_data[key] == in_weights[key] == 1:
            found[name] = by_key[key]
    renamed = [f"{name} = {other}" for name, other in found.items() if name != other]
    note = f"matched classes of data and weights: {list_names(renamed)}" if renamed else ""
    return ClassMatch(
        tuple(weights.index(found[name]) if name in found else None for name in data), note
    )


def _is_nameless(names: Sequence[str]) -> bool:
    """Return whether names are only numbers in order: 0, 1, 2 or class_0, class_1, class_2."""
    return any(
        all(name == f"{prefix}{number}" for number, name in enumerate(names))
        for prefix in ("", "class_")
    )


def similar_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of names that mean the same, or differ only by a plural.

    Names without a letter are never similar, since a hyphen may be a minus sign.

    Example:
        >>> similar_names(["Cat", "cat", "car", "cars", "-1", "1"])
        [('Cat', 'cat'), ('car', 'cars')]
    """
    owners: dict[str, list[str]] = {}
    for name in names:
        if any(letter.isalpha() for letter in name):
            owners.setdefault(_key(name), []).append(name)
    pairs = [pair for same in owners.values() for pair in itertools.combinations(same, 2)]
    for key in owners:
        plurals = {f"{key}s", f"{key}es", *([f"{key[:-1]}ies"] if key.endswith("y") else [])}
        if len(key) > 2:
            pairs += [(owners[key][0], owners[more][0]) for more in plurals & owners.keys()]
    return sorted(pairs, key=lambda pair: names.index(pair[0]))
