from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from attendet.config import describe_type, field_help, from_mapping, parse_value
from attendet.errors import ConfigError


@dataclass(frozen=True)
class Pace:
    epochs: int = 10
    """Rounds over the data,
    a whole number."""
    rate: float = 0.1
    "Step size."
    plain: bool = False
    names: tuple[str, ...] = ()
    """Class names."""
    patience: int | None = None
    how: Literal["fast", "slow"] = "fast"
    steps: tuple[int, ...] | None = None
    image_hw: tuple[int, int] = (416, 416)
    title: str = ""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ConfigError(f"epochs must be at least 1; got {self.epochs}.")


def test_help_is_the_text_under_a_field() -> None:
    assert field_help(Pace) == {
        "epochs": "Rounds over the data, a whole number.",
        "rate": "Step size.",
        "names": "Class names.",
    }


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "a whole number"),
        (float, "a number"),
        (bool, "true or false"),
        (str, "text"),
        (int | None, "a whole number or none"),
        (Literal["a", "b"], "one of a, b"),
        (tuple[int, ...], "a list of whole numbers"),
        (tuple[str, ...], "a list of texts"),
        (tuple[float, float], "a list of numbers"),
    ],
)
def test_types_in_words(annotation: Any, words: str) -> None:
    assert describe_type(annotation) == words


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("3", int, 3),
        ("-3", int, -3),
        ("3", float, 3.0),
        ("1e-3", float, 1e-3),
        ("3", str, "3"),
        ("true", str, "true"),
        ("none", str, "none"),
        ("none", str | None, None),
        ("None", int | None, None),
        ("7", int | None, 7),
        ("true", bool, True),
        ("off", bool, False),
        ("slow", Literal["fast", "slow"], "slow"),
        ("1,2", tuple[int, ...], (1, 2)),
        ("5", tuple[int, ...], (5,)),
        ("1,2.5", tuple[float, ...], (1.0, 2.5)),
        ("1e-3,2", tuple[float, ...], (1e-3, 2.0)),
        ("a,b", tuple[str, ...], ("a", "b")),
        ("1,b", tuple[str, ...], ("1", "b")),
        ("1,2", tuple[str, ...], ("1", "2")),
        ("a", tuple[str, ...], ("a",)),
        (" 1, 2", tuple[int, ...], (1, 2)),
        ("a, b", tuple[str, ...], ("a", "b")),
        ("320,416", tuple[int, int], (320, 416)),
        ("none", tuple[int, ...] | None, None),
        ("a,b", str, "a,b"),
        ("", str, ""),
    ],
)
def test_words_become_values(text: str, annotation: Any, value: object) -> None:
    parsed = parse_value(text, annotation, name="--flag")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "annotation", "rule"),
    [
        ("3.5", int, "a whole number"),
        ("x", int, "a whole number"),
        ("", int, "a whole number"),
        ("none", int, "a whole number"),
        ("true", int, "a whole number"),
        ("x", float, "a number"),
        ("nan", float, "a number"),
        ("inf", float, "a number"),
        ("1", bool, "true or false"),
        ("medium", Literal["fast", "slow"], "one of fast, slow"),
        ("1,x", tuple[int, ...], "a list of whole numbers"),
        ("1,2,3", tuple[int, int], "a list of whole numbers"),
        ("x", int | None, "a whole number or none"),
    ],
)
def test_words_that_do_not_fit(text: str, annotation: Any, rule: str) -> None:
    with pytest.raises(ConfigError, match=f"--flag must be {rule}; got {text!r}"):
        parse_value(text, annotation, name="--flag")


@given(st.integers())
def test_whole_numbers_round_trip(number: int) -> None:
    assert parse_value(str(number), int, name="--flag") == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_round_trip(number: float) -> None:
    assert parse_value(repr(number), float, name="--flag") == number


def test_a_mapping_fills_the_fields_and_the_rest_keep_their_defaults() -> None:
    pace = from_mapping(
        Pace,
        {"epochs": 3, "rate": 1, "title": "x", "names": ["a", "b"], "how": "slow", "steps": [1, 2]},
        source="pace.yaml",
    )
    assert pace == Pace(epochs=3, rate=1.0, names=("a", "b"), how="slow", steps=(1, 2), title="x")
    assert isinstance(pace.rate, float)
    assert from_mapping(Pace, {}, source="pace.yaml") == Pace()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, r"unknown setting 'epoch' \(pace.yaml\). Did you mean 'epochs'\?"),
        ({3: 3}, r"unknown setting 3 \(pace.yaml\)"),
        ({"epochs": "3"}, r"epochs must be a whole number; got '3' \(pace.yaml\)"),
        ({"epochs": True}, "epochs must be a whole number; got True"),
        ({"epochs": 3.0}, r"epochs must be a whole number; got 3\.0"),
        ({"epochs": None}, "epochs must be a whole number; got None"),
        ({"rate": "fast"}, "rate must be a number; got 'fast'"),
        ({"rate": float("nan")}, "rate must be a number; got nan"),
        ({"plain": 1}, "plain must be true or false; got 1"),
        ({"names": "ab"}, "names must be a list of texts; got 'ab'"),
        ({"names": [1]}, "names must be a list of texts"),
        ({"how": "medium"}, "how must be one of fast, slow; got 'medium'"),
        ({"how": ["fast"]}, "how must be one of fast, slow"),
        ({"image_hw": [1, 2, 3]}, "image_hw must be a list of whole numbers"),
        ({"epochs": 0}, r"epochs must be at least 1; got 0 \(pace\.yaml\)\."),
    ],
)
def test_a_mapping_that_does_not_fit(values: dict[Any, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(Pace, values, source="pace.yaml")


def test_a_power_of_ten_without_a_point_is_a_number_in_yaml() -> None:
    values = yaml.safe_load("rate: 1e-3")
    assert values == {"rate": "1e-3"}
    assert from_mapping(Pace, values, source="pace.yaml").rate == 0.001
    with pytest.raises(ConfigError, match="epochs must be a whole number; got '1e3'"):
        from_mapping(Pace, {"epochs": "1e3"}, source="pace.yaml")
