"""The export: settings, file names, metadata, and files that fail the parity check."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")

import attendet  # noqa: E402
from attendet.errors import ConfigError, ExportError  # noqa: E402
from attendet.exporters import exporter, parity, settings  # noqa: E402
from attendet.inference.runtimes.torchscript_runtime import TorchScriptRuntime  # noqa: E402
from attendet.models import (  # noqa: E402
    WeightsMetadata,
    build_from_metadata,
    parse_exported,
)


def _header_of(path: Path) -> dict[str, str]:
    """Read the description of any exported file with its own library alone."""
    if (path / "attendet.json").is_file():
        described: dict[str, str] = json.loads((path / "attendet.json").read_text())
        return described
    if path.is_dir():
        info = openvino.Core().read_model(path / "model.xml").get_rt_info()["attendet"]
        return {key: getattr(value, "value", value) for key, value in info.items()}
    if path.suffix == ".onnx":
        return {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("attendet.json")]
        texts: dict[str, str] = json.loads(archive.read(name))
        return texts


@pytest.mark.parametrize("format", sorted(settings.FORMATS.keys() - {"web"}))
def test_a_file_holds_its_metadata(format: Any, graph: Any, tmp_path: Path) -> None:
    if format == "ncnn":
        pytest.importorskip("ncnn")
        pytest.importorskip("pnnx")
    if format == "litert":
        pytest.importorskip("litert_torch")
    network, metadata = graph
    metadata = dataclasses.replace(metadata, classes=('<"白血球" & co>', "blåbær\n\ttab"))

    report = attendet.export(network, format, metadata=metadata, output=tmp_path, name="cats")

    assert report.path == tmp_path / f"cats{settings.FORMATS[format]}"
    assert [path.name for path in tmp_path.iterdir()] == [report.path.name]
    header = _header_of(report.path)
    assert parse_exported(header, source="x") == (report.metadata, report.info)
    assert report.metadata == metadata
    assert report.info.format == format
    assert report.info.parity == report.parity.to_mapping()
    assert report.parity.max_score < 1e-4
    assert report.parity.images == parity.RAW_OUTPUT_IMAGES
    assert report.size_bytes > 1000


def test_onnx_has_standard_operators_and_no_paths_of_the_machine(
    one_level: Any, tmp_path: Path
) -> None:
    network, metadata = one_level("ca")
    report = attendet.export(network, metadata=metadata, output=tmp_path, nms=True, confidence=0.1)
    model = onnx.load(report.path)

    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.domain for entry in model.opset_import] == [""]
    assert [value.name for value in model.graph.input] == ["images"]
    assert [value.name for value in model.graph.output] == ["detections"]
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 96, 160, 3]
    kinds = {node.op_type for node in model.graph.node}
    assert "NonMaxSuppression" in kinds
    assert not kinds & {"BatchNormalization", "Split"}
    assert b"site-packages" not in report.path.read_bytes()
    assert b"src/attendet" not in report.path.read_bytes()
    assert report.path.name == "network-nms.onnx"
    assert (report.info.confidence, report.info.nms_iou, report.info.max_detections) == (
        0.1,
        0.5,
        300,
    )
    assert report.parity.same == report.parity.detections > 0


def test_half_keeps_weights_in_float16(one_level: Any, tmp_path: Path) -> None:
    network, metadata = one_level("se")
    report = attendet.export(network, metadata=metadata, output=tmp_path, half=True)
    kinds = {one.name: one.data_type for one in onnx.load(report.path).graph.initializer}

    assert report.info.precision == "float16"
    assert report.path.name == "network-half.onnx"
    assert kinds["network.conv.weight_float16"] == onnx.TensorProto.FLOAT16
    assert kinds["network.conv.bias"] == onnx.TensorProto.FLOAT
    assert 1e-6 < report.parity.max_score < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_half_halves_the_file(format: Any, reference: Any, tmp_path: Path) -> None:
    _, metadata = reference("ca")
    network = build_from_metadata(metadata)
    half = attendet.export(network, format, metadata=metadata, output=tmp_path, half=True)
    path = half.path / "model.bin" if half.path.is_dir() else half.path

    assert path.stat().st_size < 2.9 * sum(each.numel() for each in network.parameters())
    assert 0 < half.parity.max_score < 0.05


def test_a_fixed_size_is_letterboxed(one_level: Any, tmp_path: Path) -> None:
    network, metadata = one_level("se")
    assert metadata.preprocessing().resize == "rect"
    fixed = attendet.export(
        network, "torchscript", metadata=metadata, output=tmp_path, input_hw=(64, 64)
    )
    free = attendet.export(
        network, "torchscript", metadata=metadata, output=tmp_path, dynamic="size"
    )

    assert fixed.metadata.preprocessing().resize == "letterbox"
    assert fixed.metadata.input_hw == (64, 64)
    assert free.metadata == metadata
    assert free.info.dynamic == ("batch", "size")


def _distort(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    infer = TorchScriptRuntime._infer
    monkeypatch.setattr(
        TorchScriptRuntime, "_infer", lambda runtime, inputs: change(list(infer(runtime, inputs)))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: [out[0] + 0.2, out[1]], r"difference of boxes .* at most 0.1 px; got 0.2"),
        (lambda out: [out[0], out[1] * 0.9], "difference of scores"),
        (lambda out: [out[0] * np.nan, out[1]], "got nan px"),
        (lambda out: [out[0][:, 1:], out[1]], "outputs must be float32"),
        (lambda out: [out[0].astype(float), out[1]], "got float64"),
    ],
    ids=["boxes", "scores", "nan", "shape", "dtype"],
)
def test_a_failed_parity_check_leaves_no_file(
    change: Any, message: str, one_level: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, metadata = one_level("none")
    (tmp_path / "network.torchscript").write_text("older")
    _distort(monkeypatch, change)

    with pytest.raises(ExportError, match=message):
        attendet.export(network, "torchscript", metadata=metadata, output=tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["network.torchscript"]
    assert (tmp_path / "network.torchscript").read_text() == "older"


def test_detections_and_average_precision_on_data(
    one_level: Any, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faster_coco_eval")
    network, metadata = one_level("eca")
    named = dataclasses.replace(metadata, classes=("red", "green"))
    done = []

    def write() -> Any:
        return attendet.export(
            network,
            "torchscript",
            metadata=named,
            output=tmp_path,
            data=squares,
            progress=lambda *counts: done.append(counts),
        )

    found = write().parity
    assert (found.images, found.split, done) == (4, "val", [(4, 4)])
    assert found.ap == pytest.approx(found.ap_exported, abs=1e-6)
    assert found.same == found.detections
    assert found.extra == 0

    loose = parity.Tolerance(box_px=1e9, score=1, detections=0.005, ap=0.1)
    monkeypatch.setitem(parity.TOLERANCES, "float32", loose)
    _distort(monkeypatch, lambda out: [out[0] + 3, out[1]])
    if found.detections:
        with pytest.raises(ExportError, match="detections missing in the file"):
            write()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "onxx"}, "Did you mean 'onnx'"),
        ({"dynamic": "sizes"}, "Did you mean 'size'"),
        ({"format": "torchscript", "half": True}, "half must be omitted for torchscript"),
        ({"format": "torch-export", "nms": True}, "nms must be omitted for torch-export"),
        ({"format": "ncnn", "dynamic": "batch"}, "dynamic must be 'none' for ncnn"),
        ({"format": "litert", "dynamic": "batch"}, "dynamic must be 'none' for litert"),
        ({"format": "ncnn", "int8": True}, "int8 must be omitted for ncnn"),
        ({"nms": True, "confidence": 2.0}, "confidence must be from 0 to 1"),
        ({"input_hw": (100, 64)}, "input_hw must be multiples of 32"),
        ({"metadata": None}, "list its 2 classes; got none"),
        ({"metadata": WeightsMetadata(("cat",))}, "list its 2 classes; got 1 classes"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_wrong_settings(settings: Any, message: str, graph: Any, tmp_path: Path) -> None:
    network, metadata = graph
    with pytest.raises(ConfigError, match=message):
        attendet.export(network, **{"metadata": metadata, "output": tmp_path / "new", **settings})
    assert not (tmp_path / "new").exists()


def test_an_older_folder_is_replaced_whole(tmp_path: Path) -> None:
    older, made = tmp_path / "x_openvino", tmp_path / "made"
    for folder, name in ((older, "old.bin"), (made, "model.bin")):
        folder.mkdir()
        (folder / name).touch()

    exporter._move(made, older)

    assert [path.name for path in older.iterdir()] == ["model.bin"]
    assert not made.exists()


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("cells-v1.5_openvino", ("model.xml", "model.bin")),
        ("cells_litert", ("model.tflite", "attendet.json")),
        ("cells_ncnn", ("model.param", "model.bin", "attendet.json")),
    ],
)
def test_the_folder_of_an_older_export_is_replaceable(
    name: str, files: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / name).mkdir()
    for file in files:
        (tmp_path / name / file).touch()

    exporter._check_replaceable(tmp_path / name, is_folder=True)

    (tmp_path / "cells_web").touch()
    with pytest.raises(ConfigError, match=r"earlier export; got a file"):
        exporter._check_replaceable(tmp_path / "cells_web", is_folder=True)


@pytest.mark.parametrize("name", ["network_openvino/notes.txt", "network.onnx/x"])
def test_a_folder_with_other_files_is_not_replaced(name: str, graph: Any, tmp_path: Path) -> None:
    network, metadata = graph
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).touch()
    for format in ("openvino", "onnx"):
        if (tmp_path / f"network{settings.FORMATS[format]}").exists():
            with pytest.raises(ConfigError, match="output must be a new path or an earlier export"):
                attendet.export(network, format, metadata=metadata, output=tmp_path)
    assert (tmp_path / name).exists()


def test_other_modules_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"weights must be a weights file.*got Linear"):
        attendet.export(torch.nn.Linear(2, 2), metadata=WeightsMetadata(("cat",)))


def test_the_file_that_is_saved_is_the_one_that_was_checked(
    one_level: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, metadata = one_level("ca")
    traced = []
    trace = torch.jit.trace
    monkeypatch.setattr(torch.jit, "trace", lambda *a, **k: traced.append(1) or trace(*a, **k))

    report = attendet.export(network, "torchscript", metadata=metadata, output=tmp_path)

    assert len(traced) == 1
    assert attendet.load(report.path).runtime.info.parity["detections"] == report.parity.detections


def test_the_network_is_not_changed(one_level: Any, tmp_path: Path) -> None:
    network, metadata = one_level("ca")
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    attendet.export(network, "torchscript", metadata=metadata, output=tmp_path)

    assert network.training
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_link_is_refused_before_the_export(one_level: Any, tmp_path: Path) -> None:
    network, metadata = one_level("none")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "network_openvino").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ConfigError, match="output must not be a symbolic link"):
        attendet.export(network, "openvino", metadata=metadata, output=tmp_path)


def test_hub_weights_are_named_after_their_repository(
    one_level: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, metadata = one_level("none")
    monkeypatch.setattr(exporter, "_load", lambda *_: (network, metadata))
    monkeypatch.chdir(tmp_path)

    report = attendet.export("hf://ann/cells-v1.5", "torchscript")

    assert [path.name for path in tmp_path.iterdir()] == ["cells-v1.5.torchscript"]
    assert report.path.resolve() == tmp_path / "cells-v1.5.torchscript"
