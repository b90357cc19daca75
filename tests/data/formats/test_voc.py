from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from attendet.data import load_dataset
from attendet.data.formats.voc import Annotation, read_annotation
from attendet.data.sample import Issue
from attendet.errors import DataError

BOX = ("cat", 4, 5, 20, 25)


def kinds(dataset):
    return sorted(issue.kind for issue in dataset.issues)


@pytest.fixture
def devkit(tmp_path, image, annotation):
    """VOCdevkit/VOC2007 with four images, two to train on."""
    root = tmp_path / "VOCdevkit" / "VOC2007"
    for name in "abcd":
        image(root / "JPEGImages" / f"{name}.jpg")
        annotation(root / "Annotations" / f"{name}.xml", [BOX, ("ant", 1, 2, 3, 4)])
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b\na\n")
    (lists / "val.txt").write_text("c  1\n\n")
    (lists / "test.txt").write_text("d.jpg\n")
    (lists / "cat_train.txt").write_text("d -1\n")
    return root


def test_devkit_keeps_the_official_splits(devkit):
    dataset = load_dataset(devkit)
    keys = {name: [sample.key for sample in part] for name, part in dataset.splits.items()}
    assert keys == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    assert dataset.split_source == "ImageSets/Main"
    assert dataset.classes == ("ant", "cat")
    assert dataset.issues == ()
    sample = dataset.split("train")[0]
    assert sample.image_hw == (30, 40)
    # As written: nothing is subtracted.
    assert sample.boxes_xyxy.tolist() == [[4, 5, 20, 25], [1, 2, 3, 4]]
    assert sample.class_ids.tolist() == [1, 0]
    assert sample.boxes_xyxy.dtype == "float32"
    assert sample.class_ids.dtype == "int64"


@pytest.mark.parametrize("above", [1, 2])
def test_the_folder_above_the_voc_folder_will_do(devkit, above):
    assert load_dataset(devkit.parents[above - 1]).root == devkit


def test_two_voc_folders_are_not_guessed_between(devkit):
    shutil.copytree(devkit, devkit.parent / "VOC2012")
    with pytest.raises(DataError, match="VOC2007, VOC2012"):
        load_dataset(devkit.parent)


def test_trainval_stands_in_for_train(devkit):
    lists = devkit / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text("a\nb\nc\n")
    (lists / "train.txt").unlink()
    (lists / "val.txt").unlink()
    dataset = load_dataset(devkit)
    assert {name: len(part) for name, part in dataset.splits.items()} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }


def test_issues_of_a_list_name_its_line(devkit):
    (devkit / "ImageSets/Main/train.txt").write_text("a\n\nnone\na\nb\n")
    (devkit / "Annotations" / "b.xml").unlink()
    dataset = load_dataset(devkit)
    found = {(issue.kind, issue.file.name, issue.line) for issue in dataset.issues}
    assert found == {
        ("missing-image", "train.txt", 3),
        ("repeated-image", "train.txt", 4),
        ("missing-label", "train.txt", 5),
    }
    assert len(dataset.split("train")) == 1


def test_a_classes_file_gives_the_order(devkit):
    (devkit / "classes.txt").write_text("cat\nbird\nant\n")
    assert load_dataset(devkit).classes == ("cat", "bird", "ant")


def test_classes_given_come_first_and_others_are_unknown(devkit):
    dataset = load_dataset(devkit, classes=["cat"])
    assert dataset.classes == ("cat",)
    assert kinds(dataset) == ["unknown-class"] * 4
    assert dataset.split("test")[0].class_ids.tolist() == [0]


def test_flat_folder_is_cut_by_seed(tmp_path, voc_folder):
    dataset = load_dataset(voc_folder(tmp_path, [[BOX]] * 20))
    assert {name: len(part) for name, part in dataset.splits.items()} == {
        "train": 14,
        "val": 3,
        "test": 3,
    }
    assert dataset.split_source == "seeded 70/15/15, seed 0"


def test_split_folders_and_a_val_cut_from_train(tmp_path, voc_folder):
    voc_folder(tmp_path / "train", [[BOX]] * 20)
    voc_folder(tmp_path / "test", [[BOX]] * 3)
    dataset = load_dataset(tmp_path)
    assert {name: len(part) for name, part in dataset.splits.items()} == {
        "train": 17,
        "val": 3,
        "test": 3,
    }
    assert dataset.split_source == "folders train/ test/; val: 15 % of train, seed 0"
    assert dataset.split("test")[0].key == "test/p00"


