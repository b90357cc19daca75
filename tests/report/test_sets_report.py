from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attendet.comparison.meta_analysis import judge_over_sets, power_of_set
from attendet.errors import ConfigError, DataError
from attendet.report import heat_map, to_svg, write_report
from attendet.report.sets_report import read_sets, summarize, with_short_names

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

GAINS = {"ca": [0.03, 0.032, 0.028], "se": [0.001, -0.02, 0.018], "cbam": [-0.04, -0.041, -0.039]}
NAMES = ("cells", "cards", "plates")


def _verdict(difference: float) -> dict[str, Any]:
    return {
        "verdict": "helps" if difference > 0.029 else "not enough seeds",
        "difference": difference,
        "low": difference - 0.01,
        "high": difference + 0.01,
        "seed_sd": 0.004,
        "seed_se": 0.002,
        "image_se": 0.003,
        "seeds": [0, 1, 2],
        "differences": [difference - 0.004, difference, difference + 0.004],
        "ap": 0.5 + difference,
        "baseline_ap": 0.5,
    }


@pytest.fixture
def sets_folder(tmp_path: Path) -> Path:
    """Records of a made-up study over three data sets."""
    verdicts = {
        name: {of: _verdict(value) for of, value in zip(NAMES, values, strict=True)}
        for name, values in GAINS.items()
    }
    description = {
        "layout": "attendet/comparison-sets/1",
        "command": "attendet compare cells cards plates --attention none ca se cbam",
        "baseline": "none",
        "seeds": [0, 1, 2],
        "margin": 0.005,
        "variants": [{"name": name, "attention": name, "sites": []} for name in ("none", *GAINS)],
        "versions": {"torch": "2.14.1"},
        "sets": [
            {
                "name": name,
                "data": {
                    "root": f"/secret/{name}",
                    "fingerprint": "0644b95ad2d39800",
                    "splits": {"train": 205, "val": 87, "test": 72},
                    "classes": ["a", "b"],
                    "measured_split": "test",
                },
                "recipe": {"epochs": 20 + number, "size": 256},
                "weights": "best",
                "done": True,
                "baseline_ap": 0.5,
                "power": power_of_set([each[name] for each in verdicts.values()], 72),
            }
            for number, name in enumerate(NAMES)
        ],
        "waiting": [],
        "verdicts": judge_over_sets(verdicts, margin=0.005),
        "variant_summaries": {
            name: {
                "runs": 9,
                "parameters": 6_000_000 + 1000 * number,
                "macs": 3.4e9,
                "seconds": 60.0,
                "memory_mib": 900.0,
            }
            for number, name in enumerate(("none", *GAINS))
        },
        "latency": {
            name: {"onnx": {"median_ms": 9.0 + n, "low_ms": 8.9 + n, "high_ms": 9.2 + n}}
            for n, name in enumerate(("none", *GAINS))
        },
        "latency_machine": {"cores": 2},
        "failed": [],
    }
    (tmp_path / "sets.json").write_text(json.dumps(description))
    return tmp_path


def test_the_first_paragraph_answers_the_question(sets_folder: Path) -> None:
    assert summarize(read_sets(sets_folder)) == (
        "Yes. Helps: ca (+3.00). Hurts: cbam (\u22124.00). Not enough data sets: se (\u22120.03). "
        "In parentheses: AP points more or less than none, mean over 3 data sets (cells, cards, "
        "plates; 3 seeds each)."
    )


def _place(folder: Path, sites: dict[str, list[str]]) -> None:
    """Give the variants sites, and the names that follow from them."""
    description = json.loads((folder / "sets.json").read_text())
    names = {name: f"{name}@{','.join(sites[name])}" for name in sites}
    for variant in description["variants"]:
        variant["sites"] = sites.get(variant["name"], [])
        variant["name"] = names.get(variant["name"], variant["name"])
    for key in ("verdicts", "variant_summaries", "latency"):
        description[key] = {names.get(k, k): value for k, value in description[key].items()}
    description["failed"] = [
        {"data_set": "cells", "variant_name": names["ca"], "seed": 0, "error": "no memory"}
    ]
    (folder / "sets.json").write_text(json.dumps(description))


def test_common_sites_are_named_once(sets_folder: Path) -> None:
    _place(sets_folder, {name: ["p4", "up"] for name in GAINS})

    page = write_report(sets_folder).read_text(encoding="utf-8")

    assert summarize(with_short_names(read_sets(sets_folder))).endswith(
        "3 seeds each). All blocks are at p4, up."
    )
    assert "ca (+3.00)" in page
    assert "cells: ca, seed 0: no memory" in page
    assert "ca@p4" not in page
    rows = list(csv.DictReader((sets_folder / "variants.csv").read_text().splitlines()))
    assert [row["variant"] for row in rows] == ["ca@p4,up", "se@p4,up", "cbam@p4,up"]


def test_different_sites_stay_in_the_names(sets_folder: Path) -> None:
    _place(sets_folder, {"ca": ["p4"], "se": ["p4"], "cbam": ["p5"]})

    sets = read_sets(sets_folder)

    assert with_short_names(sets) is sets
    assert "ca@p4 (+3.00)" in write_report(sets_folder).read_text(encoding="utf-8")


