"""The page of the server in a real browser."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import attendet
from attendet.inference import Detector
from attendet.web.app import create_app
from attendet.web.limits import ServeLimits

pytest.importorskip("selenium")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pytest.importorskip("torch")
    from attendet.exporters.parity import synthetic_images

    path = tmp_path / "one.png"
    Image.fromarray(synthetic_images(1, seed=5)[0]).resize((200, 150)).save(path)
    return path


def test_the_page_shows_what_the_detector_finds(
    serve: Callable[[Any], str], detector_page: Any, exported: dict[str, Path], image: Path
) -> None:
    detector = Detector(attendet.load(exported["onnx"], "onnx").runtime, 0.3)
    url = serve(create_app(detector, name="cats"))
    detector_page.open(url)
    assert detector_page.text("backend") == "ONNX Runtime on the server"
    detector_page.upload(image)

    expected = detector.predict(image)
    assert len(expected) > 1
    assert detector_page.saved_json()["detections"] == expected.to_dicts()

    middle = float(expected.scores[len(expected) // 2])
    detector_page.set_slider("confidence", middle)
    level = float(detector_page.text("confidence-value"))
    assert detector_page.saved_json()["detections"] == [
        one for one in expected.to_dicts() if one["score"] >= level
    ]

    detector_page.browser.execute_script("document.getElementById('timing').textContent = ''")
    detector_page.set_slider("overlap", 0.05)
    detector_page.wait_for_text("timing", "network")
    stricter = detector.predict(image, confidence=level, nms_iou=0.05)
    assert detector_page.saved_json()["detections"] == stricter.to_dicts()

    assert all(one.startswith((url, "blob:", "data:")) for one in detector_page.requests())
    assert detector_page.complaints() == []


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_a_dropped_video_is_played_with_boxes(
    serve: Callable[[Any], str],
    detector_page: Any,
    bright: Any,
    make_video: Callable[..., Path],
    kind: str,
) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    codec, mime = {"mp4": ("libx264", "avc1.64000A"), "webm": ("libvpx-vp9", "vp9")}[kind]
    video = make_video(f"street.{kind}", frames=50, image_hw=(96, 128), codec=codec)
    detector_page.open(serve(create_app(Detector(bright(input_hw=(96, 128))), name="x")))
    probe = "return document.createElement('video').canPlayType(arguments[0])"
    if not detector_page.browser.execute_script(probe, f'video/{kind}; codecs="{mime}"'):
        pytest.skip(f"this browser cannot decode {kind}")
    lefts = set()

    detector_page.run(
        """document.getElementById('timing').textContent = '';
        const [name, type, text] = arguments;
        const bytes = Uint8Array.from(atob(text), one => one.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], name, {type}));
        document.body.dispatchEvent(new DragEvent(
            'drop', {bubbles: true, cancelable: true, dataTransfer: data}));""",
        *(video.name, f"video/{kind}", base64.b64encode(video.read_bytes()).decode()),
    )
    detector_page.wait_for_text("timing", "frames/s")

    def ended(_: object) -> bool:
        for one in detector_page.saved_json()["detections"]:
            left, top, right, bottom = one["box_xyxy"]
            assert (top, bottom) == pytest.approx((20, 44), abs=2)
            assert right - left == pytest.approx(24, abs=2)
            lefts.add(left)
        return not detector_page.browser.find_element("id", "stop").is_displayed()

    WebDriverWait(detector_page.browser, 30).until(ended)
    assert detector_page.saved_json()["image"] == video.name
    assert len(lefts) > 1  # the square moves
    assert not detector_page.problem


def test_gates_are_drawn_over_the_image(
    serve: Callable[[Any], str], detector_page: Any, image: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    from attendet.models import WeightsMetadata, build_from_metadata, save_weights
    from attendet.web.gates import GateReader

    metadata = WeightsMetadata(("a",), attention="ca@p4+se@p5", width_mult=0.125, input_hw=(64, 64))
    path = save_weights(tmp_path / "w.safetensors", build_from_metadata(metadata), metadata)
    reader = GateReader(path, "cpu")
    app = create_app(attendet.load(path, device="cpu"), name="w", gates=reader)
    detector_page.open(serve(app))
    detector_page.upload(image)
    colors = "const c = document.getElementById('view');"
    colors += "return [...c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data]"
    before = detector_page.browser.execute_script(colors)

    def choose(site: str) -> None:
        detector_page.browser.execute_script(
            "const e = document.getElementById('gates'); e.value = arguments[0];"
            "e.dispatchEvent(new Event('change'))",
            site,
        )

    choose("p4")
    detector_page.wait_for_text("extras", " to ")
    assert detector_page.browser.execute_script(colors) != before
    choose("p5")
    chart = detector_page.browser.find_element("css selector", "#extras img")
    assert chart.is_displayed()
    assert "Gates of the channels" in str(chart.get_attribute("alt"))
    choose("")
    assert not chart.is_displayed()
    assert detector_page.browser.execute_script(colors) == before


def test_a_large_file_gives_one_line(
    serve: Callable[[Any], str], detector_page: Any, bright: Any, image: Path
) -> None:
    app = create_app(Detector(bright()), name="x", limits=ServeLimits(max_upload=0.001))
    detector_page.open(serve(app))
    detector_page.browser.find_element("id", "file").send_keys(str(image))
    assert detector_page.wait_for_problem() == "The image must be at most 0.001 MB."


def test_the_camera_goes_on_after_a_change_while_it_is_paused(
    serve: Callable[[Any], str], detector_page: Any, bright: Any
) -> None:
    detector_page.open(serve(create_app(Detector(bright(input_hw=(64, 64))), name="x")))
    detector_page.browser.find_element("id", "camera").click()
    detector_page.wait_for_text("timing", "frames/s")
    detector_page.browser.find_element("id", "pause").click()
    detector_page.set_slider("overlap", 0.3)  # the network runs again on the frame
    detector_page.wait_for_text("timing", "total")
    detector_page.browser.execute_script("document.getElementById('timing').textContent = ''")
    detector_page.browser.find_element("id", "pause").click()
    detector_page.wait_for_text("timing", "frames/s")
    detector_page.browser.find_element("id", "stop").click()
