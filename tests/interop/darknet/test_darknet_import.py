"""Imported darknet networks are networks like all others: saved, loaded, predicting."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attendet.errors import ConfigError, WeightsError  # noqa: E402
from attendet.inference import Detector, load  # noqa: E402
from attendet.inference.runtimes.torch_runtime import TorchRuntime, fold_batch_norm  # noqa: E402
from attendet.interop.darknet.cfg import parse_config  # noqa: E402
from attendet.interop.darknet.convert import import_darknet, resize_mode  # noqa: E402
from attendet.interop.darknet.weights import DarknetHeader  # noqa: E402
from attendet.models import (  # noqa: E402
    YoloV4Tiny,
    build_from_metadata,
    load_weights,
    read_metadata,
    save_weights,
)
from attendet.models.decode import decode_maps  # noqa: E402
from attendet.models.graph_detector import GraphDetector  # noqa: E402


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))


def test_the_layers_of_the_reference_network_make_the_reference_network(
    darknet: Callable[..., Any], tmp_path: Path, images: torch.Tensor
) -> None:
    files = darknet("reference")
    (tmp_path / "names.txt").write_text("cat\nblack dog\n\n")

    imported = import_darknet(files.config, files.weights, names=tmp_path / "names.txt")

    assert isinstance(imported.network, YoloV4Tiny)
    metadata = imported.metadata
    assert (metadata.architecture, metadata.graph) == ("yolov4-tiny", None)
    assert metadata.classes == ("cat", "black dog")
    assert (metadata.width_mult, metadata.scale_x_y, metadata.bn_eps) == (0.125, 1.05, 1e-5)
    assert metadata.preprocess == {"resize": "stretch", "color": "rgb"}
    assert metadata.origin == {
        "format": "darknet",
        "configuration": "net.cfg",
        "weights": "net.weights",
        "version": "0.2.5",
        "seen": 12345,
        "cutoff": None,
    }
    (note,) = imported.notes
    assert "images are stretched: AlexeyAB's darknet does so" in note
    assert "only it reads groups (line 35)" in note
    assert not imported.network.training


@pytest.mark.parametrize(
    "name",
    ["reference", "three levels", "pyramid", "gated", "yolov2-tiny", "yolov2", "yolov7-tiny"],
)
def test_the_weights_file_rebuilds_the_network(
    name: str, darknet: Callable[..., Any], tmp_path: Path, images: torch.Tensor
) -> None:
    files = darknet(name)
    imported = import_darknet(files.config, files.weights)

    path = save_weights(tmp_path / "net.safetensors", imported.network, imported.metadata)
    network, metadata = load_weights(path)

    assert type(network) is type(imported.network)
    assert metadata.graph == imported.metadata.graph
    assert metadata.origin == imported.metadata.origin
    with torch.inference_mode():
        expected, found = imported.network(images), network(images)
        assert all(torch.equal(one, two) for one, two in zip(expected, found, strict=True))
        pairs = zip(imported.network.decode(expected), network.decode(found), strict=True)
        assert all(torch.equal(one, two) for one, two in pairs)


def test_each_level_decodes_with_its_own_stride_anchors_and_scale(
    darknet: Callable[..., Any], images: torch.Tensor
) -> None:
    files = darknet("pyramid")
    network = import_darknet(files.config, files.weights).network
    assert network.strides == (32, 16, 8)
    assert network.scale_x_y == (1.2, 1.1, 1.0)
    assert [level.tolist() for level in network.level_anchors] == [
        [[40, 44], [60, 50]],
        [[12, 20], [25, 18]],
        [[4, 4]],
    ]
    assert network.attention_blocks() == {}

    with torch.inference_mode():
        raw_maps = network(images)
        boxes, scores = network.decode(raw_maps)

    assert [tuple(one.shape) for one in raw_maps] == [
        (2, 14, 2, 3),
        (2, 14, 4, 6),
        (2, 7, 8, 12),
    ]
    levels = zip(raw_maps, network.level_anchors, network.strides, network.scale_x_y, strict=True)
    alone = [decode_maps([one], [anchors], (s,), scale) for one, anchors, s, scale in levels]
    assert torch.equal(boxes, torch.cat([one for one, _ in alone], dim=1))
    assert torch.equal(scores, torch.cat([one for _, one in alone], dim=1))


def test_batch_normalization_folds(darknet: Callable[..., Any], images: torch.Tensor) -> None:
    files = darknet("pyramid")
    network = import_darknet(files.config, files.weights).network

    folded = fold_batch_norm(copy.deepcopy(network))

    assert not any(isinstance(one, torch.nn.BatchNorm2d) for one in folded.modules())
    with torch.inference_mode():
        for one, two in zip(network(images), folded(images), strict=True):
            torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_anchors_stay_exact_in_half_precision(darknet: Callable[..., Any]) -> None:
    files = darknet("pyramid")
    network = import_darknet(files.config, files.weights).network.to(torch.bfloat16)

    assert network.level_anchors[0].dtype == torch.float32
    assert network.level_anchors[0].tolist() == [[40, 44], [60, 50]]


def test_three_levels_are_the_reference_network_too(darknet: Callable[..., Any]) -> None:
    files = darknet("three levels")
    network = import_darknet(files.config, files.weights).network
    assert isinstance(network, YoloV4Tiny)
    assert network.strides == (32, 16, 8)


@pytest.mark.parametrize("name", ["reference", "pyramid"])
def test_a_detector_predicts_with_it(
    name: str, darknet: Callable[..., Any], tmp_path: Path
) -> None:
    files = darknet(name)
    imported = import_darknet(files.config, files.weights)
    path = save_weights(tmp_path / "net.safetensors", imported.network, imported.metadata)
    image = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)

    detections = load(path, device="cpu").predict(image, confidence=0.1)
    unfolded = Detector(TorchRuntime(imported.network, imported.metadata))

    assert len(detections) > 0
    assert detections.classes == ("class_0", "class_1")
    again = unfolded.predict(image, confidence=0.1)
    np.testing.assert_allclose(detections.scores, again.scores, atol=1e-4)


def test_a_part_of_the_file_fills_the_first_layers(darknet: Callable[..., Any]) -> None:
    files = darknet("reference")
    whole = import_darknet(files.config, files.weights)
    content = files.weights.read_bytes()
    backbone = sum(one.numel() for one in _of(whole.network, "backbone").values())
    files.weights.write_bytes(content[: 20 + 4 * backbone])

    with pytest.raises(WeightsError, match=r"It matches the first 27 layers: set --cutoff 27\."):
        import_darknet(files.config, files.weights)
    part = import_darknet(files.config, files.weights, cutoff=27, seed=1)
    same = import_darknet(files.config, files.weights, cutoff=27, seed=1)
    other = import_darknet(files.config, files.weights, cutoff=27, seed=2)

    expected, found = _of(whole.network, "backbone"), _of(part.network, "backbone")
    assert all(torch.equal(found[name], one) for name, one in expected.items())
    assert not torch.equal(part.network.out_p5.weight, whole.network.out_p5.weight)
    assert torch.equal(part.network.out_p5.weight, same.network.out_p5.weight)
    assert not torch.equal(part.network.out_p5.weight, other.network.out_p5.weight)
    assert part.metadata.origin["cutoff"] == 27
    assert "layers 27 to 37 are newly initialized: train before predicting" in part.notes


def _of(network: torch.nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {
        name: one
        for name, one in network.state_dict().items()
        if name.startswith(prefix) and not name.endswith("num_batches_tracked")
    }


def test_an_import_leaves_the_random_numbers_alone(darknet: Callable[..., Any]) -> None:
    files = darknet("pyramid")
    before = torch.random.get_rng_state()

    import_darknet(files.config, files.weights)

    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("option", "resize", "expected"),
    [
        ("", None, "stretch"),
        ("letter_box=1", None, "letterbox"),
        ("letter_box=0", None, "stretch"),
        ("", "letterbox", "letterbox"),
        ("letter_box=0", "rect", "rect"),
        ("", "stretch", "stretch"),
    ],
)
def test_how_images_are_resized(
    option: str, resize: Any, expected: str, darknet: Callable[..., Any], tiny: Callable[..., str]
) -> None:
    files = darknet(tiny().replace("channels=3", f"channels=3\n{option}"))

    imported = import_darknet(files.config, files.weights, resize=resize)

    assert imported.metadata.preprocessing().resize == expected


PLAIN = """
[net]
width=64
height=64
channels=3
hue=.1

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky

[convolutional]
filters=6
size=1
stride=16
activation=linear

[yolo]
mask=0
anchors=10,14
classes=1
num=1
ignore_thresh=.7
truth_thresh=1
random=1
"""
"""Only options that both programs read."""


def test_options_of_training_are_known() -> None:
    assert parse_config(PLAIN, source="a.cfg").unknown_options == ()


@pytest.mark.parametrize(
    ("change", "revision", "expected", "reason"),
    [
        (("", ""), 0, "letterbox", "pjreddie's darknet does so, and it writes version 0.2.0"),
        (("", ""), 5, "stretch", "AlexeyAB's darknet does so, and it writes version 0.2.5"),
        (("random=1", "random=1\niou_loss=ciou"), 0, "stretch", "only it reads iou_loss (line 30)"),
        (("hue=.1", "mosaic=1"), 0, "stretch", "only it reads mosaic (line 6)"),
        (("=leaky", "=mish"), 0, "stretch", "only it reads activation (line 14)"),
        (("hue=.1", "# mosaic=1"), 0, "letterbox", "version 0.2.0"),
        (("hue=.1", "mosaic=1\nletter_box=1"), 5, "letterbox", "letter_box=1 in [net]"),
        (("hue=.1", "letter_box=0"), 0, "stretch", "letter_box=0 in [net]"),
    ],
)
def test_images_are_resized_as_by_the_program_that_wrote_the_files(
    change: tuple[str, str], revision: int, expected: str, reason: str
) -> None:
    config = parse_config(PLAIN.replace(*change), source="a.cfg")

    mode, why = resize_mode(config, DarknetHeader(revision=revision))

    assert mode == expected
    assert reason in why


@pytest.mark.parametrize(
    "change",
    [
        ("activation=leaky", "activation=mish"),
        ("layers = -1,-2", "layers = -2,-1"),
        ("group_id=1", "group_id=0"),
        ("size=2\nstride=2", "size=3\nstride=2"),
        ("scale_x_y = 1.05", "scale_x_y = 1.1"),
        ("activation=linear\n\n[yolo]", "activation=logistic\n\n[yolo]\nnew_coords=1"),
    ],
)
def test_what_differs_by_one_option_is_a_graph(
    change: tuple[str, str], darknet: Callable[..., Any], tiny: Callable[..., str]
) -> None:
    assert change[0] in tiny()
    files = darknet(tiny().replace(*change, 1))

    imported = import_darknet(files.config, files.weights)

    assert isinstance(imported.network, GraphDetector)
    assert imported.metadata.architecture == "darknet-graph"


def test_notes(darknet: Callable[..., Any], tiny: Callable[..., str]) -> None:
    files = darknet(tiny().replace("momentum=0.9", "momentum=0.9\nmomentun=0.9"))

    notes = import_darknet(files.config, files.weights).notes

    assert notes[1].endswith("are ignored: [net] momentun (line 8)")
    assert "--names" in notes[2]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"cat\n", r"number of names must be 2, as in the network .*got 1"),
        (b"cat\ncat\n", r"'cat' in lines 1 and 2"),
        (b"", "got none"),
        (b"cat\n\ndog\n", r"names\.txt:2"),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_names_that_do_not_fit(
    content: bytes, said: str, darknet: Callable[..., Any], tmp_path: Path
) -> None:
    files = darknet("reference")
    (tmp_path / "names.txt").write_bytes(content)

    with pytest.raises(ConfigError, match=said):
        import_darknet(files.config, files.weights, names=tmp_path / "names.txt")
    with pytest.raises(ConfigError, match="cannot be read"):
        import_darknet(files.config, files.weights, names=tmp_path / "gone.txt")


def test_a_graph_learns(darknet: Callable[..., Any], images: torch.Tensor) -> None:
    files = darknet("pyramid")
    network = import_darknet(files.config, files.weights).network.train()

    sum(one.square().mean() for one in network(images)).backward()

    assert all(one.grad is not None and one.grad.isfinite().all() for one in network.parameters())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"attention": "ca@p6"}, r"attention must be at a site of the network; got 'p6'"),
        (
            {"attention": "ca@layer0", "attention_init": {"layer1": "paper"}},
            "must have one init for",
        ),
        ({"architecture": "yolov4-tiny"}, "anchor_masks|graph must have layers for darknet-graph"),
        ({"graph": None, "anchor_masks": ((0,), (1,))}, "graph must have layers for darknet-graph"),
        ({"classes": ("a", "b", "c")}, r"must follow a layer with 16 channels; got 14"),
        ({"anchor_masks": ((0, 1), (2, 3))}, r"each of the 3 outputs; got 2"),
    ],
)
def test_descriptions_that_contradict_themselves(
    change: dict[str, Any], said: str, darknet: Callable[..., Any], tmp_path: Path
) -> None:
    import dataclasses

    files = darknet("pyramid")
    metadata = import_darknet(files.config, files.weights).metadata

    with pytest.raises(ConfigError, match=said):
        build_from_metadata(dataclasses.replace(metadata, **change))


def test_the_description_is_read_without_the_network(
    darknet: Callable[..., Any], tmp_path: Path
) -> None:
    files = darknet("gated")
    imported = import_darknet(files.config, files.weights)
    path = save_weights(tmp_path / "net.safetensors", imported.network, imported.metadata)

    metadata = read_metadata(path)

    assert metadata.graph is not None
    assert [layer["kind"] for layer in metadata.graph][:3] == [
        "convolutional",
        "maxpool",
        "avgpool",
    ]
