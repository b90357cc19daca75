"""Label files in another unit or order are made from good ones by rewriting each box."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from attendet.data import DataSet, Sample, load_dataset
from attendet.data.convert import convert_dataset
from attendet.data.coordinates import is_wrong_unit, require_coordinates
from attendet.data.sample import Box, RawSample
from attendet.errors import DataError

VOC_TAGS = re.compile("<xmin>(.+)</xmin><ymin>(.+)</ymin><xmax>(.+)</xmax><ymax>(.+)</ymax>")
CORNERS, XYWH = "x_min, y_min, x_max, y_max", "x_min, y_min, width, height"


def to_xywh(x1, y1, x2, y2):
    return x1, y1, x2 - x1, y2 - y1


def to_cxcywh(x1, y1, x2, y2):
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def scaled(box, width, height, side=1.0):
    return tuple(value * side / span for value, span in zip(box, (width, height) * 2, strict=True))


def polygon(x1, y1, x2, y2):
    return x1, y1, x2, y1, x2, y2, x1, y2


def made_set(folder, image) -> DataSet:
    """Return a data set of 36 boxes in 12 images of two sizes."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(12):
        width, height = [(160, 120), (300, 200)][number % 2]
        wh = np.array([width, height])
        path = image(folder / f"{number:02}.png", width, height)
        first = rng.uniform(0, wh * 0.7, (3, 2))
        boxes = np.concatenate([first, first + rng.uniform(8, wh * 0.29, (3, 2))], 1)
        boxes = np.round(boxes).astype(np.float32)
        ids, difficult = np.array([0, 1, 0]), np.zeros(3, bool)
        samples.append(Sample(path, (height, width), boxes, ids, difficult, path.stem))
    split = {"train": tuple(samples[:8]), "val": tuple(samples[8:])}
    return DataSet(folder, "voc", ("cat", "dog"), split, (), (), "")


@pytest.fixture
def made(tmp_path, image) -> DataSet:
    return made_set(tmp_path / "made", image)


@pytest.fixture(params=["made", "bccd", "pcb", "boards"])
def good(request, tmp_path, image) -> DataSet:
    """A data set with right labels, made or real."""
    if request.param == "made":
        return made_set(tmp_path / "made", image)
    dataset = load_dataset(request.getfixturevalue("shared_data") / request.param)
    return replace(dataset, splits={"train": dataset.split("val")})


def rewrite_yolo(root, change, files=None):
    """Rewrite the lines of label files as ``change(x1, y1, x2, y2 in pixels, width, height)``."""
    dataset = load_dataset(root)
    for sample in dataset.split("all"):
        file = root / "labels" / sample.path.relative_to(root / "images").with_suffix(".txt")
        if files is None or file.name in files:
            height, width = sample.image_hw
            boxes = zip(sample.class_ids, sample.boxes_xyxy.astype(float), strict=True)
            lines = [(i, *change(tuple(box), width, height)) for i, box in boxes]
            file.write_text("".join(" ".join(f"{n:g}" for n in line) + "\n" for line in lines))


def rewrite_coco(root, change):
    for path in (root / "annotations").iterdir():
        document = json.loads(path.read_text())
        sizes = {row["id"]: (row["width"], row["height"]) for row in document["images"]}
        for row in document["annotations"]:
            x, y, width, height = row["bbox"]
            row["bbox"] = change((x, y, x + width, y + height), *sizes[row["image_id"]])
        path.write_text(json.dumps(document))


def rewrite_voc(root, change):
    for path in (root / "Annotations").iterdir():
        text = path.read_text()
        size = (int(re.search(f"<{side}>(.+)</{side}>", text)[1]) for side in ("width", "height"))
        width, height = size

        def rewritten(match, width=width, height=height):
            numbers = change(tuple(map(float, match.groups())), width, height)
            tags = zip(("xmin", "ymin", "xmax", "ymax"), numbers, strict=True)
            return "".join(f"<{tag}>{number:g}</{tag}>" for tag, number in tags)

        path.write_text(VOC_TAGS.sub(rewritten, text))


