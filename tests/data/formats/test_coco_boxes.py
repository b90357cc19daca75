from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attendet.data import load_dataset
from attendet.data.formats.coco import read_crowd, read_xyxy

TRIANGLE = [4, 5, 20, 5, 20, 25]


def load(tmp_path, image, *rows):
    """Return the data set of one image with a good annotation and the rows given."""
    image(tmp_path / "a.jpg")
    good = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}
    record = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [good, *({"id": 2, "image_id": 1, "category_id": 1} | row for row in rows)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "x.json").write_text(json.dumps(record))
    return load_dataset(tmp_path / "x.json")


@pytest.mark.parametrize("box", [{}, {"bbox": []}, {"bbox": None}])
@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ([TRIANGLE], [4, 5, 20, 25]),
        ([TRIANGLE, [30, 2, 32, 2, 32, 4]], [4, 2, 32, 25]),
        ({"size": [30, 40], "counts": [4 * 30 + 5, 3, 27, 3, 1200 - 158]}, [4, 5, 6, 8]),
    ],
)
def test_a_segmentation_without_a_box_gives_the_box_around_it(
    tmp_path, image, box, shape, expected
):
    dataset = load(tmp_path, image, {**box, "segmentation": shape})
    assert dataset.issues == ()
    assert dataset.split("train")[0].boxes_xyxy.tolist()[1] == expected


def test_a_box_that_is_stated_comes_before_the_segmentation():
    assert read_xyxy({"bbox": [1, 2, 3, 4], "segmentation": [TRIANGLE]}) == (1, 2, 4, 6)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 40), width=st.integers(1, 40))
def test_masks_give_the_box_of_the_reference(seed, height, width):
    masks = pytest.importorskip("pycocotools.mask")
    draw = np.random.default_rng(seed)
    mask = draw.random((height, width)) < draw.choice([0.02, 0.5, 0.98])
    mask[draw.integers(height), draw.integers(width)] = True
    packed = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = {"size": [height, width], "counts": packed["counts"].decode()}
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    expected = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert read_xyxy({"segmentation": text}) == expected


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "bbox must be 4 numbers, or missing with a valid segmentation; got bbox None"),
        ({"bbox": [1, 2, 3]}, "bbox must be 4 numbers"),
        ({"segmentation": [[1, 2, 3, 4]]}, "3 or more points"),
        ({"segmentation": [1, 2, 3]}, "bbox must be 4 numbers"),
        ({"segmentation": {"size": [3, 3]}}, "no 'counts'"),
        ({"segmentation": {"size": [3, 3], "counts": [1, 2]}}, "do not match its size"),
        ({"segmentation": {"size": [3, 3], "counts": [9]}}, "empty"),
        ({"segmentation": {"size": [3, 3], "counts": "é"}}, "segmentation are invalid"),
        ({"bbox": [1, 1, 5, 5], "category_id": [1]}, "annotation id 2: cannot be read"),
        ({"bbox": [1, 1, 5, 5], "iscrowd": "maybe"}, "iscrowd must be 0 or 1; got 'maybe'"),
        ({"bbox": [1, 1, 5, 5], "iscrowd": 2}, "iscrowd must be 0 or 1; got 2"),
    ],
)
def test_what_cannot_be_read_is_said_in_words(tmp_path, image, row, said):
    dataset = load(tmp_path, image, row)
    (issue,) = dataset.issues
    assert (issue.kind, issue.action) == ("broken-label", "dropped")
    assert issue.message.startswith("annotation id 2: ")
    assert said in issue.message
    assert "Error" not in issue.message


def test_an_annotation_without_a_category_is_said_in_words(tmp_path, image):
    dataset = load(tmp_path, image)
    record = json.loads((tmp_path / "x.json").read_text())
    record["annotations"].append({"id": 7, "image_id": 1, "bbox": [1, 1, 5, 5]})
    (tmp_path / "x.json").write_text(json.dumps(record))
    dataset = load_dataset(tmp_path / "x.json")
    assert [issue.message for issue in dataset.issues] == ["annotation id 7: has no category_id"]


@pytest.mark.parametrize(
    ("written", "crowd"),
    [(0, False), (1, True), ("0", False), ("1", True), (None, False), ("", False), (1.0, True)],
)
def test_crowds_as_numbers_or_text(written, crowd):
    assert read_crowd({"iscrowd": written}) is crowd
    assert read_crowd({}) is False