def test_page_and_markdown_have_the_same_content(sets_folder: Path) -> None:
    path = write_report(sets_folder)

    page = path.read_text(encoding="utf-8")
    assert re.findall(r"<h2 .*?>(.*?)</h2>", page) == [
        "Verdicts",
        "By data set",
        "Cost and gain",
        "Data sets",
        "Settings",
    ]
    markdown = (sets_folder / "report.md").read_text(encoding="utf-8")
    for text in (
        "Helps: ca (+3.00)",
        "+2.50 to +3.50",
        "6,001,000",
        "next data set",
        "seeds for 1 point",
        "Cost in onnx: 9.0 ms per image for none; +1.0 ms for ca, the fastest variant, and +3.0 "
        "ms for cbam, the slowest.",
        "Detecting a true difference of one AP point to none with 80 % probability takes ",
        "attendet compare cells cards plates",
        "0644b95ad2d39800",
    ):
        assert text in page, text
        assert text in markdown, text
    assert "/secret" not in page + markdown + (sets_folder / "report.json").read_text()
    figures = {one.name for one in (sets_folder / "figures").iterdir()}
    assert figures == {
        *("means.svg", "differences.svg", "gain-by-onnx.svg"),
        *(f"forest-{number:02}.svg" for number in range(3)),
    }
    assert set(re.findall(r"\]\(figures/([^)]+)\)", markdown)) == figures


def test_seeds_and_images_are_named_for_each_data_set(sets_folder: Path) -> None:
    path = sets_folder / "sets.json"
    description = json.loads(path.read_text())
    needs = {"cells": (3, 30, 22), "cards": (None, 12, None), "plates": (1200, 50, None)}
    for each in description["sets"]:
        seeds, had, images = needs[each["name"]]
        each["power"] |= {"seeds": seeds, "images_measured": had}
        each["power"]["images"]["5"] = images
    path.write_text(json.dumps(description))

    write_report(sets_folder)

    assert (
        "Detecting a true difference of one AP point to none with 80 % probability takes 3 seeds "
        "on cells, 1,200 on plates, with the current test images. No number of seeds is enough "
        "with the test images of cards (12). With 5 seeds it takes 22 test images on cells. No "
        "number of test images is enough with 5 seeds on cards, plates."
    ) in (sets_folder / "report.md").read_text(encoding="utf-8")


def test_reports_of_the_data_sets_are_named_where_they_are(sets_folder: Path) -> None:
    path = write_report(sets_folder)
    assert "a report of its own" not in path.read_text(encoding="utf-8")
    (sets_folder / "cells").mkdir(exist_ok=True)
    (sets_folder / "cells" / "report.html").write_text("")
    path = write_report(sets_folder)
    assert "a report of its own" in path.read_text(encoding="utf-8")
    path = write_report(sets_folder, sets_folder / "elsewhere")
    assert "a report of its own" not in path.read_text(encoding="utf-8")


def test_csv_files_hold_the_numbers_of_the_records(sets_folder: Path) -> None:
    write_report(sets_folder)

    with (sets_folder / "effects.csv").open() as stream:
        effects = {(row["variant"], row["data_set"]): row for row in csv.DictReader(stream)}
    assert len(effects) == 9
    assert float(effects["se", "cards"]["difference"]) == -0.02
    with (sets_folder / "variants.csv").open() as stream:
        variants = {row["variant"]: row for row in csv.DictReader(stream)}
    assert list(variants) == ["ca", "se", "cbam"]
    assert float(variants["ca"]["difference"]) == pytest.approx(np.mean(GAINS["ca"]))
    assert float(variants["ca"]["onnx_ms"]) == 10.0


def test_two_reports_of_the_same_records_are_identical(sets_folder: Path, tmp_path: Path) -> None:
    first = write_report(sets_folder, tmp_path / "a").read_bytes()

    assert write_report(sets_folder, tmp_path / "b").read_bytes() == first


def test_a_study_that_has_just_begun_can_be_reported(sets_folder: Path) -> None:
    path = sets_folder / "sets.json"
    description = json.loads(path.read_text())
    for name in GAINS:
        verdict = {"verdict": "not enough data sets", "text": "", "sets": [], "by_set": {}}
        description["verdicts"][name] = verdict
    costs = dict.fromkeys(("parameters", "macs", "seconds", "memory_mib"))
    description["variant_summaries"] = {
        name: {"runs": 0, **costs} for name in description["variant_summaries"]
    }
    description |= {"sets": [], "waiting": list(NAMES), "latency": {}, "latency_machine": None}
    path.write_text(json.dumps(description))

    page = write_report(sets_folder).read_text(encoding="utf-8")

    assert "Data sets that have not started: cells, cards, plates." in page


def test_a_variant_that_is_hardly_faster_costs_plus_zero(sets_folder: Path) -> None:
    path = sets_folder / "sets.json"
    description = json.loads(path.read_text())
    description["latency"]["ca"]["onnx"]["median_ms"] = 8.97
    path.write_text(json.dumps(description))

    page = write_report(sets_folder).read_text(encoding="utf-8")

    assert "9.0 ms per image for none; +0.0 ms for ca, the fastest variant" in page


def test_a_data_folder_for_several_and_damaged_records_are_errors(sets_folder: Path) -> None:
    with pytest.raises(ConfigError, match="data must be for a study of one data set"):
        write_report(sets_folder, data="cells")
    (sets_folder / "sets.json").write_text("{")
    with pytest.raises(DataError, match=r"sets\.json cannot be read as JSON"):
        write_report(sets_folder)


def test_a_heat_map_is_symmetric_about_zero_and_leaves_missing_cells_empty() -> None:
    figure = heat_map([[1.0, None], [-3.0, 0.0]], rows=["a", "b"], columns=["x", "y"])

    image = figure.axes[0].images[0]
    assert image.get_clim() == (-3.0, 3.0)
    assert [text.get_text() for text in figure.axes[0].texts] == ["+1.0", "\u22123.0", "+0.0"]
    assert b"<svg" in to_svg(figure).encode()


def test_a_heat_map_of_zeros_is_white() -> None:
    figure = heat_map([[0.0, 0.0]], rows=["a"], columns=["x", "y"])

    image = figure.axes[0].images[0]
    assert min(image.to_rgba(0.0)[:3]) > 0.9
