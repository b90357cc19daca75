from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from attendet.cli import main  # noqa: E402
from attendet.models import WeightsMetadata, build_from_metadata, save_weights  # noqa: E402
from attendet.models.graph import Convolutional, Graph, Yolo  # noqa: E402


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    metadata = WeightsMetadata(
        classes=("cat", "dog"),
        attention="ca@p5",
        width_mult=0.25,
        input_hw=(320, 416),
        seed=3,
        data={"splits": {"train": 205, "val": 87}},
        measured={"ap50": 0.123456},
    )
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    return save_weights(path, build_from_metadata(metadata), metadata)


def test_the_text_describes_the_file(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(weights)]) == 0

    said = capsys.readouterr().out
    facts = dict(line.split(maxsplit=1) for line in said.splitlines() if len(line.split()) > 1)
    assert facts["classes"] == "2: cat, dog"
    assert facts["attention"] == "ca@p5"
    assert facts["input_hw"] == "320 px x 416 px"
    assert facts["resize"] == "rect"
    assert facts["ap50"] == "0.1235"
    assert facts["train"] == "205"
    assert "recipe" not in facts  # the file has none


def test_the_sites_of_a_network_with_its_own_layers_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = [Convolutional(8, 3, 2, 1) for _ in range(5)]
    graph = Graph((*layers, Convolutional(6, activation="linear"), Yolo()))
    metadata = WeightsMetadata(
        classes=("cell",),
        architecture="darknet-graph",
        graph=graph.to_mappings(),
        anchors=((20, 20),),
        anchor_masks=((0,),),
        input_hw=(64, 64),
    )
    path = save_weights(tmp_path / "g.safetensors", build_from_metadata(metadata), metadata)
    assert main(["info", str(path)]) == 0
    assert "  stage2  layer 2, 8 channels, stride 8" in capsys.readouterr().out.splitlines()


def test_json_is_one_object_that_counts_the_parameters(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(weights), "--json"]) == 0

    facts = json.loads(capsys.readouterr().out)
    network = build_from_metadata(
        WeightsMetadata(("cat", "dog"), attention="ca@p5", width_mult=0.25)
    )
    assert facts["parameters"] == sum(tensor.numel() for tensor in network.parameters())
    assert facts["bytes"] == weights.stat().st_size
    assert facts["input_hw"] == [320, 416]
    assert facts["seed"] == 3


def test_no_torch_is_imported(weights: Path) -> None:
    code = (
        "import sys; from attendet.cli import main; "
        f"main(['info', {str(weights)!r}]); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["text.safetensors", "folder", "gone.safetensors"])
def test_what_is_no_weights_file_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "text.safetensors").write_text("words, no weights at all")
    (tmp_path / "folder").mkdir()

    assert main(["info", str(tmp_path / name)]) == 4

    said = capsys.readouterr().err
    assert str(tmp_path / name) in said
    assert said.count("\n") == 1
