from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attendet.cli import main

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

STUDY = {
    "layout": "attendet/comparison/1",
    "command": None,
    "pretrained": None,
    "baseline": "none",
    "seeds": [0],
    "variants": [{"name": "none"}],
    "margin": 0.005,
    "versions": {},
    "data": {"root": "cells", "classes": ["a"]},
    "recipe": {},
    "budget": None,
    "gt": "ground_truth.npz",
    "verdicts": {},
    "latency": {},
}


def test_report_writes_into_the_output_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps(STUDY))
    output = tmp_path / "out"

    assert main(["report", str(folder), "--output", str(output)]) == 0

    assert capsys.readouterr().out == f"written: {output / 'report.html'}\n"
    assert {one.name for one in output.iterdir()} == {
        "report.html",
        "report.md",
        "report.json",
        "variants.csv",
        "runs.csv",
    }
    assert {one.name for one in folder.iterdir()} == {"study.json"}


def test_a_folder_without_a_study_is_a_one_line_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 3
    said = capsys.readouterr().err
    assert "folder must contain a study" in said
    assert said.count("\n") == 1
    assert main(["report", str(tmp_path), "--examples", "-1"]) == 2


def test_a_report_needs_no_torch(tmp_path: Path) -> None:
    empty = ("folder", "epochs_done", "seconds", "memory_mib", "parameters", "macs")
    run = {
        **dict.fromkeys([*empty, "detections", "gates", "machine"]),
        "key": "none-0",
        "variant_name": "none",
        "variant": {"attention": "none", "sites": [], "init": "paper"},
        "seed": 0,
        "metrics": {"ap": 0.5},
        "stopped": None,
        "curve": [
            {"epoch": 1, "ap": 0.4, "losses": {"box": 2.0}},
            {"epoch": 2, "ap": 0.5, "losses": {"box": 1.0}},
        ],
    }
    (tmp_path / "study.json").write_text(json.dumps(STUDY))
    (tmp_path / "runs.jsonl").write_text(json.dumps(run) + "\n")
    code = (
        "import sys; from attendet.cli import main\n"
        f"assert main(['report', {str(tmp_path)!r}]) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)
