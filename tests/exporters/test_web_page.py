"""The web page in a real browser: the same detections as in Python, no request to other hosts."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from attendet.boxes import iou_matrix
from attendet.exporters.onnxruntime_web import cached_package
from attendet.exporters.web_folder import PAGE, describe_model, write_web
from attendet.inference import Selection, load
from attendet.inference.postprocess import select_detections
from attendet.inference.preprocess import resize_to_input
from attendet.models.metadata import WeightsMetadata
from attendet.report.draw import color_of

pytest.importorskip("selenium")

CLASSES = ("红细胞", "<b>dog</b>", "кот")
"""Names that only a font of the system can show, or that are markup."""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="session")
def static_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A static host: its folder and its address."""
    folder = tmp_path_factory.mktemp("host")
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def modules(static_host: tuple[Path, str], detector_page: Any) -> Any:
    """A page from which the JavaScript modules can be imported."""
    folder, url = static_host
    shutil.copytree(PAGE / "app", folder / "modules" / "app")
    (folder / "modules" / "blank.html").write_text("<!doctype html><title>blank</title>")
    detector_page.browser.get(f"{url}/modules/blank.html")
    return detector_page


@pytest.fixture(scope="session")
def site(
    static_host: tuple[Path, str], exported: dict[str, Path], tmp_path_factory: Any
) -> tuple[Path, str]:
    """An exported folder in a subfolder of a static host, and its address."""
    package = cached_package()
    if not package.is_file():
        pytest.skip(
            "needs onnxruntime-web in the cache: attendet export --format web puts it there"
        )
    folder, url = static_host
    model = tmp_path_factory.mktemp("model") / "model.onnx"
    shutil.copy(exported["onnx"], model)
    metadata = load(model).metadata
    described = describe_model(metadata, "cells & more", Selection(0.3))
    write_web(model, described | {"classes": CLASSES}, package, folder / "some" / "page")
    return folder / "some" / "page", f"{url}/some/page/"


# --- the modules ----------------------------------------------------------------------------------


def random_image(image_hw: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*image_hw, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("image_hw", "input_hw", "resize", "color"),
    [
        ((240, 320), (96, 96), "rect", "rgb"),  # averages of areas
        ((120, 160), (96, 96), "rect", "rgb"),  # bilinear, down
        ((192, 192), (96, 96), "letterbox", "rgb"),  # a factor of two
        ((288, 192), (96, 64), "rect", "bgr"),  # a factor of three
        ((50, 37), (96, 96), "rect", "rgb"),  # up
        ((96, 96), (96, 96), "rect", "bgr"),  # as it is
        ((201, 33), (64, 64), "letterbox", "rgb"),
        ((1, 1), (64, 64), "rect", "rgb"),
        ((2, 300), (64, 64), "letterbox", "rgb"),
        ((100, 140), (96, 64), "stretch", "rgb"),  # down on both sides
        ((60, 300), (96, 96), "stretch", "rgb"),  # a smaller area, but higher
        ((70, 20), (64, 96), "stretch", "bgr"),  # a larger area, but lower
        ((30, 40), (64, 96), "stretch", "rgb"),
    ],
)
def test_the_network_input_is_that_of_python(
    modules: Any,
    image_hw: tuple[int, int],
    input_hw: tuple[int, int],
    resize: str,
    color: str,
) -> None:
    image = random_image(image_hw, seed=sum(image_hw))
    rgba = np.dstack([image, np.full(image_hw, 255, dtype=np.uint8)])
    expected, _ = resize_to_input(image, input_hw, resize, color)

    found = modules.run(
        """const {resizeToInput} = await import('./app/resize.js');
        const [bytes, width, height, inputHw, mode, color] = arguments;
        const image = {data: Uint8ClampedArray.from(bytes), width, height};
        const {input} = resizeToInput(image, inputHw, mode, color);
        return [input.height, input.width, Array.from(input.data)];""",
        *(rgba.ravel().tolist(), image_hw[1], image_hw[0], input_hw, resize, color),
    )

    assert (found[0], found[1], 3) == expected.shape
    difference = np.abs(np.array(found[2]) - expected.ravel().astype(int))
    assert difference.max() <= 1  # OpenCV's rounding differs between processors
    assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize("resize", ["rect", "letterbox", "stretch"])
