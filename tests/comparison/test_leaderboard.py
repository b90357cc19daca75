"""benchmarks/leaderboard.py: what is published, and that a study goes on from it."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attendet.comparison.study import Study

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "leaderboard.py"
Make = Callable[..., Study]


@pytest.fixture
def leaderboard() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_a_study_goes_on_from_what_is_published(
    made_up: Any, study: Make, several: list[Path], leaderboard: Any, tmp_path: Path
) -> None:
    made_up.noise = 0.1
    first = study(several[:2], attention=["none", "eca"], seeds=2)
    board = tmp_path / "board"
    page = leaderboard["publish"](first.folder, board)
    made_up.made.clear()

    restored = leaderboard["restore"](tmp_path / "other", board)
    again = study(several[:2], attention=["none", "eca"], seeds=2, output=tmp_path / "other")
    made_again = list(made_up.made)
    wider = study(several[:2], attention=["none", "eca", "se"], seeds=2, output=again.folder)

    assert restored == 2 * 4
    assert made_again == []
    assert again.verdicts == first.verdicts
    assert {variant for variant, _, _ in made_up.made} == {"se@p4,p5,up"}
    assert set(wider.verdicts) == {"eca@p4,p5,up", "se@p4,p5,up"}
    assert leaderboard["restore"](again.folder, board) == 0
    assert "Leaderboard of attention blocks" in page.read_text(encoding="utf-8")
    texts = [path for path in board.rglob("*.*") if path.suffix not in (".svg", ".npz")]
    assert not any(str(several[0].parent) in path.read_text(encoding="utf-8") for path in texts)


def test_latencies_measured_apart_replace_those_of_the_study(
    made_up: Any, study: Make, several: list[Path], leaderboard: Any, tmp_path: Path
) -> None:
    made = study(several[:2], attention=["none", "eca"], seeds=1)
    times = {"low_ms": 1.0, "median_ms": 2.5, "high_ms": 3.0}
    latency = {"none": {"openvino int8": times}, "eca@p4,p5,up": {"openvino int8": times}}
    path = tmp_path / "latency.json"
    path.write_text(json.dumps({"latency": latency, "latency_machine": {"cores": 2}}))

    leaderboard["publish"](made.folder, tmp_path / "board", path)

    assert "openvino int8, ms" in (tmp_path / "board" / "report.md").read_text()


def test_a_study_that_is_not_complete_is_not_published(
    made_up: Any, study: Make, several: list[Path], leaderboard: Any, tmp_path: Path
) -> None:
    made_up.broken = {("eca@p4,p5,up", 0)}
    made = study(several[:2], seeds=1)

    with pytest.raises(SystemExit, match="these data sets are not: cells, cards"):
        leaderboard["publish"](made.folder, tmp_path)
