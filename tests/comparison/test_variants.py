from __future__ import annotations

import itertools
import pickle
from typing import Any

import pytest

from attendet.comparison.variants import (
    Job,
    Variant,
    content_key,
    folder_name,
    make_variants,
    pick_baseline,
)
from attendet.errors import ConfigError


def _names(*attention: str, sites: Any = ("p4,p5,up",), inits: Any = ("paper",)) -> list[str]:
    return [variant.name for variant in make_variants(attention, sites, inits)]


def _job(variant: Variant, seed: int = 1) -> Job:
    return Job(
        variant=variant,
        seed=seed,
        setup={"split": "test", "data": {"train": "aa"}, "recipe": {"lr": 1e-3}},
        data="/cells",
        format=None,
        pretrained=None,
        accelerator="cpu",
        study="/study",
    )


def test_each_block_stands_at_each_placement_with_each_start_and_none_once() -> None:
    names = _names("none", "se", sites=("p4,p5,up", "stage3"), inits=("identity", "paper"))

    assert names == [
        "none",
        "se@p4,p5,up:identity",
        "se@p4,p5,up",
        "se@stage3:identity",
        "se@stage3",
    ]


def test_a_spec_stands_where_it_says() -> None:
    variants = make_variants(["se@p5+ca@up", "eca@p5"], ["stage3"], ["paper"])

    assert [variant.name for variant in variants] == ["se@p5+ca@up", "eca@p5"]
    assert [variant.spec for variant in variants] == ["se@p5+ca@up", "eca@p5"]
    assert variants[0].sites == ("p5", "up")
    assert variants[1].as_dict() == {"attention": "eca", "sites": ["p5"], "init": "paper"}


def test_sites_in_any_order_are_one_placement() -> None:
    assert _names("none", "ca", sites=("up,p4", "p4,up")) == ["none", "ca@p4,up"]
    assert _names("none", "ca", sites=("up,p4", "up,p4")) == ["none", "ca@p4,up"]


def test_the_neck_is_the_bare_name_for_training() -> None:
    (_, ca) = make_variants(["none", "ca"], ["up,p5,p4"], ["paper"])

    assert (ca.name, ca.spec) == ("ca@p4,p5,up", "ca@p4,p5,up")


def test_a_variant_named_twice_is_an_independent_draw() -> None:
    first, second = make_variants(["none", "none"], ["p5"], ["paper"])

    assert (first.name, second.name) == ("none", "none#2")
    assert first.spec == second.spec == "none"
    seeds = {_job(each, seed).run_seed for each in (first, second) for seed in range(100)}
    assert len(seeds) == 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": ["none", "cbm"]}, "Did you mean 'cbam'"),
        ({"attention": ["ca"]}, "at least two variants"),
        ({"sites": ["p6"]}, "site of the network; got 'p6'"),
        ({"attention_init": ["idenity"]}, "Did you mean 'identity'"),
    ],
)
def test_what_is_unknown_is_named(changes: dict[str, list[str]], message: str) -> None:
    given = {"attention": ["none", "ca"], "sites": ["p5"], "attention_init": ["paper"], **changes}

    with pytest.raises(ConfigError, match=message):
        make_variants(given["attention"], given["sites"], given["attention_init"])


def test_the_baseline_is_none_or_the_first_or_as_named() -> None:
    with_none = make_variants(["ca", "none"], ["p5"], ["paper"])
    without = make_variants(["ca", "se"], ["p5"], ["paper"])

    assert pick_baseline(with_none).name == "none"
    assert pick_baseline(without).name == "ca@p5"
    assert pick_baseline(without, "se@p5").name == "se@p5"
    with pytest.raises(ConfigError, match="Did you mean 'se@p5'"):
        pick_baseline(without, "se@p4")


def test_a_key_depends_on_all_that_decides_a_run_and_on_nothing_else() -> None:
    setup = {"version": "1", "recipe": {"lr": 0.1, "epochs": 3}, "data": {"train": "aa"}}
    turned = {"data": {"train": "aa"}, "recipe": {"epochs": 3, "lr": 0.1}, "version": "1"}
    variants = [
        (setup, "ca", "paper", 0),
        ({**setup, "version": "2"}, "ca", "paper", 0),
        ({**setup, "recipe": {"lr": 0.2, "epochs": 3}}, "ca", "paper", 0),
        ({**setup, "data": {"train": "ab"}}, "ca", "paper", 0),
        (setup, "se", "paper", 0),
        (setup, "ca", "identity", 0),
        (setup, "ca", "paper", 1),
    ]
    keys = [content_key(*variant) for variant in variants]

    assert content_key(turned, "ca", "paper", 0) == keys[0]
    assert all(first != second for first, second in itertools.combinations(keys, 2))


def test_a_job_can_be_sent_to_another_process() -> None:
    job = _job(Variant("ca", ("p5",)))

    assert pickle.loads(pickle.dumps(job)) == job
    assert pickle.loads(pickle.dumps(job)).key == job.key


def test_folder_names_hold_no_odd_character() -> None:
    assert folder_name("se@p5+ca@up:identity", 0, "ab" * 8) == "se-p5-ca-up-identity-seed0-abababab"
