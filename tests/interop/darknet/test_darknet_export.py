"""Networks written as darknet files come back bit for bit."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import attendet

torch = pytest.importorskip("torch")

from attendet.errors import WeightsError  # noqa: E402
from attendet.interop.darknet.convert import export_darknet, import_darknet  # noqa: E402
from attendet.models import WeightsMetadata, build_from_metadata  # noqa: E402


def _network(**fields: Any) -> tuple[Any, WeightsMetadata]:
    metadata = WeightsMetadata(("cat", "dog"), width_mult=0.125, input_hw=(64, 96), **fields)
    network = build_from_metadata(metadata)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    return network.eval(), metadata


@pytest.mark.parametrize(
    "name",
    ["reference", "three levels", "pyramid", "gated", "yolov2-tiny", "yolov2", "yolov7-tiny"],
)
@pytest.mark.parametrize("header", [(0, 2, 5, 2**33), (0, 1, 0, 77)])
def test_imported_files_go_out_as_they_came(
    name: str, header: tuple[int, ...], darknet: Callable[..., Any], tmp_path: Path
) -> None:
    layout = "<iiiq" if header[1] == 2 else "<iiii"
    files = darknet(name, header=struct.pack(layout, *header))
    imported = import_darknet(files.config, files.weights)

    config, weights, names = export_darknet(
        imported.network, imported.metadata, tmp_path / "out", stem="again"
    )

    assert weights.read_bytes() == files.weights.read_bytes()
    assert names.read_text().splitlines() == list(imported.metadata.classes)
    again = import_darknet(config, weights, names=names)
    assert again.metadata.graph == imported.metadata.graph
    assert again.metadata.level_anchors() == imported.metadata.level_anchors()
    skipped = {"anchors", "anchor_masks", "origin"}
    for field in dataclasses.fields(WeightsMetadata):
        if field.name not in skipped:
            expected = getattr(imported.metadata, field.name)
            assert getattr(again.metadata, field.name) == expected, field.name


def test_a_network_of_our_own_comes_back_bit_for_bit(tmp_path: Path) -> None:
    network, metadata = _network(scale_x_y=2.0)

    config, weights, names = export_darknet(network, metadata, tmp_path, stem="cells")
    again = import_darknet(config, weights, names=names)

    assert again.metadata.architecture == "yolov4-tiny"
    assert again.metadata.classes == ("cat", "dog")
    assert again.metadata.input_hw == (64, 96)
    assert again.metadata.scale_x_y == 2.0
    expected = network.state_dict()
    assert all(torch.equal(one, expected[name]) for name, one in again.network.state_dict().items())
    assert struct.unpack_from("<iiiq", weights.read_bytes()) == (0, 2, 5, 0)


def test_another_epsilon_is_made_up_for(tmp_path: Path) -> None:
    network, metadata = _network(bn_eps=1e-2)

    again = import_darknet(*export_darknet(network, metadata, tmp_path, stem="cells")[:2]).network

    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        for one, two in zip(network(images), again(images), strict=True):
            torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


def test_a_network_that_takes_bgr_takes_rgb_in_darknet(tmp_path: Path) -> None:
    network, metadata = _network(preprocess={"resize": "stretch", "color": "bgr"})

    again = import_darknet(*export_darknet(network, metadata, tmp_path, stem="cells")[:2])

    assert again.metadata.preprocess == {"resize": "stretch", "color": "rgb"}
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        for one, two in zip(network(images.flip(1)), again.network(images), strict=True):
            torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


def test_attention_is_refused_by_name(tmp_path: Path) -> None:
    network, metadata = _network(attention="se@p5+ca@up")

    with pytest.raises(WeightsError, match="SqueezeExcite at p5, CoordinateAttention at up"):
        export_darknet(network, metadata, tmp_path / "out", stem="cells")

    assert not (tmp_path / "out").exists()


def test_attention_that_was_put_in_is_refused_too(tmp_path: Path) -> None:
    network, metadata = _network(attention="none")
    attendet.attend(network, {"backbone.csp2": "ca"})

    with pytest.raises(WeightsError, match=r"CoordinateAttention at backbone\.csp2"):
        export_darknet(network, metadata, tmp_path / "out", stem="cells")

    assert not (tmp_path / "out").exists()