REWRITE = {"yolo": rewrite_yolo, "coco": rewrite_coco, "voc": rewrite_voc}
# Format, change, whether the unit is another one, and what the error says.
CASES = {
    "yolo pixels": ("yolo", lambda box, w, h: to_cxcywh(*box), True, "pixels"),
    "yolo percent": (
        "yolo",
        lambda box, w, h: to_cxcywh(*scaled(box, w, h, 100)),
        True,
        "(pixels or )?percent",
    ),
    "yolo polygons in pixels": ("yolo", lambda box, w, h: polygon(*box), True, "pixels"),
    "yolo pixel corners": ("yolo", lambda box, w, h: box, True, f"{CORNERS} in pixels"),
    "yolo corners": ("yolo", scaled, False, f"{CORNERS} in fractions"),
    "coco corners": ("coco", lambda box, w, h: box, False, f"{CORNERS} in pixels"),
    "coco fractions": ("coco", lambda box, w, h: to_xywh(*scaled(box, w, h)), True, "fractions"),
    "voc sizes": ("voc", lambda box, w, h: to_xywh(*box), False, f"{XYWH} in pixels"),
    "voc fractions": ("voc", scaled, True, "fractions"),
}


@pytest.mark.parametrize(("format", "change", "other_unit", "cause"), CASES.values(), ids=CASES)
def test_other_coordinates_are_an_error_that_names_them(
    tmp_path, good, format, change, other_unit, cause
):
    root = tmp_path / "set"
    convert_dataset(good, root, format, link=True)
    boxes = sum(len(sample.class_ids) for sample in good.split("all"))
    assert sum(len(sample.class_ids) for sample in load_dataset(root).split("all")) == boxes
    REWRITE[format](root, change)
    with pytest.raises(DataError, match=rf"^boxes must be .*The values match {cause}") as raised:
        load_dataset(root, require_train=False)
    assert ("wrong-unit" in str(raised.value)) == other_unit


@pytest.mark.parametrize("format", ["voc", "coco", "yolo"])
def test_boxes_that_leave_their_image_are_only_clipped(tmp_path, made, format):
    """All boxes are as large as the image and leave it by 4 %."""
    convert_dataset(made, tmp_path / "set", format)
    written = {"voc": lambda *box: box, "coco": to_xywh, "yolo": to_cxcywh}[format]

    def change(box, width, height):
        box = written(0.04 * width, 0.04 * height, 1.04 * width, 1.04 * height)
        return scaled(box, width, height) if format == "yolo" else box

    REWRITE[format](tmp_path / "set", change)
    kinds = Counter(issue.kind for issue in load_dataset(tmp_path / "set").issues)
    assert kinds == {"partly-outside": 36, "near-duplicate": kinds["near-duplicate"]}


def test_a_file_in_pixels_among_good_ones_skips_its_image(tmp_path, made):
    root = tmp_path / "set"
    convert_dataset(made, root, "yolo")
    rewrite_yolo(root, CASES["yolo pixels"][1], ["03.txt", "10.txt"])
    dataset = load_dataset(root)
    names = {f"{number:02}" for number in range(12)}
    assert {sample.path.stem for sample in dataset.split("all")} == names - {"03", "10"}
    assert [(i.kind, i.action, i.file.name, i.line) for i in dataset.issues] == [
        ("wrong-unit", "skipped image", "03.txt", 1),
        ("wrong-unit", "skipped image", "10.txt", 1),
    ]
    assert dataset.issues[0].message == (
        "3 of 3 boxes are in another unit; fractions of the image must be at most 1; "
        "the values match pixels"
    )


@pytest.mark.parametrize("format", ["voc", "coco"])
def test_an_image_in_fractions_among_good_ones_is_skipped(tmp_path, made, format):
    root = tmp_path / "set"
    convert_dataset(made, root, format)
    turn = itertools.count()

    def change(box, width, height):
        """Return the first three boxes, those of one image, in fractions."""
        box = scaled(box, width, height) if next(turn) < 3 else box
        return to_xywh(*box) if format == "coco" else box

    REWRITE[format](root, change)
    dataset = load_dataset(root)
    shown = [(issue.kind, issue.action) for issue in dataset.issues]
    assert shown == [("wrong-unit", "skipped image")]
    assert (
        "3 of 3 boxes are in another unit; boxes must be in pixels; the values match fractions"
    ) in dataset.issues[0].message
    assert len(dataset.split("all")) == 11


