"""The pages in a real browser: tables sort, no request is sent, both themes work.

Needs Chromium and its driver (Debian: chromium chromium-driver) and selenium.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attendet.report import write_report

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


def test_a_narrow_window_does_not_scroll_sideways(page: Path, browser: Browser) -> None:
    metrics = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        open_page(browser, page)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_of_an_explanation_works_offline(browser: Browser, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import numpy as np
    from PIL import Image

    from attendet.explain import explain_network, write_explanation
    from attendet.media.sources import find_sources
    from attendet.models import WeightsMetadata, build_from_metadata

    torch.manual_seed(0)
    metadata = WeightsMetadata(
        classes=("a", "b"), attention="ca@p4+cbam@p5", width_mult=0.125, input_hw=(64, 64)
    )
    for name in ("a", "b"):
        image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    network = build_from_metadata(metadata).eval()
    found = explain_network(network, metadata, find_sources([tmp_path]), cam=False)
    path = write_explanation(found, tmp_path / "out")
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
