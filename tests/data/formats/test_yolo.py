from __future__ import annotations

import pytest

from attendet.data import load_dataset
from attendet.errors import DataError

LINE = "0 0.5 0.5 0.5 0.5\n"
XYXY = [[10.0, 7.5, 30.0, 22.5]]


@pytest.fixture
def yolo(tmp_path, image):
    """Write images with label files under images/ and labels/ of tmp_path."""

    def write(names, text=LINE):
        for name in names:
            image(tmp_path / "images" / f"{name}.png")
            file = tmp_path / "labels" / f"{name}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return write


def sizes(dataset):
    return {name: len(part) for name, part in dataset.splits.items()}


def issues(dataset):
    return [(issue.kind, issue.file.name, issue.line) for issue in dataset.issues]


YAMLS = {
    "folders": "path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n",
    "no path": "train: images/train\nval: images/val\nnames: {0: cat, 1: dog}\nnc: 2\n",
    "list": "train: [images/train]\nval:\n- images/val\nnames: [cat, dog]\n",
    "leads nowhere": "train: ../images/train\nvalid: ../images/val\nnames: [cat, dog]\n",
    "foreign path": "path: ../x\ntrain: images/train\nval: images/val\ntest:\nnames: [cat, dog]\n",
    "txt": "train: train.txt\nval: val.txt\nnames: [cat, dog]\n",
}


@pytest.mark.parametrize("text", YAMLS.values(), ids=YAMLS)
def test_data_yaml(yolo, text):
    root = yolo(["train/a", "train/b", "val/c"])
    (root / "data.yaml").write_text(text)
    if "txt" in text:
        (root / "train.txt").write_text("./images/train/a.png\nimages/train/b.png\n")
        (root / "val.txt").write_text("./images/val/c.png\n")
    for path in (root, root / "data.yaml"):
        dataset = load_dataset(path)
        assert dataset.format == "yolo"
        assert dataset.classes == ("cat", "dog")
        assert sizes(dataset) == {"train": 2, "val": 1}
        assert dataset.split("train")[0].key == "images/train/a"
        assert dataset.split("train")[0].boxes_xyxy.tolist() == XYXY
        assert dataset.issues == ()


def test_roboflow_folders(tmp_path, image):
    for part in ("train", "valid", "test"):
        image(tmp_path / part / "images" / f"{part}.jpg")
        (tmp_path / part / "labels").mkdir()
        (tmp_path / part / "labels" / f"{part}.txt").write_text(LINE)
    (tmp_path / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: ['cat']\n"
    )
    assert sizes(load_dataset(tmp_path)) == {"train": 1, "val": 1, "test": 1}
    (tmp_path / "data.yaml").unlink()
    dataset = load_dataset(tmp_path)
    assert sizes(dataset) == {"train": 1, "val": 1, "test": 1}
    assert dataset.classes == ("0",)


def test_images_and_labels_with_classes_txt(yolo):
    root = yolo([f"{n:02}" for n in range(10)])
    (root / "classes.txt").write_text("cat\r\ndog\r\n")
    dataset = load_dataset(root)
    assert dataset.classes == ("cat", "dog")
    assert sizes(dataset) == {"train": 7, "val": 2, "test": 1}


def test_split_folders_inside_images(yolo):
    dataset = load_dataset(yolo(["train/a", "val/b"]))
    assert sizes(dataset) == {"train": 1, "val": 1}
    assert dataset.split_source == "folders images/train/ images/val/"


def test_side_by_side(tmp_path, image):
    for name in "abc":
        image(tmp_path / f"{name}.png").with_suffix(".txt").write_text(LINE)
    (tmp_path / "classes.txt").write_text("cat\n")
    dataset = load_dataset(tmp_path)
    assert dataset.format == "yolo"
    assert len(dataset.split("all")) == 3


def test_darknet_lists(tmp_path, image):
    for name in "abc":
        image(tmp_path / f"{name}.png").with_suffix(".txt").write_text(LINE)
    (tmp_path / "train.txt").write_text("a.png\nb.png\nnone.png\nb.png\n")
    (tmp_path / "val.txt").write_text("c.png\n")
    dataset = load_dataset(tmp_path)
    assert sizes(dataset) == {"train": 2, "val": 1}
    assert issues(dataset) == [
        ("missing-image", "train.txt", 3),
        ("repeated-image", "train.txt", 4),
    ]


def test_a_image_without_a_label_file_is_background(yolo):
    root = yolo(["train/a", "train/b", "val/c"])
    (root / "labels" / "train" / "a.txt").unlink()
    dataset = load_dataset(root)
    assert [len(sample.class_ids) for sample in dataset.split("train")] == [0, 1]
    assert dataset.issues == ()


def test_a_label_file_without_a_image_is_a_issue(yolo):
    root = yolo(["train/a", "val/b"])
    (root / "labels" / "train" / "stray.txt").write_text(LINE)
    assert issues(load_dataset(root)) == [("missing-image", "stray.txt", None)]