def test_the_selection_is_that_of_python(modules: Any, resize: str) -> None:
    rng = np.random.default_rng(3)
    corners = rng.uniform(-20, 110, (400, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + rng.uniform(5, 60, (400, 2))], axis=1)
    boxes = boxes.astype(np.float32)
    scores = rng.uniform(0, 1, (400, 3)).astype(np.float32)
    boxes[7], scores[7] = np.nan, 1.0
    _, transform = resize_to_input(np.zeros((150, 200, 3), np.uint8), (96, 96), resize)
    selection = Selection(confidence=0.5, nms_iou=0.4, max_detections=60)
    expected = select_detections(boxes, scores, transform, CLASSES, selection)

    found = modules.run(
        """const {resizeToInput} = await import('./app/resize.js');
        const {selectDetections} = await import('./app/select.js');
        const image = {data: new Uint8ClampedArray(150 * 200 * 4), width: 200, height: 150};
        const {transform} = resizeToInput(image, [96, 96], arguments[2]);
        const [boxes, scores] = [arguments[0], arguments[1]].map(one => Float32Array.from(one));
        const settings = {confidence: 0.5, nmsIou: 0.4, maxDetections: 60};
        return selectDetections({boxes, scores}, transform, settings);""",
        *([None if np.isnan(one) else one for one in boxes.ravel().tolist()],),
        *(scores.ravel().tolist(), resize),
    )

    found = [one for one in found if one["score"] < 1.0]  # JSON has no NaN: that box is (0, 0)
    assert len(found) == len(expected) == 60
    assert [one["classId"] for one in found] == expected.class_ids.tolist()
    np.testing.assert_allclose([one["score"] for one in found], expected.scores, rtol=1e-6)
    np.testing.assert_allclose([one["box"] for one in found], expected.boxes_xyxy, atol=1e-3)


# --- the page -------------------------------------------------------------------------------------


def same_detections(found: list[dict[str, Any]], expected: Any, *, confidence: float) -> None:
    """Assert that both have the same detections within 1 px and 0.01.

    A detection within 0.01 of the confidence may be on one side only.
    """
    boxes = np.array([one["box_xyxy"] for one in found]).reshape(-1, 4)
    scores = np.array([one["score"] for one in found])
    ids = np.array([one["class_id"] for one in found])
    assert len(expected) > 0
    for one in expected:
        if one["score"] < confidence + 0.01:
            continue
        near = np.abs(boxes - one["box_xyxy"]).max(axis=1) <= 1
        near &= (np.abs(scores - one["score"]) <= 0.01) & (ids == one["class_id"])
        assert near.any(), one
    assert abs(len(found) - len(expected)) <= (scores < confidence + 0.01).sum() + sum(
        one["score"] < confidence + 0.01 for one in expected
    )


@pytest.mark.parametrize("kind", ["png", "jpg", "rotated.jpg", "transparent.png"])
def test_the_page_finds_what_python_finds(
    site: tuple[Path, str], detector_page: Any, tmp_path: Path, kind: str
) -> None:
    from attendet.exporters.parity import synthetic_images

    image = Image.fromarray(synthetic_images(1, seed=5)[0]).resize((200, 150))
    path = tmp_path / f"one.{kind}"
    if kind == "rotated.jpg":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(path, exif=exif, quality=95)
    elif kind == "transparent.png":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(path)
    else:
        image.save(path)
    folder, url = site
    detector_page.open(f"{url}?backend=wasm")
    assert detector_page.text("backend") == "WebAssembly"

    detector_page.upload(path)

    expected = load(folder / "model.onnx", "onnx").predict(path, confidence=0.3)
    entry = detector_page.saved_json()
    assert entry["image"] == path.name
    assert entry["image_hw"] == list(expected.image_hw)
    same_detections(entry["detections"], expected, confidence=0.3)
    assert detector_page.saved("save-yolo").count(b"\n") == len(entry["detections"])


