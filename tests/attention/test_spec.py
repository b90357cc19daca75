"""Reading and writing of spec strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attendet.attention import format_attention_spec, parse_attention_spec
from attendet.errors import ConfigError

SITES = ("stage1", "stage2", "stage3", "p4", "p5", "up")
NECK = ("p4", "p5", "up")
KNOWN = ("none", "se", "cbam", "eca", "ca", "ca-authors")


def parse(text: str) -> dict[str, str]:
    return parse_attention_spec(text, default_sites=NECK, sites=SITES, known=KNOWN)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", {}),
        ("ca", {"p4": "ca", "p5": "ca", "up": "ca"}),
        ("ca@p5", {"p5": "ca"}),
        ("se@p5+ca@up", {"p5": "se", "up": "ca"}),
        ("ca@stage1,stage2,stage3", {"stage1": "ca", "stage2": "ca", "stage3": "ca"}),
        ("ca-authors+se@stage1", {"stage1": "se", **dict.fromkeys(NECK, "ca-authors")}),
        (" se @ p5 , up + eca@p4 ", {"p4": "eca", "p5": "se", "up": "se"}),
    ],
)
def test_what_a_spec_means(text, expected):
    assert parse(text) == expected


def test_sites_come_in_the_order_of_the_network():
    assert list(parse("ca@up,p4+se@stage2")) == ["stage2", "p4", "up"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "without empty parts"),
        ("ca+", "without empty parts"),
        ("+ca", "without empty parts"),
        ("@p5", "without empty parts"),
        ("ca@", "a site after each '@' and ','"),
        ("ca@p5,", "a site after each '@' and ','"),
        ("cab", "got 'cab' in 'cab'. Did you mean 'ca"),
        ("CA", "Did you mean 'ca'"),
        ("ca@p6", "got 'p6' in 'ca@p6'. Choose from: p4, p5"),
        ("ca@stage4", "got 'stage4' in 'ca@stage4'. Did you mean 'stage"),
        ("ca@P5", "Did you mean 'p5'"),
        ("ca@p5@up", "got 'p5@up'"),
        ("ca@p5,p5", "got 'p5' twice"),
        ("ca+se@p5", r"got 'p5' twice in 'ca\+se@p5' \('ca', 'se'\)"),
        ("none+ca@p5", "not combine 'none' with"),
        ("none@p5", "not combine 'none' with"),
        ("4", "Write the name of the block: phi 4 was 'ca'"),
        ("2", "phi 2 was 'cbam'"),
        ("7", "phi 4 was 'ca'"),
    ],
)
def test_what_is_wrong_with_a_spec_is_said(text, says):
    with pytest.raises(ConfigError, match=says):
        parse(text)


def test_sites_of_the_same_kind_are_offered():
    layers = tuple(f"layer{index}" for index in range(120))
    options = {"default_sites": NECK, "sites": (*SITES, *layers), "known": None}

    with pytest.raises(ConfigError, match="Choose from: p4, p5, stage1, stage2, stage3, up"):
        parse_attention_spec("ca@p9", **options)
    with pytest.raises(ConfigError, match="Did you mean 'layer11'"):
        parse_attention_spec("ca@layer-11", **options)


def test_any_name_passes_where_the_names_are_not_known():
    options = {"default_sites": NECK, "sites": SITES, "known": None}
    assert parse_attention_spec("mine@p5", **options) == {"p5": "mine"}


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({}, "none"),
        (dict.fromkeys(NECK, "ca"), "ca"),
        (dict.fromkeys(reversed(NECK), "ca"), "ca"),
        ({"up": "ca", "p5": "se"}, "se@p5+ca@up"),
        ({"up": "ca", "p4": "ca", "p5": "se"}, "ca@p4,up+se@p5"),
        (dict.fromkeys(SITES, "eca"), "eca@p4,p5,stage1,stage2,stage3,up"),
    ],
)
def test_how_a_mapping_is_written(mapping, expected):
    assert format_attention_spec(mapping, NECK) == expected


def test_none_has_no_site():
    with pytest.raises(ConfigError, match="Omit sites without a block"):
        format_attention_spec({"p5": "none"}, NECK)


@given(st.dictionaries(st.sampled_from(SITES), st.sampled_from(KNOWN[1:])))
def test_a_mapping_comes_back_from_its_spec(mapping):
    assert parse(format_attention_spec(mapping, NECK)) == mapping


@given(st.permutations(SITES), st.lists(st.sampled_from(KNOWN[1:]), min_size=6, max_size=6))
def test_equal_mappings_have_one_spec(order, names):
    mapping = dict(zip(SITES, names, strict=True))
    shuffled = {site: mapping[site] for site in order}
    assert format_attention_spec(shuffled, NECK) == format_attention_spec(mapping, NECK)


@given(st.text(alphabet="acest@+,p45up 1", max_size=12))
def test_any_text_is_read_or_refused_with_our_error(text):
    try:
        mapping = parse(text)
    except ConfigError:
        return
    assert parse(format_attention_spec(mapping, NECK)) == mapping
