"""Settings as frozen dataclasses, filled strictly from flat mappings.

A config may contain other configs by topic (``recipe.optimizer.lr``). Setting names are unique, so
files, flags and keyword arguments are flat (``lr: 0.001``, ``--lr``). The string literal under a
field is its help on the command line.
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

T = TypeVar("T")

# YAML 1.1 reads a number without a decimal point, such as 1e-3, as text.
_EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")
_CONSTANTS: dict[str, bool | None] = {
    "none": None,
    "null": None,
    "true": True,
    "yes": True,
    "on": True,
    "false": False,
    "no": False,
    "off": False,
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """A field of a config or of one of its inner configs."""

    name: str
    group: str
    """Field that contains the inner config; empty for a setting of the config itself."""

    annotation: Any
    default: Any


def settings_of(cls: type) -> dict[str, Setting]:
    """Return all settings of a config by name, including those of inner configs."""
    found: dict[str, Setting] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        annotation = hints[field.name]
        if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            for name, inner in settings_of(annotation).items():
                found[name] = dataclasses.replace(inner, group=field.name)
        else:
            found[field.name] = Setting(field.name, "", annotation, field.default)
    return found


def field_help(cls: type) -> dict[str, str]:
    """Return the help of each setting: the string literal under its field, in one line.

    Args:
        cls: a dataclass; the fields of inner configs are included.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    texts: dict[str, str] = {}
    for statement, following in itertools.pairwise(body):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                value=ast.Constant(value=str(t))
            ):
                texts[name] = " ".join(t.split())
    for annotation in typing.get_type_hints(cls).values():
        if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            texts |= field_help(annotation)
    return texts


def to_mapping(config: Any) -> dict[str, Any]:
    """Return the settings of a config as a flat mapping."""
    return {
        name: getattr(getattr(config, one.group) if one.group else config, name)
        for name, one in settings_of(type(config)).items()
    }


def replace_settings(config: T, **changes: Any) -> T:
    """Return a copy of a config with some settings changed, given by their flat names."""
    return _construct(type(config), {**to_mapping(config), **changes})


def _construct(cls: type[T], values: Mapping[str, Any]) -> T:
    hints = typing.get_type_hints(cls)
    settings = settings_of(cls)
    groups: dict[str, dict[str, Any]] = {one.group: {} for one in settings.values() if one.group}
    top: dict[str, Any] = {}
    for name, value in values.items():
        group = settings[name].group
        (groups[group] if group else top)[name] = value
    return cls(**top, **{group: hints[group](**inner) for group, inner in groups.items()})


def members_of(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the only type."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _fits(value: Any, annotation: Any) -> tuple[bool, Any]:
    """Return whether a value fits one annotation, and the value converted to it."""
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
        good = len(inner) == len(value) and all(fits for fits, _ in pairs)
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
    """Return a readable name of an annotation, for messages and help.

    Example:
        >>> describe_type(int | None), describe_type(typing.Literal["a", "b"])
        ('a whole number or none', 'one of a, b')
    """
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    parts = []
    for member in members_of(annotation):
        if member is type(None):
            parts.append("none")
        elif typing.get_origin(member) is typing.Literal:
            parts.append(f"one of {', '.join(map(str, typing.get_args(member)))}")
        elif typing.get_origin(member) is tuple:
            inner = [kind for kind in typing.get_args(member) if kind is not Ellipsis]
            parts.append(f"a list of {describe_type(inner[0]).removeprefix('a ')}s")
        else:
            parts.append(names.get(member, getattr(member, "__name__", str(member))))
    return " or ".join(parts)


def _parse_text(text: str, annotation: Any) -> tuple[bool, Any]:
    """Return whether a command-line text fits an annotation, and the parsed value."""
    origin = typing.get_origin(annotation)
    if annotation in (bool, None, type(None)):
        known = text.lower() in _CONSTANTS
        return _fits(_CONSTANTS[text.lower()], annotation) if known else (False, text)
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
        items = [item.strip() for item in text.split(",")]
        pairs = [_parse_text(item, kinds[min(i, len(kinds) - 1)]) for i, item in enumerate(items)]
        good, values = _fits([value for _, value in pairs], annotation)
        return good and all(fits for fits, _ in pairs), values
    return _fits(text, annotation)


def parse_value(text: str, annotation: Any, *, name: str) -> Any:
    """Return a command-line text parsed as the type of a field.

    Args:
        text: such as ``"0.5"``, ``"none"``, ``"true"`` or ``"1,2"``.
        annotation: type of the field.
        name: the flag, for errors.

    Raises:
        ConfigError: if the text does not fit the type.

    Example:
        >>> parse_value("none", int | None, name="--patience") is None
        True
        >>> parse_value("0.5", float, name="--mosaic")
        0.5
    """
    # str accepts any text, so it is tried last.
    for member in sorted(members_of(annotation), key=lambda member: member is str):
        good, value = _parse_text(text, member)
        if good:
            return value
    raise ConfigError(f"{name} must be {describe_type(annotation)}; got {text!r}.")


def from_mapping(cls: type[T], values: Mapping[str, Any], *, source: str) -> T:
    """Return a dataclass filled from a mapping; unknown keys and wrong types are errors.

    Args:
        cls: a dataclass whose ``__post_init__`` may check ranges.
        values: field name to value; missing ones keep their defaults.
        source: file or flag that the values came from, for errors.

    Raises:
        ConfigError: if a key is unknown or a value is wrong; names the key and the source.

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
    settings = settings_of(cls)
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in settings:
            raise ConfigError(
                f"unknown setting {key!r} ({source}). {did_you_mean(str(key), settings)}"
            )
        annotation = settings[key].annotation
        for member in members_of(annotation):
            good, converted = _fits(value, member)
            if good:
                checked[key] = converted
                break
        else:
            raise ConfigError.must(key, describe_type(annotation), value, source)
    try:
        return _construct(cls, checked)
    except ConfigError as error:
        raise ConfigError(_with_source(str(error), source)) from None


def _with_source(message: str, source: str) -> str:
    """Return a message with its source after the value and before the advice.

    Example:
        >>> _with_source("size must be even; got 3. Nearest: 4.", "--size")
        'size must be even; got 3 (--size). Nearest: 4.'
    """
    for end in re.finditer(r"\.(?= [A-Z]|$)", message):
        head = message[: end.start()]
        if head.count("'") % 2 == head.count('"') % 2 == 0:  # not inside the quoted value
            return f"{head} ({source}){message[end.start() :]}"
    return f"{message} ({source})"
