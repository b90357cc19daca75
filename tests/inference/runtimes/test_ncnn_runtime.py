"""ncnn folders give the detections of the network; incomplete ones are an error of one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import attendet
from attendet.cli import main
from attendet.errors import ConfigError, MissingExtraError, WeightsError
from attendet.inference import load

pytest.importorskip("ncnn")
pytest.importorskip("pnnx")


@pytest.fixture(scope="module")
def files(exported: dict[str, Path], tmp_path_factory: Any) -> dict[str, Path]:
    """The same weights as an ncnn folder and as an ONNX file, both for one image of 96 x 96."""
    output = tmp_path_factory.mktemp("ncnn")
    return {
        "torch": exported["torch"],
        "ncnn": attendet.export(exported["torch"], "ncnn", output=output).path,
        "onnx": attendet.export(exported["torch"], "onnx", dynamic="none", output=output).path,
    }


@pytest.fixture
def folder(files: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(files["ncnn"], tmp_path / "copy"))


def test_raw_outputs_are_those_of_the_network(files: dict[str, Path]) -> None:
    inputs = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    network = load(files["torch"], device="cpu").runtime.run(inputs)
    model = load(files["ncnn"] / "model.param", threads=1).runtime

    found = model.run(inputs)

    for ours, theirs, tolerance in zip(found, network, (0.05, 1e-4), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=tolerance)
    before = found[1].copy()
    model.run(inputs[::-1].copy())
    np.testing.assert_array_equal(found[1], before)


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_detections_are_those_of_onnx(files: dict[str, Path], mode: Any) -> None:
    from attendet.exporters.parity import synthetic_images

    images = [*synthetic_images(2), np.full((50, 37, 3), 90, dtype=np.uint8)]
    expected = load(files["onnx"], "onnx").predict_batch(images, confidence=0.3)
    assert sum(map(len, expected)) > 5

    detector = load(files["ncnn"], mode=mode)
    streamed = [one.detections for one in detector.stream(images, confidence=0.3)]

    for found in (detector.predict_batch(images, confidence=0.3), streamed):
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.class_ids.tolist() == theirs.class_ids.tolist()
            np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
            np.testing.assert_allclose(ours.boxes_xyxy, theirs.boxes_xyxy, atol=0.1)


def test_predict_runs_the_folder_without_torch(files: dict[str, Path], tmp_path: Path) -> None:
    from attendet.exporters.parity import synthetic_images

    path = tmp_path / "photo.png"
    Image.fromarray(synthetic_images(1)[0]).save(path)
    words = ["predict", str(files["ncnn"]), str(path), "--save", "json", "--output", str(tmp_path)]
    code = (
        "import sys\n"
        "from attendet.cli import main\n"
        f"status = main({words!r})\n"
        "sys.exit('torch' if 'torch' in sys.modules else status)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    (found,) = json.loads((tmp_path / "detections.json").read_text())["images"]
    expected = load(files["onnx"], "onnx").predict(path).to_dicts()
    assert [one["class_id"] for one in found["detections"]] == [one["class_id"] for one in expected]
    for ours, theirs in zip(found["detections"], expected, strict=True):
        assert ours["box_xyxy"] == pytest.approx(theirs["box_xyxy"], abs=0.1)


@pytest.mark.parametrize("name", ["model.param", "model.bin", "attendet.json"])
def test_a_missing_file_is_named(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).unlink()

    assert main(["predict", str(folder), str(attendet.SAMPLE_IMAGE)]) != 0
    assert capsys.readouterr().err == (
        "attendet: ncnn model must consist of model.param, model.bin and attendet.json; got no "
        f"{name} ({folder}). Copy the whole folder of the export.\n"
    )


def test_a_param_file_of_another_name_is_refused(folder: Path) -> None:
    (folder / "other.param").write_text("no graph")
    with pytest.raises(WeightsError, match=r"file must be named model\.param"):
        load(folder / "other.param")


def test_damaged_files_are_refused(folder: Path) -> None:
    whole = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(whole[:-500])
    with pytest.raises(WeightsError, match=r"ncnn cannot load the file \(.*model.bin\)"):
        load(folder)
    (folder / "model.bin").write_bytes(whole)
    graph = (folder / "model.param").read_text()
    (folder / "model.param").write_text(graph.replace("out1", "scores"))
    with pytest.raises(WeightsError, match="outputs out0, out1; got in0, out0, scores"):
        load(folder)
    (folder / "model.param").write_text("no graph")
    with pytest.raises(WeightsError, match=r"ncnn cannot load the file \(.*model.param\)"):
        load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "must have the metadata of attendet export"),
        ("[1]", "must be a JSON map"),
        ("{", "must be a JSON map"),
    ],
)
def test_metadata_of_others_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "attendet.json").write_text(text)
    with pytest.raises(WeightsError, match=message):
        load(folder)


def test_another_number_of_classes_is_refused(folder: Path) -> None:
    header = json.loads((folder / "attendet.json").read_text())
    header["classes"] = '["cat", "dog"]'
    (folder / "attendet.json").write_text(json.dumps(header))
    with pytest.raises(WeightsError, match="graph must match the 2 classes of the metadata"):
        load(folder).predict(np.zeros((96, 96, 3), dtype=np.uint8))


def test_a_missing_package_and_another_device_are_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="device must be cpu with ncnn; got 'cuda'"):
        load(folder, device="cuda")
    with pytest.raises(ConfigError, match=r"able to run .param files; got 'torch'"):
        load(folder, runtime="torch")
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'attendet\[ncnn\]'"):
        load(folder)
