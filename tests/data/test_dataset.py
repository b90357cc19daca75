from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attendet.data import load_dataset
from attendet.data.stats import describe
from attendet.errors import ConfigError, DataError

CAT, DOG = ("cat", 1, 1, 9, 9), ("dog", 2, 2, 39, 29)


def test_no_torch_is_imported():
    code = (
        "import sys, attendet.data as d; d.load_dataset; d.ImageCache; "
        "assert 'torch' not in sys.modules and 'ImageCache' in dir(d)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_path_that_is_not_there():
    with pytest.raises(DataError, match=r"data set not found \(nowhere\)"):
        load_dataset("nowhere")
    with pytest.raises(DataError, match="not found"):
        load_dataset("nowhere", format="voc")


def test_an_unclear_folder_says_what_was_found_and_looked_for(tmp_path):
    (tmp_path / "readme.md").touch()
    (tmp_path / "things").mkdir()
    with pytest.raises(DataError) as caught:
        load_dataset(tmp_path)
    for words in ("found readme.md, things/", "VOC:", "YOLO:", "COCO:"):
        assert words in str(caught.value)


def test_two_formats_in_one_folder_need_a_word(tmp_path, voc_folder):
    root = voc_folder(tmp_path, [[CAT]] * 3)
    for xml in root.glob("*.xml"):
        xml.with_suffix(".txt").write_text("0 0.5 0.5 0.5 0.5\n")
    with pytest.raises(DataError, match=r"voc .* yolo .*--format"):
        load_dataset(root)
    assert load_dataset(root, format="voc").classes == ("cat",)
    assert load_dataset(root, format="yolo").classes == ("0",)


def test_an_unknown_format_and_an_unknown_split(tmp_path, voc_folder):
    root = voc_folder(tmp_path, [[CAT]] * 8)
    with pytest.raises(ConfigError, match="Did you mean 'coco'"):
        load_dataset(root, format="cocoo")
    with pytest.raises(ConfigError, match="Did you mean 'train'"):
        load_dataset(root).split("trian")


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "a.csv").touch()
    with pytest.raises(DataError, match=r"a\.csv"):
        load_dataset(tmp_path / "a.csv")


def test_strict_says_how_many_and_which(tmp_path, voc_folder):
    root = voc_folder(tmp_path, [[CAT, ("cat", 5, 5, 5, 5)]] * 8)
    assert len(load_dataset(root).issues) == 8
    with pytest.raises(DataError, match=r"(?s)8 issues.*p00\.xml:5: zero-size.*and 3 more"):
        load_dataset(root, strict=True)


def test_nothing_to_train_on(tmp_path, voc_folder):
    root = voc_folder(tmp_path / "test", [[CAT]] * 2).parent
    with pytest.raises(DataError, match="must contain images to train on; got splits: test"):
        load_dataset(root)
    assert set(load_dataset(root, require_train=False).splits) == {"test"}


def test_one_image_is_a_training_set(tmp_path, voc_folder):
    dataset = load_dataset(voc_folder(tmp_path, [[CAT]]))
    assert {name: len(part) for name, part in dataset.splits.items()} == {"train": 1}


def test_equal_names_in_two_folders_have_two_keys(tmp_path, voc_folder):
    voc_folder(tmp_path / "train", [[CAT]] * 3)
    voc_folder(tmp_path / "val", [[CAT]] * 3)
    samples = load_dataset(tmp_path).split("all")
    assert len({sample.key for sample in samples}) == 6


def test_equal_stems_have_two_keys(tmp_path, image):
    for name in ("a.png", "a.jpg", "b.png"):
        image(tmp_path / "images" / name)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    samples = load_dataset(tmp_path).split("all")
    assert {s.key for s in samples} == {"images/a.png", "images/a.jpg", "images/b"}


def test_the_fingerprint_changes_with_what_it_covers(tmp_path, voc_folder, annotation):
    root = voc_folder(tmp_path / "train", [[CAT], [DOG]]).parent
    voc_folder(tmp_path / "val", [[CAT]])

    def prints(**options):
        dataset = load_dataset(root, **options)
        return [dataset.fingerprint(name) for name in ("train", "val")]

    before = prints()
    assert len(before[0]) == 16
    assert int(before[0], 16) >= 0
    assert prints() == before
    with_class = prints(classes=["cat", "dog", "cow"])
    assert with_class[0] != before[0]
    assert with_class[1] != before[1]
    annotation(root / "train/p00.xml", [("cat", 1, 1, 9, 10)])
    moved = prints()
    assert moved[0] != before[0]
    assert moved[1] == before[1]
    (root / "val/p00.png").write_bytes((root / "val/p00.png").read_bytes() + b"\0")
    assert prints()[1] != before[1]


def test_the_order_of_lists_changes_nothing(tmp_path, voc_folder):
    root = voc_folder(tmp_path, [[CAT], [DOG], [CAT, DOG], [DOG]])

    def load(train, test):
        path = root / "attendet-splits.json"
        path.write_text(json.dumps({"splits": {"train": train, "test": test}}))
        dataset = load_dataset(root)
        return {
            name: ([sample.key for sample in part], dataset.fingerprint(name))
            for name, part in dataset.splits.items()
        }

    assert load(["p01", "p00"], ["p03", "p02"]) == load(["p00", "p01"], ["p02", "p03"])


def test_describe_counts(tmp_path, voc_folder):
    voc_folder(tmp_path / "train", [[CAT, DOG], [DOG], []])
    voc_folder(tmp_path / "val", [[CAT]])
    record = describe(load_dataset(tmp_path))
    train = record["splits"]["train"]
    assert (train["images"], train["background_images"], train["boxes"]) == (3, 1, 3)
    assert train["per_class"] == {"cat": 1, "dog": 2}
    assert (train["small_boxes"], train["medium_boxes"], train["large_boxes"]) == (3, 0, 0)
    assert train["median_box_wh"] == [37, 27]
    assert train["image_sizes_wh"] == [{"width": 40, "height": 30, "images": 3}]


def test_bccd_loads_in_a_moment(shared_data: Path):
    start = time.process_time()
    load_dataset(shared_data / "bccd")
    assert time.process_time() - start < 2  # 0.3 s on an idle core; slack for a busy machine
