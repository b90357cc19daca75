"""`attendet bench`, end to end on small files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attendet.cli import main
from attendet.cli.bench import write_images
from attendet.images import read_image_hw

Paths = dict[str, Path]
QUICK = ["--rounds", "5", "--seconds", "0.001", "--threads", "1"]


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """A data set in YOLO layout with the classes of the exported files."""
    root = tmp_path / "animals"
    rng = np.random.default_rng(0)
    for kind in ("images/test", "labels/test"):
        (root / kind).mkdir(parents=True)
    for number in range(3):
        image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / f"images/test/{number}.jpg")
        (root / f"labels/test/{number}.txt").write_text(f"{number} 0.5 0.5 0.3 0.3\n")
    (root / "data.yaml").write_text("test: images/test\nnames: [cat, dog, cow]\n")
    return root


def test_a_run_prints_and_writes_the_results(
    exported: Paths, animals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faster_coco_eval")
    pytest.importorskip("matplotlib")
    folder = tmp_path / "out"
    command = ["bench", str(exported["onnx"]), "--runtimes", "onnx", "--data", str(animals)]

    assert main([*command, *QUICK, "--output", str(folder)]) == 0

    printed = capsys.readouterr().out
    assert "whole path, ms" in printed
    assert "fastest for one image at a time" in printed
    assert "noise: the time of the probe varied by" in printed
    record: dict[str, Any] = json.loads((folder / "bench.json").read_text())
    assert record["layout"] == "attendet/bench/1"
    assert record["data"] == {"root": str(animals), "split": "test"}
    assert 0 <= record["rows"][0]["ap"] <= 1
    assert (folder / "bench.md").read_text().startswith("| file")
    assert (folder / "bench.png").read_bytes()[:4] == b"\x89PNG"
    assert "Speed of the detectors" in (folder / "bench.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--runtimes", "torch"], "runtimes must include an installed one that runs the files"),
        (["--rounds", "2"], "rounds must be 5 or more"),
        (["--max-ap-loss", "-1"], "max_ap_loss must be from 0 to 100"),
        (["--batch", "0"], "batch must be 1 or more"),
    ],
)
def test_wrong_flags_are_one_line(
    exported: Paths,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    target = ["--output", str(tmp_path / "out")]

    assert main(["bench", str(exported["onnx"]), *target, *flags]) == 2

    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_broken_image_is_skipped_and_other_classes_are_refused_at_once(
    exported: Paths, animals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faster_coco_eval")
    broken = animals / "images/test/1.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    command = ["bench", str(exported["onnx"]), "--runtimes", "onnx", "--data", str(animals), *QUICK]

    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    assert f"skipped: {broken}: " in capsys.readouterr().out
    assert json.loads((tmp_path / "out/bench.json").read_text())["settings"]["images"] == 2

    (animals / "data.yaml").write_text("test: images/test\nnames: [cat, dog, hen]\n")
    assert main([*command, "--output", str(tmp_path / "other")]) == 2
    assert "only in the data: 'hen'; only in the weights: 'cow'" in capsys.readouterr().err

    assert main([*command, "--output", str(tmp_path / "map"), "--class-map", "hen=cow"]) == 0
    assert "matched classes of data and weights: hen = cow" in capsys.readouterr().out


def test_a_file_with_suppression_is_timed_at_its_own_threshold(
    exported: Paths, animals: Path, tmp_path: Path
) -> None:
    pytest.importorskip("faster_coco_eval")
    command = ["bench", str(exported["best"]), "--runtimes", "onnx", "--data", str(animals)]

    assert main([*command, *QUICK, "--output", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "bench.json").read_text())["rows"][0]["ap"] is not None


def test_synthetic_images_are_always_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    first, second = write_images(tmp_path / "a", 2), write_images(tmp_path / "b", 2)

    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert read_image_hw(first[0]) == (480, 640)
