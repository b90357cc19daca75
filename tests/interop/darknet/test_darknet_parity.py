"""Imported darknet networks give the raw maps and boxes that darknet's own definitions give.

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
from attendet.models.decode import MAX_LOG_SIZE  # noqa: E402
from attendet.models.graph import Convolutional, Graph, Region, Reorg  # noqa: E402
from attendet.models.graph_detector import GraphDetector  # noqa: E402

Array = NDArray[np.float64]
NAMES = (
    *("reference", "three levels", "pyramid", "gated", "partial"),
    *("yolov2-tiny", "yolov2", "yolov7-tiny"),
)
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


def _reorg(x: Array, options: dict[str, str]) -> Array:
    """Index by index: the memory of (C, H, W), of which (C / s^2, H s, W s) is the other shape."""
    s, reverse = int(options["stride"]), int(options.get("reverse", 0))
    channels, height, width = x.shape
    few, flat, out = channels // s**2, x.ravel(), np.empty(x.size)
    for k in range(channels):
        for i in range(height):
            for j in range(width):
                block = k // few
                row, column = i * s + block // s, j * s + block % s
                narrow = (k * height + i) * width + j
                wide = ((k % few) * height * s + row) * width * s + column
                if reverse:
                    out[wide] = flat[narrow]
                else:
                    out[narrow] = flat[wide]
    if reverse:
        return out.reshape(few, height * s, width * s)
    return out.reshape(channels * s**2, height // s, width // s)


def _decode(x: Array, options: dict[str, str], input_hw: tuple[int, int]) -> tuple[Array, Array]:
    """Boxes (center, size) and scores of one output in pixels, row, column, anchor."""
    region, scaled = options["kind"] == "region", options.get("new_coords") == "1"
    numbers = [float(one) for one in options["anchors"].split(",")]
    anchors = list(zip(numbers[::2], numbers[1::2], strict=True))
    if not region:
        anchors = [anchors[int(one)] for one in options["mask"].split(",")]
    classes, scale = int(options["classes"]), float(options.get("scale_x_y", 1))
    _, rows, columns = x.shape
    stride = input_hw[0] // rows
    boxes, scores = [], []
    for i in range(rows):
        for j in range(columns):
            for number, (width, height) in enumerate(anchors):
                t = x[number * (5 + classes) : (number + 1) * (5 + classes), i, j]
                p = t if scaled else _activate(t, "logistic")
                center = (p[:2] * scale - (scale - 1) / 2 + (j, i)) * stride
                size = (2 * t[2:4]) ** 2 if scaled else np.exp(np.minimum(t[2:4], MAX_LOG_SIZE))
                size = size * (width, height) * (stride if region else 1)
                boxes.append([*center, *size])
                of_class = np.exp(t[5:]) / np.exp(t[5:]).sum() if region else p[5:]
                scores.append(p[4] * of_class)
    return np.array(boxes), np.array(scores)


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
            case "reorg":
                maps.append(_reorg(before, options))
            case "yolo" | "region":
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
        decoded = imported.network.decode(found)

    levels = {"reference": 2, "three levels": 3, "yolov7-tiny": 2, "pyramid": 3}
    assert len(found) == len(expected) == levels.get(name, 1)
    outputs = [one for one in _sections(files.config) if one["kind"] in ("yolo", "region")]
    for one, wanted, options in zip(found, expected, outputs, strict=True):
        assert np.abs(wanted).max() > 0.1
        values = one.sigmoid() if options.get("new_coords") == "1" else one
        np.testing.assert_allclose(values[0].numpy(), wanted, atol=1e-4, rtol=0)
    pairs = zip(expected, outputs, strict=True)
    boxes, scores = zip(*(_decode(*one, (height, width)) for one in pairs), strict=True)
    corners = decoded[0][0].double().numpy()
    centers, sizes = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    np.testing.assert_allclose(centers, np.concatenate(boxes)[:, :2], atol=1e-2, rtol=1e-3)
    np.testing.assert_allclose(sizes, np.concatenate(boxes)[:, 2:], atol=1e-2, rtol=1e-3)
    np.testing.assert_allclose(decoded[1][0].numpy(), np.concatenate(scores), atol=1e-4)


def _by_opencv(
    config: Path, weights: Path, image: NDArray[np.float32]
) -> tuple[list[Array], list[Array]]:
    """Raw maps, before any activation; and rows of center, size, objectness, scores."""
    network = cv2.dnn.readNetFromDarknet(str(config), str(weights))
    kinds = [options["kind"] for options in _sections(config)[1:]]
    outputs = {index: kind for index, kind in enumerate(kinds) if kind in ("yolo", "region")}
    names = {"yolo": "yolo_{}", "region": "detection_out"}
    network.setInput(image[None])
    maps = [np.asarray(network.forward(f"conv_{index - 1}"))[0] for index in outputs]
    rows = [np.asarray(network.forward(names[k].format(index))) for index, k in outputs.items()]
    return maps, [one.reshape(-1, one.shape[-1]) for one in rows]


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
    expected, detected = _by_opencv(files.config, files.weights, image)
    with torch.inference_mode():
        found = imported.network(torch.from_numpy(image)[None])
        boxes, scores = (one[0].numpy() for one in imported.network.decode(found))

    assert len(found) == len(expected)
    for one, wanted in zip(found, expected, strict=True):
        assert one[0].shape == wanted.shape
        assert np.abs(wanted).max() > 0.1
        assert np.abs(one[0].numpy() - wanted).max() <= 1e-4
    rows = np.concatenate(detected)
    centers, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    np.testing.assert_allclose(centers / (width, height), rows[:, :2], atol=1e-4)
    small = rows[:, 2:4] < 100  # larger ones are cut here
    found_sizes = (sizes / (width, height))[small]
    np.testing.assert_allclose(found_sizes, rows[:, 2:4][small], atol=1e-4, rtol=1e-3)
    kept = rows[:, 5:] > 0  # OpenCV sets low scores to 0
    assert kept.any() or name == "partial"
    np.testing.assert_allclose(scores[kept], rows[:, 5:][kept], atol=1e-4)


@pytest.mark.parametrize(
    ("reverse", "shape", "expected"),
    [
        # Four maps of 2 x 2 are one of 4 x 4 first: rows 0 1 2 3, 4 5 6 7 and so on.
        (False, (4, 2, 2), [[[n]] for n in (0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15)]),
        (True, (8, 1, 1), [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]),
    ],
)
def test_reorg_by_hand(reverse: bool, shape: tuple[int, ...], expected: list[Any]) -> None:
    graph = Graph((Convolutional(8, 8, 8), Reorg(2, reverse), Convolutional(6), Region()))
    layer = GraphDetector(graph, 1, [[(8.0, 8.0)]], input_hw=(64, 64)).layers[1]
    values = torch.arange(float(np.prod(shape))).view(1, *shape)

    assert layer(values)[0].tolist() == expected
    assert Reorg(2, reverse).shape([shape]) == np.shape(expected)


def test_the_original_configuration_is_the_reference_network(
    darknet: Callable[..., Any], tiny: Callable[..., str]
) -> None:
    files = darknet(tiny(base=64, classes=80, side=416))

    imported = import_darknet(files.config, files.weights)

    assert imported.metadata.architecture == "yolov4-tiny"
    assert sum(one.numel() for one in imported.network.parameters()) == 6_056_606
    assert imported.network.strides == (32, 16)
