"""Limits of a server; the text under each is its help on the command line."""

from __future__ import annotations

from dataclasses import dataclass

from attendet.errors import ConfigError


@dataclass(frozen=True)
class ServeLimits:
    """What one server accepts.

    Raises:
        ConfigError: if a limit is not above 0.
    """

    max_upload: float = 20.0
    """Largest image file, MB."""

    max_waiting: int = 64
    """Requests at one time; more are answered with 503."""

    def __post_init__(self) -> None:
        for name, rule in (("max_upload", "above 0"), ("max_waiting", "1 or more")):
            value = getattr(self, name)
            ConfigError.check(value > 0, name, rule, value, f"--{name.replace('_', '-')}")