def test_labels_of_images_as_stored_are_in_order(tmp_path, image):
    """Of a turned image the labels may state the stored size, in which their boxes fit."""
    path = image(tmp_path / "a.jpg", 300, 100, orientation=6)
    boxes = [Box((200 + n, 10, 280 + n, 90), "cat") for n in range(12)]
    require_coordinates([RawSample(path, path, boxes, declared_hw=(100, 300))], "voc")
    upright = RawSample(path, path, [Box((1, 5, 70 + n, 250), "cat") for n in range(12)])
    require_coordinates([upright], "voc")
    in_other_order = [Box((40, 200, 30 + n, 80), "cat") for n in range(10)]
    with pytest.raises(DataError, match=f"got 10 of 10 boxes .* match {XYWH}"):
        require_coordinates([RawSample(path, path, in_other_order)], "voc")


@pytest.mark.parametrize("line", ["0 30 20 60 60", "0 30 20 60 20 60 40", "0 50 50.5 10 20"])
def test_a_line_in_pixels_among_good_ones_is_dropped(tmp_path, made, line):
    root = tmp_path / "set"
    convert_dataset(made, root, "yolo")
    with (root / "labels" / "train" / "00.txt").open("a") as file:
        file.write(f"{line}\n")
    dataset = load_dataset(root)
    assert [(i.kind, i.action, i.line) for i in dataset.issues] == [("wrong-unit", "dropped", 4)]
    assert sum(len(sample.class_ids) for sample in dataset.split("all")) == 36


@pytest.fixture
def one_line(tmp_path, image):
    """Write a YOLO set of one line in an image of 100 x 80 pixels."""

    def write(line):
        image(tmp_path / "images" / "a.png", 100, 80)
        (tmp_path / "labels").mkdir()
        (tmp_path / "labels" / "a.txt").write_text(line)
        return tmp_path

    return write


def test_one_line_in_pixels_alone_is_an_error(one_line):
    root = one_line("0 30 20 60 60\n")
    with pytest.raises(
        DataError, match=r"wrong-unit, such as .*a\.txt:1\)\. The values match .*pixels"
    ):
        load_dataset(root, require_train=False)


def test_values_just_above_one_are_rounding(one_line):
    dataset = load_dataset(one_line("0 0.5 0.5 1.005 1\n"))
    assert dataset.issues == ()
    assert dataset.split("train")[0].boxes_xyxy.tolist() == [[0, 0, 100, 80]]


@pytest.mark.parametrize("format", ["voc", "coco"])
def test_labels_of_larger_images_are_an_error(tmp_path, made, image, format):
    """The images were scaled down, and the labels were not."""
    root = tmp_path / "set"
    convert_dataset(made, root, format)
    for file in (path for path in root.rglob("*") if path.suffix in (".jpg", ".png")):
        with Image.open(file) as pil_image:
            image(file, pil_image.width // 2, pil_image.height // 2)
    cause = "The values match pixels of the image size that the labels state"
    with pytest.raises(DataError, match=cause):
        load_dataset(root)


def test_few_boxes_are_no_evidence_of_corners(tmp_path, made):
    convert_dataset(
        replace(made, splits={"train": made.split("train")[:3]}), tmp_path / "set", "coco"
    )
    rewrite_coco(tmp_path / "set", lambda box, width, height: box)
    assert "partly-outside" in {issue.kind for issue in load_dataset(tmp_path / "set").issues}


def test_which_boxes_are_certainly_in_another_unit():
    """A box of one whole pixel may be a slip; one with decimals in it is in fractions."""
    boxes = np.array([[0, 0, 1, 1], [0.25, 0.5, 1, 1], [0.25, 0.5, 1.5, 1], [np.nan, 0, 1, 1]])
    assert is_wrong_unit(boxes, relative=False).tolist() == [False, True, False, False]
    boxes = np.array([[0.2, 0.2, 2.2, 0.4], [0.9, 0.9, 1.2, 1], [np.inf, 0, 1, 1], [9, 0, 10, 1]])
    assert is_wrong_unit(boxes, relative=True).tolist() == [True, True, False, True]
