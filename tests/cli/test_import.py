"""`attendet import` and `attendet export`: files in, files out, one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attendet.cli import main  # noqa: E402
from attendet.interop.darknet.convert import export_darknet  # noqa: E402
from attendet.models import WeightsMetadata, build_from_metadata, save_weights  # noqa: E402

CONFIG = """
[net]
width=64
height=64
[convolutional]
batch_normalize=1
filters=8
size=3
stride=16
pad=1
activation=mish
[convolutional]
filters=7
activation=linear
[yolo]
anchors=20,20
classes=2
"""
VALUES = 8 * 4 + 8 * 27 + 7 + 7 * 8


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of a small darknet network, of the reference network and class names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.cfg").write_text(CONFIG)
    values = np.random.default_rng(0).uniform(0.1, 1, VALUES).astype("<f4")
    header = np.array([0, 1, 0, 5], dtype="<i4")
    (tmp_path / "small.weights").write_bytes(header.tobytes() + values.tobytes())
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    metadata = WeightsMetadata(("cat", "dog"), width_mult=0.125, input_hw=(64, 64))
    export_darknet(build_from_metadata(metadata), metadata, tmp_path, stem="tiny")
    return tmp_path


def test_darknet_in_and_out_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["import", "small.cfg", "small.weights", "--names", "names.txt"]
    assert main([*words, "--output", "nets/small.safetensors"]) == 0

    said = capsys.readouterr().out.splitlines()
    assert said == [
        "network      darknet-graph of 3 layers, attention none, 295 parameters",
        "classes      2; output strides: 16",
        "images       64 x 64 px, stretch, rgb",
        "note         images are stretched: AlexeyAB's darknet does so, and only it reads "
        "activation (line 11); use --resize to change it",
        "written: nets/small.safetensors",
    ]
    assert main(["export", "nets/small.safetensors", "--format", "darknet", "--output", "out"]) == 0
    said = capsys.readouterr().out.splitlines()
    names = ["small.cfg", "small.weights", "small.names"]
    assert said == [f"written: {Path('out') / name}" for name in names]
    assert Path("out/small.weights").read_bytes() == Path("small.weights").read_bytes()
    assert Path("out/small.names").read_text() == "cat\ndog\n"


def test_the_order_of_the_two_files_does_not_matter(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "tiny.weights", "tiny.cfg", "--resize", "stretch"]) == 0

    said = capsys.readouterr().out
    assert "network      yolov4-tiny, attention none" in said
    assert "output strides: 32, 16" in said
    assert "64 x 64 px, stretch, rgb" in said
    assert "note         the classes are named class_0" in said
    assert Path("tiny.safetensors").exists()


def test_the_first_layers_of_a_file_of_any_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = Path("small.weights").read_bytes()
    Path("small.conv.1").write_bytes(content[: 16 + 4 * (8 * 4 + 8 * 27)])

    assert main(["import", "small.cfg", "small.conv.1", "--cutoff", "1"]) == 0

    said = capsys.readouterr().out
    assert "note         layers 1 to 2 are newly initialized: train before predicting" in said
    assert "written: small.conv.safetensors" in said


def test_the_import_is_reported_and_the_file_predicts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    cv2.imwrite("a.png", np.zeros((40, 60, 3), dtype=np.uint8))
    assert main(["import", "small.cfg", "small.weights"]) == 0
    capsys.readouterr()

    assert main(["info", "small.safetensors"]) == 0
    said = capsys.readouterr().out
    assert "3 layers" in said
    assert "darknet-graph" in said
    assert main(["predict", "small.safetensors", "a.png", "--save", "json"]) == 0


def test_a_checkpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.zeros(1)}, "home.pth")

    assert main(["import", "home.pth", "--names", "names.txt", "--size", "64"]) == 4
    assert "it also has weight (home.pth)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["small.cfg"], 2, "files must be FILE.cfg FILE.weights, or one PyTorch checkpoint"),
        (["small.weights"], 2, "files must be"),
        (["tiny.safetensors"], 2, "files must be"),
        (["small.cfg", "small.weights", "a.pth"], 2, "files must be"),
        (
            ["small.cfg", "tiny.weights"],
            4,
            "must contain 311 values to match the configuration; got",
        ),
        (["small.cfg", "small.weights", "--output", "a.pt"], 2, "must be a .safetensors file"),
        (["small.cfg", "small.weights", "--color", "bgr"], 2, "--color must be omitted"),
        (["small.cfg", "small.weights", "--size", "64"], 2, "--size must be omitted"),
        (["small.cfg", "small.weights", "--cutoff", "9"], 4, "from 1 to 3, the number of layers"),
        (["a.pth", "--cutoff", "3"], 2, "--cutoff must be omitted: it is only for darknet files"),
        (["a.pth"], 4, "checkpoint not found (a.pth)"),
        (["small.cfg", "small.weights", "--names", "tiny.cfg"], 2, "each line must have a name"),
    ],
)
def test_one_clear_line(
    words: list[str], code: int, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", *words]) == code

    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(folder.rglob("*.safetensors")) == []


def test_a_file_that_is_there_is_replaced_only_when_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("small.safetensors").write_text("trained for a week")

    assert main(["import", "small.cfg", "small.weights"]) == 2
    assert "output must be set" in capsys.readouterr().err
    assert Path("small.safetensors").read_text() == "trained for a week"
    words = ["--output", "small.safetensors"]
    assert main(["import", "small.cfg", "small.weights", *words]) == 0


def test_attention_cannot_go_to_darknet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metadata = WeightsMetadata(("cat",), width_mult=0.125, attention="ca@p5")
    save_weights("ca.safetensors", build_from_metadata(metadata), metadata)

    assert main(["export", "ca.safetensors", "--format", "darknet"]) == 4

    assert "CoordinateAttention at p5" in capsys.readouterr().err
    assert not Path("runs").exists()
