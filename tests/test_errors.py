from __future__ import annotations

import pytest

from attendet import errors
from attendet.errors import AttendetError, did_you_mean, first_line

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, AttendetError)
]


def test_every_error_is_public_and_of_one_tree() -> None:
    assert {cls.__name__ for cls in CLASSES} | {"did_you_mean"} == set(errors.__all__)


def test_exit_codes_distinguish_the_branches() -> None:
    branches = [cls for cls in CLASSES if AttendetError in cls.__bases__]
    codes = [cls.exit_code for cls in branches]
    assert len(set(codes)) == len(codes)
    assert all(2 <= code < 64 for code in codes)
    assert AttendetError.exit_code == 1
    assert errors.ImageError.exit_code == errors.DataError.exit_code


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("epoch", "Did you mean 'epochs'?"),
        ("bacth", "Did you mean 'batch'?"),
        ("color", "Choose from: batch, epochs."),
        ("", "Choose from: batch, epochs."),
    ],
)
def test_did_you_mean(value: str, expected: str) -> None:
    assert did_you_mean(value, ["epochs", "batch"]) == expected
    assert did_you_mean(value, iter({"batch": 1, "epochs": 2})) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [("one", "one"), ("\n  two \nthree", "two"), ("", "ValueError"), (" \n", "ValueError")],
)
def test_the_first_line_of_an_error(message: str, expected: str) -> None:
    assert first_line(ValueError(message)) == expected
