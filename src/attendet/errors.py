"""Exceptions of attendet: one class tree, each class with its exit code.

A message says what is wrong, where, and what to do:
``{name} must be {rule}; got {value!r} ({file:line or flag}). {What to do.}``
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Self

__all__ = [
    "AttendetError",
    "ConfigError",
    "DataError",
    "DownloadError",
    "ExportError",
    "MissingExtraError",
    "ImageError",
    "TrainingError",
    "WeightsError",
    "did_you_mean",
]


class AttendetError(Exception):
    """Base of all errors that attendet raises on purpose; its message is written for users."""

    exit_code = 1

    @classmethod
    def must(
        cls, name: str, rule: str, got: object, where: object = None, advice: str = ""
    ) -> Self:
        """Return the error for a wrong value, with a message in the common form.

        Args:
            name: the setting, argument or key.
            rule: what it must be.
            got: the value.
            where: file, ``file:line`` or flag.
            advice: a sentence that says what to do.

        Example:
            >>> str(ConfigError.must("batch", "at least 1", 0, "--batch", "Try 16."))
            'batch must be at least 1; got 0 (--batch). Try 16.'
        """
        place = "" if where is None else f" ({where})"
        return cls(f"{name} must be {rule}; got {got!r}{place}.{' ' if advice else ''}{advice}")

    @classmethod
    def check(
        cls,
        good: bool,
        name: str,
        rule: str,
        got: object,
        where: object = None,
        advice: str = "",
    ) -> None:
        """Raise the error that `must` returns, unless the value is good."""
        if not good:
            raise cls.must(name, rule, got, where, advice)

    @classmethod
    def unknown(cls, name: str, got: str, choices: Iterable[str], where: object = None) -> Self:
        """Return the error for a name that is not among the choices; it suggests the nearest one.

        Example:
            >>> str(ConfigError.unknown("block", "cbm", ["ca", "cbam"], "--attention"))
            "block must be a known name; got 'cbm' (--attention). Did you mean 'cbam'?"
        """
        return cls.must(name, "a known name", got, where, did_you_mean(got, choices))


class ConfigError(AttendetError):
    """A flag, a recipe field, an attention spec or an argument is invalid."""

    exit_code = 2


class DataError(AttendetError):
    """A data set cannot be read, or contains nothing usable."""

    exit_code = 3


class DownloadError(DataError):
    """A file cannot be downloaded, or differs from the published one."""


class ImageError(DataError):
    """One image cannot be read."""


class WeightsError(AttendetError):
    """A weights file is missing, broken, not from attendet, or does not fit the network."""

    exit_code = 4


class MissingExtraError(AttendetError):
    """An optional dependency (an extra of the package) is required but not installed."""

    exit_code = 5


class TrainingError(AttendetError):
    """A training run cannot continue, such as with a non-finite loss; checkpoints are kept."""

    exit_code = 6


class ExportError(AttendetError):
    """A network cannot be exported, or the file differs from the network; no file is left."""

    exit_code = 7


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """Return ``"Did you mean 'x'?"`` for the nearest choice, else the list of choices.

    Args:
        value: the name that was given.
        choices: the names that are accepted.

    Returns:
        A sentence that ends an error message.

    Example:
        >>> did_you_mean("epoch", ["epochs", "batch"])
        "Did you mean 'epochs'?"
        >>> did_you_mean("zzz", ["b", "a"])
        'Choose from: a, b.'
    """
    names = sorted(choices)
    near = difflib.get_close_matches(value, names, n=1)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Choose from: {list_names(names)}."


def first_line(error: BaseException) -> str:
    """Return the first non-empty line of an error's message, else the name of its class.

    Example:
        >>> first_line(ValueError(" no such file\\nat line 3")), first_line(ValueError())
        ('no such file', 'ValueError')
    """
    return str(error).strip().partition("\n")[0].strip() or type(error).__name__


def list_names(names: Iterable[str], *, most: int = 10) -> str:
    """Join names with commas; after ``most`` of them, give only the number of the others.

    Example:
        >>> list_names("abc"), list_names("abc", most=2)
        ('a, b, c', 'a, b and 1 more')
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
