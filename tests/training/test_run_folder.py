from __future__ import annotations

import json
from pathlib import Path

import pytest

from attendet.errors import ConfigError, TrainingError
from attendet.training.checkpoint import REQUIRED, RunFolder, free_folder

CONFIG = dict.fromkeys(REQUIRED, 0)


def test_the_next_free_number_is_taken(tmp_path: Path) -> None:
    assert free_folder(tmp_path, "train") == tmp_path / "train"
    for taken in ("train", "train-2", "train-4"):
        (tmp_path / taken).mkdir()
    assert free_folder(tmp_path, "train") == tmp_path / "train-3"


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "a/run", CONFIG)

    with pytest.raises(ConfigError, match="contains one"):
        RunFolder.create(tmp_path / "a/run", CONFIG)
    assert RunFolder.open(tmp_path / "a/run")[1] == CONFIG


def test_a_folder_with_other_things_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    RunFolder.create(tmp_path, CONFIG)

    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "No such file"),
        ("a: [", "config.yaml"),
        ("just text", "must be a map"),
        ("data: x\n", "lacks format, attention"),
    ],
)
def test_what_is_no_run_cannot_be_opened(tmp_path: Path, config: str | None, words: str) -> None:
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)

    with pytest.raises(TrainingError, match=words) as caught:
        RunFolder.open(tmp_path)
    assert "\n" not in str(caught.value)


def test_records_of_epochs_that_are_done_again_are_dropped(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, CONFIG)
    for epoch in (1, 2, 3):
        folder.add_record({"epoch": epoch, "losses": {"box": 0.5}})
    with (tmp_path / "results.jsonl").open("a") as stream:
        stream.write('{"epoch": 4, "lo')  # the write that a kill cut short
    (tmp_path / ".resume.pt.abc.part").touch()

    again, _ = RunFolder.open(tmp_path)
    kept = again.rewind(2)
    again.add_record({"epoch": 3, "losses": {"box": 0.25}})

    assert [record["epoch"] for record in kept] == [1, 2]
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["losses"]["box"] for line in lines] == [0.5, 0.5, 0.25]
    assert not list(tmp_path.glob("*.part"))
