"""Seeded splits that keep identical images together, and the file that records splits."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any

from attendet.data.sample import SPLITS, SPLITS_FILE, Sample, read_lines
from attendet.errors import DataError
from attendet.files import write_atomically

_FORMAT_VERSION = 1
_EDGE_BYTES = 4096

Overlap = tuple[str, str, str, str]
"""Split a, key in a, split b, key in b."""


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def _edges(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        head = file.read(_EDGE_BYTES)
        file.seek(max(0, size - _EDGE_BYTES))
        return head + file.read(_EDGE_BYTES)


def _divide(paths: Iterable[Path], mark: Any) -> list[list[Path]]:
    groups: dict[Any, list[Path]] = {}
    for path in paths:
        groups.setdefault(mark(path), []).append(path)
    return list(groups.values())


def group_identical(paths: Iterable[Path]) -> list[list[Path]]:
    """Return files grouped by content; files of one group are byte-identical.

    Files are compared by size, then by both ends. Only files that agree so far are read completely.

    Args:
        paths: existing files; a path given twice counts once.
    """
    size = {path: path.stat().st_size for path in dict.fromkeys(paths)}
    done: list[list[Path]] = []
    for equal_size in _divide(size, size.__getitem__):
        if len(equal_size) == 1:
            done.append(equal_size)
            continue
        for equal_edges in _divide(equal_size, lambda path: _edges(path, size[path])):
            done += [equal_edges] if len(equal_edges) == 1 else _divide(equal_edges, _digest)
    return done


def _source(path: Path) -> Path:
    """Return the image that a file is a copy of; Roboflow names copies ``NAME.rf.HASH.jpg``."""
    return path.with_name(path.name.rpartition(".rf.")[0] or path.name)


def _group_sources(paths: Iterable[Path]) -> list[list[Path]]:
    """Return files in groups: identical files, and copies of one image, are in one group."""
    groups: dict[Path, list[Path]] = {}
    for group in group_identical(paths):
        joined = group
        for source in dict.fromkeys(map(_source, group)):
            joined = list(dict.fromkeys([*groups.get(source, []), *joined]))
        for path in joined:
            groups[_source(path)] = joined
    return list({id(group): group for group in groups.values()}.values())


def find_overlaps(splits: Mapping[str, Sequence[Sample]]) -> tuple[Overlap, ...]:
    """Return the pairs of identical images in two different splits."""
    holders: dict[Path, list[tuple[str, str]]] = {}
    for split, samples in splits.items():
        for sample in samples:
            holders.setdefault(sample.path, []).append((split, sample.key))
    overlaps = []
    for group in group_identical(holders):
        alike = [holder for path in group for holder in holders[path]]
        alike.sort(key=lambda holder: (SPLITS.index(holder[0]), holder[1]))
        overlaps += [
            (*first, *second) for first, second in combinations(alike, 2) if first[0] != second[0]
        ]
    return tuple(sorted(overlaps))


def _draw(seed: int, key: str) -> bytes:
    """Return a random value for a key, the same on every machine and in every data set."""
    return hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest()


def random_split(
    samples: Sequence[Sample], fractions: Mapping[str, float], *, seed: int
) -> dict[str, tuple[Sample, ...]]:
    """Return samples split at random by seed, stratified by class.

    Identical images stay together, and so do the augmented copies that Roboflow makes of one image.
    Images are sorted by their rarest class and, within it, by a seeded random value. Then each is
    added to the split that lacks the most images. So every split gets its fraction of every class,
    as far as whole images allow.

    Args:
        samples: at least one.
        fractions: split name to its fraction, in descending order; they sum to 1.
        seed: seed of the random values.

    Returns:
        Split name to its samples, sorted by key, without empty splits. The first split is never
        empty. The second is not empty if there are two different images.
    """
    of_path: dict[Path, list[Sample]] = {}
    for sample in samples:
        of_path.setdefault(sample.path, []).append(sample)
    groups = [
        [sample for path in paths for sample in of_path[path]] for paths in _group_sources(of_path)
    ]
    images_with = Counter(int(c) for sample in samples for c in set(sample.class_ids.tolist()))

    def order(group: list[Sample]) -> tuple[list[tuple[int, int]], bytes]:
        classes = {int(c) for sample in group for c in sample.class_ids}
        rarest_first = sorted((images_with[c], c) for c in classes)
        return rarest_first, _draw(seed, min(sample.key for sample in group))

    parts: dict[str, list[list[Sample]]] = {name: [] for name in fractions}
    sizes = dict.fromkeys(fractions, 0)
    seen = 0
    for group in sorted(groups, key=order):
        seen += len(group)
        chosen = max(fractions, key=lambda name: fractions[name] * seen - sizes[name])
        parts[chosen].append(group)
        sizes[chosen] += len(group)
    first, second = list(fractions)[:2]
    if not parts[second] and len(parts[first]) > 1:
        parts[second].append(parts[first].pop())
    return {
        name: tuple(sorted((s for group in groups for s in group), key=lambda s: s.key))
        for name, groups in parts.items()
        if groups
    }


def _write_lists(folder: Path, keys: Mapping[str, Sequence[str]]) -> None:
    """Write one list per split; only lists of the folder's earlier splits file are replaced."""
    earlier: dict[str, list[str]] = {}
    if (folder / SPLITS_FILE).is_file():
        with suppress(DataError):
            earlier, _ = read_splits(folder / SPLITS_FILE)
    lists = {name: folder / f"{name}.txt" for name in keys}
    for name, path in lists.items():
        if not path.exists():
            continue
        found = [text for _, text in read_lines(path)[0]]
        if found not in (
            [key.strip() for key in part] for part in (keys[name], earlier.get(name, []))
        ):
            raise DataError(
                f"list of a split must not overwrite an unrelated file; got {path}. "
                "Choose another folder (--output), or move that file."
            )
    for name, path in lists.items():
        path.write_text("".join(f"{key}\n" for key in keys[name]), encoding="utf-8")


