from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attendet.errors import ConfigError, ImageError
from attendet.inference import Detector
from attendet.inference import detector as detector_module
from attendet.inference.runtimes.base import Limits

BOX = [100, 50, 300, 250]


def _boxes_near(detections: Any, box: list[int], within: float) -> None:
    assert len(detections) == 1
    np.testing.assert_allclose(detections.boxes_xyxy[0], box, atol=within)


@pytest.mark.parametrize("resize", ["rect", "letterbox", "stretch"])
def test_every_kind_of_source_gives_the_same_detections(
    bright: Any, scene: Any, tmp_path: Path, resize: str
) -> None:
    detector = Detector(bright(preprocess={"resize": resize, "color": "rgb"}))
    image = scene()
    path = tmp_path / "one.png"
    Image.fromarray(image).save(path)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")

    sources = (image, path, str(path), stream.getvalue(), Image.fromarray(image))
    for found in (*map(detector.predict, sources), *detector.predict_batch(sources)):
        _boxes_near(found, BOX, within=1.6)
        assert found.names == ["dog"]
        assert found.image_hw == (480, 640)
        assert found.classes == ("cat", "dog")


def test_boxes_are_in_the_image_after_exif_rotation(bright: Any, scene: Any) -> None:
    pil_image = Image.fromarray(np.rot90(scene()).copy())
    exif = pil_image.getexif()
    exif[0x0112] = 6  # rotate a quarter clockwise: the scene again
    pil_image.info["exif"] = exif.tobytes()
    stream = io.BytesIO()
    pil_image.save(stream, "jpeg", exif=exif, quality=95)

    _boxes_near(Detector(bright()).predict(stream.getvalue()), BOX, within=2.5)


def test_a_batch_of_mixed_sizes_keeps_its_order_and_runs_by_size(bright: Any, scene: Any) -> None:
    runtime = bright()
    detector = Detector(runtime)
    images = [scene(), scene((640, 480)), scene((960, 1280)), scene((640, 480), (9, 9, 99, 99))]

    found = detector.predict_batch(images)

    assert sorted(runtime.shapes) == [(2, 320, 416, 3), (2, 416, 320, 3)]
    for image, one in zip(images, found, strict=True):
        alone = detector.predict(image)
        assert one.image_hw == image.shape[:2]
        np.testing.assert_array_equal(one.boxes_xyxy, alone.boxes_xyxy)


def test_a_long_list_runs_in_bounded_batches(
    bright: Any, scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector_module, "MAX_BATCH", 2)
    runtime = bright()

    found = Detector(runtime).predict_batch([scene()] * 5)

    assert [shape[0] for shape in runtime.shapes] == [2, 2, 1]
    assert [len(one) for one in found] == [1] * 5


def test_an_empty_batch(bright: Any) -> None:
    assert Detector(bright()).predict_batch([]) == []


def test_a_bgr_network_sees_blue_first(bright: Any, scene: Any) -> None:
    blue = scene() * np.array([0, 0, 1], dtype=np.uint8)

    assert len(Detector(bright()).predict(blue)) == 0
    detector = Detector(bright(preprocess={"resize": "rect", "color": "bgr"}))
    _boxes_near(detector.predict(blue), BOX, within=1.6)


def test_thresholds_of_a_call_override_the_detector(bright: Any, scene: Any) -> None:
    detector = Detector(bright(), confidence=0.95)

    assert len(detector.predict(scene())) == 0
    assert detector.predict(scene(), confidence=0.5).names == ["dog"]
    both = detector.predict(scene(), confidence=0.1, multi_label=True)
    assert both.names == ["dog", "cat"]
    only = detector.predict(scene(), confidence=0.1, multi_label=True, only=["cat"])
    assert only.names == ["cat"]
    assert len(detector.predict(scene(), confidence=0.1, multi_label=True, max_detections=1)) == 1


def test_another_input_size(bright: Any, scene: Any) -> None:
    runtime = bright()
    Detector(runtime, input_hw=(640, 640)).predict(scene())

    assert runtime.shapes == [(1, 480, 640, 3)]
    with pytest.raises(ConfigError, match=r"multiples of 32; got \(400, 416\). Nearest: 384x416"):
        Detector(runtime, input_hw=(400, 416))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((10, 10), dtype=np.uint8),
        np.zeros((10, 10, 4), dtype=np.uint8),
        np.zeros((0, 10, 3), dtype=np.uint8),
        np.zeros((10, 10, 3), dtype=np.float32),
    ],
)
def test_an_array_that_is_not_an_image_is_refused(bright: Any, wrong: Any) -> None:
    with pytest.raises(ImageError, match=r"image must be uint8 RGB of shape \(height, width"):
        Detector(bright()).predict(wrong)


def test_other_sources_are_refused(bright: Any, tmp_path: Path) -> None:
    detector = Detector(bright())
    with pytest.raises(ImageError, match="a PIL image; got int"):
        detector.predict(3)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="image not found"):
        detector.predict(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="a PIL image; got list"):
        detector.predict_batch([np.zeros((32, 32, 3), dtype=np.uint8).tolist()])
    with pytest.raises(ConfigError, match="only must be a list of class names; got 'dog'"):
        detector.predict(np.zeros((32, 32, 3), dtype=np.uint8), only="dog")
    with pytest.raises(ConfigError, match=r"class must be a known name.*'dog'"):
        detector.predict(np.zeros((32, 32, 3), dtype=np.uint8), only=["dig"])


def test_a_truncated_pil_image_is_refused(bright: Any, folder: Path) -> None:
    with (
        Image.open(folder / "d.jpg") as pil_image,
        pytest.raises(ImageError, match="truncated or broken"),
    ):
        Detector(bright()).predict(pil_image)


# --- thresholds of a file with suppression ------------------------------------------------------


def _limited(bright: Any) -> Any:
    runtime = bright()
    runtime.limits = Limits(confidence=0.3, nms_iou=0.5, max_detections=50)
    return runtime


@pytest.mark.parametrize(
    ("looser", "message"),
    [
        ({"confidence": 0.2}, r"confidence must be at least 0.3, .* got 0.2\..* --confidence, or"),
        ({"nms_iou": 0.6}, r"nms_iou must be at most 0.5, .* got 0.6\..* another --nms-iou, or"),
        (
            {"max_detections": 1000},
            r"max_detections must be at most 50, .* got 1000\..* another --max-detections, or",
        ),
    ],
)
def test_thresholds_of_a_file_cannot_be_made_looser(
    bright: Any, scene: Any, looser: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Detector(_limited(bright), **looser)
    with pytest.raises(ConfigError, match=message):
        Detector(_limited(bright)).predict(scene(), **looser)


def test_thresholds_of_a_file_can_be_made_stricter(bright: Any, scene: Any) -> None:
    detector = Detector(_limited(bright), confidence=0.5, nms_iou=0.4, max_detections=49)

    assert len(detector.predict(scene(), max_detections=1)) == 1
    assert Detector(_limited(bright)).selection.max_detections == 50
    assert Detector(bright()).selection.max_detections == 300
