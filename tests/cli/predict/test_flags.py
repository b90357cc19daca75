"""Flags that are settings of other flags, lists of names, zones that do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from attendet.cli import main  # noqa: E402
from attendet.data import load_dataset  # noqa: E402

Predict = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--overlap", 7], "--overlap needs --tile; it has no effect alone."),
        (["--port", 80], "--port needs --show; it has no effect alone."),
        (["--tile", 64, "--batch", 7], "--batch must be omitted with --tile"),
        (
            ["--save", "json", "--max-side", 64],
            "--max-side needs --save annotated or video, or --show",
        ),
    ],
)
def test_a_setting_that_changes_nothing_is_refused(
    run: Predict, shots: Path, tmp_path: Path, capsys: Capture, flags: list[object], words: str
) -> None:
    assert run(shots, *flags) == 2

    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--save", "annotated,json", "--max-side", 64],
        ["--save", "none", "--show", "--max-side", 64],
        ["--tile", 64, "--overlap", 0.3],
        ["--overlap", 0.2],
    ],
)
def test_settings_of_what_is_done_are_taken(run: Predict, shots: Path, flags: list[object]) -> None:
    assert run(shots / "a.jpg", *flags, confidence=0.9) == 0


@pytest.mark.parametrize("flag", ["--classes", "--save"])
@pytest.mark.parametrize("value", ["", ",", " , "])
def test_an_empty_list_is_refused(
    run: Predict, shots: Path, tmp_path: Path, capsys: Capture, flag: str, value: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(shots, flag, value)

    assert caught.value.code == 2
    assert f"{flag}: must be one or more names separated by commas; got {value!r}" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_a_video_smaller_than_a_zone_costs_no_result_of_the_others(
    run: Predict, make_video: Callable[..., Path], tmp_path: Path, capsys: Capture
) -> None:
    big, small = make_video("big.mp4", 4), make_video("small.mp4", 4, (32, 48))
    zone = ["--count-zone", "0,0,90,0,90,60,0,60"]

    assert run(big, small, make_video("last.mp4", 4), *zone, "--save", "json,csv,annotated") == 1

    said = capsys.readouterr()
    assert said.out.startswith("8 frames in ")
    issues = said.err.splitlines()
    assert issues[0] == "1 skipped:"
    assert "counting zone must be inside the image of 48 x 32 pixels" in issues[1]
    assert issues[1].endswith(f"({small}).")
    assert len(issues) == 2
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        *("big.mp4", "detections.csv", "detections.json", "last.mp4"),
    ]
    entries = json.loads((out / "detections.json").read_text())["images"]
    assert [entry["name"] for entry in entries] == ["big"] * 4 + ["last"] * 4


# --- a file with suppression inside --------------------------------------------------------------


@pytest.fixture(scope="module")
def suppressed(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that gives five boxes at most, none of a score below 0.004."""
    from attendet.exporters import export

    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("suppressed")
    settings = {"nms": True, "confidence": 0.004, "max_detections": 5}
    return export(weights, "onnx", output=folder, **settings).path


def _predict(file: Path, source: Path, out: Path, *flags: str) -> int:
    return main(["predict", str(file), str(source), "--output", str(out), "--save", "json", *flags])


def test_the_file_limits_max_detections(
    suppressed: Path, shots: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert _predict(suppressed, shots / "a.jpg", tmp_path / "out") == 0

    (entry,) = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
    assert len(entry["detections"]) == 5
    capsys.readouterr()
    assert _predict(suppressed, shots / "a.jpg", tmp_path / "more", "--max-detections", "6") == 2
    said = capsys.readouterr().err
    assert "max_detections must be at most 5, the limit of the NMS in the exported" in said
    assert not (tmp_path / "more").exists()


def test_objects_are_tracked_through_a_file_with_suppression_inside(
    suppressed: Path, make_video: Callable[..., Path], tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("trackers")

    assert _predict(suppressed, make_video(frames=4), tmp_path / "out", "--track") == 0

    entries = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
    assert any(one["track_id"] for one in entries[-1]["detections"])
    assert capsys.readouterr().err == ""


# --- labels to correct ---------------------------------------------------------------------------


def test_labels_for_annotation_tools_are_written(
    run: Predict, shots: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert run(shots / "a.jpg", shots / "c.jpg", "--save", "voc,yolo,coco", "--as-labels") == 0

    for kind in ("voc", "yolo", "coco"):
        dataset = load_dataset(tmp_path / "out" / kind)
        assert (dataset.format, len(dataset.split("all"))) == (kind, 2)
        assert all(len(sample.class_ids) for sample in dataset.split("all"))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--save", "json", "--as-labels"], "--as-labels needs --save voc, yolo, coco"),
        (["--save", "voc"], "--save voc needs --as-labels"),
    ],
)
def test_labels_need_both_flags(
    run: Predict, shots: Path, tmp_path: Path, capsys: Capture, flags: list[str], expected: str
) -> None:
    assert run(shots, *flags) == 2

    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
