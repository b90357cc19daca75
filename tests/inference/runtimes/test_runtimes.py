"""Every runtime gives the same detections; files of others are an error of one line."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import attendet
from attendet.errors import ConfigError, MissingExtraError, WeightsError
from attendet.inference import loading
from attendet.inference.detector import Detector
from attendet.inference.loading import installed_runtimes, load
from attendet.models.export_info import ExportInfo

Paths = dict[str, Path]

RUNTIMES = [
    ("onnx", "onnx"),
    ("onnx", "openvino"),
    ("openvino", "openvino"),
    ("torchscript", "torch"),
]
"""File and runtime."""


def _images(count: int = 6) -> list[NDArray[np.uint8]]:
    """Smooth images of different sizes and aspects."""
    rng = np.random.default_rng(0)
    images = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        size = (90 + 37 * number, 120 - 9 * number)
        images.append(np.array(coarse.resize(size, Image.Resampling.BICUBIC)))
    return images


def _assert_same(found: list[Any], expected: list[Any]) -> None:
    """Detections within a pixel and 0.01, whatever the order of equal scores."""
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=0.01)
        for box, class_id in zip(ours.boxes_xyxy, ours.class_ids, strict=True):
            same = theirs.boxes_xyxy[theirs.class_ids == class_id]
            assert np.abs(same - box).max(axis=1).min() < 1


@pytest.fixture(scope="module")
def expected(exported: Paths) -> list[Any]:
    detections = load(exported["torch"], device="cpu").predict_batch(_images(), confidence=0.3)
    assert all(len(one) > 5 for one in detections)
    assert max(float(one.scores[0]) for one in detections) > 0.6
    return detections


@pytest.mark.parametrize(("file", "runtime"), RUNTIMES)
@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_every_runtime_has_the_detections_of_torch(
    exported: Paths, expected: list[Any], file: str, runtime: str, mode: Any
) -> None:
    detector = load(exported[file], runtime=runtime, mode=mode, threads=1)

    _assert_same(detector.predict_batch(_images(), confidence=0.3), expected)
    streamed = [found.detections for found in detector.stream(_images(), confidence=0.3)]
    _assert_same(streamed, expected)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_a_batch_has_the_outputs_of_its_images(exported: Paths, runtime: str, mode: Any) -> None:
    model = load(exported["onnx"], runtime=runtime, mode=mode, threads=2).runtime
    if runtime == "onnx":
        assert model.parallel == (2 if mode == "throughput" else 1)
    inputs = np.random.default_rng(1).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)

    boxes, scores = model.run(inputs)

    assert boxes.dtype == scores.dtype == np.float32
    assert boxes.shape == (3, 90, 4)
    assert scores.shape == (3, 90, 3)
    for row in range(3):
        alone_boxes, alone_scores = model.run(inputs[row : row + 1])
        np.testing.assert_allclose(alone_boxes[0], boxes[row], atol=1e-2)
        np.testing.assert_allclose(alone_scores[0], scores[row], atol=1e-5)


def test_a_file_of_a_fixed_size_is_compiled_for_one_image_and_for_batches(
    exported: Paths, tmp_path: Path
) -> None:
    openvino = pytest.importorskip("openvino")
    file = openvino.Core().read_model(exported["openvino"] / "model.xml")
    file.reshape([-1, 64, 96, 3])
    for key, text in ExportInfo("openvino", dynamic=("batch",)).to_header().items():
        file.set_rt_info(text, ["attendet", key])
    openvino.save_model(file, tmp_path / "model.xml", compress_to_fp16=False)
    model = load(tmp_path, runtime="openvino").runtime
    inputs = np.random.default_rng(1).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)

    alone = [model.run(inputs[row : row + 1]) for row in range(3)]
    assert list(model._compiled_one.model.input().shape) == [1, 64, 96, 3]
    assert model._compiled_any is None
    boxes, scores = model.run(inputs)

    assert model._compiled_any is not None
    np.testing.assert_allclose(boxes, np.concatenate([one[0] for one in alone]), atol=1e-2)
    np.testing.assert_allclose(scores, np.concatenate([one[1] for one in alone]), atol=1e-5)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_outputs_are_not_overwritten_by_the_next_run(exported: Paths, runtime: str) -> None:
    model = load(exported["onnx"], runtime=runtime).runtime
    inputs = np.random.default_rng(1).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    boxes, scores = model.run(inputs[:1])
    before = boxes.copy(), scores.copy()

    model.run(inputs[1:])

    np.testing.assert_array_equal(boxes, before[0])
    np.testing.assert_array_equal(scores, before[1])


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_runtime_may_be_used_from_several_threads(exported: Paths, runtime: str) -> None:
    model = load(exported["onnx"], runtime=runtime).runtime
    inputs = np.random.default_rng(1).integers(0, 256, (8, 1, 64, 96, 3), dtype=np.uint8)
    alone = [model.run(one)[1] for one in inputs]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: model.run(one)[1], [*inputs] * 3))

    for scores, right in zip(together, alone * 3, strict=True):
        np.testing.assert_allclose(scores, right, atol=1e-5)


# --- limits of a file ---------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_a_file_of_a_fixed_size_and_batch_takes_any_image(
    exported: Paths, runtime: str, mode: Any
) -> None:
    detector = load(exported["fixed"], runtime=runtime, mode=mode, threads=2)
    free = Detector(load(exported["onnx"]).runtime, input_hw=(64, 96))

    found = detector.predict_batch(_images(), confidence=0.3)

    assert detector.input_hw == (64, 96)
    assert [len(one) for one in found] != [0] * 6
    wide = np.ascontiguousarray(_images()[3][:66, :99])  # fills 64 x 96 whole in both ways
    _assert_same([detector.predict(wide, confidence=0.3)], [free.predict(wide, confidence=0.3)])
    streamed = [one.detections for one in detector.stream(_images(), batch=4, confidence=0.3)]
    _assert_same(streamed, found)
    with pytest.raises(
        ConfigError, match=r"input size must be \(64, 96\), the fixed size .* got \(96, 96"
    ):
        Detector(detector.runtime, input_hw=(96, 96))


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_suppression_inside_sets_the_thresholds(exported: Paths, runtime: str) -> None:
    detector = load(exported["best"], runtime=runtime)
    plain = Detector(load(exported["fixed"]).runtime, 0.41, 0.5)
    images = _images()

    assert detector.selection.confidence == 0.4
    assert detector.selection.nms_iou == 0.6
    assert detector.selection.max_detections == 60
    found = detector.predict_batch(images, confidence=0.41, nms_iou=0.5)
    assert sum(map(len, found)) > 5
    _assert_same(found, plain.predict_batch(images, max_detections=60))
    with pytest.raises(ConfigError, match=r"confidence must be at least 0.4, .* got 0.3\. Export"):
        detector.predict(images[0], confidence=0.3)
    with pytest.raises(ConfigError, match=r"nms_iou must be at most 0.6, .* got 0.7\."):
        detector.predict(images[0], nms_iou=0.7)
    with pytest.raises(ConfigError, match="confidence must be at least"):
        Detector(detector.runtime, confidence=0.1)


# --- choosing ------------------------------------------------------------------------------------


def test_auto_uses_the_fastest_installed_runtime(
    exported: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = loading.RUNTIMES[".onnx"]
    assert installed_runtimes(exported["onnx"]) == (first, second)
    names = {"openvino": "OpenVinoRuntime", "onnx": "OnnxRuntime"}
    assert type(load(exported["onnx"]).runtime).__name__ == names[first]

    absent = loading.PACKAGES[first][0]
    there = loading._is_installed
    monkeypatch.setattr(loading, "_is_installed", lambda name: name != absent and there(name))
    assert installed_runtimes(exported["onnx"]) == (second,)
    assert type(load(exported["onnx"]).runtime).__name__ == names[second]

    monkeypatch.setattr(loading, "_is_installed", lambda _: False)
    with pytest.raises(MissingExtraError, match=r".onnx files needs 'onnxruntime' or 'openvino'"):
        load(exported["onnx"])


def test_a_missing_library_is_named_with_its_extra(
    exported: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, extra in (("onnxruntime", "onnx"), ("openvino", "openvino")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtraError, match=rf"pip install 'attendet\[{extra}\]'"):
            load(exported["onnx"], runtime=extra)


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("onnx", {"runtime": "torch"}, "runtime must be able to run .onnx files; got 'torch'"),
        ("torch", {"runtime": "openvino"}, "attendet export w.safetensors --format openvino"),
        ("onnx", {"threads": 0}, "threads must be 1 or more; got 0"),
        ("onnx", {"mode": "latancy"}, "Did you mean 'latency'"),
        ("onnx", {"precision": "float8"}, "precision must be a known name; got 'float8'"),
        (
            "onnx",
            {"precision": "bfloat16", "runtime": "onnx"},
            "Only OpenVINO can compute",
        ),
        ("onnx", {"device": "gpu", "runtime": "onnx"}, "device must be one that ONNX Runtime can"),
        (
            "openvino",
            {"device": "quantum"},
            "device must be one that OpenVINO can use on this machine",
        ),
        (
            "torchscript",
            {"device": "cuda:77"},
            "device must be one that PyTorch can use on this machine",
        ),
    ],
)
def test_wrong_settings_are_refused(
    exported: Paths, file: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(exported[file], **settings)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_gpu_that_is_not_used_is_an_error(
    exported: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("a build for GPUs")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(ConfigError, match="device must be one that ONNX Runtime can use"):
        load(exported["onnx"], runtime="onnx", device="cuda")


def test_threads_are_passed_to_the_runtime(exported: Paths) -> None:
    compiled = load(exported["onnx"], runtime="openvino", threads=1).runtime._compiled_any.model
    session = load(exported["onnx"], runtime="onnx", threads=1).runtime._session

    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert session.get_session_options().intra_op_num_threads == 1


# --- files of others ---------------------------------------------------------------------


def _copied(source: Path, folder: Path) -> Path:
    target = folder / source.name
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)
    return target


def _onnx_with(path: Path, **changed: str | None) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(path))
    header = {entry.key: entry.value for entry in model.metadata_props}
    header.update({key: text for key, text in changed.items() if text is not None})
    kept = {key: text for key, text in header.items() if changed.get(key, "") is not None}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, kept)
    onnx.save(model, str(path))


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"attendet_export": None}, "must have the metadata of attendet export"),
        ({"format": None}, "must have format"),
        (
            {"classes": '["a", "b"]'},
            "outputs of the graph must match the 2 classes of the metadata",
        ),
        ({"classes": "[1"}, "is not JSON"),
        (
            {"attendet_export": '{"format": "onnx", "nms": true}'},
            "graph must have the input",
        ),
        ({"preprocess": '{"resize": "crop"}'}, "resize must be one of"),
        ({"clases": "[]"}, "Did you mean 'classes'"),
    ],
)
def test_changed_metadata_is_refused(
    exported: Paths, tmp_path: Path, runtime: str, changed: dict[str, str | None], message: str
) -> None:
    path = _copied(exported["onnx"], tmp_path)
    _onnx_with(path, **changed)

    with pytest.raises(WeightsError, match=message) as caught:
        load(path, runtime=runtime).predict(_images()[0])  # not all shapes are in the file

    assert "onnx.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_metadata_of_converters_is_ignored(exported: Paths, tmp_path: Path) -> None:
    path = _copied(exported["onnx"], tmp_path)
    _onnx_with(path, **{"onnx.infer": "onnxruntime.quant"})

    assert load(path, runtime="onnx").classes == ("cat", "dog", "cow")


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_broken_onnx_file_is_refused(exported: Paths, tmp_path: Path, runtime: str) -> None:
    whole = exported["onnx"].read_bytes()
    broken = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"no weights, only text",
        "noise": np.random.default_rng(0).bytes(5000),
    }
    for name, content in broken.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=rf"cannot load the file \(.*{name}.onnx\)"):
            load(path, runtime=runtime)
    hollow = _copied(exported["onnx"], tmp_path)
    content = bytearray(whole)
    content[1000:3000] = bytes(2000)
    hollow.write_bytes(content)
    with contextlib.suppress(WeightsError):  # zeros there may still make a graph
        load(hollow, runtime=runtime)


def test_a_broken_openvino_folder_is_refused(exported: Paths, tmp_path: Path) -> None:
    folder = _copied(exported["openvino"], tmp_path)
    (folder / "model.bin").rename(folder / "other.bin")
    with pytest.raises(WeightsError, match=r"model.bin\). It must be in the folder of model.xml"):
        load(folder)
    (folder / "model.bin").write_bytes((folder / "other.bin").read_bytes()[:-5000])
    with pytest.raises(WeightsError, match="OpenVINO cannot"):
        load(folder)
    (folder / "model.xml").write_text("<net>")
    with pytest.raises(WeightsError, match="OpenVINO cannot load the file"):
        load(folder)
    (folder / "model.xml").unlink()
    with pytest.raises(
        WeightsError, match=r"or a folder with model\.xml or model\.param; got a folder"
    ):
        load(folder)


def test_an_openvino_model_of_others_is_refused(exported: Paths, tmp_path: Path) -> None:
    folder = _copied(exported["openvino"], tmp_path)
    text = (folder / "model.xml").read_text()
    start, stop = text.index("<attendet>"), text.index("</attendet>")
    (folder / "model.xml").write_text(text[:start] + text[stop + len("</attendet>") :])

    with pytest.raises(WeightsError, match="must have the metadata of attendet export"):
        load(folder)


def test_a_torchscript_file_of_others_is_refused(exported: Paths, tmp_path: Path) -> None:
    path = tmp_path / "other.torchscript"
    path.write_bytes(exported["torchscript"].read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="must be a readable TorchScript file"):
        load(path)
    content = exported["torchscript"].read_bytes()
    path.write_bytes(content.replace(b"extra/attendet.json", b"extra/attendet.jsom"))
    with pytest.raises(WeightsError, match="must have the metadata of attendet export"):
        load(path)


def test_a_file_that_may_contain_code_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "w.pt2"
    path.write_bytes(b"PK")

    with pytest.raises(
        WeightsError, match=r"cannot contain code; got a .pt2 file .*torch.export.load"
    ):
        load(path)


# --- without torch -------------------------------------------------------------------------------


@pytest.fixture
def jpeg(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "image.jpg"
    Image.fromarray(_images()[2]).save(path)
    return path


@pytest.mark.parametrize("file", ["onnx", "openvino"])
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_an_exported_file_runs_without_torch(
    exported: Paths, jpeg: Path, file: str, runtime: str
) -> None:
    if (file, runtime) == ("openvino", "onnx"):
        pytest.skip("ONNX Runtime runs no OpenVINO models")
    code = f"""
import sys, attendet
detector = attendet.load({str(exported[file])!r}, runtime={runtime!r})
assert len(detector.predict({str(jpeg)!r}, confidence=0.3)) > 0
assert len(list(detector.stream([{str(jpeg)!r}] * 3))) == 3
heavy = {{"torch", "torchvision", "matplotlib", "supervision", "scipy", "rich", "onnx"}}
sys.exit(" ".join(heavy & set(sys.modules)) or 0)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert result.returncode == 0, result.stderr


def test_the_command_line_predicts_without_torch(
    exported: Paths, jpeg: Path, tmp_path: Path
) -> None:
    arguments = ["predict", str(exported["onnx"]), str(jpeg), "--output", str(tmp_path / "out")]
    code = f"""
import sys
from attendet.cli import main
code = main({arguments!r})
sys.exit("torch" if "torch" in sys.modules else code)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert result.returncode == 0, result.stderr
    assert "1 image in" in result.stdout


def test_attendet_load(exported: Paths) -> None:
    assert attendet.load(exported["openvino"]).metadata.attention == "se"


def test_idle_threads_of_onnx_runtime_do_not_spin(exported: Any) -> None:
    session = attendet.load(exported["onnx"], "onnx", threads=2).runtime._session

    options = session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
