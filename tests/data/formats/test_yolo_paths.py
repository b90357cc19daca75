"""YOLO sets whose paths, labels or names are not where the plain layout has them."""

from __future__ import annotations

import pytest

from attendet.data import load_dataset
from attendet.errors import DataError

LINE = "0 0.5 0.5 0.5 0.5\n"
XYXY = [[10.0, 7.5, 30.0, 22.5]]


@pytest.fixture
def put(image):
    """Write an image and, where a text is given, its label file."""

    def write(path, labels=None, text=LINE):
        image(path)
        if labels:
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text(text)

    return write


@pytest.fixture
def cells(tmp_path, put):
    """A folder ``cells`` with train and valid, images and labels in each, two images each."""
    root = tmp_path / "cells"
    for part in ("train", "valid"):
        for name in "ab":
            put(root / part / "images" / f"{name}.png", root / part / "labels" / f"{name}.txt")
    return root


def sizes(dataset):
    return {name: len(part) for name, part in dataset.splits.items()}


def issues(dataset):
    return [(issue.kind, issue.file.name, issue.line) for issue in dataset.issues]


def boxes(dataset):
    return [s.boxes_xyxy.tolist() for part in dataset.splits.values() for s in part]


@pytest.mark.parametrize(
    "entry",
    [
        r"..\{}\images",
        r".\{}\images",
        r"C:\Users\x\cells\{}\images",
        "C:/Users/x/cells/{}/images",
        "/content/cells/{}/images",
        "datasets/cells/{}/images",
    ],
)
def test_paths_of_another_system_or_machine(cells, entry):
    text = f"train: {entry.format('train')}\nval: {entry.format('valid')}\nnames: [cat]\n"
    (cells / "data.yaml").write_text(text)
    dataset = load_dataset(cells)
    assert sizes(dataset) == {"train": 2, "val": 2}
    assert boxes(dataset) == [XYXY] * 4
    assert dataset.issues == ()


def test_one_word_of_a_relative_path_is_not_gone_by(cells, put):
    put(cells / "images" / "loose.png")
    (cells / "data.yaml").write_text("train: train/images\nval: val/images\nnames: [cat]\n")
    dataset = load_dataset(cells)
    assert ("missing-image", "data.yaml", None) in issues(dataset)
    assert not any("loose" in sample.key for sample in dataset.split("all"))


@pytest.mark.parametrize(
    "line",
    [
        r"train\images\{}.png",
        r"D:\x\cells\train\images\{}.png",
        "/home/x/cells/train/images/{}.png",
        "data/train/images/{}.png",
    ],
)
def test_lines_of_another_system_or_machine(cells, line):
    (cells / "train.txt").write_text("".join(f"{line.format(name)}\r\n" for name in "ab"))
    (cells / "data.yaml").write_text("train: train.txt\nval: valid/images\nnames: [cat]\n")
    dataset = load_dataset(cells)
    assert sizes(dataset) == {"train": 2, "val": 2}
    assert dataset.issues == ()


def test_a_line_too_long_for_a_file_name_is_a_issue(cells):
    (cells / "train.txt").write_text(f"{'x' * 400}\ntrain/images/a.png\n")
    (cells / "data.yaml").write_text("train: train.txt\nval: valid/images\nnames: [cat]\n")
    assert issues(load_dataset(cells)) == [("missing-image", "train.txt", 1)]


