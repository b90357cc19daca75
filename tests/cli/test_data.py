from __future__ import annotations

import json

import pytest
from PIL import Image

from attendet.cli import main


@pytest.fixture
def cells(tmp_path):
    """A YOLO folder of eight images, one with a faulty line."""
    root = tmp_path / "cells"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    for number in range(8):
        Image.new("RGB", (40, 30), (number, 0, 0)).save(root / "images" / f"{number}.png")
        (root / "labels" / f"{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "labels" / "3.txt").write_text("0 0.5 0.5 0.5 0.5\n0 0.5 0.5 0 0\n")
    (root / "classes.txt").write_text("[red]cell\n")
    return root


def test_check_lists_issues_with_file_and_line(cells, capsys):
    assert main(["data", "check", str(cells)]) == 0
    out = capsys.readouterr().out
    assert "zero-size" in out
    assert "3.txt:2: zero-size" in out
    assert "splits: train 6, val 1, test 1" in out
    assert "[red]cell" in out


def test_strict_exits_with_3(cells, capsys):
    assert main(["data", "check", str(cells), "--strict"]) == 3
    (cells / "labels" / "3.txt").write_text("")
    assert main(["data", "check", str(cells), "--strict"]) == 0
    assert "no issues" in capsys.readouterr().out


def test_decoding_is_asked_for_by_default(cells, capsys):
    png = cells / "images" / "5.png"
    png.write_bytes(png.read_bytes()[:-30])
    assert main(["data", "check", str(cells), "--json"]) == 0
    kinds = {issue["kind"] for issue in json.loads(capsys.readouterr().out)["issues"]}
    assert kinds == {"zero-size", "truncated-image"}
    assert main(["data", "check", str(cells), "--json", "--no-decode"]) == 0
    kinds = {issue["kind"] for issue in json.loads(capsys.readouterr().out)["issues"]}
    assert kinds == {"zero-size"}


def test_stats(cells, capsys):
    assert main(["data", "stats", str(cells), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["splits"]["train"]["images"] == 6
    assert main(["data", "stats", str(cells)]) == 0
    out = capsys.readouterr().out
    assert "[red]cell" in out
    assert record["splits"]["train"]["fingerprint"] in out


def test_split_convert_and_check_again(cells, tmp_path, capsys):
    assert main(["data", "split", str(cells), "--seed", "4", "--output", str(tmp_path / "s")]) == 0
    assert (tmp_path / "s" / "attendet-splits.json").is_file()
    assert main(["data", "convert", str(cells), str(tmp_path / "voc"), "--to", "voc"]) == 0
    assert "8 images, 8 boxes as voc" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "voc"), "--strict"]) == 0
    assert main(["data", "convert", str(cells), str(tmp_path / "voc"), "--to", "voc"]) == 2
    assert "empty or new folder" in capsys.readouterr().err


def test_a_split_into_the_own_folder_touches_no_file_of_the_user(cells, capsys):
    (cells / "train.txt").write_text("".join(f"images/{n}.png\n" for n in range(6)))
    (cells / "val.txt").write_text("images/6.png\nimages/7.png\n")
    before = {path: path.read_bytes() for path in cells.rglob("*.txt")}
    for _ in range(2):
        assert main(["data", "split", str(cells)]) == 0
        assert "train 6, val 2" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in cells.rglob("*.txt")} == before


def test_a_seed_makes_new_splits_and_without_one_they_stay(cells, tmp_path, capsys):
    def split(*options):
        assert main(["data", "split", str(cells), *options]) == 0
        written = json.loads((cells / "attendet-splits.json").read_text())
        return written["splits"], written["source"]

    first = split("--seed", "4")
    assert first[1] == "seeded 70/15/15, seed 4"
    assert split()[0] == first[0]
    assert split()[1] == "attendet-splits.json (seeded 70/15/15, seed 4)"
    other = split("--seed", "5")
    assert other[0] != first[0]
    assert other[1] == "seeded 70/15/15, seed 5"
    assert split("--seed", "4") == first


def test_a_split_does_not_replace_a_list_of_another(cells, tmp_path, capsys):
    (tmp_path / "train.txt").write_text("mine\n")
    assert main(["data", "split", str(cells), "--output", str(tmp_path)]) == 3
    err = capsys.readouterr().err
    assert "train.txt" in err
    assert "--output" in err
    assert not (tmp_path / "attendet-splits.json").exists()


def test_check_names_a_train_split_without_boxes(cells, capsys):
    for file in (cells / "labels").iterdir():
        file.write_text("")
    assert main(["data", "check", str(cells), "--strict"]) == 3
    assert "no-boxes" in capsys.readouterr().out


def test_a_folder_without_data_exits_with_3(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path)]) == 3
    assert "no labels recognized" in capsys.readouterr().err
