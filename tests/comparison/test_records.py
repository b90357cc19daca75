from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attendet.comparison.records import (
    add_run,
    locked,
    read_detections,
    read_runs,
    study_json,
    write_detections,
    write_runs,
    write_study,
)
from attendet.detections import Detections
from attendet.errors import ConfigError, DataError
from attendet.report.study import RUNS, STUDY


def _detections(count: int) -> Detections:
    rng = np.random.default_rng(count)
    boxes = rng.uniform(0, 50, (count, 4)).astype(np.float32)
    scores, ids = rng.random(count).astype(np.float32), rng.integers(0, 2, count)
    return Detections(boxes, scores, ids, ("red", "green"), (60, 80))


def test_detections_come_back_as_they_were(tmp_path: Path) -> None:
    given = [_detections(3), _detections(0), _detections(2)]
    write_detections(tmp_path / "detections.npz", ["a.png", "b.png", "sub/c.png"], given)

    keys, found = read_detections(tmp_path / "detections.npz")

    assert keys == ["a.png", "b.png", "sub/c.png"]
    for one, other in zip(found, given, strict=True):
        assert np.array_equal(one.boxes_xyxy, other.boxes_xyxy)
        assert np.array_equal(one.scores, other.scores)
        assert np.array_equal(one.class_ids, other.class_ids)
        assert (one.classes, one.image_hw) == (other.classes, other.image_hw)


def test_damaged_detections_are_named(tmp_path: Path) -> None:
    path = tmp_path / "detections.npz"
    write_detections(path, ["a.png"], [_detections(30)])
    whole = path.read_bytes()
    cut = [whole[:length] for length in range(0, len(whole) - 1, 97)]
    changed = [
        whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]
        for place in range(0, len(whole), 3)
    ]
    refused = 0
    for content in (*cut, *changed):
        path.write_bytes(content)
        try:
            read_detections(path)
        except DataError as error:
            assert f"boxes cannot be read ({path})" in str(error)  # noqa: PT017
            refused += 1
    assert refused > len(cut) + len(changed) // 2


def test_a_line_that_a_kill_cut_short_is_ignored(tmp_path: Path) -> None:
    write_runs(tmp_path, [{"key": "a"}, {"key": "b"}])
    add_run(tmp_path, {"key": "c"})
    with (tmp_path / RUNS).open("a") as stream:
        stream.write('{"key": "d", "metr')

    assert [record["key"] for record in read_runs(tmp_path)] == ["a", "b", "c"]
    assert read_runs(tmp_path / "elsewhere") == []


def test_a_value_that_json_does_not_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        add_run(tmp_path, {"ap": float("nan")})


def test_another_layout_is_refused(tmp_path: Path) -> None:
    assert study_json(tmp_path) is None
    write_study(tmp_path, {"seeds": [0]})
    assert study_json(tmp_path) == {"layout": "attendet/comparison/1", "seeds": [0]}
    (tmp_path / STUDY).write_text(json.dumps({"layout": "attendet/comparison/9"}))

    with pytest.raises(
        DataError, match="layout 'attendet/comparison/1'; got 'attendet/comparison/9'"
    ):
        study_json(tmp_path)


def test_a_damaged_study_is_an_error_and_not_none(tmp_path: Path) -> None:
    (tmp_path / STUDY).write_text('{"layout": ')

    with pytest.raises(DataError, match=r"study\.json cannot be read as JSON"):
        study_json(tmp_path)


def test_a_folder_is_worked_in_by_one_process(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    code = (
        "import sys, pathlib; from attendet.comparison.records import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"

    with pytest.raises(ConfigError, match="no other process uses"), locked(tmp_path / "lock"):
        pass

    other.kill()  # its lock ends with it
    other.communicate()
    with locked(tmp_path / "lock"):
        pass