def test_images_and_annotations_folders(tmp_path, image, annotation):
    image(tmp_path / "images" / "a.png")
    annotation(tmp_path / "annotations" / "a.xml", [BOX])
    assert [sample.key for sample in load_dataset(tmp_path).split("all")] == ["a"]


def test_the_file_name_inside_serves_when_the_xml_is_named_otherwise(tmp_path, image, annotation):
    image(tmp_path / "images" / "photo 1.png")
    annotation(tmp_path / "annotations" / "1.xml", [BOX], name=r"C:\images\photo 1.png")
    assert load_dataset(tmp_path).split("all")[0].path.name == "photo 1.png"


def test_two_xml_files_of_one_image_are_joined(tmp_path, image, annotation):
    image(tmp_path / "JPEGImages" / "c.jpg")
    annotation(tmp_path / "Annotations" / "one.xml", [BOX], name="c.jpg")
    annotation(
        tmp_path / "Annotations" / "two.xml",
        [("dog", 1, 2, 9, 8), ("dog", 5, 5, 5, 5)],
        name="c.jpg",
    )
    dataset = load_dataset(tmp_path)
    (sample,) = dataset.split("all")
    assert sample.boxes_xyxy.tolist() == [[4, 5, 20, 25], [1, 2, 9, 8]]
    assert [dataset.classes[number] for number in sample.class_ids] == ["cat", "dog"]
    assert {(f.kind, f.file.name, f.line) for f in dataset.issues} == {
        ("repeated-image", "two.xml", None),
        ("zero-size", "two.xml", 5),
    }


def test_two_lists_with_an_xml_file_each_for_one_image_keep_their_boxes(
    tmp_path, image, annotation
):
    for name in "cd":
        image(tmp_path / "JPEGImages" / f"{name}.jpg")
    annotation(tmp_path / "Annotations" / "one.xml", [BOX], name="c.jpg")
    annotation(tmp_path / "Annotations" / "two.xml", [("dog", 1, 2, 9, 8)], name="c.jpg")
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("one\n")
    (lists / "val.txt").write_text("two\n")
    dataset = load_dataset(tmp_path)
    assert dataset.split("train")[0].boxes_xyxy.tolist() == [[4, 5, 20, 25]]
    assert dataset.split("val")[0].boxes_xyxy.tolist() == [[1, 2, 9, 8]]
    assert kinds(dataset) == ["identical-images"]


@pytest.mark.parametrize(("named", "meant"), [("a.jpg", "a.jpg"), ("x/a.png", "a.png")])
def test_of_two_images_of_one_name_the_xml_says_which(tmp_path, image, annotation, named, meant):
    for name in ("a.jpg", "a.png", "b.jpg", "c.jpg"):
        image(tmp_path / name)
    annotation(tmp_path / "a.xml", [BOX], name=named)
    for name in "bc":
        annotation(tmp_path / f"{name}.xml", [BOX])

    data = load_dataset(tmp_path)

    every = [sample.path.name for part in data.splits.values() for sample in part]
    assert sorted(every) == [meant, "b.jpg", "c.jpg"]
    other = "a.png" if meant == "a.jpg" else "a.jpg"
    assert [
        (issue.file.name, issue.kind, issue.message)
        for issue in data.issues
        if issue.kind == "missing-label"
    ] == [(other, "missing-label", f"a.xml belongs to {meant}")]


def test_missing_images_and_labels_are_skipped(tmp_path, voc_folder, annotation, image):
    voc_folder(tmp_path, [[BOX]] * 2)
    annotation(tmp_path / "gone.xml", [BOX])
    image(tmp_path / "bare.png")
    dataset = load_dataset(tmp_path)
    assert {(f.kind, f.file.name) for f in dataset.issues} == {
        ("missing-image", "gone.xml"),
        ("missing-label", "bare.png"),
    }
    assert {issue.action for issue in dataset.issues} == {"skipped image"}


