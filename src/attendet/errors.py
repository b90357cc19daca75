"""The errors that attendet raises on purpose, one tree, each with its exit code.

A message names what is wrong, where, and what to do:
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
    """Base of every error that attendet raises on purpose; its text is fit for a user to read."""

    exit_code = 1

    @classmethod
    def must(
        cls, name: str, rule: str, got: object, where: object = None, advice: str = ""
    ) -> Self:
        """Return the error of a wrong value in the common form.

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
        """Raise the error that `must` returns unless the value is good."""
        if not good:
            raise cls.must(name, rule, got, where, advice)

    @classmethod
    def unknown(cls, name: str, got: str, choices: Iterable[str], where: object = None) -> Self:
        """Return the error of a name that is not among the choices, with the nearest of them.

        Example:
            >>> str(ConfigError.unknown("block", "cbm", ["ca", "cbam"], "--attention"))
            "block must be a known name; got 'cbm' (--attention). Did you mean 'cbam'?"
        """
        return cls.must(name, "a known name", got, where, did_you_mean(got, choices))


class ConfigError(AttendetError):
    """A flag, a recipe field, an attention spec or an argument is not what it must be."""

    exit_code = 2


class DataError(AttendetError):
    """A data set cannot be read, or holds nothing that can be used."""

    exit_code = 3


class DownloadError(DataError):
    """A file cannot be downloaded, or is not the published one."""


class ImageError(DataError):
    """One image cannot be read."""


class WeightsError(AttendetError):
    """A weights file is missing, broken, not ours, or does not fit the network."""

    exit_code = 4


class MissingExtraError(AttendetError):
    """A command needs an optional part of the package that is not installed."""

    exit_code = 5


class TrainingError(AttendetError):
    """A training run cannot go on (a non-finite loss, say); what was good so far is kept."""

    exit_code = 6


class ExportError(AttendetError):
    """A network cannot be exported, or the file says otherwise than the network; none is left."""

    exit_code = 7


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """Return ``"Did you mean 'x'? "`` for the nearest choice, else the list of choices.

    Args:
        value: what was given.
        choices: what would have been accepted.

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
    """Return the first line of an error's message that is not empty, else the name of its class.

    Example:
        >>> first_line(ValueError(" no such file\\nat line 3")), first_line(ValueError())
        ('no such file', 'ValueError')
    """
    return str(error).strip().partition("\n")[0].strip() or type(error).__name__


def list_names(names: Iterable[str], *, most: int = 10) -> str:
    """Return names with commas between, and how many more there are.

    Example:
        >>> list_names("abc"), list_names("abc", most=2)
        ('a, b, c', 'a, b and 1 more')
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
