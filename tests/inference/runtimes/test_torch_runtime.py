from __future__ import annotations

import dataclasses
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import attendet  # noqa: E402
from attendet.errors import AttendetError, ConfigError, WeightsError  # noqa: E402
from attendet.inference.runtimes.torch_runtime import TorchRuntime, fold_batch_norm  # noqa: E402
from attendet.models import WeightsMetadata, build_from_metadata, save_weights  # noqa: E402


def _metadata(attention: str = "ca") -> WeightsMetadata:
    return WeightsMetadata(
        classes=("cat", "dog"), attention=attention, width_mult=0.25, input_hw=(96, 96)
    )


def _network(attention: str = "ca", seed: int = 0) -> Any:
    """A small network whose running statistics are far from their start."""
    torch.manual_seed(seed)
    network = build_from_metadata(_metadata(attention)).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 2.0)
            torch.nn.init.normal_(module.bias, std=0.3)
    return network


@pytest.fixture
def inputs() -> Any:
    return np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return save_weights(tmp_path / "w.safetensors", _network(), _metadata())


@pytest.mark.parametrize("attention", ["none", "se", "cbam", "eca", "ca", "ca@stage1,p5"])
def test_folding_changes_nothing_but_rounding(inputs: Any, attention: str) -> None:
    network = _network(attention)
    plain = TorchRuntime(network, _metadata(attention)).run(inputs)
    folded = TorchRuntime(network, _metadata(attention), fold=True).run(inputs)

    assert plain[0].shape == (2, 3 * (2 * 3 + 4 * 6), 4)
    assert plain[1].shape == (2, 3 * (2 * 3 + 4 * 6), 2)
    assert np.ptp(plain[1]) > 0.001
    np.testing.assert_allclose(folded[0], plain[0], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(folded[1], plain[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("site", ["conv_up", "conv_up.conv", "conv_up.bn", "backbone.csp1"])
def test_folding_keeps_inserted_attention(inputs: Any, site: str) -> None:
    network = attendet.attend(_network(), {site: "se"}, init="paper")
    plain = TorchRuntime(network, _metadata()).run(inputs)
    folded = TorchRuntime(network, _metadata(), fold=True).run(inputs)

    np.testing.assert_allclose(folded[0], plain[0], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(folded[1], plain[1], rtol=1e-4, atol=1e-5)


def test_folding_in_double_precision_is_exact() -> None:
    network = _network().double()
    images = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        plain = network(images)
        folded = fold_batch_norm(network)(images)

    for a, b in zip(plain, folded, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_folding_does_not_change_the_network(inputs: Any) -> None:
    network = _network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    TorchRuntime(network, _metadata(), fold=True).run(inputs)

    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_an_unfolded_runtime_follows_its_network(inputs: Any) -> None:
    network = _network().train()
    runtime = TorchRuntime(network, _metadata())
    assert not network.training
    _, before = runtime.run(inputs)
    with torch.no_grad():
        network.out_p5.bias += 1.0
    _, after = runtime.run(inputs)

    assert (after[:, :18] > before[:, :18]).all()
    np.testing.assert_array_equal(after[:, 18:], before[:, 18:])


def test_the_network_gets_rgb_from_0_to_1(inputs: Any) -> None:
    network = _network()
    seen = []
    network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))

    TorchRuntime(network, _metadata()).run(inputs)

    expected = inputs.transpose(0, 3, 1, 2).astype(np.float32) / 255
    np.testing.assert_allclose(seen[0].numpy(), expected, rtol=1e-6)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_a_weights_file_has_the_detections_of_the_network(weights: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    detector = attendet.load(weights, device="cpu")
    straight = attendet.Detector(TorchRuntime(_network(), _metadata()))

    found = detector.predict(image, confidence=0.0)
    expected = straight.predict(image, confidence=0.0)

    assert detector.classes == ("cat", "dog")
    assert detector.input_hw == (96, 96)
    assert len(found) > 20
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.boxes_xyxy[:5], expected.boxes_xyxy[:5], atol=1e-2)


def test_an_image_of_the_input_size_may_be_a_view(weights: Path) -> None:
    metadata = dataclasses.replace(_metadata(), preprocess={"resize": "stretch", "color": "rgb"})
    detector = attendet.Detector(TorchRuntime(_network(), metadata))
    image = np.random.default_rng(1).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    view = image[::-1][..., ::-1]
    view.flags.writeable = False

    found, expected = (detector.predict(one, confidence=0.0) for one in (view, view.copy()))

    np.testing.assert_array_equal(found.scores, expected.scores)


def _with_header(path: Path, change: Any) -> None:
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


CHANGES = {
    "another class": lambda header: header["__metadata__"].update(classes='["a", "b", "c"]'),
    "no classes": lambda header: header["__metadata__"].update(classes="[]"),
    "broken JSON": lambda header: header["__metadata__"].update(anchors="[[1, 2"),
    "unknown key": lambda header: header["__metadata__"].update(clases="[]"),
    "unknown attention": lambda header: header["__metadata__"].update(attention='"cba"'),
    "unknown fit": lambda header: header["__metadata__"].update(preprocess='{"resize": "crop"}'),
    "huge network": lambda header: header["__metadata__"].update(width_mult="1e9"),
    "no size": lambda header: header["__metadata__"].update(input_hw="[0, 0]"),
    "text for a number": lambda header: header["__metadata__"].update(scale_x_y='"much"'),
    "no metadata": lambda header: header.pop("__metadata__"),
    "a tensor gone": lambda header: header.pop("out_p5.bias"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_file_is_refused(weights: Path, name: str) -> None:
    _with_header(weights, CHANGES[name])

    with pytest.raises(WeightsError) as caught:
        attendet.load(weights)

    assert "w.safetensors" in str(caught.value)


def test_other_files_are_refused(weights: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.safetensors"
    text.write_text("no weights, only text")
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.read_bytes()[:-1000])
    other = tmp_path / "weights.pth"
    other.touch()
    inside = tmp_path / "folder.safetensors"
    inside.mkdir()
    cases = {
        text: "must be a .safetensors file",
        empty: "must be a .safetensors file",
        cut: "damaged",
        other: r"must be a file of type .safetensors, .*; got '.pth'",
        inside: "got a folder",
        tmp_path: "got a folder",
        tmp_path / "none.safetensors": "weights file not found",
    }
    for path, message in cases.items():
        with pytest.raises(WeightsError, match=message) as caught:
            attendet.load(path)
        assert str(path) in str(caught.value)


def test_an_unknown_runtime_or_device_is_refused(weights: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"runtime must be able to run .safetensors.*'torhc'.*torch"
    ):
        attendet.load(weights, runtime="torhc")
    for device in ("gpu", "cuda:77"):
        with pytest.raises(
            ConfigError, match="device must be one that PyTorch can use on this machine"
        ):
            attendet.load(weights, device=device)


def test_importing_inference_imports_no_torch() -> None:
    code = "import sys, attendet.inference; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_torch_the_missing_extra_is_named(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)

    with pytest.raises(AttendetError, match=r"pip install 'attendet\[train\]'"):
        attendet.load(weights)
