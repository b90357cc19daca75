"""Every attention block in every format: the file and eager PyTorch give the same outputs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for library in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(library)

import attendet  # noqa: E402
from attendet.attention import attention_names  # noqa: E402
from attendet.exporters import torch_files  # noqa: E402
from attendet.exporters.exported_network import ExportedNetwork  # noqa: E402
from attendet.exporters.onnx_file import build_onnx, write_onnx  # noqa: E402
from attendet.exporters.openvino_file import read_onnx, write_openvino  # noqa: E402
from attendet.exporters.parity import (  # noqa: E402
    compare_outputs,
    network_inputs,
    synthetic_images,
)
from attendet.inference import load  # noqa: E402
from attendet.inference.runtimes.torch_runtime import TorchRuntime  # noqa: E402
from attendet.models import WeightsMetadata, build_from_metadata  # noqa: E402
from attendet.models.export_info import ExportInfo  # noqa: E402

BLOCKS = [name for name in attention_names() if ":" not in name]
BATCH, SIZE = ("batch",), ("batch", "size")


def _write_all(network: Any, metadata: Any, dynamic: Any, folder: Path) -> dict[str, Path]:
    """Write a network in every format, traced once; return the files."""

    def header(format: Any) -> dict[str, str]:
        info = ExportInfo(format, dynamic=dynamic)
        return metadata.to_header() | info.to_header()  # type: ignore[no-any-return]

    exported, hw = ExportedNetwork(network), metadata.input_hw
    program = torch_files.trace(exported, hw, dynamic)
    path = write_onnx(build_onnx(program, dynamic=dynamic), folder / "x.onnx", header("onnx"))
    script = folder / "x.torchscript"
    return {
        "onnx": path,
        "openvino": write_openvino(read_onnx(path), folder / "x_openvino", header("openvino")),
        "torch-export": torch_files.write_program(
            program, folder / "x.pt2", header("torch-export")
        ),
        "torchscript": torch_files.write_torchscript(
            torch_files.trace_script(exported, hw, dynamic), script, header("torchscript")
        ),
    }


def _check(network: Any, metadata: Any, dynamic: Any, folder: Path) -> None:
    reference = TorchRuntime(network, metadata)
    for format, path in _write_all(network, metadata, dynamic, folder).items():
        is_program = format == "torch-export"
        runtime = torch_files.ProgramRuntime(path) if is_program else load(path).runtime
        batches = network_inputs(synthetic_images(2), metadata, runtime.limits)
        assert len(batches) == 1 + ("batch" in dynamic) + 2 * ("size" in dynamic)
        assert np.ptp(reference.run(batches[0])[1]) > 0.05
        max_box, mean_box, max_score, mean_score = compare_outputs(reference, runtime, batches)
        assert max_box < 0.02, format
        assert max_score < 1e-4, format
        assert mean_box <= max_box
        assert mean_score <= max_score


def test_blocks_in_a_row(one_level: Any, tmp_path: Path) -> None:
    _check(*one_level("eca", "cbam", "ca"), BATCH, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_any_batch_and_size(block: str, one_level: Any, tmp_path: Path) -> None:
    _check(*one_level(block), SIZE, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("dynamic", [(), BATCH], ids=["static", "batch"])
@pytest.mark.parametrize("init", ["identity"])
def test_one_size(block: str, dynamic: Any, init: str, one_level: Any, tmp_path: Path) -> None:
    network, metadata = one_level(block, init=init)
    _check(network, dataclasses.replace(metadata, input_hw=(32, 224)), dynamic, tmp_path)


@pytest.mark.parametrize(
    "dynamic",
    [pytest.param((), marks=pytest.mark.slow), BATCH, pytest.param(SIZE, marks=pytest.mark.slow)],
    ids=["static", "batch", "size"],
)
def test_a_darknet_graph(graph: Any, dynamic: Any, tmp_path: Path) -> None:
    _check(*graph, dynamic, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [(), BATCH, SIZE], ids=["static", "batch", "size"])
@pytest.mark.parametrize("spec", ["none", "cbam@p5+se@up", "ca@stage1,p4,p5,up"])
def test_the_reference_network(spec: str, dynamic: Any, reference: Any, tmp_path: Path) -> None:
    _check(*reference(spec), dynamic, tmp_path)


@pytest.mark.slow
def test_attention_in_the_backbone(reference: Any, tmp_path: Path) -> None:
    network, metadata = reference("none")
    sites = {"backbone.conv2": "ca", "backbone.csp1.conv1.conv": "cbam", "backbone.csp3": "se"}
    attendet.attend(network, sites, init="paper")

    _check(network, metadata, BATCH, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_in_ncnn(block: str, half: bool, one_level: Any, tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    network, metadata = one_level(block)
    if block == "ema":  # its groups are images of a batch, which ncnn has none of
        with pytest.raises(attendet.errors.ExportError):
            attendet.export(network, "ncnn", metadata=metadata, output=tmp_path, half=half)
        return

    report = attendet.export(network, "ncnn", metadata=metadata, output=tmp_path, half=half)

    assert report.parity.max_score < (0.02 if half else 1e-4)
    assert sorted(path.name for path in report.path.iterdir()) == [
        "attendet.json",
        "model.bin",
        "model.param",
    ]


@pytest.mark.parametrize("block", ["none", "ca", "cbam", "eca", "se"])
def test_litert_gives_the_outputs_of_pytorch(block: str, tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    torch.manual_seed(0)
    metadata = WeightsMetadata(("cat", "dog"), attention=block, width_mult=0.25, input_hw=(96, 128))
    network = build_from_metadata(metadata).eval()

    report = attendet.export(network, "litert", metadata=metadata, output=tmp_path)

    folder = tmp_path / report.path.name
    assert sorted(path.name for path in folder.iterdir()) == ["attendet.json", "model.tflite"]
    from ai_edge_litert.interpreter import Interpreter

    image = torch.randint(0, 256, (1, 96, 128, 3), dtype=torch.uint8)
    run = Interpreter(str(folder / "model.tflite")).get_signature_runner("serving_default")
    outputs = run(args_0=image.numpy())
    boxes_xyxy, scores = ExportedNetwork(network)(image)
    np.testing.assert_allclose(outputs["output_0"], boxes_xyxy.detach(), rtol=0, atol=1e-3)
    np.testing.assert_allclose(outputs["output_1"], scores.detach(), rtol=0, atol=1e-5)
