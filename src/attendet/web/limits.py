"""Limits of a server. The text under each field is the help of its flag."""

from __future__ import annotations

from dataclasses import dataclass

from attendet.errors import ConfigError


@dataclass(frozen=True)
class ServeLimits:
    """Limits of a server on uploads and requests.

    Raises:
        ConfigError: if a limit is not above 0.
    """

    max_upload: float = 20.0
    """Largest image file, MB."""

    max_waiting: int = 64
    """Maximum number of concurrent requests; more are answered with status 503."""

    def __post_init__(self) -> None:
        for name, rule in (("max_upload", "above 0"), ("max_waiting", "1 or more")):
            value = getattr(self, name)
            ConfigError.check(value > 0, name, rule, value, f"--{name.replace('_', '-')}")
