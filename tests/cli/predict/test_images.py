from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from attendet.cli import main  # noqa: E402
from attendet.models import WeightsMetadata, build_from_metadata, save_weights  # noqa: E402

Predict = Callable[..., int]
Capture = pytest.CaptureFixture[str]


def test_a_folder_is_predicted_and_the_broken_image_named(
    run: Predict, shots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shots, "--save", "image,json,csv,yolo,coco", "--batch", 2) == 0

    said = capsys.readouterr()
    assert said.out.startswith("3 images in ")
    assert "detections\n" in said.out
    assert f"written: image, json, csv, yolo, coco in {tmp_path / 'out'}" in said.out
    assert "1 skipped:\n" in said.err
    assert said.err.count(str(shots / "b.jpg")) == 1
    assert "truncated" in said.err
    out = tmp_path / "out"
    assert sorted(path.name for path in out.glob("*.jpg")) == ["a.jpg", "c.jpg", "d.jpg"]
    images = json.loads((out / "detections.json").read_text())["images"]
    assert [entry["name"] for entry in images] == ["a", "c", "d"]
    total = sum(len(entry["detections"]) for entry in images)
    assert f"\n{total} detections\n" in said.out
    assert total > 0
    assert len(json.loads((out / "coco.json").read_text())) == total
    assert len((out / "detections.csv").read_text().splitlines()) == total + 1


def test_batches_of_any_size_give_the_same(run: Predict, shots: Path, tmp_path: Path) -> None:
    results = []
    for batch in (1, 2, 8):
        assert run(shots, "--save", "json", "--batch", batch) == 0
        written = json.loads((tmp_path / "out" / "detections.json").read_text())
        results.append([[one["box_xyxy"] for one in e["detections"]] for e in written["images"]])

    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            assert len(one) == pytest.approx(len(same), abs=2)
            np.testing.assert_allclose(one[:3], same[:3], atol=0.1)