def test_an_export_does_not_take_the_set_beside_it(cells, put):
    other = cells.parent / "train"
    put(other / "images" / "other.png", other / "labels" / "other.txt")
    (cells / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: [cat]\n")
    dataset = load_dataset(cells)
    assert [sample.path.stem for sample in dataset.split("train")] == ["a", "b"]
    (issue,) = dataset.issues
    assert (issue.kind, issue.action) == ("unclear-path", "kept")
    assert str(cells / "train" / "images") in issue.message
    assert str(other / "images") in issue.message


def test_a_path_beside_the_folder_is_taken_where_none_is_inside(cells, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "data.yaml").write_text(
        "train: ../cells/train/images\nval: ../cells/valid/images\nnames: [cat]\n"
    )
    dataset = load_dataset(tmp_path / "configs" / "data.yaml")
    assert sizes(dataset) == {"train": 2, "val": 2}
    assert dataset.issues == ()


@pytest.mark.parametrize(
    ("folder", "labels"),
    [
        ("train/imgs", "train/labels"),
        ("imgs/train", "labels/train"),
        ("train", "train/labels"),
        ("train/Images", "train/Labels"),
    ],
)
def test_labels_beside_any_folder_of_images(tmp_path, put, folder, labels):
    put(tmp_path / folder / "a.png", tmp_path / labels / "a.txt")
    put(tmp_path / folder / "b.png", tmp_path / labels / "b.txt")
    (tmp_path / "data.yaml").write_text(f"train: {folder}\nnames: [cat]\n")
    dataset = load_dataset(tmp_path)
    assert boxes(dataset) == [XYXY] * 2
    assert dataset.issues == ()


def test_labels_outside_the_set_are_not_taken(tmp_path, put):
    put(tmp_path / "cells" / "a.png", tmp_path / "cells" / "a.txt")
    put(tmp_path / "cells" / "b.png", tmp_path / "labels" / "b.txt")
    dataset = load_dataset(tmp_path / "cells", require_train=False)
    assert sorted(len(found) for found in boxes(dataset)) == [0, 1]


@pytest.mark.parametrize("described", [True, False])
def test_suffixes_in_capitals(tmp_path, put, described):
    for name in "ab":
        put(tmp_path / "images" / f"{name}.PNG", tmp_path / "labels" / f"{name}.TXT")
    if described:
        (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]\n")
    dataset = load_dataset(tmp_path)
    assert boxes(dataset) == [XYXY] * 2
    assert dataset.issues == ()


def test_a_train_split_without_any_box_is_an_error(cells):
    for file in (cells / "train" / "labels").iterdir():
        file.unlink()
    (cells / "data.yaml").write_text("train: train/images\nval: valid/images\nnames: [cat]\n")
    with pytest.raises(DataError, match=r"must contain boxes.*train/labels/a\.txt"):
        load_dataset(cells)
    dataset = load_dataset(cells, require_train=False)
    assert issues(dataset) == [("missing-label", "a.txt", None), ("no-boxes", "a.txt", None)]
    for name in "ab":
        (cells / "train" / "labels" / f"{name}.txt").write_text("")
    with pytest.raises(DataError, match="must contain boxes"):
        load_dataset(cells)


def test_a_val_split_of_background_is_allowed(cells):
    (cells / "data.yaml").write_text("train: train/images\nval: valid/images\nnames: [cat]\n")
    for file in (cells / "valid" / "labels").iterdir():
        file.write_text("")
    dataset = load_dataset(cells)
    assert sizes(dataset) == {"train": 2, "val": 2}
    assert dataset.issues == ()
    for file in (cells / "valid" / "labels").iterdir():
        file.unlink()
    assert issues(load_dataset(cells)) == [("missing-label", "a.txt", None)]


def test_label_files_without_images_are_issues_with_a_data_yaml_too(cells):
    (cells / "data.yaml").write_text("train: train/images\nval: valid/images\nnames: [cat]\n")
    (cells / "train" / "labels" / "stray.txt").write_text(LINE)
    (cells / "train" / "labels" / "classes.txt").write_text("cat\n")
    assert issues(load_dataset(cells)) == [("missing-image", "stray.txt", None)]


def test_labels_of_images_that_no_list_names_are_no_strays(tmp_path, put):
    for name in "abc":
        put(tmp_path / "images" / f"{name}.png", tmp_path / "labels" / f"{name}.txt")
    put(tmp_path / "images" / "more" / "d.png", tmp_path / "labels" / "more" / "d.txt")
    (tmp_path / "train.txt").write_text("images/a.png\n")
    (tmp_path / "val.txt").write_text("images/b.png\n")
    assert load_dataset(tmp_path).issues == ()


def test_hidden_folders_are_ignored(cells, put):
    put(cells / "train" / "images" / ".ipynb_checkpoints" / "a-checkpoint.png")
    (cells / "data.yaml").write_text("train: train/images\nval: valid/images\nnames: [cat]\n")
    dataset = load_dataset(cells)
    assert sizes(dataset) == {"train": 2, "val": 2}
    assert dataset.issues == ()


def test_entries_that_overlap_count_a_image_once(tmp_path, put):
    for name in ("a", "b", "extra/c"):
        put(tmp_path / "images" / f"{name}.png", tmp_path / "labels" / f"{name}.txt")
    (tmp_path / "data.yaml").write_text(
        "train: [images, images/extra]\nval: images/extra\nnames: [cat]\n"
    )
    dataset = load_dataset(tmp_path)
    assert [sample.path.stem for sample in dataset.split("train")] == ["a", "b", "c"]
    assert boxes(dataset) == [XYXY] * 4
    assert ("repeated-image", "data.yaml", None) in issues(dataset)


@pytest.fixture
def darknet(tmp_path, put):
    """What CVAT exports as YOLO 1.1: the paths begin with a folder that is not there."""
    for name in "abc":
        folder = tmp_path / "obj_train_data"
        put(folder / f"{name}.png", folder / f"{name}.txt", "1 0.5 0.5 0.5 0.5\n")
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    lines = "".join(f"data/obj_train_data/{name}.png\n" for name in "abc")
    (tmp_path / "train.txt").write_text(lines)
    return tmp_path


@pytest.mark.parametrize("name", ["obj.data", "cells.data"])
def test_darknet_description(darknet, name):
    (darknet / "obj.data").rename(darknet / name)
    for path in (darknet, darknet / name):
        dataset = load_dataset(path)
        assert dataset.format == "yolo"
        assert dataset.classes == ("cat", "dog")
        assert sizes(dataset) == {"train": 2, "val": 1}
        assert boxes(dataset) == [XYXY] * 3
        assert [s.class_ids.tolist() for s in dataset.split("train")] == [[1], [1]]
        assert dataset.split_source.startswith(f"{name} train")
        assert dataset.issues == ()


def test_darknet_description_with_issues(darknet):
    (darknet / "obj.data").write_text(
        "classes = 3\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n"
    )
    assert issues(load_dataset(darknet)) == [
        ("class-count", "obj.data", None),
        ("missing-image", "obj.data", None),
    ]
    (darknet / "obj.names").unlink()
    dataset = load_dataset(darknet)
    assert dataset.classes == ("0", "1", "2")
    assert ("class-names", "obj.data", None) in issues(dataset)


def test_issues_of_lists_stand_in_the_error(tmp_path, put):
    put(tmp_path / "images" / "a.png")
    (tmp_path / "train.txt").write_text("x/a1.png\nx/b1.png\n")
    with pytest.raises(DataError, match=r"(?s)no label files found.*train\.txt:1: missing-image"):
        load_dataset(tmp_path, format="yolo")


@pytest.mark.parametrize("described", [True, False])
def test_names_beside_the_labels(tmp_path, put, described):
    for name in "ab":
        put(tmp_path / f"images/train/{name}.png", tmp_path / f"labels/train/{name}.txt")
    (tmp_path / "labels/train/classes.txt").write_text("cat\ndog\n")
    if described:
        (tmp_path / "data.yaml").write_text("train: images/train\n")
    dataset = load_dataset(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert dataset.issues == ()


def test_two_files_of_names_that_disagree_are_a_issue(tmp_path, put):
    for part in ("train", "val"):
        put(tmp_path / f"images/{part}/{part}.png", tmp_path / f"labels/{part}/{part}.txt")
    (tmp_path / "labels/train/classes.txt").write_text("cat\ndog\n")
    (tmp_path / "labels/val/classes.txt").write_text("dog\ncat\n")
    dataset = load_dataset(tmp_path)
    assert dataset.classes == ("cat", "dog")
    (issue,) = dataset.issues
    assert (issue.kind, issue.file.parent.name) == ("class-names", "val")
