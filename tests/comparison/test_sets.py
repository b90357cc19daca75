"""Studies over several data sets: which runs are made, and what the folder holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attendet.comparison.records import sets_json, study_json
from attendet.comparison.study import Study
from attendet.errors import ConfigError

Make = Callable[..., Study]


def test_each_data_set_has_its_study_and_all_have_verdicts_together(
    made_up: Any, study: Make, several: list[Path]
) -> None:
    made_up.noise = 0.1

    made = study(several, attention=["none", "eca", "se"], seeds=1, command="attendet")

    assert len(made_up.made) == len(made.records) == 3 * 3
    assert {record["data_set"] for record in made.records} == {"cells", "cards", "plates"}
    assert json.loads((made.folder / "sets.json").read_text()) == {
        "layout": "attendet/comparison-sets/1",
        **made.summary,
    }
    assert [each["name"] for each in made.summary["sets"]] == ["cells", "cards", "plates"]
    for variant, verdict in made.verdicts.items():
        alone = {
            name: study_json(made.folder / name)["verdicts"][variant]["difference"]
            for name in ("cells", "cards", "plates")
        }
        assert verdict["sets"] == list(alone)
        assert verdict["difference"] == pytest.approx(sum(alone.values()) / 3)
        assert {name: by["difference"] for name, by in verdict["by_set"].items()} == alone
    assert set(made.verdicts) == {"eca@p4,p5,up", "se@p4,p5,up"}
    assert made.summary["variant_summaries"]["none"]["runs"] == 3
    assert not (made.folder / "study.json").exists()


def test_a_data_set_that_is_done_is_not_touched_again(
    made_up: Any, study: Make, several: list[Path]
) -> None:
    first = study(several[:2])
    files = {name: (first.folder / name / "study.json").read_bytes() for name in ("cells", "cards")}
    made_up.made.clear()

    second = study(several[:2])

    assert made_up.made == []
    assert second.summary == first.summary
    assert second.records == first.records
    assert all((first.folder / n / "study.json").read_bytes() == files[n] for n in files)


def test_a_further_data_set_block_or_seed_makes_only_what_is_new(
    made_up: Any, study: Make, several: list[Path]
) -> None:
    study(several[:2], seeds=1)
    made_up.made.clear()

    study(several, seeds=1)
    assert made_up.made == [("none", 0, None), ("eca@p4,p5,up", 0, None)]

    made_up.made.clear()
    study(several[:2], attention=["none", "eca", "ca"])
    assert len(made_up.made) == 2 * (1 + 3)
    assert {name for name, seed, _ in made_up.made if seed < 1} == {"ca@p4,p5,up"}


def test_a_killed_study_goes_on_in_the_data_set_where_it_was(
    made_up: Any, study: Make, several: list[Path], tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    run = made_up.run

    def stops(jobs: Any, _: object = None) -> Any:
        for job, event in run(jobs):
            yield job, event
            if len(made_up.made) == 3:
                raise Killed

    made_up.run = stops
    with pytest.raises(Killed):
        study(several, seeds=1)
    partial = sets_json(tmp_path / "study")
    assert partial is not None
    assert [each["name"] for each in partial["sets"] if each["done"]] == ["cells"]
    assert partial["waiting"] == ["cards", "plates"]
    made_up.run = run

    whole = study(several, seeds=1)

    assert len(made_up.made) == 3 * 2
    assert len(whole.records) == 6


def test_a_failed_run_is_reported_with_its_data_set_and_tried_again(
    made_up: Any, study: Make, several: list[Path]
) -> None:
    made_up.broken = {("eca@p4,p5,up", 1)}
    first = study(several[:2])
    assert [(each["data_set"], each["seed"]) for each in first.summary["failed"]] == [
        ("cells", 1),
        ("cards", 1),
    ]
    assert not any(each["done"] for each in first.summary["sets"])
    made_up.broken = set()
    made_up.made.clear()

    second = study(several[:2])

    assert made_up.made == [("eca@p4,p5,up", 1, None)] * 2
    assert second.summary["failed"] == []


def test_data_sets_in_folders_of_one_name_keep_their_own(
    made_up: Any, study: Make, several: list[Path], tmp_path: Path
) -> None:
    first, second = (
        shutil.copytree(path, tmp_path / f"{number}" / "data")
        for number, path in enumerate(several[:2])
    )

    made = study([first, second], seeds=1)
    assert [each["name"] for each in made.summary["sets"]] == ["data", "data-2"]
    made_up.made.clear()
    again = study([second, first], seeds=1)

    assert made_up.made == []
    assert [each["name"] for each in again.summary["sets"]] == ["data-2", "data"]


def test_what_cannot_be_one_study_is_an_error_before_any_run(
    made_up: Any, study: Make, several: list[Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(several[0], tmp_path / "copy")
    for changes, message in (
        ({"data": several[:1]}, "data must be at least two data sets"),
        (
            {"data": [several[0], several[0]]},
            f"must be different data sets; got {several[0]} twice",
        ),
        ({"data": [several[0], copy]}, "cells and copy have the same images"),
        (
            {"data": several, "budget": 60.0},
            "budget must be used with one data set only; got 60.0 (--budget)",
        ),
    ):
        with pytest.raises(ConfigError) as error:
            study(**changes)
        assert message in str(error.value)
    study(several[0], output=tmp_path / "one", seeds=1)
    study(several[:2], output=tmp_path / "two", seeds=1)
    made_up.made.clear()
    with pytest.raises(ConfigError, match="contains a study of one data set"):
        study(several[:2], output=tmp_path / "one")
    with pytest.raises(
        ConfigError, match=r"data must be all data sets of the study in .*; got one"
    ):
        study(several[0], output=tmp_path / "two")
    with pytest.raises(ConfigError, match="--epochs differs from the study in"):
        study(several[:2], output=tmp_path / "two", epochs=3)
    assert made_up.made == []


def test_one_data_set_has_the_folder_of_a_single_study(
    made_up: Any, study: Make, several: list[Path]
) -> None:
    made = study(several[0])

    assert {path.name for path in made.folder.iterdir()} == {
        *("study.json", "study.lock", "runs.jsonl", "runs", "ground_truth.npz"),
    }
