"""Weights files: bit-equal round trips, and files that do not fit."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

import attendet  # noqa: E402
from attendet import __version__  # noqa: E402
from attendet.errors import ConfigError, WeightsError  # noqa: E402
from attendet.models import (  # noqa: E402
    WeightsMetadata,
    YoloV4Tiny,
    build,
    build_from_metadata,
    load_weights,
    read_metadata,
    save_weights,
)

METADATA = WeightsMetadata(
    classes=("RBC", "WBC"),
    attention="se@p5+ca@up",
    input_hw=(96, 64),
    anchors=tuple((10.0 + index, 12.5 + 3 * index) for index in range(6)),
    anchor_masks=((3, 4, 5), (0, 1, 2)),
    scale_x_y=1.5,
    width_mult=0.125,
    bn_eps=1e-3,
    recipe={"epochs": 3},
    seed=11,
    measured={"ap": 0.5},
)


def _network(metadata: WeightsMetadata = METADATA, seed: int = 0) -> YoloV4Tiny:
    torch.manual_seed(seed)
    network = build_from_metadata(metadata)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.num_batches_tracked += 3
    return network.eval()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save_weights(tmp_path / "w.safetensors", _network(), METADATA)


def test_round_trip_is_equal_bit_for_bit(file: Path):
    network, metadata = load_weights(file)
    original = _network()
    assert metadata == dataclasses.replace(METADATA, version=__version__)
    assert not network.training
    own, loaded = original.state_dict(), network.state_dict()
    assert list(own) == list(loaded)
    for name, tensor in own.items():
        assert loaded[name].dtype == tensor.dtype, name
        assert torch.equal(loaded[name], tensor), name
    images = torch.rand(2, 3, 96, 64)
    for one, two in zip(
        original.decode(original(images)), network.decode(network(images)), strict=True
    ):
        assert torch.equal(one, two)


def test_loading_and_saving_leave_torchs_generator_alone(file: Path):
    network = _network()
    before = torch.random.get_rng_state()
    load_weights(file)
    save_weights(file, network, METADATA)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_same_weights_give_the_same_bytes_channels_last_or_not(file: Path, tmp_path: Path):
    network = _network().to(memory_format=torch.channels_last).requires_grad_(False)
    other = save_weights(tmp_path / "last.safetensors", network, METADATA)
    assert other.read_bytes() == file.read_bytes()


def test_folders_on_the_way_are_made_and_the_path_comes_back(tmp_path: Path):
    path = tmp_path / "a" / "b" / "w.safetensors"
    assert save_weights(str(path), _network(), METADATA) == path
    assert read_metadata(str(path)).seed == 11


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    file: Path, monkeypatch: pytest.MonkeyPatch
):
    before = file.read_bytes()

    def full(handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        save_weights(file, _network(seed=1), METADATA)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


# --- saving what could not be loaded -------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("a", "b", "c")}, r"out_p5.weight is .*, not"),
        ({"attention": "ca"}, r"missing attention\.p4"),
        ({"attention": "none"}, r"unknown attention\.p5"),
        ({"width_mult": 0.25}, r"and \d+ more"),
        ({"scale_x_y": 1.05}, r"anchors, scale_x_y and outputs"),
        ({"attention_init": "identity"}, r"the attention_init of .* 'paper'; got 'identity'"),
        ({"anchor_masks": ((3, 4, 5), (1, 2, 3))}, r"anchors, scale_x_y and outputs"),
    ],
)
def test_a_description_of_another_network_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
):
    path = tmp_path / "w.safetensors"
    with pytest.raises(WeightsError, match=message):
        save_weights(path, _network(), dataclasses.replace(METADATA, **change))
    assert not path.exists()


def test_attention_as_a_number_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"not a number; got '4'.*phi 4 was 'ca'"):
        build(classes=["cell"], attention=4)  # type: ignore[arg-type]


def test_a_network_with_inserted_attention_is_refused(tmp_path: Path):
    network = attendet.attend(_network(), {"conv_up": "se"})
    with pytest.raises(WeightsError, match=r"unknown conv_up\.attention_block"):
        save_weights(tmp_path / "w.safetensors", network, METADATA)
    save_weights(tmp_path / "w.safetensors", attendet.detach(network), METADATA)


def test_the_file_keeps_the_attention_init(tmp_path: Path):
    metadata = dataclasses.replace(METADATA, attention_init="identity")
    network = _network(metadata)
    for parameter in network.attention.parameters():
        torch.nn.init.normal_(parameter)
    path = save_weights(tmp_path / "w.safetensors", network, metadata)
    loaded, described = load_weights(path)
    assert described.attention_init == loaded.attention_init == "identity"
    images = torch.rand(1, 3, 64, 64)
    assert all(map(torch.equal, loaded(images), network(images)))


def test_blocks_that_started_differently_are_distinguished(tmp_path: Path):
    starts: Any = {"p5": "paper", "up": "identity"}
    metadata = dataclasses.replace(METADATA, attention="ca@p5,up", attention_init=starts)
    network = _network(metadata)
    for parameter in network.attention.parameters():
        torch.nn.init.normal_(parameter)
    loaded, described = load_weights(save_weights(tmp_path / "w.safetensors", network, metadata))
    assert described.attention_init == loaded.attention_init == starts
    images = torch.rand(1, 3, 64, 64)
    assert all(map(torch.equal, loaded(images), network(images)))
    other = dataclasses.replace(metadata, attention_init={"p5": "identity", "up": "paper"})
    with pytest.raises(WeightsError, match="must match the attention_init of the network"):
        save_weights(tmp_path / "w.safetensors", network, other)


@pytest.mark.parametrize("init", ["none", {"p5": "none"}])
def test_a_start_that_nobody_knows_is_refused(init: Any):
    with pytest.raises(ConfigError, match=r"attention_init must be 'paper' or 'identity', one"):
        dataclasses.replace(METADATA, attention_init=init)


def test_a_file_that_does_not_say_it_started_as_published(file: Path):
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert json.loads(header["__metadata__"].pop("attention_init")) == "paper"
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    network, metadata = load_weights(file)
    assert metadata.attention_init == network.attention_init == "paper"
    images = torch.rand(1, 3, 64, 64)
    assert all(map(torch.equal, network(images), _network()(images)))


def test_another_ending_is_refused(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"must end in \.safetensors; got .*w\.pt"):
        save_weights(tmp_path / "w.pt", _network(), METADATA)


# --- loading what does not fit -------------------------------------------------------------------

Tensors = dict[str, "torch.Tensor"]


def _rewrite(file: Path, tensors: Callable[[Tensors], object] = id, **header: str | None) -> Path:
    """Write the file again with changed tensors or changed metadata texts."""
    content = safetensors.torch.load_file(file)
    tensors(content)
    with safetensors.safe_open(file, framework="pt") as opened:
        texts = {**opened.metadata(), **header}
    kept = {key: text for key, text in texts.items() if text is not None}
    safetensors.torch.save_file(content, file, metadata=kept)
    return file


def _refused(file: Path, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(file)
    text = str(caught.value)
    assert "\n" not in text
    assert "w.safetensors" in text


def test_tensors_of_another_shape(file: Path):
    def widen(tensors: Tensors) -> None:
        tensors["out_p4.bias"] = torch.zeros(5)

    _refused(_rewrite(file, widen), r"out_p4\.bias is \(5,\), not \(21,\)")


def test_missing_and_unknown_tensors(file: Path):
    def rename(tensors: Tensors) -> None:
        tensors["head.bias"] = tensors.pop("out_p4.bias")

    _refused(_rewrite(file, rename), r"missing out_p4\.bias; unknown head\.bias\.")


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("classes", '["RBC"]', r"out_p5\.weight is"),
        ("attention", '"none"', r"unknown attention"),
        ("attention", '"ca@p7"', r"cannot be built: .*'p7'"),
        ("attention", '"magic"', r"cannot be built: .*'magic'"),
        ("architecture", '"yolov9"', r"cannot be built: architecture must be"),
        ("width_mult", "1e6", r"tensors do not fit|cannot be built"),
        ("width_mult", "1e300", r"cannot be built"),
        ("width_mult", "-1", r"width_mult must be above 0"),
        ("anchor_masks", "[[0], [1]]", r"out_p5\.weight is"),
        ("extra", "1", r"unknown setting 'extra'"),
        ("classes", None, r"must contain 'classes'"),
        ("classes", "[", r"'classes' is not JSON"),
        ("format", "attendet/9", r"got 'attendet/9'"),
    ],
)
def test_tampered_metadata(file: Path, key: str, text: str | None, message: str):
    _refused(_rewrite(file, **{key: text}), message)


@pytest.mark.parametrize("kept", [0, 7, 100, -1, -1000])
def test_truncated_files(file: Path, kept: int):
    file.write_bytes(file.read_bytes()[:kept])
    _refused(file, r"cut short|damaged")


def test_bytes_behind_the_end(file: Path):
    file.write_bytes(file.read_bytes() + b"x")
    _refused(file, "damaged")


def test_a_header_that_points_outside_the_file(file: Path):
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["out_p4.bias"]["data_offsets"][1] += 2**40
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    _refused(file, "damaged")


def test_safetensors_of_others_text_folder_and_nothing(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    _refused(path, "not found")
    path.mkdir()
    _refused(path, "got a folder")
    path.rmdir()
    path.write_text("weights, I promise")
    _refused(path, "not one, or is damaged")
    path.unlink()
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    _refused(path, "must have metadata that describes the network")
    safetensors.torch.save_file({"a": torch.zeros(2)}, path, metadata={"format": "pt"})
    _refused(path, "got 'pt'")


def test_a_pickle_is_never_opened(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    torch.save(build(classes=["a"], width_mult=0.125).state_dict(), path)
    _refused(path, "not one, or is damaged")
