"""INT8: what stays in float32, and that a file which lost too much is not written."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
pytest.importorskip("faster_coco_eval")

import attendet  # noqa: E402
from attendet.errors import ConfigError, ExportError  # noqa: E402
from attendet.exporters import exporter, int8, torch_files  # noqa: E402
from attendet.exporters.exported_network import ExportedNetwork  # noqa: E402
from attendet.exporters.onnx_file import build_onnx, write_onnx  # noqa: E402
from attendet.models import WeightsMetadata, build  # noqa: E402


@pytest.fixture
def graph_of() -> Any:
    """Make the ONNX graph of a network."""

    def make(network: Any) -> Any:
        program = torch_files.trace(ExportedNetwork(network), (96, 160), ("batch",))
        return build_onnx(program, dynamic=("batch",))

    return make


def _kinds(graph: Any, kept: frozenset[str]) -> list[str]:
    return [node.op_type for node in graph.model.graph.node if node.name in kept]


def test_each_configuration_keeps_more(one_level: Any, graph_of: Any, tmp_path: Path) -> None:
    graph = graph_of(one_level("ca", "se")[0])
    errors = {"network.conv": 0.9, "network.blocks.0.squeeze": 0.09, "network.out": 0.01}
    attention = ["network.blocks.0", "network.blocks.1"]
    tries = list(int8.int8_configurations(graph, attention, lambda: errors))

    assert [one.description.removeprefix("decode, last convolutions") for one in tries] == [
        "",
        ", attention",
        ", attention, 1 of 3 layers",
        ", attention, 2 of 3 layers",
    ]
    for less, more in itertools.pairwise(tries):
        assert less.kept <= more.kept
    last, gates, first, _ = (_kinds(graph, one.kept) for one in tries)
    assert [kinds.count("Conv") for kinds in (last, gates, first)] == [1, 5, 6]
    assert {"Cast", "Exp", "Sigmoid", "Concat"} <= set(last)
    assert {"ReduceMean", "Mul", "Gemm"} <= set(_kinds(graph, tries[1].kept - tries[0].kept))
    assert _kinds(graph, tries[2].kept - tries[1].kept) == ["Conv"]
    without = int8.int8_configurations(graph, [], dict)
    assert "attention" not in " ".join(one.description for one in without)

    source = write_onnx(graph, tmp_path / "source.onnx", {})
    model = int8.read_onnx(source)
    there = int8._names_in(model, tries[2].kept)
    kinds = {one.get_friendly_name(): one.get_type_name() for one in model.get_ops()}
    assert sum(kinds[name] == "Convolution" for name in there) == 6

    noise = np.random.default_rng(0).integers(0, 256, (1, 96, 160, 3), dtype=np.uint8)
    smaller = int8.quantize_onnx(graph, [noise], tries[1].kept, tmp_path)
    weights = {one.name: one.data_type for one in smaller.model.graph.initializer}
    quantized = [name for name, kind in weights.items() if kind == onnx.TensorProto.INT8]
    assert [name for name in quantized if "weight_quantized" in name] == [
        "network.conv.weight_quantized"
    ]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 7, 9])
def test_calibration_images_are_evenly_spaced(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "CALIBRATION_IMAGES", 4)
    monkeypatch.setattr(int8, "read_image", lambda path: np.full((64, 64, 3), path, np.uint8))
    samples: Any = [SimpleNamespace(path=index) for index in range(count)]

    inputs = int8.calibration_inputs(samples, WeightsMetadata(("cell",), input_hw=(64, 64)))

    found = [int(one[0, 0, 0, 0]) for one in inputs]
    gaps = np.diff(found)
    assert len(found) == min(count, 4)
    assert found[:1] + found[-1:] == [0, count - 1][: 2 * count]
    assert not gaps.size or gaps.max() - gaps.min() <= 1


def test_the_error_of_a_layer_is_that_of_its_rounded_maps_and_weights() -> None:
    network = build(classes=["cell"], width_mult=0.125, attention="none").eval()
    exported = ExportedNetwork(network)
    convolutions = [m for m in exported.modules() if isinstance(m, torch.nn.Conv2d)]
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    before = [conv.weight.clone() for conv in convolutions]

    errors = int8.measure_layer_errors(exported, [noise])

    assert len(errors) == len(convolutions)
    assert all(0 < error < 0.1 for error in errors.values())
    for conv, weight in zip(convolutions, before, strict=True):
        assert torch.equal(conv.weight, weight)
        assert not conv._forward_hooks
        assert not conv._forward_pre_hooks

    # One channel a hundred times as large as the others takes nearly all steps of the range. The
    # next layer undoes it, so that the network computes the same.
    modules = dict(exported.named_modules())
    wide, following = modules["network.head_p5.conv"], modules["network.out_p5"]
    with torch.no_grad():
        wide.weight[0] *= 100
        wide.bias[0] *= 100
        following.weight[:, 0] /= 100
    worse = int8.measure_layer_errors(exported, [noise])
    assert worse["network.head_p5.conv"] > 10 * errors["network.head_p5.conv"]


def test_outputs_of_every_coding_stay_in_float32(graph: Any, graph_of: Any) -> None:
    exported = graph_of(graph[0])
    first = next(int8.int8_configurations(exported, [], dict))

    kinds = _kinds(exported, first.kept)
    assert kinds.count("Conv") == len(graph[0].output_layers()) == 2
    assert {"Sigmoid", "Softmax", "Exp"} <= set(kinds)
    rest = [n.op_type for n in exported.model.graph.node if n.name not in first.kept]
    assert "Sigmoid" not in rest


@pytest.mark.parametrize("format", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_file_in_int8(format: Any, one_level: Any, squares: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf" if format == "openvino" else "onnx")
    network, metadata = one_level("eca")
    named = dataclasses.replace(metadata, classes=("red", "green"))

    report = attendet.export(
        network,
        format,
        metadata=named,
        output=tmp_path,
        int8=True,
        calibrate=squares,
        max_ap_loss=100,
    )

    assert report.path.name.startswith("network-int8")
    assert report.info.precision == "int8"
    assert report.info.parity["kept_in_float32"] == "decode, last convolutions"
    assert 0 < report.parity.mean_score < 0.1
    assert report.parity.split == "val"
    assert [path.name for path in tmp_path.iterdir()] == [report.path.name]


def test_a_file_in_int8_with_suppression_inside(
    one_level: Any, squares: Path, tmp_path: Path
) -> None:
    network, metadata = one_level("eca")
    named = dataclasses.replace(metadata, classes=("red", "green"))

    report = attendet.export(
        network,
        metadata=named,
        output=tmp_path,
        int8=True,
        nms=True,
        calibrate=squares,
        max_ap_loss=100,
    )

    assert report.path.name == "network-int8-nms.onnx"
    domains = [entry.domain for entry in onnx.load(report.path).opset_import]
    assert len(domains) == len(set(domains))


def _write(path: Path, header: Any) -> Path:
    path.write_text("file")
    return path


def _losing(monkeypatch: pytest.MonkeyPatch, losss: list[Any]) -> list[str]:
    """Make each configuration lose these points of average precision; return the tried ones."""
    tried: list[str] = []

    def fake(*_: Any) -> Any:
        for number, _loss in enumerate(losss):
            tried.append(f"attempt {number}")
            yield tried[-1], _write

    def check(*_: Any, **__: Any) -> Any:
        loss = losss[len(tried) - 1]
        after = None if loss is None else 0.5 - loss / 100
        return exporter.Parity(0, 0, 0, 0, 1, 1, 1, 0, "val", 0.5, after)

    monkeypatch.setattr(exporter, "writers", fake)
    monkeypatch.setattr(exporter, "_open", lambda *_: None)
    monkeypatch.setattr(exporter.ParityCheck, "compare", check)
    return tried


def test_the_first_configuration_within_the_ap_loss_is_written(
    graph: Any, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, metadata = graph
    metadata = dataclasses.replace(metadata, classes=("red", "green"))
    tried = _losing(monkeypatch, [2.0, 0.6, 0.4, 0.0])

    report = attendet.export(
        network, metadata=metadata, output=tmp_path, int8=True, calibrate=squares
    )

    assert tried == ["attempt 0", "attempt 1", "attempt 2"]
    assert report.info.parity["kept_in_float32"] == "attempt 2"
    assert report.parity.ap_loss == pytest.approx(0.4)


def test_nothing_is_written_beyond_the_ap_loss(
    graph: Any, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, metadata = graph
    metadata = dataclasses.replace(metadata, classes=("red", "green"))
    _losing(monkeypatch, [2.0, 1.25])

    with pytest.raises(
        ExportError, match=r"at most 0.5 points of average precision; got 2.00, 1.25 with"
    ):
        attendet.export(network, metadata=metadata, output=tmp_path, int8=True, calibrate=squares)

    assert list(tmp_path.iterdir()) == []


def test_without_average_precision_nothing_is_written(
    graph: Any, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, metadata = graph
    metadata = dataclasses.replace(metadata, classes=("red", "green"))
    _losing(monkeypatch, [None])

    with pytest.raises(ExportError, match="split must have boxes, to measure average precision"):
        attendet.export(network, metadata=metadata, output=tmp_path, int8=True, calibrate=squares)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "calibrate must be a data set"),
        ({"calibrate": "x", "max_ap_loss": -1.0}, "max_ap_loss must be 0 points or more"),
        ({"calibrate": "x", "half": True}, "half must be omitted for int8"),
        ({"calibrate": "x", "format": "torchscript"}, "int8 must be omitted for torchscript"),
    ],
    ids=["no data", "negative", "half", "format"],
)
def test_wrong_settings(settings: Any, message: str, graph: Any, tmp_path: Path) -> None:
    network, metadata = graph
    with pytest.raises(ConfigError, match=message):
        attendet.export(network, metadata=metadata, output=tmp_path, int8=True, **settings)
