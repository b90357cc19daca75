from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from attendet.detections import Detections
from attendet.errors import ConfigError, MissingExtraError


@pytest.fixture
def found() -> Detections:
    return Detections(
        boxes_xyxy=np.array([[10, 20, 50, 80], [0, 0, 200, 100], [5, 5, 6, 7]], dtype=np.float32),
        scores=np.array([0.9, 0.5, 0.25], dtype=np.float32),
        class_ids=np.array([1, 0, 1], dtype=np.int64),
        classes=("cat", "dog"),
        image_hw=(100, 200),
    )


def test_length_names_and_iteration(found: Detections) -> None:
    assert len(found) == 3
    assert found.names == ["dog", "cat", "dog"]
    assert [one["name"] for one in found] == found.names
    assert found.to_dicts()[0] == {
        "class_id": 1,
        "name": "dog",
        "score": 0.9,
        "box_xyxy": [10.0, 20.0, 50.0, 80.0],
    }


def test_dictionaries_and_coco_entries_are_plain_json(found: Detections) -> None:
    assert json.loads(json.dumps(found.to_dicts())) == found.to_dicts()
    assert json.loads(json.dumps(found.to_coco(7))) == found.to_coco(7)


@pytest.mark.parametrize(
    ("index", "scores"),
    [
        (slice(1, None), [0.5, 0.25]),
        (np.array([True, False, True]), [0.9, 0.25]),
        (np.array([2, 0]), [0.25, 0.9]),
        ([1], [0.5]),
        ([], []),
        (slice(0, 0), []),
    ],
)
def test_indexing(found: Detections, index, scores: list[float]) -> None:
    picked = found[index]
    assert picked.scores.round(2).tolist() == pytest.approx(scores)
    assert picked.boxes_xyxy.shape == (len(scores), 4)
    assert len(picked.class_ids) == len(scores)
    assert (picked.classes, picked.image_hw) == (found.classes, found.image_hw)


def test_indexing_one_keeps_the_shapes(found: Detections) -> None:
    for index in (0, 2, -1):
        one = found[index]
        assert len(one) == 1
        assert one.boxes_xyxy.tolist() == [found.boxes_xyxy[index].tolist()]
        assert one.to_dicts() == [found.to_dicts()[index]]
    with pytest.raises(IndexError):
        found[3]


def test_coco_entries(found: Detections) -> None:
    assert found.to_coco("a.jpg")[0] == {
        "image_id": "a.jpg",
        "category_id": 2,
        "bbox": [10.0, 20.0, 40.0, 60.0],
        "score": 0.9,
    }


def test_yolo_text_round_trip(found: Detections) -> None:
    table = np.array([line.split() for line in found.to_yolo().splitlines()], dtype=float)
    assert table[:, 0].tolist() == found.class_ids.tolist()
    np.testing.assert_allclose(table[:, 5], found.scores, atol=1e-6)
    x, y, width, height = table[:, 1:5].T
    edges = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    boxes = np.stack(edges, axis=1) * [200, 100, 200, 100]
    np.testing.assert_allclose(boxes, found.boxes_xyxy, atol=2e-4)


def test_no_detections_in_every_format() -> None:
    nothing = Detections.empty(("cat",), (10, 20))
    assert len(nothing) == 0
    assert nothing.boxes_xyxy.shape == (0, 4)
    assert nothing.class_ids.dtype == np.int64
    assert nothing.to_dicts() == []
    assert nothing.to_coco(1) == []
    assert nothing.to_yolo() == ""
    assert nothing.names == []


def test_to_supervision(found: Detections) -> None:
    supervision = pytest.importorskip("supervision", reason="needs the supervision extra")
    theirs = found.to_supervision()
    assert isinstance(theirs, supervision.Detections)
    np.testing.assert_array_equal(theirs.xyxy, found.boxes_xyxy)
    np.testing.assert_array_equal(theirs.confidence, found.scores)
    assert theirs.class_id.tolist() == found.class_ids.tolist()
    assert theirs.data["class_name"].tolist() == found.names
    theirs.xyxy[0] = 0
    assert found.boxes_xyxy[0, 0] == 10


def test_to_supervision_of_no_detections() -> None:
    pytest.importorskip("supervision", reason="needs the supervision extra")
    theirs = Detections.empty(("cat",), (10, 20)).to_supervision()
    assert len(theirs) == 0
    assert theirs.is_empty()


def test_from_supervision_gives_back_what_was_sent(found: Detections) -> None:
    pytest.importorskip("supervision", reason="needs the supervision extra")
    theirs = found.to_supervision()
    order = np.argsort(found.scores)  # the worst first

    again = Detections.from_supervision(theirs[order], found.classes, found.image_hw)

    assert again.to_dicts() == found.to_dicts()
    assert again.image_hw == found.image_hw
    assert again.boxes_xyxy.dtype == again.scores.dtype == np.float32


def test_from_supervision_without_scores_or_with_tracks() -> None:
    sv = pytest.importorskip("supervision", reason="needs the supervision extra")
    boxes = np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    theirs = sv.Detections(boxes, class_id=np.array([1, 0]), tracker_id=np.array([7, 9]))

    found = Detections.from_supervision(theirs, ["cat", "dog"], (10, 20))

    assert (found.names, found.scores.tolist()) == (["dog", "cat"], [1, 1])
    assert found.track_ids is not None
    assert found.track_ids.tolist() == [7, 9]


@pytest.mark.parametrize("ids", [None, [0, 2]])
def test_from_supervision_needs_ids_of_known_classes(ids: list[int] | None) -> None:
    sv = pytest.importorskip("supervision", reason="needs the supervision extra")
    boxes = np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    theirs = sv.Detections(boxes, class_id=None if ids is None else np.array(ids))

    with pytest.raises(ConfigError, match="class_id must be 0 to 1"):
        Detections.from_supervision(theirs, ["cat", "dog"], (10, 20))


def test_supervision_is_an_extra(found: Detections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtraError, match=r"attendet\[supervision\]"):
        found.to_supervision()