def test_images_of_one_stem_keep_their_own_results(
    run: Predict, shots: Path, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    Image.open(shots / "a.jpg").save(tmp_path / "more" / "a.png")

    assert run(shots / "a.jpg", tmp_path / "more", "--save", "yolo,image") == 0

    names = sorted(path.name for path in (tmp_path / "out").rglob("a*"))
    assert names == ["a-2.jpg", "a-2.txt", "a.jpg", "a.txt"]


def test_only_wanted_classes_are_kept(run: Predict, shots: Path, tmp_path: Path) -> None:
    assert run(shots / "a.jpg", "--classes", "dog", "--save", "json", "--max-detections", 3) == 0

    found = json.loads((tmp_path / "out" / "detections.json").read_text())["images"][0]
    assert [one["name"] for one in found["detections"]] == ["dog"] * 3


def test_nothing_needs_to_be_written(run: Predict, shots: Path, tmp_path: Path) -> None:
    assert run(shots / "a.jpg", "--save", "none", confidence=0.99) == 0

    assert list((tmp_path / "out").iterdir()) == []


def test_when_nothing_can_be_read_the_exit_code_says_so(
    run: Predict, shots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shots / "b.jpg", tmp_path / "gone.jpg") == 1

    said = capsys.readouterr()
    assert "2 skipped:" in said.err
    assert "image not found" in said.err
    assert "written" not in said.out


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--classes", "dgo"], 2, "class must be a known name; got 'dgo'. Did you mean 'dog'?"),
        (["--save", "jpg"], 2, "save must be a known kind; got 'jpg' (--save)."),
        (["--nms-iou", "5"], 2, "iou must be from 0 to 1; got 5.0"),
        (["--size", "100"], 2, "multiples of 32; got (100, 100). Nearest: 96x96"),
        (["--batch", "0"], 2, "--batch must be 1 or more; got 0"),
        (["--max-detections", "0"], 2, "max_detections must be 1 or more; got 0"),
        (
            ["--device", "gpu"],
            2,
            "device must be one that PyTorch can use on this machine; got 'gpu'",
        ),
    ],
)
def test_a_wrong_flag_is_one_clear_line(
    weights: Path,
    shots: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    code: int,
    words: str,
) -> None:
    start = ["predict", str(weights), str(shots), "--output", str(tmp_path / "out")]

    assert main([*start, *flags]) == code

    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_size_that_is_none_is_refused_by_the_parser(
    run: Predict, shots: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(shots, "--size", "big")
    assert caught.value.code == 2
    assert "must be like 416 or 320x416; got 'big'" in capsys.readouterr().err


def test_other_sizes_are_taken(run: Predict, shots: Path) -> None:
    assert run(shots / "a.jpg", "--size", "128", "--save", "none") == 0
    assert run(shots / "a.jpg", "--size", "64x96", "--save", "none") == 0


@pytest.mark.parametrize("name", ["text.safetensors", "folder", "gone.safetensors", "old.pth"])
def test_what_is_no_weights_file_is_one_clear_line(
    shots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "text.safetensors").write_text("words, no weights at all")
    (tmp_path / "old.pth").touch()
    (tmp_path / "folder").mkdir()

    assert main(["predict", str(tmp_path / name), str(shots)]) == 4

    said = capsys.readouterr().err
    assert str(tmp_path / name) in said
    assert said.count("\n") == 1


def test_the_output_may_not_be_the_folder_of_the_images(
    weights: Path, shots: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (shots / "a.jpg").read_bytes()

    assert main(["predict", str(weights), str(shots), "--output", str(shots)]) == 2

    assert "Choose another output folder" in capsys.readouterr().err
    assert (shots / "a.jpg").read_bytes() == before


# --- how it runs -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from attendet.exporters import export

    pytest.importorskip("onnxruntime")
    return export(weights, "onnx", output=tmp_path_factory.mktemp("exported")).path


def _loaded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what each detector of the command is loaded with."""
    import attendet.inference

    asked: list[dict[str, Any]] = []
    load = attendet.inference.load

    def watched(path: Path, runtime: str, device: str | None, **options: Any) -> Any:
        asked.append({"runtime": runtime, **options})
        return load(path, runtime, device, **options)

    monkeypatch.setattr(attendet.inference, "load", watched)
    return asked


@pytest.mark.parametrize("words", ["--mode latency", "--mode throughput --threads 1", ""])
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_every_runtime_and_mode_finds_the_same(
    exported: Path, run: Predict, shots: Path, tmp_path: Path, runtime: str, words: str
) -> None:
    def found(folder: Path) -> Any:
        return json.loads((folder / "detections.json").read_text())["images"]

    flags = ["--save", "json", "--confidence", "0.004", "--max-detections", "5"]
    assert run(shots, *flags) == 0
    there = ["predict", str(exported), str(shots), "--output", str(tmp_path / "there")]
    assert main([*there, *flags, "--runtime", runtime, *words.split()]) == 0

    for mine, theirs in zip(found(tmp_path / "out"), found(tmp_path / "there"), strict=True):
        assert mine["name"] == theirs["name"]
        scores = [[one["score"] for one in each["detections"]] for each in (mine, theirs)]
        assert scores[0] == pytest.approx(scores[1], abs=0.01)


def test_many_images_run_for_throughput_and_one_for_latency(
    run: Predict, shots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _loaded(monkeypatch)

    run(shots)
    run(shots / "a.jpg")
    run(shots, "--tile", 64)
    run(shots / "a.jpg", "--mode", "throughput", "--threads", 1)

    assert [one["mode"] for one in asked] == ["throughput", "latency", "latency", "throughput"]
    assert [one["threads"] for one in asked] == [None, None, None, 1]


def test_a_runtime_that_cannot_run_the_file_is_one_clear_line(
    run: Predict, shots: Path, capsys: Capture
) -> None:
    assert run(shots, "--runtime", "openvino") == 2

    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "attendet export tiny.safetensors --format openvino" in error


def test_names_without_a_font_are_listed_with_their_numbers(
    use_fonts: Callable[..., None], shots: Path, tmp_path: Path, capsys: Capture
) -> None:
    use_fonts()
    metadata = WeightsMetadata(
        classes=("cat", "苹果"), attention="none", width_mult=0.125, input_hw=(96, 96)
    )
    path = save_weights(tmp_path / "fruit.safetensors", build_from_metadata(metadata), metadata)
    words = ["predict", str(path), str(shots / "a.jpg"), "--output", str(tmp_path / "out")]

    assert main([*words, "--save", "annotated"]) == 0
    assert "show class numbers: 1 = 苹果. " in capsys.readouterr().out
    assert main([*words, "--save", "json"]) == 0
    assert "class numbers" not in capsys.readouterr().out
