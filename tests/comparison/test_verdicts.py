from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from attendet.comparison import verdicts
from attendet.comparison.statistics import Noise, detectable_difference
from attendet.comparison.verdicts import Paired, judge

DRAWS = 200


def _paired(
    differences: list[float], *, image_sd: float = 0.0, images: int = 72, seed: int = 0
) -> Paired:
    """A variant whose differences from a baseline of AP 0.5 are given."""
    rng = np.random.default_rng(seed)
    values = np.array(differences)
    noise = rng.normal(0, image_sd, DRAWS) if image_sd else np.zeros(DRAWS)
    return Paired(
        tuple(range(len(values))),
        0.5 + values,
        np.full(len(values), 0.5),
        values[:, None] + noise[None, :],
        images,
    )


def _one(differences: list[float], **changes: float) -> dict[str, object]:
    return judge({"ca": _paired(differences, **changes)}, margin=0.005)["ca"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ([0.020, 0.022, 0.021], "helps"),
        ([-0.020, -0.022, -0.021], "hurts"),
        ([0.0005, -0.0004, 0.0001], "no difference"),
        ([0.03, -0.02, 0.01], "not enough seeds"),
        ([0.03], "not enough seeds"),
    ],
)
def test_the_four_verdicts(differences: list[float], word: str) -> None:
    verdict = _one(differences)

    assert verdict["verdict"] == word
    assert str(verdict["text"]).startswith(word) or len(differences) == 1


def test_none_against_none_is_no_difference() -> None:
    verdict = _one([0.0, 0.0, 0.0])

    assert verdict["verdict"] == "no difference"
    assert (verdict["difference"], verdict["low"], verdict["high"]) == (0.0, 0.0, 0.0)


def test_not_enough_seeds_says_how_many_more() -> None:
    verdict = _one([0.012, 0.002, 0.009])

    assert 1 <= verdict["further_seeds"] <= 6
    assert f"About {verdict['further_seeds']} further seed" in str(verdict["text"])


def test_where_the_images_are_too_few_it_says_so() -> None:
    verdict = _one([0.010, 0.011, 0.0105], image_sd=0.008, images=20)

    assert verdict["verdict"] == "not enough seeds"
    assert verdict["further_seeds"] is None
    assert "20 test images are too few" in str(verdict["text"])


def test_the_images_can_take_a_verdict_back() -> None:
    assert _one([0.010, 0.011, 0.0105])["verdict"] == "helps"
    assert _one([0.010, 0.011, 0.0105], image_sd=0.008)["verdict"] == "not enough seeds"


def test_more_variants_ask_for_more_evidence() -> None:
    borderline = [0.010, 0.016, 0.007, 0.019]
    assert _one(borderline)["verdict"] == "helps"

    together = {"ca": _paired(borderline)}
    together |= {f"variant{n}": _paired([0.01, -0.012, 0.002, 0.001]) for n in range(6)}

    verdict = judge(together, margin=0.005)["ca"]
    assert verdict["verdict"] == "not enough seeds"
    assert verdict["p_holm"] == pytest.approx(7 * verdict["p"])


def test_one_seed_is_refused_a_verdict() -> None:
    verdict = _one([0.03])

    assert verdict["low"] is verdict["high"] is verdict["p"] is verdict["further_seeds"] is None
    assert "Use at least three seeds" in str(verdict["text"])


def test_detectors_that_learned_nothing_are_not_called_alike() -> None:
    low = _paired([0.0001, 0.0, -0.0001])
    low = dataclasses.replace(low, ap=low.ap - 0.49, baseline_ap=low.baseline_ap - 0.49)

    verdict = judge({"ca": low}, margin=0.005)["ca"]

    assert verdict["verdict"] == "nothing learned"
    assert "both have an AP below 2 points. Train longer." in verdict["text"]


def test_verdicts_are_plain_values() -> None:
    for value in _one([0.01, 0.02, 0.04], image_sd=0.001).values():
        assert value is None or isinstance(value, str | int | float | list)
        assert not isinstance(value, float) or math.isfinite(value)