def write_splits(
    splits: Mapping[str, Sequence[Sample]], folder: Path, *, root: Path, source: str
) -> Path:
    """Write which image is in which split, and return the path of the JSON file.

    `load_dataset` reads the file from the root of a data set. In a folder other than the root, a
    list with one key per line (``train.txt``, ``val.txt``, ``test.txt``) is written for each split.

    Args:
        splits: split name to its samples.
        folder: folder of the file; created if needed.
        root: root of the data set; lists in it are not replaced.
        source: description of how the splits were made.

    Raises:
        DataError: if a list would replace a file of another origin; then nothing is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys = {name: [sample.key for sample in part] for name, part in splits.items()}
    record = {"format_version": _FORMAT_VERSION, "source": source, "splits": keys}
    if folder.resolve() != root.resolve():
        _write_lists(folder, keys)
    path = folder / SPLITS_FILE
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    return write_atomically(path, text)


def read_splits(path: Path) -> tuple[dict[str, list[str]], str]:
    """Return the keys of each split and how the splits were made, from a file of `write_splits`.

    Raises:
        DataError: if the file is missing or invalid, or a key occurs twice.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        splits = {str(name): [str(key) for key in keys] for name, keys in record["splits"].items()}
        source = str(record.get("source", ""))
    except FileNotFoundError:
        raise DataError(f"splits file not found ({path}). Check the path.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"splits file must be JSON with the key 'splits'; got {error!r} ({path}). "
            "Create it with: attendet data split"
        ) from None
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown:
        raise DataError(
            f"split name must be one of {', '.join(SPLITS)}; got {unknown[0]!r} ({path})."
        )
    counts = Counter(key for keys in splits.values() for key in keys)
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise DataError(f"an image must be in one split only; got {twice[0]!r} twice ({path}).")
    return splits, source
