"""The text of a darknet configuration: sections of ``key=value`` lines, each with its line number.

``[section]`` begins a section; blanks do not matter; what follows ``#`` or ``;`` is a comment.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from attendet.errors import ConfigError, did_you_mean

__all__ = ["Section", "SectionError", "parse_sections", "read_text"]

MOST_BYTES = 4 * 1024 * 1024
LARGEST = 2**31 - 1


class SectionError(ConfigError):
    """An option of a section is not what it must be; the text names file and line."""


@dataclass
class Section:
    """One section: its options are read by name, and those left over can be named."""

    kind: str
    line: int
    source: str
    number_of_layer: int = -1
    """Counted from 0; -1 for the first section, [net]."""
    options: dict[str, tuple[str, int]] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    def where(self, key: str | None = None) -> str:
        """Return file and line of an option, or of the section."""
        line = self.options[key][1] if key in self.options else self.line
        return f"{self.source}:{line}"

    def fail(self, key: str, rule: str) -> SectionError:
        """Return the error that an option breaks a rule."""
        got = repr(self.options[key][0]) if key in self.options else "none"
        return SectionError(f"[{self.kind}] {key} must be {rule}; got {got} ({self.where(key)}).")

    def text(self, key: str, default: str | None) -> str:
        """Return an option as text.

        Args:
            key: name of the option.
            default: what stands for an option that is not given; None: it must be given.
        """
        self.read.add(key)
        if key in self.repeated:
            raise SectionError(
                f"[{self.kind}] {key} must be given once; it stands in lines "
                f"{self.options[key][1]} and {self.repeated[key]} ({self.source})."
            )
        if key not in self.options:
            if default is None:
                raise self.fail(key, "given")
            return default
        return self.options[key][0]

    def integer(self, key: str, default: int | None = None) -> int:
        """Return an option as a whole number of 32 bits."""
        return self.integers(key, None if default is None else str(default), single=True)[0]

    def integers(
        self, key: str, default: str | None = None, *, single: bool = False
    ) -> tuple[int, ...]:
        """Return an option as whole numbers with commas between them."""
        rule = "a whole number" if single else "whole numbers with commas between"
        words = self.text(key, default).rstrip(",").split(",")
        digits = [word.removeprefix("-").removeprefix("+") for word in words]
        if (single and len(words) != 1) or not all(
            word.isascii() and word.isdigit() and len(word) < 12 for word in digits
        ):
            raise self.fail(key, rule)
        values = tuple(map(int, words))
        if any(abs(value) > LARGEST for value in values):
            raise self.fail(key, rule)
        return values

    def numbers(self, key: str, default: str | None = None) -> tuple[float, ...]:
        """Return an option as finite numbers with commas between them."""
        try:
            values = tuple(map(float, self.text(key, default).rstrip(",").split(",")))
        except ValueError:
            raise self.fail(key, "numbers with commas between") from None
        if not all(map(math.isfinite, values)):
            raise self.fail(key, "finite")
        return values

    def number(self, key: str, default: float | None = None) -> float:
        """Return an option as one finite number."""
        values = self.numbers(key, None if default is None else repr(default))
        if len(values) != 1:
            raise self.fail(key, "one number")
        return values[0]

    def choice(self, key: str, default: str, choices: Iterable[str]) -> str:
        """Return an option that is one of several words."""
        value = self.text(key, default)
        known = tuple(choices)
        if value not in known:
            raise SectionError(
                f"[{self.kind}] {key} must be one that attendet computes; got {value!r} "
                f"({self.where(key)}). {did_you_mean(value, known)}"
            )
        return value

    def fixed(self, key: str, value: str, *, why: str = "attendet computes nothing else") -> None:
        """Raise unless an option is left out or has this value."""
        if self.text(key, value) != value:
            raise self.fail(key, f"{value} or left out: {why}")

    def left_over(self, harmless: Collection[str]) -> list[str]:
        """Return the options that nothing has read, less the harmless ones, with their lines."""
        return [
            f"[{self.kind}] {key} (line {line})"
            for key, (_, line) in self.options.items()
            if key not in self.read and key not in harmless
        ]


def read_text(path: str | Path) -> str:
    """Return the text of a configuration file.

    Raises:
        ConfigError: if it is missing, no text, or far too long for one.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"configuration cannot be read: {error.strerror or error} ({path})."
        ) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:  # comments may be in any encoding; all else is ASCII
        text = content.decode("latin-1") if b"[net" in content else "\0"
    if len(content) > MOST_BYTES or "\0" in text:
        raise ConfigError(
            f"configuration must be a text file, [net] and the layers; this is none ({path}). "
            "Give FILE.cfg first, then FILE.weights."
        )
    return text


def parse_sections(text: str, *, source: str) -> list[Section]:
    """Return the sections of a configuration.

    Args:
        text: the whole configuration.
        source: name of the file, for errors.

    Raises:
        ConfigError: naming the first line that is neither a section nor an option.

    Example:
        >>> (net,) = parse_sections("[net]  # settings\\nwidth = 416", source="a.cfg")
        >>> net.kind, net.integer("width")
        ('net', 416)
    """
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = "".join(raw.replace(";", "#").split("#")[0].split())
        if not line:
            continue
        if line.startswith("["):
            if not line.endswith("]") or len(line) < 3:
                raise ConfigError(
                    f"section must be a name in [ ]; got {_short(raw)} ({source}:{number})."
                )
            sections.append(Section(line[1:-1].lower(), number, source, len(sections) - 1))
            continue
        key, equals, value = line.partition("=")
        if not equals or not key or not sections:
            rule = "key=value below a [section]"
            raise ConfigError(f"line must be {rule}; got {_short(raw)} ({source}:{number}).")
        options = sections[-1].options
        if key in options and options[key][0] != value:
            sections[-1].repeated[key] = number
        options.setdefault(key, (value, number))
    return sections


def _short(line: str) -> str:
    text = line.strip()
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
