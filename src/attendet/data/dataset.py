"""Data sets in memory (samples in splits, class names, issues), and loading them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attendet.data.checks import check_image
from attendet.data.class_names import similar_names
from attendet.data.coordinates import require_coordinates
from attendet.data.formats import read_labels
from attendet.data.sample import (
    MAX_CLASSES,
    SPLITS,
    SPLITS_FILE,
    Format,
    Issue,
    RawDataset,
    RawSample,
    Sample,
    class_name,
    list_issues,
)
from attendet.data.splits import find_overlaps, random_split, read_splits
from attendet.errors import ConfigError, DataError, did_you_mean, list_names

VAL_FRACTION = 0.15
"""Fraction of train that becomes val if the data set has no val split."""

_MISPLACED = {"wrong-unit", "outside", "partly-outside", "negative-size"}
"""Kinds of issue that most boxes have if their numbers are in another unit or order."""

_POOL_FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


@dataclass(frozen=True, eq=False)
class DataSet:
    """Labeled images in splits.

    Attributes:
        root: folder of the data set.
        format: "voc", "yolo" or "coco".
        classes: class names; `Sample.class_ids` are indices into them.
        splits: split name to its samples, sorted by key. Only those of "train", "val" and "test"
            that exist.
        issues: problems found in the data set, and how each was handled.
        overlaps: pairs of byte-identical images in two splits: split a, key, split b, key.
        split_source: how the splits were made.
    """

    root: Path
    format: Format
    classes: tuple[str, ...]
    splits: dict[str, tuple[Sample, ...]]
    issues: tuple[Issue, ...]
    overlaps: tuple[tuple[str, str, str, str], ...]
    split_source: str

    def split(self, name: str) -> tuple[Sample, ...]:
        """Return the samples of one split, or of all splits for ``"all"``, each image once.

        Raises:
            ConfigError: if there is no such split.
        """
        if name == "all":
            return tuple({s.path: s for part in self.splits.values() for s in part}.values())
        if name not in self.splits:
            rule, hint = "a split of the data set", did_you_mean(name, [*self.splits, "all"])
            raise ConfigError.must("split", rule, name, self.root, hint)
        return self.splits[name]

    def fingerprint(self, split: str) -> str:
        """Return a hash of the classes, keys, boxes and image bytes of a split, 16 hex digits."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update(repr(self.classes).encode())
        for sample in self.split(split):
            digest.update(repr((sample.key, len(sample.class_ids))).encode())
            digest.update(sample.boxes_xyxy.astype("<f4").tobytes())
            digest.update(sample.class_ids.astype("<i8").tobytes())
            digest.update(sample.difficult.tobytes())
            digest.update(hashlib.blake2b(sample.path.read_bytes(), digest_size=16).digest())
        return digest.hexdigest()


def _class_table(
    raw: RawDataset, classes: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[str | int, int]]:
    """Return the class names, and the class id of each known label."""
    labels = {box.label for each in raw.images for box in each.boxes}
    numbers = sorted(n for n in labels if isinstance(n, int) and 0 <= n < MAX_CLASSES)
    if classes is not None:
        names = tuple(class_name(name) for name in classes)
    elif raw.names is not None:
        names = raw.names
    elif numbers:
        names = tuple(str(number) for number in range(numbers[-1] + 1))
    else:
        names = tuple(sorted(label for label in labels if isinstance(label, str)))
    twice = [name for name, count in Counter(names).items() if count > 1]
    issues = f" {list_issues(raw.issues)}" if raw.issues else ""
    if twice:
        raise DataError(f"class names must be unique; got {twice[0]!r} twice ({raw.root}).{issues}")
    if not names:
        files = sorted({each.labels for each in raw.images})
        shown = f"none (label files: {len(files)}, such as {files[0]})" if files else "none"
        raise DataError(f"data set must contain boxes; got {shown} ({raw.root}).{issues}")
    table: dict[str | int, int] = {name: index for index, name in enumerate(names)}
    if raw.names is None:  # else a number is a class id without a name
        table |= {number: number for number in numbers if number < len(names)}
    return names, table