def test_difficult_and_parts(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(
        """<annotation><object><name>person</name><difficult>1</difficult>
        <bndbox><xmin>1.5</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>
        <part><name>head</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>
        </part></object></annotation>"""
    )
    annotation = read_annotation(path)
    assert isinstance(annotation, Annotation)
    (box,) = annotation.boxes
    assert (box.label, box.xyxy, box.difficult, box.line) == ("person", (1.5, 2, 9, 8), True, 1)
    assert annotation.declared_hw is None


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("<name>a</name>", "no xmin"),
        ("<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>", "no name"),
        (
            "<name>a</name><bndbox><xmin>one</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>",
            "is not a number",
        ),
        (
            "<name>a</name><bndbox><xmin>1</xmin><ymin/><xmax>2</xmax><ymax>2</ymax></bndbox>",
            "no ymin",
        ),
    ],
)
def test_an_object_that_cannot_be_read_is_dropped(tmp_path, inside, said):
    path = tmp_path / "a.xml"
    path.write_text(f"<annotation>\n\n<object>{inside}</object></annotation>")
    annotation = read_annotation(path)
    assert isinstance(annotation, Annotation)
    assert annotation.boxes == []
    (issue,) = annotation.issues
    assert (issue.kind, issue.line, issue.action) == ("broken-label", 3, "dropped")
    assert said in issue.message


BILLION_LAUGHS = (
    '<?xml version="1.0"?>\n<!DOCTYPE annotation [\n<!ENTITY l0 "ha">\n'
    + "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">\n' for n in range(1, 10))
    + "]>\n<annotation><filename>&l9;</filename></annotation>"
)
EXTERNAL = (
    '<!DOCTYPE annotation [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
    "<annotation><object><name>&x;</name></object></annotation>"
)
PARAMETER = (
    '<!DOCTYPE annotation [<!ENTITY % x SYSTEM "http://127.0.0.1:9/x.dtd"> %x;]><annotation/>'
)


@pytest.mark.parametrize("content", [BILLION_LAUGHS, EXTERNAL, PARAMETER])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused_at_once(tmp_path, content, encoding):
    path = tmp_path / "a.xml"
    path.write_bytes(content.replace('<?xml version="1.0"?>', "").encode(encoding))
    start = time.perf_counter()
    issue = read_annotation(path)
    assert time.perf_counter() - start < 1
    assert isinstance(issue, Issue)
    assert (issue.kind, issue.action) == ("broken-label", "skipped image")
    assert "entities" in issue.message


@pytest.mark.parametrize(
    ("content", "kind", "line"),
    [
        (b"<annotation>\n<object>\n</annotation>", "broken-label", 3),
        (b"", "broken-label", 1),
        (b"<html></html>", "broken-label", 1),
        (b"<annotation>\n<filename>caf\xe9</filename></annotation>", "wrong-encoding", 2),
        (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "wrong-encoding", 1),
    ],
)
def test_a_broken_file_is_a_issue_with_its_line(tmp_path, content, kind, line):
    path = tmp_path / "a.xml"
    path.write_bytes(content)
    issue = read_annotation(path)
    assert isinstance(issue, Issue)
    assert (issue.kind, issue.line) == (kind, line)


def test_latin1_that_says_so_is_read(tmp_path):
    path = tmp_path / "a.xml"
    text = '<?xml version="1.0" encoding="iso-8859-1"?>'
    text += "<annotation><filename>café</filename></annotation>"
    path.write_bytes(text.encode("latin-1"))
    annotation = read_annotation(path)
    assert isinstance(annotation, Annotation)
    assert annotation.filename == "café"


def test_bccd(shared_data: Path):
    dataset = load_dataset(shared_data / "bccd")
    sizes = {name: len(part) for name, part in dataset.splits.items()}
    assert sizes == {"train": 205, "val": 87, "test": 72}
    assert dataset.classes == ("Platelets", "RBC", "WBC")
    assert sum(len(sample.class_ids) for sample in dataset.split("all")) == 4888 - 2
    assert sum(len(sample.class_ids) for sample in dataset.split("val")) == 1137
    assert kinds(dataset) == ["near-duplicate"] * 7 + ["zero-size"] * 2
    zero = {(f.file.stem, f.line) for f in dataset.issues if f.kind == "zero-size"}
    assert zero == {("BloodImage_00338", 158), ("BloodImage_00343", 50)}
    assert dataset.overlaps == ()


def test_cards(shared_data: Path):
    dataset = load_dataset(shared_data / "cards")
    sizes = {name: len(part) for name, part in dataset.splits.items()}
    assert sizes == {"train": 252, "val": 44, "test": 67}
    assert dataset.classes == ("ace", "jack", "king", "nine", "queen", "ten")
    assert sum(len(sample.class_ids) for sample in dataset.split("all")) == 670
    assert dataset.issues == ()
