from __future__ import annotations

import json
from html import unescape
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attendet.errors import ConfigError, ImageError  # noqa: E402
from attendet.explain import (  # noqa: E402
    explain,
    explain_network,
    gate_health,
    record_gates,
    write_explanation,
)
from attendet.explain.page import _answer  # noqa: E402
from attendet.inference import Selection  # noqa: E402
from attendet.inference.preprocess import resize_to_input  # noqa: E402
from attendet.media.sources import find_sources  # noqa: E402
from attendet.models import save_weights  # noqa: E402

LOOSE = Selection(0.1)


@pytest.fixture
def weights(tiny, tmp_path):
    network, metadata = tiny("ca")
    return save_weights(tmp_path / "tiny.safetensors", network, metadata)


def test_statistics_include_all_images_and_the_first_are_kept(weights, shots):
    done = []

    found = explain(weights, [shots], max_images=2, selection=LOOSE, progress=done.append)

    assert (found.count, len(found.images), len(found.skipped)) == (3, 2, 1)
    assert done == sorted(done)
    assert done[-1] == 4
    assert list(found.health()) == ["p4", "p5", "up"]
    assert all(one.images == 3 for one in found.health().values())
    first = found.images[0]
    assert len(first.detections) > 0
    assert set(first.cams) == set(first.detections.names)
    for activation in first.cams.values():
        assert activation.min() >= 0
        assert activation.shape == (43, 64)  # the image in its network input, without the padding


def test_gates_are_those_of_the_network_input_without_its_padding(tiny, shots):
    network, metadata = tiny("ca")

    one = explain_network(network, metadata, find_sources([shots / "a.jpg"])).images[0]

    padded, fit = resize_to_input(one.image, metadata.input_hw)
    assert fit.input_hw == (64, 64)
    with record_gates(network) as expected, torch.inference_mode():
        network(torch.from_numpy(padded).permute(2, 0, 1)[None] / 255)
    for site, gates in expected.items():
        for name, gate in gates.items():
            np.testing.assert_allclose(one.gates[site][name], gate[0].numpy(), rtol=1e-5)
    assert one.inside("p4")["height"].shape == (32, 2, 1)  # rows 1 and 2 of 4
    np.testing.assert_array_equal(one.inside("p4")["height"], one.gates["p4"]["height"][:, 1:3])
    assert one.inside("p4")["width"].shape == (32, 1, 4)


def test_channel_order_follows_the_metadata(tiny, shots):
    network, metadata = tiny("se@p5")
    flipped_network, flipped = tiny("se@p5", preprocess={"resize": "rect", "color": "bgr"})
    first = flipped_network.backbone.conv1.conv.weight
    first.data = first.data.flip(1)
    sources = find_sources([shots / "a.jpg"])

    rgb = explain_network(network, metadata, sources, selection=LOOSE).images[0]
    bgr = explain_network(flipped_network, flipped, sources, selection=LOOSE).images[0]

    np.testing.assert_allclose(rgb.gates["p5"]["channel"], bgr.gates["p5"]["channel"], rtol=1e-5)
    assert rgb.cams.keys() == bgr.cams.keys()
    for name, activation in rgb.cams.items():
        np.testing.assert_allclose(activation, bgr.cams[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("attention", ["ca", "cbam", "se+eca@up", "none"])
def test_the_output_folder_has_page_images_and_numbers(tiny, shots, tmp_path, attention):
    network, metadata = tiny(attention if "+" not in attention else "se@p5+eca@up")
    found = explain_network(network, metadata, find_sources([shots]), max_images=2, selection=LOOSE)

    page = write_explanation(found, tmp_path / "out", command="attendet explain <x>")

    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "explain.html",
        "health.json",
        "statistics.npz",
        "a.png",
        "a.npz",
        "c.png",
        "c.npz",
    }
    html = page.read_text(encoding="utf-8")
    assert "attendet explain &lt;x&gt;" in html
    assert "default-src 'none'" in html
    health = json.loads((tmp_path / "out" / "health.json").read_text())
    assert set(health["blocks"]) == set(found.health())
    assert len(health["skipped"]) == 1
    for one in found.health().values():
        assert one.sentence in unescape(html)
    with np.load(tmp_path / "out" / "a.npz") as arrays:
        for site, gates in found.images[0].gates.items():
            rows = arrays[f"inside/{site}"]
            assert rows[0] < rows[1]
            for name, gate in gates.items():
                np.testing.assert_array_equal(arrays[f"gate/{site}/{name}"], gate)
        np.testing.assert_array_equal(arrays["scores"], found.images[0].detections.scores)
    assert (tmp_path / "out" / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("verdicts", "answer"),
    [
        ({}, "This network has no attention, so it has no gates."),
        (
            {"p4": "works", "up": "works"},
            "The gates of 2 of 2 attention blocks depend on the image.",
        ),
        (
            {"p4": "works", "p5": "mask", "up": "mask", "stage1": "idle"},
            "The gates of 1 of 4 attention blocks depend on the image. "
            "The others: p5, up (mask), stage1 (idle).",
        ),
        (
            {"p4": "unknown"},
            "One image cannot show whether the gates depend on the content. Use several images.",
        ),
    ],
)
def test_the_page_begins_with_the_answer(verdicts, answer):
    health = {site: SimpleNamespace(verdict=verdict) for site, verdict in verdicts.items()}

    assert _answer(health) == answer


def test_an_image_is_never_replaced(tiny, shots):
    (shots / "a.jpg").rename(shots / "a.png")
    network, metadata = tiny("se@p5")
    found = explain_network(network, metadata, find_sources([shots / "a.png"]), cam=False)
    before = (shots / "a.png").read_bytes()

    with pytest.raises(ConfigError, match=r"where a\.png would be replaced"):
        write_explanation(found, shots)

    assert (shots / "a.png").read_bytes() == before
    assert not list(shots.glob("*.html"))


def test_gate_health_of_a_network(tiny, shots):
    network, metadata = tiny("cbam@p5")

    health = gate_health(network, metadata, [shots / "a.jpg", shots / "d.jpg"])

    assert health["p5"].images == 2
    assert set(health["p5"].gates) == {"channel", "spatial"}


def test_no_readable_image_is_an_error(weights, shots):
    with pytest.raises(ImageError, match=r"no image could be read: .*b\.jpg"):
        explain(weights, [shots / "b.jpg"])


def test_a_video_among_images_is_skipped_and_reported(weights, shots):
    clip = shots / "clip.mp4"
    clip.write_bytes(b"not read")
    found = explain(weights, [shots], cam=False)

    assert found.count == 3
    reasons = {one.path: one.reason for one in found.skipped}
    assert list(reasons) == [str(clip), str(shots / "b.jpg")]
    assert "this is a video" in reasons[str(clip)]
