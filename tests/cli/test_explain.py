from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from attendet.cli import main  # noqa: E402
from attendet.models import (  # noqa: E402
    WeightsMetadata,
    build_from_metadata,
    load_weights,
    save_weights,
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    metadata = WeightsMetadata(
        classes=("red", "green"), attention="se", width_mult=0.125, input_hw=(64, 64)
    )
    network = build_from_metadata(metadata)
    torch.nn.init.zeros_(network.attention["up"].expand.weight)
    return save_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors", network, metadata)


@pytest.fixture
def shot(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "shot.png")
    return tmp_path / "shot.png"


def test_explain_writes_a_page_and_prints_the_verdicts(
    weights: Path, shot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(weights), str(shot), "--output", str(tmp_path / "out")]) == 0

    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[:3]] == ["p4", "p5", "up"]
    assert "one image cannot show" in said[0]
    assert said[-1] == f"written: {tmp_path / 'out' / 'explain.html'}"
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {
        ".html",
        ".json",
        ".npz",
        ".png",
    }


def test_explain_without_maps(weights: Path, shot: Path, tmp_path: Path) -> None:
    arguments = ["explain", str(weights), str(shot), "--output", str(tmp_path / "out")]

    assert main([*arguments, "--no-cam"]) == 0

    names = np.load(tmp_path / "out" / "shot.npz").files
    assert not [name for name in names if name.startswith("cam/")]
    assert [name for name in names if name.startswith("gate/")]


def test_prune_folds_the_idle_block_and_prints_the_savings(
    weights: Path, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "lean.safetensors"

    code = main(["prune", str(weights), "--data", str(squares), "--output", str(output)])

    assert code == 0
    said = capsys.readouterr().out
    assert "up           folded" in said
    assert "saved" in said
    network, metadata = load_weights(output)
    assert "up" not in network.attention_blocks()
    assert "up" not in metadata.attention.split("@")[-1].split(",")


def test_prune_writes_only_safetensors(
    weights: Path, squares: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["prune", str(weights), "--data", str(squares), "--output", "a.onnx"]

    assert main(arguments) == 2
    assert "output must be a .safetensors file; got 'a.onnx' (--output)" in capsys.readouterr().err


def test_prune_replaces_no_file_by_default(
    weights: Path, squares: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = weights.with_name("tiny-pruned.safetensors")
    there.write_text("mine")

    assert main(["prune", str(weights), "--data", str(squares)]) == 2
    assert f"output must be set, because the default {there} exists" in capsys.readouterr().err
    assert there.read_text() == "mine"
