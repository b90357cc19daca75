"""The pages in a real browser: tables sort, no request is sent, both themes work.

Needs Chromium and its driver (Debian: chromium chromium-driver) and selenium.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest

from attendet.report import Image, Table, write_report

selenium = pytest.importorskip("selenium")

Browser = Any


def open_page(browser: Browser, path: Path) -> None:
    """Open a file and wait until it is loaded; get() alone does not always wait."""
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(path.as_uri())
    whole = "return location.href === arguments[0] && document.readyState === 'complete'"
    WebDriverWait(browser, 30).until(lambda one: one.execute_script(whole, path.as_uri()))


@pytest.fixture
def page(study_folder, browser: Browser) -> Path:
    path = write_report(study_folder())
    open_page(browser, path)
    return path


def column(browser: Browser, index: int) -> list[str]:
    script = """return [...document.querySelector('table.sortable').tBodies[0].rows]
        .map(row => row.cells[arguments[0]].textContent)"""
    return browser.execute_script(script, index)


def click(browser: Browser, index: int) -> str | None:
    heads = browser.find_elements("css selector", "table.sortable th")
    heads[index].find_element("tag name", "button").click()
    return heads[index].get_attribute("aria-sort")


def test_clicks_sort_the_verdicts_down_and_up(page: Path, browser: Browser) -> None:
    assert column(browser, 0) == ["none", "se", "cbam", "eca", "ca"]

    assert click(browser, 2) == "descending"
    down = column(browser, 2)
    assert down[-1] == "-"  # the baseline has no difference and stays last
    numbers = [float(one.replace("\u2212", "-")) for one in down[:-1]]
    assert numbers == sorted(numbers, reverse=True)

    assert click(browser, 2) == "ascending"
    up = column(browser, 2)
    assert up[:-1] == down[-2::-1]
    assert up[-1] == "-"
    assert click(browser, 0) == "ascending"
    assert column(browser, 0) == sorted(column(browser, 0))


def requests(browser: Browser) -> set[str]:
    """Return the addresses requested since the last call, except those within the page."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    return {url for url in asked if not url.startswith("data:")}


def test_the_page_sends_no_request(page: Path, browser: Browser) -> None:
    for log in ("performance", "browser"):
        browser.get_log(log)
    open_page(browser, page)
    click(browser, 2)
    assert requests(browser) == {page.as_uri()}
    complaints = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert complaints == []
    blocked = browser.execute_async_script(
        "const done = arguments[0];"
        "fetch('http://127.0.0.1:9/').then(() => done('sent'), () => done('blocked'))"
    )
    assert blocked == "blocked"


def test_all_images_are_shown(page: Path, browser: Browser) -> None:
    widths = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(widths) == 3 * 6 + 6  # examples and charts
    assert min(widths) > 0


def test_the_theme_follows_the_system_and_can_be_switched(page: Path, browser: Browser) -> None:
    def paper() -> str:
        script = "return getComputedStyle(document.body).backgroundColor"
        return str(browser.execute_script(script))

    seen = []
    for scheme in ("light", "dark"):
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        open_page(browser, page)
        seen.append(paper())
    assert seen == ["rgb(255, 255, 255)", "rgb(13, 17, 23)"]
    browser.find_element("css selector", "button.theme").click()
    assert paper() == "rgb(255, 255, 255)"


def study_page(folder: Path, study_folder: Any) -> Path:
    return write_report(study_folder())


