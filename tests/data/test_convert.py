from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attendet.data import DataSet, Sample, load_dataset
from attendet.data.convert import convert_dataset
from attendet.errors import ConfigError

WIDTH, HEIGHT = 60, 50
FORMATS = ("voc", "yolo", "coco")


@st.composite
def box_arrays(draw):
    """Up to 4 boxes inside the image, sides of at least 1/16 px."""
    boxes = []
    for _ in range(draw(st.integers(0, 4))):
        left = draw(st.floats(0, WIDTH - 1, width=32))
        top = draw(st.floats(0, HEIGHT - 1, width=32))
        # A box within the first pixel would be one in fractions.
        right = draw(st.floats(max(left + 0.0625, 1.0625), WIDTH).map(np.float32))
        bottom = draw(st.floats(top + 0.0625, HEIGHT).map(np.float32))
        boxes.append((left, top, min(right, WIDTH), min(bottom, HEIGHT)))
    return np.array(boxes, dtype=np.float32).reshape(-1, 4)


def make(folder: Path, splits: dict[str, list[np.ndarray]], classes=("cat", "dog & <co>", "é")):
    """Return a data set with these boxes and an image each; class ids count up."""
    numbers = itertools.count()
    parts = {}
    for name, arrays in splits.items():
        samples = []
        for boxes in arrays:
            number = next(numbers)
            path = folder / f"{number}.png"
            if not path.exists():
                Image.new("RGB", (WIDTH, HEIGHT), (number, 0, 0)).save(path)
            class_ids = (np.arange(len(boxes)) + number) % len(classes)
            difficult = np.zeros(len(boxes), dtype=bool)
            samples.append(Sample(path, (HEIGHT, WIDTH), boxes, class_ids, difficult, path.stem))
        parts[name] = tuple(samples)
    return DataSet(folder, "voc", tuple(classes), parts, (), (), "by hand")


def assert_same(again: DataSet, dataset: DataSet, atol: float) -> None:
    assert again.classes == dataset.classes
    assert {name: len(part) for name, part in again.splits.items()} == {
        name: len(part) for name, part in dataset.splits.items()
    }
    for name, part in dataset.splits.items():
        there = {Path(sample.key).name: sample for sample in again.split(name)}
        for sample in part:
            found = there[Path(sample.key).name]
            assert found.path.read_bytes() == sample.path.read_bytes()
            assert found.image_hw == sample.image_hw
            assert found.class_ids.tolist() == sample.class_ids.tolist()
            np.testing.assert_allclose(found.boxes_xyxy, sample.boxes_xyxy, rtol=0, atol=atol)


@pytest.mark.parametrize("to", FORMATS)
@settings(max_examples=25, deadline=None)
@given(arrays=st.lists(box_arrays(), min_size=2, max_size=4))
def test_round_trip(tmp_path_factory, to, arrays):
    folder = tmp_path_factory.mktemp("round")
    # At least one box, or there would be nothing to recognize a data set by.
    first = np.array([[1, 2, 30.5, 40]], dtype=np.float32)
    dataset = make(folder, {"train": [first, *arrays[1:]], "val": arrays[:1]})
    convert_dataset(dataset, folder / "out", to)
    again = load_dataset(folder / "out")
    assert again.format == to
    assert not [issue for issue in again.issues if issue.kind != "near-duplicate"]
    assert_same(again, dataset, atol=1e-5 if to == "yolo" else 0)


@pytest.mark.parametrize("to", ["voc", "coco"])
def test_difficult_boxes_are_marked(tmp_path, to):
    dataset = make(tmp_path, {"train": [np.float32([[1, 1, 9, 9], [20, 20, 40, 40]])]})
    dataset.split("train")[0].difficult[1] = True
    convert_dataset(dataset, tmp_path / "out", to)
    again = load_dataset(tmp_path / "out")
    assert again.split("train")[0].difficult.tolist() == [False, True]


def test_difficult_boxes_are_skipped_for_yolo_and_counted(tmp_path):
    dataset = make(tmp_path, {"train": [np.float32([[1, 1, 9, 9], [20, 20, 40, 40]])]})
    dataset.split("train")[0].difficult[1] = True
    done = convert_dataset(dataset, tmp_path / "out", "yolo")
    assert (done.images, done.boxes, done.not_written) == (1, 1, 1)
    assert load_dataset(tmp_path / "out").split("train")[0].boxes_xyxy.tolist() == [[1, 1, 9, 9]]


@pytest.mark.parametrize("to", FORMATS)
def test_keys_that_climb_or_meet_become_plain_names(tmp_path, to):
    boxes = np.float32([[1, 1, 9, 9]])
    dataset = make(tmp_path, {"train": [boxes] * 4})
    odd = ("../../up", "a/one", "b/one", "b_one")
    renamed = tuple(
        Sample(s.path, s.image_hw, s.boxes_xyxy, s.class_ids, s.difficult, key)
        for s, key in zip(dataset.split("train"), odd, strict=True)
    )
    dataset.splits["train"] = renamed
    convert_dataset(dataset, tmp_path / "deep" / "er" / "out", to)
    images = sorted(path.stem for path in (tmp_path / "deep/er/out").rglob("*.png"))
    assert images == ["a_one", "b_one", "b_one_2", "up"]
    assert not (tmp_path / "deep" / "up.png").exists()


def test_names_with_wide_spaces_keep_their_boxes(tmp_path):
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (tmp_path / "classes.txt").write_text("cat\nred \t cell\n")
    dataset = load_dataset(tmp_path)
    assert dataset.classes == ("cat", "red cell")
    for to in FORMATS:
        convert_dataset(dataset, tmp_path / "out" / to, to)
        again = load_dataset(tmp_path / "out" / to)
        assert again.issues == ()
        assert again.classes == dataset.classes
        assert again.split("train")[0].class_ids.tolist() == [1]
    given = load_dataset(tmp_path / "out" / "voc", classes=["red  cell"])
    assert given.split("train")[0].class_ids.tolist() == [0]


def test_links_point_to_the_same_image(tmp_path):
    dataset = make(tmp_path, {"train": [np.float32([[1, 1, 9, 9]])]})
    convert_dataset(dataset, tmp_path / "out", "voc", link=True)
    assert (tmp_path / "out/JPEGImages/0.png").samefile(tmp_path / "0.png")
    convert_dataset(dataset, tmp_path / "copied", "voc")
    assert not (tmp_path / "copied/JPEGImages/0.png").samefile(tmp_path / "0.png")


@pytest.mark.parametrize("to", FORMATS)
def test_an_interrupted_conversion_leaves_no_part_of_a_set(tmp_path, monkeypatch, to):
    dataset = make(tmp_path, {"train": [np.float32([[1, 1, 9, 9]])] * 3})
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_dataset(dataset, Path(), to, progress=interrupt)
    assert list(Path().iterdir()) == []
    convert_dataset(dataset, Path(), to)
    assert len(load_dataset(Path()).split("all")) == 3


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    dataset = make(tmp_path, {"train": [np.float32([[1, 1, 9, 9]])]})
    with pytest.raises(ConfigError, match="empty or new folder"):
        convert_dataset(dataset, tmp_path, "voc")
    with pytest.raises(ConfigError, match="Did you mean 'yolo'"):
        convert_dataset(dataset, tmp_path / "out", "yolov4")


def test_round_the_world_with_cards(tmp_path, shared_data):
    dataset = load_dataset(shared_data / "cards")
    for to in FORMATS:
        convert_dataset(dataset, tmp_path / to, to, link=True)
        assert_same(load_dataset(tmp_path / to), dataset, atol=1e-4 if to == "yolo" else 0)