@pytest.fixture
def shown(
    site: tuple[Path, str], detector_page: Any, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """The page with an image, at its initial settings."""
    from attendet.exporters.parity import synthetic_images

    path = tmp_path_factory.mktemp("image") / "one.png"
    Image.fromarray(synthetic_images(1, seed=5)[0]).save(path)
    detector_page.open(site[1])
    detector_page.browser.find_element("id", "all").click()
    detector_page.set_slider("confidence", 0.3)
    detector_page.set_slider("overlap", 0.5)
    detector_page.upload(path)
    return detector_page


def test_requests_go_to_the_folder_only_and_nothing_is_blocked(
    site: tuple[Path, str], detector_page: Any, tmp_path: Path
) -> None:
    path = tmp_path / "one.png"
    Image.fromarray(random_image((30, 40), 0)).save(path)
    detector_page.load(site[1])
    detector_page.wait_for_text("status", "Ready")
    detector_page.upload(path)

    asked = detector_page.requests()
    assert f"{site[1]}model.json" in asked
    assert {url for url in asked if not url.startswith((site[1], "blob:", "data:"))} == set()
    assert detector_page.complaints() == []


def test_names_of_classes_are_text_in_any_script(shown: Any) -> None:
    names = shown.browser.find_elements("css selector", "#classes .name")
    assert [one.text for one in names] == list(CLASSES)
    assert shown.browser.find_elements("css selector", "#classes b") == []
    assert shown.browser.title == "cells & more"


def test_sliders_and_classes_choose_what_is_shown(shown: Any) -> None:
    def detections() -> list[dict[str, Any]]:
        return list(shown.saved_json()["detections"])

    before = detections()
    middle = sorted(one["score"] for one in before)[len(before) // 2]
    shown.set_slider("confidence", round(middle, 2))
    level = float(shown.text("confidence-value"))
    assert detections() == [one for one in before if one["score"] >= level] != before

    shown.set_slider("confidence", 0.3)
    shown.set_slider("overlap", 0.05)
    kept = detections()
    assert 0 < len(kept) < len(before)
    for class_id in range(3):
        boxes = np.array([one["box_xyxy"] for one in kept if one["class_id"] == class_id])
        overlaps = iou_matrix(boxes.reshape(-1, 4), boxes.reshape(-1, 4))
        assert (overlaps - np.eye(len(overlaps)) <= 0.051).all()

    shown.set_slider("overlap", 0.5)
    shown.browser.find_elements("css selector", "#classes input")[0].click()
    assert detections() == [one for one in before if one["class_id"] != 0]
    shown.browser.find_element("id", "none").click()
    assert detections() == []
    assert shown.text("status") == "0 objects"
    shown.browser.find_element("id", "all").click()
    assert detections() == before


def test_the_annotated_image_has_the_size_of_the_image_and_boxes(shown: Any) -> None:
    found = shown.saved_json()
    best = found["detections"][0]  # drawn on top

    image = Image.open(io.BytesIO(shown.saved("save-image"))).convert("RGB")

    assert image.size == tuple(found["image_hw"][::-1])
    left, top, right, bottom = (round(edge) for edge in best["box_xyxy"])
    x, y = min(max(left, 0), image.width - 1), (top + bottom) // 2
    assert image.getpixel((x, y)) == color_of(best["class_id"])
    assert image.getpixel((min(right, image.width - 1), y)) == color_of(best["class_id"])


def test_a_file_that_is_no_image_gives_one_line(
    site: tuple[Path, str], detector_page: Any, tmp_path: Path
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no image")
    detector_page.open(site[1])
    detector_page.browser.find_element("id", "file").send_keys(str(path))

    assert detector_page.wait_for_problem() == (
        "This browser cannot read notes.txt. Open a JPEG, PNG or WebP image."
    )


def test_the_camera_is_followed_and_stopped(site: tuple[Path, str], detector_page: Any) -> None:
    detector_page.open(site[1])
    detector_page.browser.find_element("id", "camera").click()
    detector_page.wait_for_text("timing", "frames/s")
    detector_page.browser.find_element("id", "pause").click()
    assert detector_page.text("pause") == "Continue"
    detector_page.browser.find_element("id", "stop").click()
    assert detector_page.browser.find_element("id", "camera").is_displayed()
    assert not detector_page.browser.find_element("id", "pause").is_displayed()
    assert detector_page.saved_json()["image"] == "camera"


def test_images_that_follow_each_other_quickly_keep_their_own_boxes(
    site: tuple[Path, str], detector_page: Any
) -> None:
    detector_page.open(site[1])
    alone, together = detector_page.run(
        """const {loadLocal} = await import('./app/local.js');
        const model = await (await fetch('model.json')).json();
        const detector = await loadLocal(model, document.baseURI, () => {}, 'wasm');
        const frame = side => ({pixels: () => {
            const data = new Uint8ClampedArray(side * side * 4).map((_, i) => (i * side) % 251);
            return {data, width: side, height: side};
        }});
        const settings = {confidence: 0.2, nmsIou: 0.5, maxDetections: 5};
        const boxes = result => result.select(settings).map(one => one.box);
        const alone = [];
        for (const side of [40, 200]) alone.push(boxes(await detector.detect(frame(side))));
        const results = await Promise.all([40, 200].map(side => detector.detect(frame(side))));
        return [alone, results.map(boxes)];"""
    )
    assert together == alone
    assert alone[0] != alone[1]


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_an_image_is_dropped_or_pasted(
    site: tuple[Path, str], detector_page: Any, kind: str
) -> None:
    packed = io.BytesIO()
    Image.fromarray(random_image((30, 40), 0)).save(packed, "PNG")
    detector_page.open(site[1])
    detector_page.run(
        """document.getElementById('timing').textContent = '';
        const [kind, text] = arguments;
        const bytes = Uint8Array.from(atob(text), one => one.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], `${kind}.png`, {type: 'image/png'}));
        const options = {bubbles: true, cancelable: true};
        document.body.dispatchEvent(kind === 'drop'
            ? new DragEvent('drop', {...options, dataTransfer: data})
            : new ClipboardEvent('paste', {...options, clipboardData: data}));""",
        *(kind, base64.b64encode(packed.getvalue()).decode()),
    )
    detector_page.wait_for_text("timing", "network")
    assert detector_page.saved_json()["image"] == f"{kind}.png"
    assert detector_page.saved_json()["image_hw"] == [30, 40]


def test_every_control_has_a_name_and_can_be_reached_by_keyboard(shown: Any) -> None:
    unnamed = shown.browser.execute_script(
        """const controls = [...document.querySelectorAll('button, input, select')];
        const visible = controls.filter(one => one.checkVisibility());
        return visible.filter(one => one.tabIndex < 0 || !(one.textContent.trim()
            || one.getAttribute('aria-label') || one.labels?.length)).map(one => one.id);"""
    )
    assert unnamed == []
    row = shown.browser.find_element("css selector", "#detections button")
    before = shown.saved("save-image")
    shown.browser.execute_script("arguments[0].focus()", row)
    assert shown.browser.switch_to.active_element == row
    assert shown.saved("save-image") == before  # the emphasis is on the screen only


def test_the_theme_is_that_of_the_system(shown: Any) -> None:
    colors = []
    for scheme in ("light", "dark"):
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        shown.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        script = "return getComputedStyle(document.body).backgroundColor"
        colors.append(shown.browser.execute_script(script))
    shown.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert colors == ["rgb(255, 255, 255)", "rgb(13, 17, 23)"]


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_page_never_scrolls_sideways(shown: Any, site: tuple[Path, str], width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 800}
    shown.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert shown.browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        shown.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_missing_network_is_reported(
    site: tuple[Path, str], static_host: tuple[Path, str], detector_page: Any
) -> None:
    folder, url = static_host
    broken = folder / "broken"
    shutil.copytree(site[0], broken, ignore=shutil.ignore_patterns("model.onnx", "*.webgpu.*"))
    detector_page.load(f"{url}/broken/")

    assert detector_page.wait_for_problem() == "model.onnx could not be loaded (HTTP 404)."


def test_metadata_with_stretch_reaches_the_page() -> None:
    metadata = WeightsMetadata(("a",), preprocess={"resize": "stretch", "color": "bgr"})
    described = describe_model(metadata, "x", Selection())
    assert described["preprocess"] == {"resize": "stretch", "color": "bgr"}