def demo_page(folder: Path, study_folder: Any) -> Path:
    from attendet.report import class_table, render_html, to_jpeg
    from attendet.report.charts import chart_image, confusion_figure, training_figure

    photo = to_jpeg(np.full((300, 400, 3), 90, dtype=np.uint8))
    numbers = dict.fromkeys(("ap", "ap50", "ap75", "ar_100", "voc_every_point"), 0.5)
    row = {**numbers, "voc_11_point": 0.5, "gt": 10, "detections": 20}
    record = {
        **row,
        "counts": row,
        "voc": {"iou": 0.5, "every_point": 0.5, "eleven_point": 0.5},
        "per_class": {str(digit): row for digit in range(10)},
    }
    epochs = [{"epoch": epoch, "losses": {"box": 1.0}, "learning_rate": 0.1} for epoch in (1, 2)]
    labels = [*map(str, range(10)), "background"]
    matrix = np.eye(11, dtype=int).tolist()
    confusion = {"labels": labels, "matrix": matrix, "confidence": 0.25, "iou": 0.5}
    charts = {
        "training": chart_image("training", training_figure, epochs, "Loss.", "loss"),
        "confusion": chart_image(
            "confusion", confusion_figure, {"confusion": confusion}, "Rows.", "confusions"
        ),
    }
    classes = Table(*class_table(record))
    html = render_html(
        "demo",
        "Digits on photographs: a detector in minutes",
        metadata=SimpleNamespace(attention="ca", width_mult=0.5, input_hw=(320, 320)),
        counts={"train": 1000, "val": 100, "test": 250},
        epochs=20,
        command="attendet demo --output " + "a-long-folder-name/" * 5,
        classes=classes,
        detections=[Image("a.jpg", photo, alt="a.jpg: ground truth and detections")] * 4,
        sites={"p5": "coarser output of the backbone, stride 32"},
        gate_images={"a.jpg": [Image("b.jpg", photo, "p5: gates 0.1 - 0.9")] * 3},
        gates=classes,
        **charts,
        seconds=[("training", "5 min")],
        versions=[("attendet", "0.1.0")],
        result=SimpleNamespace(best="demo/run/best.safetensors", folder="demo/run"),
        data_root="demo/digits",
        test_folder="demo/digits/images/test",
        **dict.fromkeys(("ap", "ap50", "val_ap"), "0.5"),
        total="6 min",
    )
    path = folder / "demo.html"
    path.write_text(html, encoding="utf-8")
    return path


def explanation_page(folder: Path, study_folder: Any) -> Path:
    torch = pytest.importorskip("torch")
    from attendet.explain import explain_network, write_explanation
    from attendet.media.sources import find_sources
    from attendet.models import WeightsMetadata, build_from_metadata

    torch.manual_seed(0)
    metadata = WeightsMetadata(
        classes=("a", "b"), attention="ca@p4+cbam@p5", width_mult=0.125, input_hw=(64, 64)
    )
    for name in ("a", "b"):
        image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        PIL.Image.fromarray(image).save(folder / f"{name}.png")
    network = build_from_metadata(metadata).eval()
    found = explain_network(network, metadata, find_sources([folder]), cam=False)
    return write_explanation(found, folder / "out")


def bench_page(folder: Path, study_folder: Any) -> Path:
    from attendet.report import bench

    spread = {"median": 30.0, "q1": 29.0, "q3": 36.0}
    row = {
        **{"file": "yolov4-tiny-int8.onnx", "weights": "w.onnx", "runtime": "openvino"},
        **{"precision": "bfloat16", "threads": 2, "mode": "throughput", "memory_mib": 1210},
        **dict.fromkeys(("cold_start_s", "whole_ms", "network_ms"), spread),
        **dict.fromkeys(("around_ms", "images_per_s"), spread),
        **{"file_mib": 23.15, "ap": 0.581},
    }
    named = {"fastest": "w.onnx, openvino", "ahead": 1.5, "tied": [], "reason": "ahead"}
    noise = {"probe_spread": 0.01, "other_load": 0.0, "too_noisy": False, "reason": None}
    record = {
        "settings": {"max_ap_loss": 0.5},
        "noise": noise,
        "rows": [{**row, "batch": batch} for batch in range(1, 11)],
        "verdicts": {"latency": named, "throughput": named},
    }
    path = folder / "bench.html"
    path.write_text(bench.bench_page(record), encoding="utf-8")
    return path


@pytest.fixture(params=[study_page, demo_page, explanation_page, bench_page])
def any_page(request: Any, study_folder: Any, browser: Browser, tmp_path: Path) -> Path:
    """Return one of each kind of page, open in the browser."""
    path: Path = request.param(tmp_path, study_folder)
    open_page(browser, path)
    return path


def emulate(browser: Browser, command: str, **values: object) -> None:
    browser.execute_cdp_cmd(f"Emulation.{command}", values)


WIDE_PARTS = """return [...document.querySelectorAll(arguments[0])]
    .filter(one => one.scrollWidth > one.clientWidth + 1)
    .map(one => `${one.className}: ${one.scrollWidth} of ${one.clientWidth}`)"""
"""Lists the parts of a page whose content is wider than they are."""


def test_a_narrow_window_does_not_scroll_sideways(any_page: Path, browser: Browser) -> None:
    size = {"height": 800, "deviceScaleFactor": 1, "mobile": True}
    try:
        for width in (390, 360):
            emulate(browser, "setDeviceMetricsOverride", width=width, **size)
            open_page(browser, any_page)
            script = "return document.documentElement.scrollWidth"
            assert browser.execute_script(script) <= width
            assert browser.execute_script(WIDE_PARTS, ".scroll:not(:has(table:not(.stack)))") == []
            assert browser.execute_script(WIDE_PARTS, ".stack td, .lead, p, dd") == []
    finally:
        emulate(browser, "clearDeviceMetricsOverride")


