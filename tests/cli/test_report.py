from __future__ import annotations

import json
from pathlib import Path

import pytest

from attendet.cli import main


def test_a_report_is_made_where_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps({"baseline": "none", "arms": []}))
    output = tmp_path / "out"

    assert main(["report", str(folder), "--output", str(output)]) == 0

    assert capsys.readouterr().out == f"written: {output / 'report.html'}\n"
    assert {one.name for one in output.iterdir()} == {
        "report.html", "report.md", "report.json", "arms.csv", "runs.csv",
    }  # fmt: skip
    assert {one.name for one in folder.iterdir()} == {"study.json"}


def test_a_folder_without_a_study_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 3
    said = capsys.readouterr().err
    assert "folder must hold a study" in said
    assert said.count("\n") == 1
    assert main(["report", str(tmp_path), "--examples", "-1"]) == 2
