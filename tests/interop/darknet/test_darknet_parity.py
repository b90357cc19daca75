"""Imported darknet networks give the raw maps that darknet's own definitions give.

Two references: loops in plain numpy, written from darknet's definitions, which read the files by
themselves; and OpenCV's reader of darknet files, where the installed OpenCV is a 4.x (OpenCV 5 has
none): ``pip install 'opencv-python-headless<5'``. It takes 1e-6 for the epsilon of batch
normalization where darknet takes 1e-5; for the comparison with it the networks take 1e-6 too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from attendet.interop.darknet.convert import import_darknet  # noqa: E402

Array = NDArray[np.float64]
NAMES = ("reference", "pyramid", "gated", "partial")
OPENCV_EPS = 1e-6


def _sections(path: Path) -> list[dict[str, str]]:
    sections: list[dict[str, str]] = []
    for raw in path.read_text().splitlines():
        line = raw.split("#")[0].strip()
        if line.startswith("["):
            sections.append({"kind": line.strip("[] ")})
        elif "=" in line:
            key, value = line.split("=")
            sections[-1][key.strip()] = value.strip()
    return sections


def _activate(x: Array, name: str) -> Array:
    softplus = np.logaddexp(0, x)
    return {
        "linear": x,
        "leaky": np.where(x > 0, x, 0.1 * x),
        "relu": np.maximum(x, 0),
        "logistic": 1 / (1 + np.exp(-x)),
        "swish": x / (1 + np.exp(-x)),
        "mish": x * np.tanh(softplus),
    }[name]


class _Values:
    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        assert struct.unpack_from("<iii", content) == (0, 2, 5)
        self.values = np.frombuffer(content[20:], dtype="<f4").astype(np.float64)
        self.at = 0

    def take(self, *shape: int) -> Array:
        count = int(np.prod(shape))
        self.at += count
        return self.values[self.at - count : self.at].reshape(shape)


def _convolve(x: Array, options: dict[str, str], values: _Values) -> Array:
    filters, size = int(options.get("filters", 1)), int(options.get("size", 1))
    stride, groups = int(options.get("stride", 1)), int(options.get("groups", 1))
    pad = size // 2 if options.get("pad") == "1" else int(options.get("padding", 0))
    group, each = x.shape[0] // groups, filters // groups
    bias = values.take(filters)
    norm = [values.take(filters) for _ in range(3)] if "batch_normalize" in options else None
    weights = values.take(filters, group, size, size)
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    rows, columns = ((side + 2 * pad - size) // stride + 1 for side in x.shape[1:])
    out = np.empty((filters, rows, columns))
    for f in range(filters):
        part = padded[f // each * group : (f // each + 1) * group]
        for i in range(rows):
            for j in range(columns):
                window = part[:, i * stride : i * stride + size, j * stride : j * stride + size]
                out[f, i, j] = (window * weights[f]).sum()
    if norm is not None:
        scale, mean, variance = (one[:, None, None] for one in norm)
        out = (out - mean) / np.sqrt(variance + 1e-5) * scale
    return _activate(out + bias[:, None, None], options.get("activation", "logistic"))


def _pool(x: Array, options: dict[str, str]) -> Array:
    stride = int(options.get("stride", 1))
    size = int(options.get("size", stride))
    padding = int(options.get("padding", size - 1))
    rows, columns = ((side + padding - size) // stride + 1 for side in x.shape[1:])
    out = np.empty((x.shape[0], rows, columns))
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride - padding // 2, j * stride - padding // 2
            window = x[:, max(top, 0) : top + size, max(left, 0) : left + size]
            out[:, i, j] = window.max(axis=(1, 2))
    return out


def _named(options: dict[str, str], key: str, index: int) -> list[int]:
    return [n + index if n < 0 else n for n in map(int, options[key].split(","))]


def _plain_loops(config: Path, weights: Path, image: Array) -> list[Array]:
    """The raw maps, layer by layer, in float64."""
    values, maps, raw_maps = _Values(weights), [], []
    for index, options in enumerate(_sections(config)[1:]):
        before: Any = maps[-1] if maps else image
        match options["kind"]:
            case "convolutional":
                maps.append(_convolve(before, options, values))
            case "maxpool":
                maps.append(_pool(before, options))
            case "avgpool":
                maps.append(before.mean(axis=(1, 2), keepdims=True))
            case "upsample":
                maps.append(before.repeat(2, axis=1).repeat(2, axis=2))
            case "shortcut":
                (other,) = _named(options, "from", index)
                total, shared = before.copy(), min(len(before), len(maps[other]))
                total[:shared] += maps[other][:shared]
                maps.append(_activate(total, options.get("activation", "linear")))
            case "scale_channels":
                (other,) = _named(options, "from", index)
                maps.append(before * maps[other])
            case "route":
                parts, part = int(options.get("groups", 1)), int(options.get("group_id", 0))
                chosen = [maps[n] for n in _named(options, "layers", index)]
                slices = [np.split(one, parts)[part] for one in chosen]
                maps.append(np.concatenate(slices))
            case "yolo":
                maps.append(before)
                raw_maps.append(before)
    assert values.at == len(values.values)
    return raw_maps


@pytest.mark.parametrize("name", [*NAMES, "parts of two maps"])
def test_raw_maps_are_those_of_plain_loops(
    name: str, darknet: Callable[..., Any], other_configs: dict[str, str]
) -> None:
    parts = other_configs["gated"].replace("layers=-1\ngroups=4", "layers=-1,-2\ngroups=2")
    parts = parts.replace("group_id=2", "group_id=1").replace("size=2\nstride=2", "size=2")
    files = darknet(parts if name == "parts of two maps" else name)
    imported = import_darknet(files.config, files.weights)
    height, width = imported.metadata.input_hw
    image = np.random.default_rng(1).random((3, height, width))

    expected = _plain_loops(files.config, files.weights, image)
    with torch.inference_mode():
        found = imported.network(torch.from_numpy(image).float()[None])

    assert len(found) == len(expected) == {"reference": 2, "pyramid": 3}.get(name, 1)
    for one, wanted in zip(found, expected, strict=True):
        assert np.abs(wanted).max() > 0.1
        np.testing.assert_allclose(one[0].numpy(), wanted, atol=1e-4, rtol=0)


def _by_opencv(config: Path, weights: Path, image: NDArray[np.float32]) -> list[Array]:
    network = cv2.dnn.readNetFromDarknet(str(config), str(weights))
    kinds = [options["kind"] for options in _sections(config)[1:]]
    names = [f"conv_{index - 1}" for index, kind in enumerate(kinds) if kind == "yolo"]
    network.setInput(image[None])
    return [np.asarray(network.forward(name))[0] for name in names]


@pytest.mark.skipif(
    not hasattr(getattr(cv2, "dnn", None), "readNetFromDarknet"),
    reason="needs OpenCV 4 for its darknet reader: pip install 'opencv-python-headless<5'",
)
@pytest.mark.parametrize("name", NAMES)
def test_raw_maps_are_those_of_opencv(
    name: str, darknet: Callable[..., Any], tiny: Callable[..., str]
) -> None:
    whole = tiny(base=64, classes=80, side=416)
    files = darknet(whole if name == "reference" else name)
    imported = import_darknet(files.config, files.weights)
    height, width = imported.metadata.input_hw
    image = np.random.default_rng(1).random((3, height, width), dtype=np.float32)

    for module in imported.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = OPENCV_EPS
    expected = _by_opencv(files.config, files.weights, image)
    with torch.inference_mode():
        found = imported.network(torch.from_numpy(image)[None])

    assert len(found) == len(expected)
    for one, wanted in zip(found, expected, strict=True):
        assert one[0].shape == wanted.shape
        assert np.abs(wanted).max() > 0.1
        assert np.abs(one[0].numpy() - wanted).max() <= 1e-4


def test_the_original_configuration_is_the_reference_network(
    darknet: Callable[..., Any], tiny: Callable[..., str]
) -> None:
    files = darknet(tiny(base=64, classes=80, side=416))

    imported = import_darknet(files.config, files.weights)

    assert imported.metadata.architecture == "yolov4-tiny"
    assert sum(one.numel() for one in imported.network.parameters()) == 6_056_606
    assert imported.network.strides == (32, 16)