def test_a_long_table_fades_at_the_right_until_its_end_is_shown(
    browser: Browser, tmp_path: Path, study_folder: Any
) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    def faded() -> bool:
        frame = "document.querySelector('.scroll:has(table:not(.stack))')"
        return bool(browser.execute_script(f"return {frame}.classList.contains('more')"))

    path = bench_page(tmp_path, study_folder)
    try:
        emulate(
            *(browser, "setDeviceMetricsOverride"),
            **{"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True},
        )
        open_page(browser, path)
        WebDriverWait(browser, 10).until(lambda _: faded())
        browser.execute_script("document.querySelector('.scroll').scrollLeft = 1e6")
        WebDriverWait(browser, 10).until(lambda _: not faded())
    finally:
        emulate(browser, "clearDeviceMetricsOverride")
    WebDriverWait(browser, 10).until(lambda _: not faded())  # all of it is shown


def test_charts_have_a_version_for_a_narrow_window(page: Path, browser: Browser) -> None:
    script = """return [...document.querySelectorAll('figure img')].map(
        one => [one.src, one.currentSrc, one.clientWidth, one.closest('.scroll').clientWidth])"""
    size = {"height": 800, "deviceScaleFactor": 1, "mobile": True}
    assert all(wide == shown for wide, shown, *_ in browser.execute_script(script))
    try:
        emulate(browser, "setDeviceMetricsOverride", width=390, **size)
        open_page(browser, page)
        shown = [one for one in browser.execute_script(script) if "svg" in one[0][:20]]
        assert len(shown) == 6
        for wide, narrow, width, frame in shown:
            assert narrow != wide
            assert 0.9 * frame <= width <= frame
    finally:
        emulate(browser, "clearDeviceMetricsOverride")


def test_a_page_prints_light_and_whole_on_a4(any_page: Path, browser: Browser) -> None:
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    size = {"width": 688, "height": 1000, "deviceScaleFactor": 1, "mobile": False}  # 182 mm
    try:
        emulate(browser, "setEmulatedMedia", media="print", features=dark)
        emulate(browser, "setDeviceMetricsOverride", **size)
        open_page(browser, any_page)
        script = "return getComputedStyle(document.body).backgroundColor"
        assert browser.execute_script(script) == "rgb(255, 255, 255)"
        script = "return [...document.querySelectorAll('nav, .theme')].map(e => e.offsetHeight)"
        assert browser.execute_script(script) == [0, 0]
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 688
        assert browser.execute_script(WIDE_PARTS, ".scroll") == []
    finally:
        emulate(browser, "clearDeviceMetricsOverride")
        emulate(browser, "setEmulatedMedia", media="", features=[])


def test_each_link_of_the_contents_has_a_target(any_page: Path, browser: Browser) -> None:
    script = """return [...document.querySelectorAll('nav a')].map(link =>
        [link.textContent, document.getElementById(link.hash.slice(1))?.textContent])"""
    links = browser.execute_script(script)
    headings = browser.execute_script(
        "return [...document.querySelectorAll('h2')].map(one => one.textContent)"
    )

    assert [target for _, target in links] == [text for text, _ in links] == headings
    assert len(links) >= 3


def test_the_contents_mark_the_section_in_view(page: Path, browser: Browser) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    def marked() -> list[str]:
        script = "return [...document.querySelectorAll('nav [aria-current]')].map(e => e.text)"
        return list(browser.execute_script(script))

    assert marked() == []
    browser.find_element("link text", "Training curves").click()
    WebDriverWait(browser, 10).until(lambda _: marked() == ["Training curves"])
    browser.execute_script("scrollTo(0, document.documentElement.scrollHeight)")
    WebDriverWait(browser, 10).until(lambda _: marked() == ["All runs"])


def test_each_image_has_a_description(any_page: Path, browser: Browser) -> None:
    descriptions = browser.execute_script("return [...document.images].map(one => one.alt.trim())")

    assert descriptions
    assert all(descriptions)


def test_the_page_of_an_explanation_works_offline(
    browser: Browser, tmp_path: Path, study_folder: Any
) -> None:
    path = explanation_page(tmp_path, study_folder)
    for log in ("performance", "browser"):
        browser.get_log(log)

    open_page(browser, path)

    assert requests(browser) == {path.as_uri()}
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    widths = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(widths) == 2 * 4 + 2 * 2  # panels of each image, charts of each site
    assert min(widths) > 0
    assert click(browser, 0) == "ascending"
    assert click(browser, 0) == "descending"
    assert column(browser, 0) == ["p5", "p4"]