def test_a_polygon_becomes_the_box_around_it(yolo):
    dataset = load_dataset(yolo(["a", "b"], "0 0.25 0.25 0.75 0.5 0.5 0.75\n"))
    assert dataset.split("train")[0].boxes_xyxy.tolist() == XYXY


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("0 0.5 0.5 0.5", "broken-label"),
        ("0 0.5 0.5 0.5 0.5 0.9", "broken-label"),
        ("cat 0.5 0.5 0.5 0.5", "broken-label"),
        ("0.5 0.5 0.5 0.5 0.5", "broken-label"),
        ("inf 0.5 0.5 0.5 0.5", "broken-label"),
        ("0 0.5 0,5 0.5 0.5", "broken-label"),
        ("0 nan 0.5 0.5 0.5", "non-finite"),
        ("0 1e308 0.5 1e308 0.5", "non-finite"),
        ("0 0.5 0.5 0 0.5", "zero-size"),
        ("0 0.5 0.5 -0.5 0.5", "negative-size"),
        ("0 2.5 0.5 0.5 0.5", "wrong-unit"),
        ("0 -0.5 0.5 0.5 0.5", "outside"),
        ("0 1.0 0.5 0.5 0.5", "partly-outside"),
        ("7 0.5 0.5 0.5 0.5", "unknown-class"),
        ("-1 0.5 0.5 0.5 0.5", "unknown-class"),
    ],
)
def test_a_faulty_line_is_named_and_the_rest_is_kept(yolo, line, kind):
    root = yolo(["train/a", "val/b"])
    (root / "classes.txt").write_text("cat\n")
    (root / "labels" / "train" / "a.txt").write_text(f"0 0.2 0.2 0.1 0.1\n\n{line}\n")
    dataset = load_dataset(root)
    assert issues(dataset) == [(kind, "a.txt", 3)]
    assert len(dataset.split("train")[0].class_ids) == (2 if kind == "partly-outside" else 1)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_marked_encodings_are_read(yolo, encoding):
    root = yolo(["train/a", "val/b"])
    (root / "labels" / "train" / "a.txt").write_bytes(LINE.encode(encoding))
    dataset = load_dataset(root)
    assert dataset.issues == ()
    assert dataset.split("train")[0].boxes_xyxy.tolist() == XYXY


def test_names_in_another_encoding_are_a_issue(yolo):
    root = yolo(["train/a", "val/b"])
    (root / "classes.txt").write_bytes("café\n".encode("latin-1"))
    dataset = load_dataset(root)
    assert dataset.classes == ("café",)
    assert issues(dataset) == [("wrong-encoding", "classes.txt", None)]


def test_class_numbers_need_not_follow_each_other(yolo):
    root = yolo(["train/a", "val/b"], "7 0.5 0.5 0.5 0.5\n")
    (root / "data.yaml").write_text(
        "train: images/train\nval: images/val\nnames: {3: cat, 7: dog}\n"
    )
    dataset = load_dataset(root)
    assert dataset.classes == ("cat", "dog")
    assert dataset.split("train")[0].class_ids.tolist() == [1]


def test_a_wrong_count_of_classes_and_a_missing_split_are_issues(yolo):
    root = yolo(["train/a", "val/b"])
    (root / "data.yaml").write_text(
        "train: images/train\nval: images/val\ntest: images/no\nnc: 3\nnames: [cat]\n"
    )
    assert [kind for kind, _, _ in issues(load_dataset(root))] == ["class-count", "missing-image"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: [\n", "must be YAML"),
        ("- a\n", "must contain keys"),
        ("train:images/train\nnames:[cat]\n", "must contain keys.*with a space"),
        ('nc: 1\ntrain: "C:\\data\\train"\n', r"unknown escape character.*yaml:2.*use / or"),
        ("names:\n\t- cat\n", r"cannot start any token.*yaml:2.*no tab"),
        ("train: images/train\nnames: cat, dog\n", "names must be a list"),
        ("train: images/train\nnc: 99999999999\n", "nc must be 1 to 10000"),
        ("train: images/train\nnames: cat: dog\n", "must be YAML"),
        ("train: images/train\nnames: [[cat]]\n", "names must be a list"),
        ("train: {a: b}\nnames: [cat]\n", "train must be a path"),
        ("train: nowhere\nnames: [cat]\n", r"no image listed in data\.yaml exists"),
        (
            "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b]\ntrain: images/train\n",
            "names must be a list",
        ),
        ("train: images/train\nnames: [cat, cat]\n", "'cat' twice"),
    ],
)
def test_a_data_yaml_that_cannot_be_used_is_an_error(yolo, text, said):
    root = yolo(["train/a"])
    (root / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=said):
        load_dataset(root / "data.yaml")


def test_no_label_file_at_all_is_an_error(tmp_path, image):
    image(tmp_path / "images" / "a.png")
    with pytest.raises(DataError, match="no label files found"):
        load_dataset(tmp_path, format="yolo")
