from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attendet.data import load_dataset
from attendet.data.checks import ISSUE_KINDS, check_image, decode_issues
from attendet.data.sample import Box, RawSample
from attendet.images import read_image

GOOD = (2, 2, 6, 6)


def check(path, *boxes, declared_hw=None):
    labeled = RawSample(
        path, path, [Box(box, "cat", n) for n, box in enumerate(boxes, 1)], declared_hw
    )
    return check_image(labeled, {"cat": 0})


@pytest.mark.parametrize(
    ("box", "kind", "action"),
    [
        ((5, 5, 5, 9), "zero-size", "dropped"),
        ((5, 5, 9, 5), "zero-size", "dropped"),
        ((9, 5, 5, 9), "negative-size", "dropped"),
        ((float("nan"), 5, 9, 9), "non-finite", "dropped"),
        ((1, 5, float("inf"), 9), "non-finite", "dropped"),
        ((-1e308, 5, 1e308, 9), "partly-outside", "clipped"),
        ((40, 5, 50, 9), "outside", "dropped"),
        ((40.5, 5, 41, 9), "outside", "dropped"),
        ((5, -9, 9, 0), "outside", "dropped"),
        ((-2, 5, 9, 9), "partly-outside", "clipped"),
        ((5, 5, 9, 31.5), "partly-outside", "clipped"),
        ((2, 2, 6, 6.1), "near-duplicate", "kept"),
    ],
)
def test_each_rule_for_boxes(tmp_path, image, box, kind, action):
    sample, issues = check(image(tmp_path / "a.png"), GOOD, box)
    assert [(f.kind, f.action, f.line) for f in issues] == [(kind, action, 2)]
    assert len(sample.boxes_xyxy) == (1 if action == "dropped" else 2)
    assert kind in ISSUE_KINDS
    assert (sample.boxes_xyxy >= 0).all()
    assert (sample.boxes_xyxy <= (40, 30, 40, 30)).all()


def test_a_box_that_touches_or_passes_the_edge_by_a_pixel_is_no_issue(tmp_path, image):
    sample, issues = check(image(tmp_path / "a.png"), (-1, 0, 41, 30), (20, 20, 40, 31))
    assert issues == []
    assert sample.boxes_xyxy.tolist() == [[0, 0, 40, 30], [20, 20, 40, 30]]


def test_near_duplicates_are_of_one_class(tmp_path, image):
    path = image(tmp_path / "a.png")
    boxes = [Box((2, 2, 9, 9), "cat"), Box((2, 2, 9, 9), "dog"), Box((2, 2, 9, 9), "cow")]
    _, issues = check_image(RawSample(path, path, boxes), {"cat": 0, "dog": 1})
    assert [issue.kind for issue in issues] == ["unknown-class"]


def test_a_size_that_disagrees_keeps_the_image_s(tmp_path, image):
    sample, issues = check(image(tmp_path / "a.png"), GOOD, declared_hw=(60, 80))
    assert sample.image_hw == (30, 40)
    assert [(issue.kind, issue.action) for issue in issues] == [("size-mismatch", "kept")]
    assert sample.boxes_xyxy.tolist() == [list(GOOD)]


def test_a_swapped_size_without_exif_is_a_mismatch(tmp_path, image):
    _, issues = check(image(tmp_path / "a.png"), GOOD, declared_hw=(40, 30))
    assert [issue.kind for issue in issues] == ["size-mismatch"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("states_stored_size", [False, True])
def test_boxes_follow_the_turn_of_exif(tmp_path, orientation, states_stored_size):
    """A white box in a black image is where its label is, however the image is stored."""
    stored = np.zeros((30, 40, 3), dtype=np.uint8)
    stored[4:10, 20:35] = 255
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, exif=exif)
    upright = read_image(path)
    rows, columns = np.nonzero(upright[:, :, 0])
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    turned = orientation >= 5
    as_stored = states_stored_size and turned
    box = (20, 4, 35, 10) if as_stored else tuple(map(float, expected))
    declared_hw = (30, 40) if as_stored or not turned else (40, 30)
    sample, issues = check(path, box, declared_hw=declared_hw)
    assert issues == []
    assert sample.image_hw == upright.shape[:2]
    assert sample.boxes_xyxy.tolist() == [expected]


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "P", "1", "CMYK", "LA"])
def test_every_kind_of_image_is_fine(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(np.full((30, 40), 40_000, dtype=np.uint16)).save(path)
    else:
        Image.new("RGB", (40, 30)).convert(mode).save(path)
    sample, issues = check(path, GOOD)
    assert issues == []
    assert decode_issues([sample]) == []


def test_images_that_cannot_be_used(tmp_path, image):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, kind in {
        "text.png": "unreadable-image",
        "empty.png": "unreadable-image",
        "gone.png": "missing-image",
    }.items():
        sample, issues = check(tmp_path / name, GOOD)
        assert sample is None
        assert [(issue.kind, issue.action) for issue in issues] == [(kind, "skipped image")]


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
def test_a_name_that_is_not_utf_8_is_reported(tmp_path, image):
    for name in ("a", "b"):
        image(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    for suffix in (".png", ".txt"):
        source = tmp_path / f"b{suffix}"
        source.rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\x82" + suffix.encode())))
    dataset = load_dataset(tmp_path)
    assert [sample.key for sample in dataset.split("all")] == ["a"]
    assert [
        "caf\\udc82.png: unreadable-image: file name must be UTF-8" in str(issue)
        for issue in dataset.issues
    ] == [True]


def test_a_truncated_image_is_found_by_decoding(tmp_path, image):
    whole = image(tmp_path / "a.jpg", 200, 200)
    cut = tmp_path / "b.jpg"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    samples = [check(path, GOOD)[0] for path in (whole, cut)]
    calls = []
    issues = decode_issues(samples, progress=lambda *step: calls.append(step))
    assert [(issue.kind, issue.file) for issue in issues] == [("truncated-image", cut)]
    assert calls == [(1, 2), (2, 2)]


def test_issues_stop_nothing(tmp_path, voc_folder):
    voc_folder(tmp_path, [[("cat", 1, 1, 9, 9)]] * 8)
    (tmp_path / "p00.png").write_bytes(b"")
    (tmp_path / "p01.xml").write_text("<annotation>")
    (tmp_path / "p02.xml").unlink()
    (tmp_path / "p03.png").unlink()
    dataset = load_dataset(tmp_path)
    assert len(dataset.split("all")) == 4
    assert sorted(issue.kind for issue in dataset.issues) == [
        "broken-label",
        "missing-image",
        "missing-label",
        "unreadable-image",
    ]


def test_the_page_on_data_names_every_kind_of_issue():
    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z-]+)` \|", page, flags=re.MULTILINE)) == set(ISSUE_KINDS)
