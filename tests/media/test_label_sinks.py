"""What annotation tools need is compared field by field with the forms that they document:

- labelImg (PASCAL VOC and YOLO; classes.txt beside the labels): github.com/HumanSignal/labelImg
- CVAT: docs.cvat.ai/docs/dataset_management/formats (PASCAL VOC, COCO)
- Label Studio: the YOLO converter of label-studio-sdk reads images/, labels/ and classes.txt
"""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from attendet.data import load_dataset
from attendet.detections import Detections
from attendet.errors import ConfigError
from attendet.media import Frame, Result
from attendet.media.label_sinks import LABEL_SINKS
from attendet.media.sinks import open_sinks
from attendet.media.sources import Source

CLASSES = ("cat", "hot dog", "é")
BOXES = np.array([[9.6, 20.4, 30.2, 60], [0, 0, 50, 50.25], [99.8, 79.9, 100, 80]], np.float32)


def _found(count: int = 3) -> Detections:
    scores = np.array([0.9, 0.5, 0.3], np.float32)
    ids = np.array([1, 0, 1])
    return Detections(BOXES[:count], scores[:count], ids[:count], CLASSES, (80, 100))


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    found = []
    for name, suffix in (("a", ".png"), ("my b", ".JPG"), ("c", ".png")):
        path = tmp_path / "in" / f"{name}{suffix}"
        Image.fromarray(rng.integers(0, 255, (80, 100, 3), dtype=np.uint8)).save(path)
        found.append(Source(name, path))
    return found


def _write(kind: str, folder: Path, sources: list[Source]) -> Path:
    """Write three images; nothing is found in the last one."""
    with open_sinks([kind], folder, sources, as_labels=True) as sinks:
        for source, count in zip(sources, (3, 1, 0), strict=True):
            image = np.asarray(Image.open(source.path))
            sinks[0].write(Result(Frame(source, image), _found(count)))
    return folder / kind


@pytest.mark.parametrize(("kind", "atol"), [("voc", 0.5), ("yolo", 1e-4), ("coco", 1e-4)])
def test_the_labels_read_back(
    tmp_path: Path, sources: list[Source], kind: str, atol: float
) -> None:
    dataset = load_dataset(_write(kind, tmp_path / "out", sources))

    assert dataset.format == kind
    assert dataset.classes == CLASSES
    assert not dataset.issues
    samples = {sample.path.stem: sample for sample in dataset.split("all")}
    assert sorted(samples) == ["a", "c", "my b"]
    for source, count in zip(sources, (3, 1, 0), strict=True):
        sample = samples[source.name]
        assert sample.path.read_bytes() == Path(source.path).read_bytes()
        assert sample.image_hw == (80, 100)
        assert sample.class_ids.tolist() == _found(count).class_ids.tolist()
        assert not sample.difficult.any()
        np.testing.assert_allclose(sample.boxes_xyxy[:2], BOXES[:count][:2], rtol=0, atol=atol)


def test_voc_has_the_fields_that_labelimg_and_cvat_read(
    tmp_path: Path, sources: list[Source]
) -> None:
    folder = _write("voc", tmp_path, sources)

    root = ElementTree.parse(folder / "Annotations/a.xml").getroot()
    assert root.tag == "annotation"
    assert root.findtext("folder") == "JPEGImages"
    assert root.findtext("filename") == "a.png"
    size = [root.findtext(f"size/{name}") for name in ("width", "height", "depth")]
    assert size == ["100", "80", "3"]
    objects = [
        [each.findtext("name"), each.findtext("difficult"), *(e.text for e in each[2])]
        for each in root.iter("object")
    ]
    # labelImg reads int(float(text)); the last box is a fraction of a pixel in the corner.
    assert objects == [
        ["hot dog", "0", "10", "20", "30", "60"],
        ["cat", "0", "0", "0", "50", "50"],
        ["hot dog", "0", "99", "79", "100", "80"],
    ]
    assert [each.tag for each in root.find("object/bndbox")] == ["xmin", "ymin", "xmax", "ymax"]
    assert (folder / "ImageSets/Main/default.txt").read_text() == "a\nmy b\nc\n"
    assert (folder / "classes.txt").read_text(encoding="utf-8") == "cat\nhot dog\né\n"


def test_yolo_has_five_numbers_a_line_and_the_classes_where_tools_look(
    tmp_path: Path, sources: list[Source]
) -> None:
    folder = _write("yolo", tmp_path, sources)

    lines = (folder / "labels/a.txt").read_text().splitlines()
    # labelImg splits at single spaces into exactly five.
    assert [len(line.split(" ")) for line in lines] == [5, 5, 5]
    assert lines[1] == "0 0.25 0.3140625 0.5 0.628125"
    assert (folder / "labels/c.txt").read_text() == ""
    for place in ("labels/classes.txt", "classes.txt"):
        assert (folder / place).read_text(encoding="utf-8") == "cat\nhot dog\né\n"
    assert sorted(path.name for path in (folder / "images").iterdir()) == [
        *("a.png", "c.png", "my b.jpg"),
    ]


def test_coco_has_categories_sizes_and_annotations(tmp_path: Path, sources: list[Source]) -> None:
    folder = _write("coco", tmp_path, sources)

    text = (folder / "annotations/instances_default.json").read_text(encoding="utf-8")
    document = json.loads(text)
    assert document["categories"] == [
        {"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)
    ]
    assert document["images"][1] == {
        **{"id": 2, "file_name": "my b.jpg", "width": 100, "height": 80},
    }
    assert document["annotations"][1] == {
        **{"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50.25]},
        **{"area": 2512.5, "iscrowd": 0},
    }
    assert [each["id"] for each in document["annotations"]] == [1, 2, 3, 4]


def test_frames_become_images_and_equal_names_do_not_meet(tmp_path: Path) -> None:
    image = np.full((80, 100, 3), 90, dtype=np.uint8)
    video, still = Source("street", Path("street.mp4"), "video"), Source("street_000002", "-")
    with open_sinks(["yolo"], tmp_path, [video, still], as_labels=True) as sinks:
        sinks[0].write(Result(Frame(video, image, 2, 0.1), _found(1)))
        sinks[0].write(Result(Frame(still, image), _found(2)))

    samples = load_dataset(tmp_path / "yolo").split("all")
    assert {sample.path.name: len(sample.class_ids) for sample in samples} == {
        "street_000002.jpg": 1,
        "street_000002_2.jpg": 2,
    }


@pytest.mark.parametrize("kind", LABEL_SINKS)
def test_corrected_labels_are_never_replaced(
    tmp_path: Path, sources: list[Source], kind: str
) -> None:
    _write(kind, tmp_path / "out", sources)

    with pytest.raises(ConfigError, match=rf"--as-labels must be new or empty; got .*{kind}"):
        _write(kind, tmp_path / "out", sources)


@pytest.mark.parametrize("kind", LABEL_SINKS)
def test_what_was_written_before_an_error_is_a_data_set(
    tmp_path: Path, sources: list[Source], kind: str
) -> None:
    def break_off() -> None:
        with open_sinks([kind], tmp_path, sources, as_labels=True) as sinks:
            image = np.asarray(Image.open(sources[0].path))
            sinks[0].write(Result(Frame(sources[0], image), _found()))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()

    assert len(load_dataset(tmp_path / kind).split("all")) == 1
