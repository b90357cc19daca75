"""`attendet export`: its report, and errors of one line."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from attendet.cli import main  # noqa: E402
from attendet.models import WeightsMetadata, build_from_metadata, save_weights  # noqa: E402


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    metadata = WeightsMetadata(
        ("red", "green"), attention="ca", width_mult=0.125, input_hw=(64, 96)
    )
    torch.manual_seed(0)
    return save_weights(tmp_path / "w.safetensors", build_from_metadata(metadata), metadata)


def test_the_report_of_an_export(
    weights: Path, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faster_coco_eval")
    command = ["export", str(weights), "--format", "torchscript", "--output", str(tmp_path / "out")]
    assert main([*command, "--data", str(squares)]) == 0

    said = capsys.readouterr().out.splitlines()
    assert said[0] == (
        "network      yolov4-tiny, attention ca; input 96 x 64 px, any batch, weights float32"
    )
    assert said[1].startswith("boxes        differ by ")
    assert said[2].startswith("scores       differ by ")
    assert said[3].endswith("on 4 images of val")
    assert said[4].endswith("in PyTorch, on 4 images of val")
    assert said[5].startswith(f"written: {tmp_path / 'out' / 'w.torchscript'} (")


def test_classes_of_the_data_with_other_names(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faster_coco_eval")
    metadata = WeightsMetadata(("verde", "Red"), width_mult=0.125, input_hw=(64, 96))
    weights = save_weights(tmp_path / "w.safetensors", build_from_metadata(metadata), metadata)
    command = ["export", str(weights), "--format", "torchscript", "--output", str(tmp_path / "out")]
    command += ["--data", str(squares)]
    assert main(command) == 2
    assert "only in the data: 'green'; only in the weights: 'verde'" in capsys.readouterr().err

    assert main([*command, "--class-map", "green=verde"]) == 0
    printed = capsys.readouterr().out
    assert "in PyTorch, on 4 images of val" in printed
    note = "note         matched classes of data and weights: "
    assert {f"{note}red = Red, green = verde", f"{note}green = verde, red = Red"} & set(
        printed.splitlines()
    )


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--format", "torchscript", "--half"], 2, "half must be omitted for torchscript"),
        (["--format", "darknet", "--nms"], 2, "--nms must be omitted for darknet"),
        (["--format", "darknet", "--size", "64"], 2, "--size must be omitted for darknet"),
        (["--format", "darknet", "--nms-iou", "0.4"], 2, "--nms-iou must be omitted for darknet"),
        (["--format", "darknet", "--split", "all"], 2, "--split must be omitted for darknet"),
        (
            ["--format", "onnx", "--confidence", "0"],
            2,
            "confidence needs nms; it has no effect alone",
        ),
        (["--format", "onnx", "--max-ap-loss", "1"], 2, "max_ap_loss needs int8"),
        (
            ["--format", "onnx", "--calibrate", "x"],
            2,
            "calibrate needs int8; it has no effect alone",
        ),
        (["--format", "onnx", "--split", "all"], 2, "split needs data or calibrate"),
        (["--format", "onnx", "--class-map", "a=b"], 2, "class_map needs data or calibrate"),
        (["--format", "onnx", "--size", "100"], 2, "input_hw must be multiples of 32"),
        (["--format", "onnx", "--data", "nowhere"], 3, "data set not found"),
        (["--format", "darknet"], 4, "network must be without attention"),
    ],
)
def test_errors_are_one_line(
    flags: list[str], code: int, message: str, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = weights.parent / "out"
    assert main(["export", str(weights), *flags, "--output", str(folder)]) == code

    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not folder.exists()


def test_an_unknown_split(weights: Path, squares: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(weights), "--format", "onnx", "--data", str(squares)]
    assert main([*command, "--split", "tset"]) == 2
    assert "split must be a split of the data set; got 'tset'" in capsys.readouterr().err
