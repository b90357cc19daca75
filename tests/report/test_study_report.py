from __future__ import annotations

import csv
import json
import re
import time
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from attendet.errors import DataError
from attendet.report import fonts, write_report
from attendet.report.study import read_study
from attendet.report.study_examples import _count_errors, find_examples
from attendet.report.study_tables import (
    effect_table,
    gate_table,
    p_value,
    points,
    verdict_answer,
    verdict_table,
    verdict_tone,
    with_minus,
)

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


class Page(HTMLParser):
    """The headings, texts and addresses of a page."""

    def __init__(self, html):
        super().__init__()
        self.headings, self.texts, self.addresses, self.tag = [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tag = tag
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        self.texts += [value for name, value in attributes if name == "alt"]

    def handle_data(self, data):
        (self.headings if self.tag == "h2" else self.texts).append(data.strip())


def text_of(path):
    return " ".join(Page(path.read_text(encoding="utf-8")).texts)


def test_page_and_markdown_have_the_same_content(study_folder):
    folder = study_folder()

    path = write_report(folder)

    assert path == folder / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert [one for one in page.headings if one] == [
        "Verdicts",
        "Cost and gain",
        "Training curves",
        "By size and by class",
        "Images with the largest differences",
        "Attention gates",
        "Settings",
        "All runs",
    ]
    markdown = re.sub(r"\\(.)", r"\1", (folder / "report.md").read_text(encoding="utf-8"))
    for text in (
        *page.headings,
        "helps",
        "hurts",
        "no difference > 0.5",
        "not enough seeds",
        "made up for ca.",
        "0644b95ad2d39800",
        "attendet compare cells",
        "adamw",
        "2.14.1",
        "Linux x86_64",
        "ca p4 height",
        "train",
        "AP by torch: milliseconds per image",
    ):
        assert text in " ".join([*page.texts, *page.headings]), text
        assert text in markdown, text
    assert len(list((folder / "figures").glob("*.svg"))) == 6
    assert len(list((folder / "figures").glob("*.jpg"))) == 3 * 6
    named = re.findall(r"\]\((figures/[^)]+)\)", markdown)
    assert sorted(named) == sorted(f"figures/{one.name}" for one in (folder / "figures").iterdir())


@pytest.mark.parametrize(
    ("variants", "answer"),
    [
        (
            ("none", "se", "cbam", "eca", "ca"),
            r"Yes\. Helps: ca \(\+.*\)\. Hurts: cbam \(−.*\)\. No difference > 0\.5: se .*"
            r"\. Not enough seeds: eca .*\. In parentheses: .* than none, mean over 3 seeds\.",
        ),
        (("none", "se", "eca"), r"Not decided yet\. No difference > 0\.5: se .*"),
        (("none", "se", "cbam"), r"No\. Hurts: cbam .*"),
        (("none",), r"There is no second variant to compare yet\."),
    ],
)
def test_the_first_paragraph_answers_the_question_of_the_title(study_folder, variants, answer):
    html = write_report(study_folder(variants=variants), examples=0).read_text(encoding="utf-8")

    assert "<h1>Does attention help on cells?</h1>" in html
    (lead,) = re.findall('<p class="lead">(.*)</p>', html)
    assert re.fullmatch(answer, unescape(lead))


def test_where_nothing_was_learned_nothing_is_decided():
    answer = verdict_answer([("ca", "nothing learned", 0.001), ("se", "not measured", None)])

    assert answer == "Not decided yet. Nothing learned: ca (+0.10). Not measured: se."
    assert verdict_tone("nothing learned") == "warn"
    assert verdict_tone("not measured") == "quiet"


def test_csv_and_json_hold_the_numbers_of_the_records(study_folder):
    folder = study_folder()
    write_report(folder)
    runs = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]

    with (folder / "runs.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["ap"]) for row in rows] == [run["metrics"]["ap"] for run in runs]
    assert [float(row["ap RBC"]) for row in rows] == [
        run["metrics"]["per_class"]["RBC"]["ap"] for run in runs
    ]
    with (folder / "variants.csv").open() as stream:
        variants = {row["variant"]: row for row in csv.DictReader(stream)}
    aps = [run["metrics"]["ap"] for run in runs if run["variant_name"] == "ca"]
    assert float(variants["ca"]["ap"]) == pytest.approx(np.mean(aps))
    assert float(variants["ca"]["ap_sd"]) == pytest.approx(np.std(aps, ddof=1))
    content = json.loads((folder / "report.json").read_text())
    assert content["variants"][0]["verdict"] == "baseline"
    assert content["study"]["baseline"] == "none"
    differences = read_study(folder).differences("ca", "metrics", "ap")
    base = [run["metrics"]["ap"] for run in runs if run["variant_name"] == "none"]
    assert differences == pytest.approx([a - b for a, b in zip(aps, base, strict=True)])


def test_reports_do_not_show_the_path_of_the_data(study_folder, tmp_path):
    folder = study_folder()
    write_report(folder, tmp_path / "out")

    for path in (tmp_path / "out").iterdir():
        if path.is_file():
            assert str(tmp_path) not in path.read_text(encoding="utf-8"), path.name
    assert (
        json.loads((tmp_path / "out/report.json").read_text())["study"]["data"]["root"] == "cells"
    )


def test_the_verdict_table_has_verdicts_with_colors_and_sort_keys(study_folder):
    table = verdict_table(read_study(study_folder()))

    assert table.header[:4] == ["variant", "verdict", "difference", "95 % interval"]
    assert [row[0] for row in table.rows] == ["none", "se", "cbam", "eca", "ca"]
    tones = {row[0]: row[1].tone for row in table.rows}
    assert tones == {"none": "quiet", "se": "quiet", "cbam": "bad", "eca": "warn", "ca": "good"}
    assert table.rows[2][2].text.startswith("\u2212")
    assert table.rows[2][2].key < 0


def test_a_page_sends_no_request_and_runs_no_text_of_the_records(study_folder):
    nasty = "<script>alert(1)</script>"
    folder = study_folder(command=nasty, recipe={nasty: nasty})

    html = write_report(folder).read_text(encoding="utf-8")

    assert html.count("<script>") == 1
    assert not re.search(r"https?://|@import|<link|url\(", html)
    assert all(one.startswith(("data:", "#")) for one in Page(html).addresses)


def test_a_hundred_runs_take_less_than_five_seconds(study_folder):
    variants = tuple(
        f"{name}@{site}" for name in ("none", "se", "cbam", "eca", "ca") for site in ("p4", "p5")
    )
    folder = study_folder(variants=variants, seeds=10, epochs=60)

    begun = time.process_time()
    write_report(folder)

    assert len(read_study(folder).runs) == 100
    assert time.process_time() - begun < 5


def test_two_reports_of_a_study_are_identical(study_folder, tmp_path):
    folder = study_folder(seeds=2)
    for name in ("a", "b"):
        write_report(folder, tmp_path / name)

    first = sorted(path for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(first) > 20
    for path in first:
        twin = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.read_bytes() == twin.read_bytes(), path.name


def test_the_settings_show_a_budget_in_words(study_folder):
    folder = study_folder()
    description = json.loads((folder / "study.json").read_text())
    cut = {"variant_name": "se", "rung": 1, "after_epochs": 5, "val_ap": 0.25}
    rungs = [{"variants": 4, "epochs": 5}, {"variants": 2, "epochs": 10}]
    description["budget"] = {"seconds": 60, "rungs": rungs, "cuts": [cut], "out_of_time": []}
    (folder / "study.json").write_text(json.dumps(description))

    text = write_report(folder, examples=0).with_suffix(".md").read_text(encoding="utf-8")

    assert "variants 4, epochs 5; variants 2, epochs 10" in text
    assert "rung 1, after\\_epochs 5, val\\_ap 0.25" in text
    assert not re.search(r"\| out\\_of\\_time +\| +\|", text)
    assert "{" not in text


def test_a_running_study_can_be_reported(study_folder):
    folder = study_folder(verdicts={}, latency={}, seeds=2)
    lines = (folder / "runs.jsonl").read_text().splitlines()
    failed = {
        **json.loads(lines[-1]),
        "key": "x",
        "variant_name": "ca",
        "seed": 9,
        "stopped": "failed",
        "error": "no memory",
        "metrics": None,
        "curve": [],
        "detections": None,
        "gates": None,
        "machine": None,
    }
    kept = [lines[0], json.dumps(failed), lines[-1][: len(lines[-1]) // 2]]
    (folder / "runs.jsonl").write_text("\n".join(kept))

    said = text_of(write_report(folder))

    assert "Failed runs, excluded from all results: 1." in said
    assert "ca, seed 9: no memory" in said
    assert "not measured" in said


def test_missing_example_images_are_reported(study_folder, tmp_path):
    folder = study_folder()
    (tmp_path / "cells").rename(tmp_path / "moved")

    examples, note = find_examples(read_study(folder))
    assert examples == []
    assert "cannot be read from the data set" in note
    assert "(cells)" in note

    examples, note = find_examples(read_study(folder), root=tmp_path / "moved")
    assert len(examples) == 3
    assert note.startswith("The images on which the number of errors differs most")
    captions = [image.caption.split(":")[0] for image in examples[0].images]
    assert captions[:2] == ["ground truth", "none"]
    (folder / "ground_truth.npz").unlink()
    assert find_examples(read_study(folder))[0] == []


def test_errors_are_missed_objects_and_false_detections():
    def boxes(*rows):
        return np.array(rows, dtype=np.float32).reshape(-1, 4)

    real = {
        "boxes_xyxy": boxes([0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]),
        "names": np.array(["a", "b", "a"]),
        "difficult": np.array([False, False, True]),
    }

    def errors(shown, names):
        scores = np.linspace(0.9, 0.5, len(shown))
        return _count_errors(
            real, {"boxes_xyxy": shown, "scores": scores, "names": np.array(list(names), np.str_)}
        )

    assert errors(real["boxes_xyxy"], "aba") == 0
    assert errors(boxes(), "") == 2
    assert errors(boxes([0, 0, 10, 10], [0, 0, 10, 9]), "aa") == 2  # found twice, one missed
    assert errors(boxes([0, 0, 10, 10]), "b") == 3  # wrong class
    assert errors(boxes([40, 0, 50, 10], [40, 0, 50, 10]), "aa") == 2  # difficult: no matter
    assert _count_errors(real, None) == 3  # the detector did not read the image


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("study.json", None, "must contain a study"),
        ("study.json", "{", "study.json cannot be read as JSON"),
        ("study.json", '{"layout": "attendet/comparison/2"}', "layout 'attendet/comparison/1'"),
        ("runs.jsonl", "{\n{}\n", r"runs.jsonl:1"),
    ],
    ids=["none", "broken", "later", "line"],
)
def test_a_folder_without_a_valid_study_is_an_error(study_folder, name, text, said):
    folder = study_folder(variants=("none", "ca"), seeds=1)
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)

    with pytest.raises(DataError, match=said):
        read_study(folder)


def test_each_class_has_a_row_with_the_mean_difference_over_seeds(study_folder):
    study = read_study(study_folder())

    table = effect_table(study, {"RBC": ("per_class", "RBC", "ap")}, first_column="class")

    assert table.header == ["class", "none (AP itself)", "se", "cbam", "eca", "ca"]
    (row,) = table.rows
    assert row[0] == "RBC"
    expected = 100 * np.mean(study.differences("ca", "metrics", "per_class", "RBC", "ap"))
    assert row[-1].key == pytest.approx(expected, abs=1e-5)


def test_effects_have_the_intervals_of_the_records(study_folder):
    part = {"difference": 0.02, "low": 0.01, "high": 0.03}
    effects = {"parts": {"ap_small": part}, "per_class": {"WBC": part}}
    study = read_study(
        study_folder(verdicts={"ca": {"verdict": "helps", "effects": effects}}, seeds=1)
    )

    assert study.effect("ca", "ap_small") == (0.02, 0.01, 0.03)
    assert study.effect("ca", "per_class", "WBC", "ap") == (0.02, 0.01, 0.03)
    table = effect_table(study, {"small": ("ap_small",)})
    assert table.rows[-1][1].text == "+2.00 (\u00b11.00)"
    assert study.effect("ca", "ap75")[1:] == (None, None)


def test_the_gate_table_has_means_over_runs_and_the_verdicts_on_the_block(study_folder):
    folder = study_folder(variants=("none", "ca"), seeds=2)
    runs = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    for run, mean, verdict in zip(runs[2:], (0.4, 0.6), ("mask", "works"), strict=True):
        gate = {
            "mean": mean,
            "std_images": 0.001,
            "std_positions": 0.03,
            "std_channels": 0.04,
            "saturated": None,
        }
        run["gates"] = {"p5": {"verdict": verdict, "gates": {"height": gate}}}
    (folder / "runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))

    (row,) = gate_table(read_study(folder)).rows

    assert row == [
        *("ca p5 height", "0.5000", "0.0010", "0.0300", "0.0400", "-"),
        "mask (1), works (1)",
    ]


SAMPLE = Path(__file__).resolve().parents[1] / "comparison" / "data" / "sample"


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs the sample study")
def test_a_real_study_can_be_reported(tmp_path):
    said = text_of(write_report(SAMPLE, tmp_path))

    study = read_study(SAMPLE)
    for variant in study.variants()[1:]:
        assert with_minus(study.verdict(variant)["text"]) in said
        assert study.verdict(variant)["effects"]["parts"]
    assert "The records contain no gates" not in said
    assert "nan" not in said.lower().split()


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0, "<0.001"), (0.0009, "<0.001"), (0.001, "0.001"), (0.5, "0.500"), (None, "-")],
)
def test_a_small_p_value_is_not_zero(p, text):
    assert (p_value(p).text, p_value(p).key) == (text, p)


def test_a_table_as_text_needs_no_special_minus(study_folder):
    lines = verdict_table(read_study(study_folder())).as_text().splitlines()

    assert lines[0].startswith("variant  verdict              difference")
    (row,) = (line for line in lines if line.startswith("cbam"))
    assert row.startswith("cbam     hurts                     -")


def test_a_difference_that_rounds_to_zero_has_no_minus():
    assert points(-0.00001, signed=True).text == "+0.00"
    assert points(-0.0123, signed=True).text == "\u22121.23"
    assert points(None).text == "-"


def test_class_numbers_on_examples_are_explained(study_folder, monkeypatch):
    folder = study_folder()
    assert "class numbers" not in write_report(folder).read_text(encoding="utf-8")
    monkeypatch.setattr(fonts, "has_glyphs", lambda name: name != "RBC")
    assert "show class numbers: 1 = RBC. " in write_report(folder).read_text(encoding="utf-8")