def _check_images(
    raw: RawDataset, class_of: dict[str | int, int]
) -> tuple[dict[str, tuple[Sample, ...]], list[Issue]]:
    """Return the samples of each pool, each image checked once, and the issues.

    Raises:
        DataError: if most boxes are written in another unit or order than the format's.
    """
    issues = list(raw.issues)
    checked: dict[tuple[str, Path], Sample | None] = {}

    def sample_of(each: RawSample) -> Sample | None:
        key = each.key, each.labels
        if key not in checked:
            checked[key], found = check_image(each, class_of)
            issues.extend(found)
        return checked[key]

    samples_by_split = {}
    for name, pool in raw.images_by_split.items():
        samples = (sample_of(each) for each in pool)
        samples_by_split[name] = tuple(sample for sample in samples if sample is not None)
    _require_coordinates(raw, issues)
    return {name: pool for name, pool in samples_by_split.items() if pool}, issues


def _require_coordinates(raw: RawDataset, issues: Sequence[Issue]) -> None:
    """Raise an error if most boxes of a COCO file, or of a VOC or YOLO data set, are misplaced.

    The check reads the image sizes again. It is skipped if there are fewer misplaced boxes than a
    quarter of the images with boxes.
    """
    by_file = raw.format == "coco"
    misplaced = Counter(i.file if by_file else raw.root for i in issues if i.kind in _MISPLACED)
    groups: dict[Path, dict[str, RawSample]] = {}
    for each in (each for each in raw.images if each.boxes):
        groups.setdefault(each.labels if by_file else raw.root, {})[each.key] = each
    for group, images in groups.items():
        if 4 * misplaced[group] >= len(images):
            require_coordinates(images.values(), raw.format)


def _written_splits(
    path: Path, samples_by_split: dict[str, tuple[Sample, ...]], issues: list[Issue]
) -> tuple[dict[str, tuple[Sample, ...]], str]:
    """Return the splits recorded in a splits file, and a description of their source."""
    written, source = read_splits(path)
    by_key = {sample.key: sample for pool in samples_by_split.values() for sample in pool}
    splits = {}
    for name, keys in written.items():
        for key in keys:
            if key not in by_key:
                message = f"no usable image with key {key!r}"
                issues.append(Issue(path, None, "missing-image", message, "skipped image"))
        splits[name] = tuple(by_key.pop(key) for key in keys if key in by_key)
    for key, sample in by_key.items():
        message = f"{key!r} is not in {path.name}"
        issues.append(Issue(sample.path, None, "unlisted-image", message, "skipped image"))
    if not source.startswith(path.name):  # do not repeat the file name
        source = f"{path.name} ({source})" if source else path.name
    return {name: samples for name, samples in splits.items() if samples}, source


def _complete_splits(
    samples_by_split: dict[str, tuple[Sample, ...]], source: str, seed: int
) -> tuple[dict[str, tuple[Sample, ...]], str]:
    """Return the data set's own splits, with the missing ones drawn by seed, and their source."""
    if "all" in samples_by_split:
        return random_split(
            samples_by_split["all"], _POOL_FRACTIONS, seed=seed
        ), f"seeded 70/15/15, seed {seed}"
    splits = {name: samples_by_split[name] for name in SPLITS if name in samples_by_split}
    if "train" not in splits or "val" in splits:
        return splits, source
    parts = random_split(
        splits["train"], {"train": 1 - VAL_FRACTION, "val": VAL_FRACTION}, seed=seed
    )
    completed = {**parts, **({"test": splits["test"]} if "test" in splits else {})}
    return completed, f"{source}; val: 15 % of train, seed {seed}"


