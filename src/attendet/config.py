"""Settings as frozen dataclasses, filled strictly from plain mappings.

The text under a field is its help: the command line shows it, so it is written once.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import math
import re
import textwrap
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from attendet.errors import ConfigError, did_you_mean

__all__ = ["field_help", "from_mapping", "parse_value"]

T = TypeVar("T")

# YAML 1.1 takes a number without a point, such as 1e-3, for text.
_EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")
_WORDS: dict[str, bool | None] = {
    "none": None,
    "null": None,
    "true": True,
    "yes": True,
    "on": True,
    "false": False,
    "no": False,
    "off": False,
}


def field_help(cls: type) -> dict[str, str]:
    """Return the text that stands under each field of a dataclass.

    Args:
        cls: a dataclass whose fields are followed by string literals.

    Returns:
        Field name to text, in one line each.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    texts: dict[str, str] = {}
    for statement, following in itertools.pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            texts[statement.target.id] = " ".join(following.value.value.split())
    return texts


def _members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _fits(value: Any, annotation: Any) -> tuple[bool, Any]:
    """Return whether a value fits one annotation, and the value as that type."""
    origin = typing.get_origin(annotation)
    if annotation in (None, type(None)):
        return value is None, None
    if origin is typing.Literal:
        return value in typing.get_args(annotation), value
    if origin is tuple:
        inner = typing.get_args(annotation)
        if not isinstance(value, list | tuple):
            return False, value
        if len(inner) == 2 and inner[1] is Ellipsis:
            inner = (inner[0],) * len(value)
        pairs = [_fits(item, kind) for item, kind in zip(value, inner, strict=False)]
        good = len(inner) == len(value) and all(fit for fit, _ in pairs)
        return good, tuple(item for _, item in pairs)
    if annotation is float:
        if isinstance(value, str) and _EXPONENT.fullmatch(value):
            value = float(value)
        good = isinstance(value, int | float) and not isinstance(value, bool)
        good = good and math.isfinite(value)
        return good, float(value) if good else value
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    return isinstance(value, origin or annotation), value


def describe_type(annotation: Any) -> str:
    """Return an annotation in words, for messages and help.

    Example:
        >>> describe_type(int | None), describe_type(typing.Literal["a", "b"])
        ('a whole number or none', 'one of a, b')
    """
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    parts = []
    for member in _members(annotation):
        if member is type(None):
            parts.append("none")
        elif typing.get_origin(member) is typing.Literal:
            parts.append(f"one of {', '.join(map(str, typing.get_args(member)))}")
        elif typing.get_origin(member) is tuple:
            inner = [kind for kind in typing.get_args(member) if kind is not Ellipsis]
            parts.append(f"a list of {describe_type(inner[0]).removeprefix('a ')}s")
        else:
            parts.append(words.get(member, getattr(member, "__name__", str(member))))
    return " or ".join(parts)


def _parse_word(text: str, annotation: Any) -> tuple[bool, Any]:
    """Return whether a word of the command line fits one annotation, and its value."""
    origin = typing.get_origin(annotation)
    if annotation in (bool, None, type(None)):
        known = text.lower() in _WORDS
        return _fits(_WORDS[text.lower()], annotation) if known else (False, text)
    if annotation in (int, float):
        try:
            return _fits(annotation(text), annotation)
        except ValueError:
            return False, text
    if origin is typing.Literal:
        choices = {str(choice): choice for choice in typing.get_args(annotation)}
        return text in choices, choices.get(text)
    if origin is tuple:
        kinds = [kind for kind in typing.get_args(annotation) if kind is not Ellipsis]
        words = [word.strip() for word in text.split(",")]
        pairs = [_parse_word(word, kinds[min(i, len(kinds) - 1)]) for i, word in enumerate(words)]
        good, values = _fits([value for _, value in pairs], annotation)
        return good and all(fit for fit, _ in pairs), values
    return _fits(text, annotation)


def parse_value(text: str, annotation: Any, *, name: str) -> Any:
    """Return a word of the command line as a field's type.

    Args:
        text: the word, such as ``"0.5"``, ``"none"``, ``"true"`` or ``"1,2"``.
        annotation: type of the field.
        name: the flag, for errors.

    Raises:
        ConfigError: if the word does not fit the type.

    Example:
        >>> parse_value("none", int | None, name="--patience") is None
        True
        >>> parse_value("0.5", float, name="--mosaic")
        0.5
    """
    # Text fits any word, so it is tried last.
    for member in sorted(_members(annotation), key=lambda member: member is str):
        good, value = _parse_word(text, member)
        if good:
            return value
    raise ConfigError(f"{name} must be {describe_type(annotation)}; got {text!r}.")


def from_mapping(cls: type[T], values: Mapping[str, Any], *, source: str) -> T:
    """Return a dataclass filled from a mapping; unknown keys and wrong types are errors.

    Args:
        cls: a dataclass whose ``__post_init__`` may check ranges.
        values: field name to value; fields left out keep their defaults.
        source: file or flag that the values came from, for errors.

    Raises:
        ConfigError: naming the key, what it must be and the source.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Pace:
        ...     epochs: int = 10
        >>> from_mapping(Pace, {"epochs": 3}, source="pace.yaml")
        Pace(epochs=3)
        >>> from_mapping(Pace, {"epoch": 3}, source="pace.yaml")
        Traceback (most recent call last):
        ...
        attendet.errors.ConfigError: unknown setting 'epoch' (pace.yaml). Did you mean 'epochs'?
    """
    hints = typing.get_type_hints(cls)
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            raise ConfigError(
                f"unknown setting {key!r} ({source}). {did_you_mean(str(key), names)}"
            )
        for member in _members(hints[key]):
            good, converted = _fits(value, member)
            if good:
                checked[key] = converted
                break
        else:
            raise ConfigError(
                f"{key} must be {describe_type(hints[key])}; got {value!r} ({source})."
            )
    try:
        return cls(**checked)
    except ConfigError as error:
        raise ConfigError(_with_source(str(error), source)) from None


def _with_source(message: str, source: str) -> str:
    """Return a message with its source behind what was given, before any advice.

    Example:
        >>> _with_source("size must be even; got 3. Nearest: 4.", "--size")
        'size must be even; got 3 (--size). Nearest: 4.'
    """
    for end in re.finditer(r"\.(?= [A-Z]|$)", message):
        said = message[: end.start()]
        if said.count("'") % 2 == said.count('"') % 2 == 0:  # not within what was given
            return f"{said} ({source}){message[end.start() :]}"
    return f"{message} ({source})"
