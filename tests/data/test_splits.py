from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attendet.data import Sample, load_dataset
from attendet.data.splits import group_identical, random_split, read_splits, write_splits
from attendet.errors import DataError

CAT, DOG = ("cat", 1, 1, 9, 9), ("dog", 1, 1, 9, 9)
FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


def sample(path: Path, *class_ids: int) -> Sample:
    n = len(class_ids)
    boxes = np.tile(np.array([1, 1, 9, 9], dtype=np.float32), (n, 1))
    return Sample(path, (30, 40), boxes, np.array(class_ids, int), np.zeros(n, bool), path.stem)


def keys(splits):
    return {name: [each.key for each in part] for name, part in splits.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """60 files; number n and n + 1 are equal for n in 0, 10, 20."""
    folder = tmp_path_factory.mktemp("files")
    for n in range(60):
        content = n - 1 if n in (1, 11, 21) else n
        (folder / f"{n:02}.png").write_bytes(b"%02d" % content + b"." * 9000)
    return sorted(folder.iterdir())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(2, 60))
def test_a_cut_is_a_partition_that_keeps_identical_images_together(files, seed, count):
    samples = [sample(path, index % 4) for index, path in enumerate(files[:count])]
    splits = random_split(samples, FRACTIONS, seed=seed)
    names = Counter(key for part in keys(splits).values() for key in part)
    assert names == Counter(each.key for each in samples)
    side = {key: name for name, part in keys(splits).items() for key in part}
    assert splits["train"]
    if count > 2:
        assert splits["val"]
    for n in (0, 10, 20):
        if n + 1 < count:
            assert side[f"{n:02}"] == side[f"{n + 1:02}"]


def test_a_cut_depends_on_the_seed_and_not_on_the_order(files):
    samples = [sample(path, index % 4) for index, path in enumerate(files)]
    first = keys(random_split(samples, FRACTIONS, seed=1))
    assert keys(random_split(samples[::-1], FRACTIONS, seed=1)) == first
    assert keys(random_split(samples, FRACTIONS, seed=2)) != first


# As in https://github.com/bnsreenu/digitalsreeni-image-annotator/pull/93
@pytest.mark.parametrize("seed", range(3))
def test_augmented_copies_of_one_image_stay_together(tmp_path, seed):
    names = [f"{source}_jpg.rf.{copy}f.jpg" for source in range(20) for copy in range(3)]
    paths = [tmp_path / name for name in names] + [tmp_path / "other.jpg"]
    for path in paths:
        path.write_text(path.name)
    paths[-1].write_text(paths[4].name)  # the same image as a copy of source 1
    splits = random_split(
        [sample(path, 0) for path in paths], {"train": 0.85, "val": 0.15}, seed=seed
    )
    sources = {
        name: {key.split("_jpg.rf.")[0] for key in part} for name, part in keys(splits).items()
    }
    assert not sources["train"] & sources["val"]
    assert all(("1" in part) == ("other" in part) for part in sources.values())
    assert 6 <= len(splits["val"]) <= 13


def test_images_with_two_sources_in_common_are_in_one_split_once(tmp_path):
    names = [f"{source}.rf.{copy}.jpg" for copy in "12" for source in "ab"]
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.write_text(path.name.partition(".rf.")[2])  # copy 1 of a is copy 1 of b, 2 is 2
    splits = random_split([sample(path, 0) for path in paths], {"train": 0.5, "val": 0.5}, seed=0)
    assert keys(splits) == {"train": sorted(path.stem for path in paths)}


def test_a_cut_is_stratified(files):
    samples = [sample(path, *([0] if index % 3 else [1])) for index, path in enumerate(files)]
    for part, fraction in (
        (random_split(samples, FRACTIONS, seed=s)[name], FRACTIONS[name])
        for s in range(5)
        for name in FRACTIONS
    ):
        rare = sum(1 in each.class_ids for each in part)
        assert abs(rare - 20 * fraction) <= 2


def test_files_equal_in_size_and_ends_are_still_distinguished(tmp_path):
    for name, middle in {"a": b"x", "b": b"y", "c": b"x"}.items():
        (tmp_path / name).write_bytes(b"." * 10_000 + middle + b"." * 10_000)
    groups = group_identical(sorted(tmp_path.iterdir()))
    assert sorted([path.name for path in group] for group in groups) == [["a", "c"], ["b"]]


def test_identical_images_across_official_splits_are_reported(tmp_path, voc_folder):
    voc_folder(tmp_path / "train", [[CAT]] * 5)
    voc_folder(tmp_path / "test", [[CAT]] * 3)
    shutil.copy(tmp_path / "train/p02.png", tmp_path / "test/p01.png")
    dataset = load_dataset(tmp_path)
    (overlap,) = dataset.overlaps
    assert overlap in (
        ("train", "train/p02", "test", "test/p01"),
        ("val", "train/p02", "test", "test/p01"),
    )
    assert [issue.kind for issue in dataset.issues] == ["identical-images"]
    assert len(dataset.split("test")) == 3


def test_a_image_in_two_official_lists_is_an_overlap(tmp_path, image, annotation):
    for name in "ab":
        image(tmp_path / "JPEGImages" / f"{name}.png")
        annotation(tmp_path / "Annotations" / f"{name}.xml", [CAT])
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("b\n")
    dataset = load_dataset(tmp_path)
    assert dataset.overlaps == (("train", "b", "val", "b"),)
    assert len(dataset.split("all")) == 2


