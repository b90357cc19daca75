"""Verdicts of whole studies, on a data set with many test images."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attendet.comparison.study import Study

Make = Callable[..., Study]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose test split has sixty images."""
    root = tmp_path_factory.mktemp("data") / "many"
    rng = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 2), ("test", 60)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(image).save(root / "images" / split / f"{number:02}.png")
            lines = [f"{number % 2} {x} {y} 0.3 0.3\n" for x, y in rng.uniform(0.2, 0.8, (3, 2))]
            (root / "labels" / split / f"{number:02}.txt").write_text("".join(lines))
    (root / "data.yaml").write_text(
        "train: images/train\nval: images/val\ntest: images/test\nnames: [red, green]\n"
    )
    return root


def test_a_clear_gain_helps_and_a_clear_loss_hurts(made_up: Any, study: Make, many: Path) -> None:
    made_up.shake = {"none": 1.5, "se@p5": 0.9, "ca@p5": 2.2}
    made_up.noise = 0.02

    made = study(many, attention=["none", "se", "ca"], sites=["p5"], seeds=4)

    assert {name: v["verdict"] for name, v in made.verdicts.items()} == {
        "se@p5": "helps",
        "ca@p5": "hurts",
    }


def test_none_against_none_claims_nothing(made_up: Any, study: Make, many: Path) -> None:
    """Two independent draws of the same thing."""
    made_up.noise = 0.05

    made = study(many, attention=["none", "none"], seeds=5)

    assert {record["run_seed"] for record in made.records} == {*range(5), *range(10_000, 10_005)}
    assert made.verdicts["none#2"]["verdict"] in ("no difference", "not enough seeds")


def test_none_against_none_is_no_difference_larger_than_the_noise_shows(
    made_up: Any, study: Make, many: Path
) -> None:
    made = study(many, attention=["none", "none"], seeds=6, margin=8.0)

    assert made.verdicts["none#2"]["verdict"] == "no difference"
    assert "no difference larger than 8 AP" in made.verdicts["none#2"]["text"]


@pytest.mark.slow
def test_studies_of_none_against_none_claim_something_five_times_in_a_hundred(
    made_up: Any, study: Make, many: Path, tmp_path: Path
) -> None:
    made_up.noise = 0.05
    claims = []
    for number in range(60):
        made_up.shift = 97 * number
        made = study(many, attention=["none", "none"], seeds=3, output=tmp_path / str(number))
        claims.append(made.verdicts["none#2"]["verdict"] in ("helps", "hurts"))

    assert sum(claims) <= 60 * 0.05 + 3 * math.sqrt(60 * 0.05 * 0.95)
