"""Class names of YOLO sets, and the fields of a line that stand for something else than a box."""

from __future__ import annotations

import pytest

from attendet.data import load_dataset
from attendet.errors import DataError

XYXY = [[10.0, 7.5, 30.0, 22.5]]


@pytest.fixture
def numbered(tmp_path, image):
    """Write a data.yaml and images a, b, ...; each has one box, of the class id given for it."""

    def write(class_ids, text, rest="0.5 0.5 0.5 0.5"):
        for name, class_id in zip("abc", class_ids, strict=False):
            image(tmp_path / "images" / f"{name}.png")
            file = tmp_path / "labels" / f"{name}.txt"
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"{class_id} {rest}\n")
        (tmp_path / "data.yaml").write_text(f"train: images\nval: images\n{text}\n")
        return tmp_path

    return write


def found(dataset):
    """Return stem to the class names of the boxes of each image to train on."""
    return {
        sample.path.stem: [dataset.classes[number] for number in sample.class_ids]
        for sample in dataset.split("train")
    }


def unknown(dataset):
    return sorted({f.file.stem for f in dataset.issues if f.kind == "unknown-class"})


@pytest.mark.parametrize(
    ("names", "expected", "strays"),
    [
        ("{1: cat, 2: dog}", {"a": [], "b": ["cat"], "c": ["dog"]}, ["a"]),
        ("{0: cat, 2: dog}", {"a": ["cat"], "b": [], "c": ["dog"]}, ["b"]),
        ('{"0": cat, "1": dog}', {"a": ["cat"], "b": ["dog"], "c": []}, ["c"]),
        ("[cat, dog]", {"a": ["cat"], "b": ["dog"], "c": []}, ["c"]),
    ],
)
def test_a_class_id_without_a_name_is_unknown(numbered, names, expected, strays):
    dataset = load_dataset(numbered([0, 1, 2], f"names: {names}"))
    assert found(dataset) == expected
    assert unknown(dataset) == strays


def test_a_class_id_without_a_name_is_no_place_in_classes_given(numbered):
    root = numbered([0, 1, 2], "names: {0: cat, 1: dog}")
    dataset = load_dataset(root, classes=["bird", "dog", "fish"])
    assert found(dataset) == {"a": [], "b": ["dog"], "c": []}
    assert unknown(dataset) == ["a", "c"]


def test_class_ids_count_along_classes_given_where_the_set_names_none(numbered):
    dataset = load_dataset(numbered([0, 1, 2], ""), classes=["cat", "dog"])
    assert found(dataset) == {"a": ["cat"], "b": ["dog"], "c": []}
    assert unknown(dataset) == ["c"]


def test_a_huge_class_id_without_names_is_unknown(numbered):
    dataset = load_dataset(numbered([0, 10**20, 1], ""))
    assert dataset.classes == ("0", "1")
    assert unknown(dataset) == ["b"]


@pytest.mark.parametrize("names", ["[on, off, 2024-01-01]", "{0: on, 1: off, 2: 2024-01-01}"])
def test_plain_words_stay_words(numbered, names):
    dataset = load_dataset(numbered([0, 1, 2], f"names: {names}"))
    assert dataset.classes == ("on", "off", "2024-01-01")


def test_one_class_id_with_two_names_is_an_error(numbered):
    root = numbered([0], 'names: {0: cat, "0": dog}')
    with pytest.raises(DataError, match="mapping from unique class ids"):
        load_dataset(root)


@pytest.mark.parametrize(
    ("shape", "points"),
    [("[3, 2]", "0.1 0.1 0.9 0.1 0.5 0.9"), ("[2, 3]", "0.1 0.1 2 0.9 0.9 2")],
)
def test_keypoints_follow_the_box(numbered, shape, points):
    root = numbered([0, 0], f"names: [cat]\nkpt_shape: {shape}", f"0.5 0.5 0.5 0.5 {points}")
    dataset = load_dataset(root)
    assert [sample.boxes_xyxy.tolist() for sample in dataset.split("train")] == [XYXY] * 2


@pytest.mark.parametrize("rest", ["0.5 0.5 0.5 0.5", "0.5 0.5 0.5 0.5 0.1 0.1 0.9 0.1"])
def test_a_line_with_another_number_of_keypoints_is_a_issue(numbered, rest):
    root = numbered([0, 0], "names: [cat]\nkpt_shape: [3, 2]", f"0.5 0.5 0.5 0.5{' 0.1' * 6}")
    (root / "labels" / "b.txt").write_text(f"0 {rest}\n")
    dataset = load_dataset(root)
    assert found(dataset) == {"a": ["cat"], "b": []}
    issue = next(issue for issue in dataset.issues if issue.kind == "broken-label")
    assert (issue.file.name, issue.line) == ("b.txt", 1)
    assert "must have 11 fields" in issue.message


@pytest.mark.parametrize("shape", ["17", "[17]", "[0, 2]", "[17, 4]", "[a, 2]"])
def test_a_shape_of_keypoints_that_makes_no_sense_is_an_error(numbered, shape):
    root = numbered([0], f"names: [cat]\nkpt_shape: {shape}")
    with pytest.raises(DataError, match=r"kpt_shape must be .*data\.yaml"):
        load_dataset(root)


def test_lines_that_cannot_be_read_are_named_where_no_class_is_left(numbered):
    root = numbered([0], "", "0.5 0.5 0.5 0.5 0.9")
    with pytest.raises(
        DataError, match=r"(?s)must contain boxes; got none.*a\.txt:1: broken-label"
    ):
        load_dataset(root)