def test_splits_written_down_are_read_back(tmp_path, voc_folder):
    root = voc_folder(tmp_path / "set", [[CAT]] * 10 + [[DOG]] * 10)
    dataset = load_dataset(root, seed=3)
    path = write_splits(
        dataset.splits, tmp_path / "written", root=dataset.root, source=dataset.split_source
    )
    assert (tmp_path / "written/val.txt").read_text().split() == keys(dataset.splits)["val"]
    again = load_dataset(root, seed=9, splits=path)
    assert keys(again.splits) == keys(dataset.splits)
    assert again.split_source == "attendet-splits.json (seeded 70/15/15, seed 3)"
    shutil.copy(path, root)
    assert keys(load_dataset(root, seed=9).splits) == keys(dataset.splits)


def test_splits_written_into_a_yolo_folder_do_not_look_like_lists(tmp_path, image):
    for name in "abcdefgh":
        image(tmp_path / "images" / f"{name}.png")
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    dataset = load_dataset(tmp_path, seed=1)
    write_splits(dataset.splits, tmp_path, root=dataset.root, source=dataset.split_source)
    again = load_dataset(tmp_path)
    assert keys(again.splits) == keys(dataset.splits)
    assert again.issues == ()


@pytest.fixture
def lists(tmp_path, image):
    """A YOLO folder whose train.txt and val.txt say which images are which."""
    root = tmp_path / "lists"
    for name in "abcd":
        image(root / "images" / f"{name}.png").with_suffix(".txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "train.txt").write_text("images/a.png\nimages/b.png\n")
    (root / "val.txt").write_text("images/c.png\nimages/d.png\n")
    return root


@pytest.mark.parametrize("described", [True, False])
def test_lists_of_the_set_stay_as_they_are(lists, described):
    if described:
        (lists / "data.yaml").write_text("train: train.txt\nval: val.txt\nnames: [cat]\n")
    before = {path: path.read_bytes() for path in lists.rglob("*") if path.is_file()}
    dataset = load_dataset(lists, format="yolo")
    path = write_splits(
        dataset.splits, dataset.root, root=dataset.root, source=dataset.split_source
    )
    assert {file: file.read_bytes() for file in before} == before
    assert set(lists.rglob("*.*")) == {*before, path}
    again = load_dataset(lists, format="yolo")
    assert keys(again.splits) == keys(dataset.splits)
    assert again.issues == ()


def test_a_list_of_another_is_not_replaced(lists, tmp_path):
    dataset = load_dataset(lists, format="yolo")
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "val.txt").write_text("mine\n")
    with pytest.raises(DataError, match=r"must not overwrite an unrelated file; got .*val\.txt"):
        write_splits(dataset.splits, folder, root=dataset.root, source=dataset.split_source)
    assert [path.name for path in folder.iterdir()] == ["val.txt"]
    assert (folder / "val.txt").read_text() == "mine\n"


def test_lists_written_earlier_are_replaced(tmp_path, voc_folder):
    root = voc_folder(tmp_path / "set", [[CAT]] * 10 + [[DOG]] * 10)
    written = tmp_path / "written"
    for seed in (1, 2):
        dataset = load_dataset(root, seed=seed)
        write_splits(dataset.splits, written, root=dataset.root, source=dataset.split_source)
        assert (written / "val.txt").read_text().split() == keys(dataset.splits)["val"]


def test_lists_of_keys_beside_a_file_of_splits_are_no_lists_of_images(tmp_path, image):
    for name in "abcd":
        image(tmp_path / f"{name}.png").with_suffix(".txt").write_text("0 0.5 0.5 0.5 0.5\n")
    record = {"splits": {"train": ["a", "b", "c"], "val": ["d"]}}
    (tmp_path / "attendet-splits.json").write_text(json.dumps(record))
    (tmp_path / "train.txt").write_text("a\nb\nc\n")
    (tmp_path / "val.txt").write_text("d\n")
    dataset = load_dataset(tmp_path)
    assert keys(dataset.splits) == record["splits"]
    assert dataset.issues == ()


def test_splits_that_do_not_fit_are_issues(tmp_path, voc_folder):
    root = voc_folder(tmp_path, [[CAT]] * 4)
    record = {"splits": {"train": ["p00", "p09"], "val": ["p01", "p02"]}}
    (root / "attendet-splits.json").write_text(json.dumps(record))
    dataset = load_dataset(root)
    assert keys(dataset.splits) == {"train": ["p00"], "val": ["p01", "p02"]}
    assert [issue.kind for issue in dataset.issues] == ["missing-image", "unlisted-image"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "must be JSON"),
        ("[]", "must be JSON"),
        ('{"splits": {"dev": []}}', "got 'dev'"),
        ('{"splits": {"train": ["a"], "val": ["a"]}}', "'a' twice"),
    ],
)
def test_a_broken_file_of_splits_is_an_error(tmp_path, content, said):
    path = tmp_path / "s.json"
    path.write_text(content)
    with pytest.raises(DataError, match=said):
        read_splits(path)
    with pytest.raises(DataError, match="not found"):
        read_splits(tmp_path / "gone.json")
