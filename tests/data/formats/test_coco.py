from __future__ import annotations

import json

import pytest

from attendet.data import load_dataset
from attendet.data.formats import coco
from attendet.errors import DataError

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}]


def document(*names, first=1, annotations=None, categories=CATEGORIES):
    images = [
        {"id": number, "file_name": name, "width": 40, "height": 30}
        for number, name in enumerate(names, start=first)
    ]
    if annotations is None:
        annotations = [
            {"id": n, "image_id": image["id"], "category_id": 18, "bbox": [4, 5, 16, 20]}
            for n, image in enumerate(images)
        ]
    return {"images": images, "annotations": annotations, "categories": categories}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def sizes(dataset):
    return {name: len(part) for name, part in dataset.splits.items()}


@pytest.mark.parametrize(
    "places", [("train2017", "val2017"), ("images/train2017", "images/val2017")]
)
def test_the_layout_of_coco(tmp_path, image, places):
    for place, names in zip(places, ("ab", "c"), strict=True):
        for name in names:
            image(tmp_path / place / f"{name}.jpg")
    write(tmp_path / "annotations/instances_train2017.json", document("a.jpg", "b.jpg"))
    write(tmp_path / "annotations/instances_val2017.json", document("c.jpg"))
    write(tmp_path / "annotations/captions_train2017.json", {"images": []})
    dataset = load_dataset(tmp_path)
    assert dataset.format == "coco"
    assert sizes(dataset) == {"train": 2, "val": 1}
    assert dataset.classes == ("cat", "dog")
    assert dataset.split_source == "files instances_train2017.json instances_val2017.json"
    sample = dataset.split("train")[0]
    assert sample.key == f"{places[0]}/a"
    assert sample.boxes_xyxy.tolist() == [[4, 5, 20, 25]]
    assert sample.class_ids.tolist() == [1]
    assert dataset.issues == ()


def test_roboflow_with_its_parent_category(tmp_path, image):
    categories = [
        {"id": 0, "name": "cells", "supercategory": "none"},
        {"id": 1, "name": "RBC", "supercategory": "cells"},
    ]
    for part in ("train", "valid", "test"):
        image(tmp_path / part / f"{part}.jpg")
        boxes = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": 1}]
        content = document(f"{part}.jpg", first=0, annotations=boxes, categories=categories)
        write(tmp_path / part / "_annotations.coco.json", content)
    dataset = load_dataset(tmp_path)
    assert sizes(dataset) == {"train": 1, "val": 1, "test": 1}
    assert dataset.classes == ("RBC",)
    assert dataset.split("val")[0].difficult.tolist() == [True]
    assert "valid/_annotations.coco.json" in dataset.split_source


def test_a_parent_category_that_labels_something_stays(tmp_path, image):
    categories = [{"id": 0, "name": "cells"}, {"id": 1, "name": "RBC", "supercategory": "cells"}]
    boxes = [{"id": 1, "image_id": 1, "category_id": 0, "bbox": [1, 1, 9, 9]}]
    image(tmp_path / "a.jpg")
    path = write(tmp_path / "x.json", document("a.jpg", annotations=boxes, categories=categories))
    assert load_dataset(path).classes == ("cells", "RBC")


def test_one_json_file_is_one_pool(tmp_path, image):
    names = [f"{n:02}.png" for n in range(10)]
    for name in names:
        image(tmp_path / "images" / name)
    path = write(tmp_path / "labels.json", document(*names))
    dataset = load_dataset(path)
    assert sizes(dataset) == {"train": 7, "val": 2, "test": 1}
    assert load_dataset(tmp_path).classes == dataset.classes


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"bbox": [1, 1, 5]}, "broken-label"),
        ({"bbox": None}, "broken-label"),
        ({"bbox": ["x", 1, 2, 3]}, "broken-label"),
        ({"category_id": [1]}, "broken-label"),
        ({"image_id": {}}, "broken-label"),
        ({"bbox": [1, 1, float("nan"), 5]}, "non-finite"),
        ({"bbox": [1, 1, 0, 5]}, "zero-size"),
        ({"bbox": [9, 9, -5, 5]}, "negative-size"),
        ({"bbox": [50, 1, 5, 5]}, "outside"),
        ({"bbox": [30, 1, 20, 5]}, "partly-outside"),
        ({"category_id": 5}, "unknown-class"),
        ({"image_id": 99}, "missing-image"),
        ({"image_id": "9" * 5000}, "missing-image"),
        ({"category_id": "9" * 5000}, "unknown-class"),
    ],
)
def test_a_faulty_annotation_is_counted_and_the_rest_is_kept(tmp_path, image, row, kind):
    image(tmp_path / "a.jpg")
    good = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [20, 20, 4, 4]}
    bad = {"id": 2, "image_id": 1, "category_id": 3, "bbox": [1, 1, 5, 5], **row}
    path = write(tmp_path / "x.json", document("a.jpg", annotations=[good, bad]))
    dataset = load_dataset(path)
    assert [issue.kind for issue in dataset.issues] == [kind]
    assert len(dataset.split("train")[0].class_ids) == (2 if kind == "partly-outside" else 1)


def test_the_folders_are_searched_once(tmp_path, image, monkeypatch):
    searches = []
    monkeypatch.setattr(coco, "images_below", lambda folder: searches.append(folder) or [])
    image(tmp_path / "a.jpg")
    load_dataset(write(tmp_path / "x.json", document("a.jpg", "b.jpg", "c.jpg")))
    assert len(searches) == 1


def test_issues_of_images(tmp_path, image):
    image(tmp_path / "a.jpg")
    content = document("a.jpg", "gone.jpg")
    content["images"] += [
        {"id": "9" * 5000, "file_name": "long" * 100 + ".jpg"},
        {"id": 1, "file_name": "a.jpg"},
        {"id": 9},
        {"id": 5, "file_name": "a.jpg"},
    ]
    dataset = load_dataset(write(tmp_path / "x.json", content))
    assert sorted(issue.kind for issue in dataset.issues) == [
        "broken-label",
        "missing-image",
        "missing-image",
        "repeated-image",
        "repeated-image",
    ]
    assert len(dataset.split("all")) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"images": [],\n "annotations": [,]}', r"x\.json:2"),
        ("[]", "must have lists"),
        ('{"images": [], "annotations": []}', "must have lists"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "id and a name"),
        ('{"images": [], "annotations": [], "categories": [{"id": [], "name": "a"}]}', "id and a"),
        ("[" * 100_000, "cannot be parsed"),
    ],
)
def test_a_broken_file_is_an_error_with_its_line(tmp_path, text, said):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        load_dataset(path)


def test_two_files_for_one_split_are_not_guessed_between(tmp_path, image):
    image(tmp_path / "a.jpg")
    for name in ("first", "second"):
        write(tmp_path / f"{name}.json", document("a.jpg"))
    with pytest.raises(DataError, match=r"first\.json, second\.json"):
        load_dataset(tmp_path)


def test_the_layout_of_fiftyone(tmp_path, image):
    for name in "abc":
        image(tmp_path / "data" / f"{name}.jpg")
    described = {"info": {"year": ""}, "licenses": [], **document("a.jpg", "b.jpg", "c.jpg")}
    write(tmp_path / "labels.json", described)

    dataset = load_dataset(tmp_path)

    assert dataset.format == "coco"
    assert len(dataset.split("all")) == 3
    assert not dataset.issues