def _overlap_issues(
    overlaps: Sequence[tuple[str, str, str, str]], splits: dict[str, tuple[Sample, ...]]
) -> list[Issue]:
    paths = {(name, s.key): s.path for name, samples in splits.items() for s in samples}
    return [
        Issue(
            paths[b, key_b],
            None,
            "identical-images",
            f"{key_b!r} of {b} is identical to {key_a!r} of {a}",
            "kept",
        )
        for a, key_a, b, key_b in overlaps
    ]


def _check_train_has_boxes(
    train: Sequence[Sample], source: str, raw: RawDataset, issues: list[Issue], forbidden: bool
) -> None:
    """Report a train split without boxes: as an error if `forbidden`, else as an issue."""
    if any(len(sample.class_ids) for sample in train):
        return
    first = train[0].key
    labels = next(each.labels for each in raw.images if each.key == first)
    if forbidden:
        raise DataError(
            f"train split must contain boxes; got none in {len(train)} images ({raw.root}, "
            f"{source}). Labels were expected in {labels}: add them there, or correct the issues. "
            f"{list_issues(issues)}"
        )
    message = f"no box in any image of train ({len(train)} in all)"
    issues.append(Issue(labels, None, "no-boxes", message, "kept"))


def load_dataset(
    path: str | Path,
    *,
    format: Format | None = None,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    strict: bool = False,
    splits: str | Path | None = None,
    ignore_splits_file: bool = False,
    require_train: bool = True,
) -> DataSet:
    """Return a data set with checked labels. Its images are not decoded yet.

    The data set's own splits are kept. If it has ``train`` but no ``val``, 15 % of ``train`` become
    ``val``; if it has no splits, it is split 70/15/15. These splits are drawn by seed, stratified
    by class, and keep identical images together. A file ``attendet-splits.json`` in the root takes
    precedence over all of this.

    Args:
        path: a folder, a YOLO ``data.yaml`` or a COCO ``.json`` file.
        format: "voc", "yolo" or "coco"; default: recognized from the path.
        classes: class names in order; default: the data set's own order (VOC: sorted). Boxes of
            other classes are dropped and reported as issues.
        seed: seed of the drawn splits.
        strict: raise an error if there is any issue.
        splits: splits file to use instead of any other splits.
        ignore_splits_file: do not use the ``attendet-splits.json`` in the root.
        require_train: raise an error if there is no train split, or no box in it. If False, a
            ``test`` split alone is enough, and a train split without boxes is an issue.

    Returns:
        The data set, with its issues. They raise an error only if ``strict`` is set.

    Raises:
        DataError: if no data set is found, it has no image or no box to train on, or it has issues
            and ``strict`` is set.
    """
    raw = read_labels(Path(path), format)
    names, class_of = _class_table(raw, classes)
    similar = [f"{name!r} and {other!r}" for name, other in similar_names(names)]
    if similar:
        message = f"classes may be the same: {list_names(similar)}"
        raw.issues.append(Issue(raw.root, None, "similar-names", message, "kept"))
    samples_by_split, issues = _check_images(raw, class_of)
    split_file = Path(splits) if splits else raw.root / SPLITS_FILE
    if splits or (split_file.is_file() and not ignore_splits_file):
        parts, source = _written_splits(split_file, samples_by_split, issues)
    else:
        parts, source = _complete_splits(samples_by_split, raw.source, seed)
    if not parts or (require_train and "train" not in parts):
        raise DataError(
            f"data set must contain images to train on; got splits: {', '.join(parts) or 'none'} "
            f"({path}). Check the folder, or set --format. {list_issues(issues)}"
        )
    parts = {
        name: tuple(sorted(part, key=lambda sample: sample.key)) for name, part in parts.items()
    }
    if "train" in parts:
        _check_train_has_boxes(parts["train"], source, raw, issues, require_train)
    overlaps = find_overlaps(parts)
    issues += _overlap_issues(overlaps, parts)
    if strict and issues:
        raise DataError(f"data set must have no issues ({path}); got {list_issues(issues)}")
    return DataSet(raw.root, raw.format, names, parts, tuple(issues), overlaps, source)