@pytest.fixture
def words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what a verdict says besides, which takes longer than the verdict."""
    monkeypatch.setattr(verdicts, "further_seeds", lambda *_, **__: None)
    monkeypatch.setattr(verdicts, "detectable_difference", lambda *_, **__: 0.0)


def _fraction_of_claims(
    studies: int, seeds: int, variants: int, *, true: float, sd: float, image_sd: float
) -> tuple[float, float]:
    """Simulate whole studies; return how many say helps or hurts of any variant, and of the
    first."""
    rng = np.random.default_rng(7)
    any_claim, first = 0, 0
    for _ in range(studies):
        judged = {}
        for number in range(variants):
            shift = rng.normal(0, image_sd)  # the test images at hand
            values = rng.normal(true if number == 0 else 0.0, sd, seeds) + shift
            drawn = values[:, None] + rng.normal(0, image_sd, 100)[None, :]
            judged[f"variant{number}"] = Paired(
                tuple(range(seeds)), 0.5 + values, np.full(seeds, 0.5), drawn, 72
            )
        words = [verdict["verdict"] for verdict in judge(judged, margin=0.005).values()]
        any_claim += any(word in ("helps", "hurts") for word in words)
        first += words[0] == "helps"
    return any_claim / studies, first / studies


@pytest.mark.parametrize("seeds", [3, 5])
def test_simulated_studies_of_nothing_claim_something_at_most_five_times_in_a_hundred(
    words_alone: None, seeds: int
) -> None:
    any_claim, _ = _fraction_of_claims(300, seeds, 4, true=0.0, sd=0.01, image_sd=0.004)

    assert any_claim <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_simulated_studies_of_a_real_gain_show_it(words_alone: None) -> None:
    _, first = _fraction_of_claims(100, 5, 4, true=0.04, sd=0.01, image_sd=0.004)

    assert first > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "image_sd"), [(3, 0.0), (3, 0.01), (5, 0.004), (10, 0.004)])
def test_the_false_positive_rate_over_many_studies(
    words_alone: None, seeds: int, image_sd: float
) -> None:
    any_claim, _ = _fraction_of_claims(3000, seeds, 4, true=0.0, sd=0.01, image_sd=image_sd)

    # where images and seeds matter alike, the interval errs to the wide side
    assert 0.005 <= any_claim <= 0.062


def test_the_page_says_what_so_many_seeds_can_show() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "compare.md").read_text("utf-8")
    seeds = (2, 3, 4, 5, 7, 10, 15)

    for words, variants in (("one variant beside the baseline", 1), ("four variants", 4)):
        cells = [detectable_difference(n, Noise(1.0, comparisons=variants)) for n in seeds]
        row = " | ".join(f"{cell:.1f}" for cell in cells)
        assert f"| {words} | {row} |" in page


# --- what the images add ---------------------------------------------------------------------


def _study(
    rng: np.random.Generator, seeds: int, *, alike: float, own: float, images: int = 60
) -> Paired:
    """Simulate a variant that equals the baseline; images move all seeds alike, and each."""
    each = rng.normal(0, alike, images) + rng.normal(0, own, (seeds, images))
    draws = rng.multinomial(images, np.full(images, 1 / images), size=DRAWS) / images
    ap = 0.5 + each.mean(axis=1)
    return Paired(tuple(range(seeds)), ap, np.full(seeds, 0.5), each @ draws.T, images)


def _claims(seeds: int, *, count: int = 400, **kinds: float) -> float:
    rng = np.random.default_rng(0)
    verdicts = [judge({"ca": _study(rng, seeds, **kinds)}, margin=1e-9) for _ in range(count)]
    return float(np.mean([each["ca"]["verdict"] in ("helps", "hurts") for each in verdicts]))


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(("alike", "own"), [(0.0, 0.3), (0.1, 0.3), (0.2, 0.2), (0.3, 0.05)])
def test_what_images_do_to_one_seed_is_counted_once(
    seeds: int, alike: float, own: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("detectable_difference", "further_seeds"):  # slow
        monkeypatch.setattr(verdicts, name, lambda *_, **__: (0.0, 0.0))

    claimed = _claims(seeds, alike=alike, own=own)

    error = math.sqrt(0.05 * 0.95 / 400)
    assert claimed <= 0.05 + 3 * error
    if alike == 0:  # as none beside none: not far below either, which would waste seeds
        assert claimed >= 0.05 - 3 * error + 0.005


def test_more_images_are_not_asked_for_where_more_seeds_suffice() -> None:
    """Images that move each seed by itself average out with more seeds."""
    verdict = judge({"ca": _study(np.random.default_rng(3), 3, alike=0.0, own=0.05)}, margin=0.005)[
        "ca"
    ]

    assert verdict["verdict"] == "not enough seeds"
    assert verdict["further_seeds"] is not None
