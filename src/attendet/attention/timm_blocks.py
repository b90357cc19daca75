"""Attention modules of timm as blocks, such as ``timm:cbam``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attendet.attention.base import AttentionBlock
from attendet.errors import ConfigError
from attendet.system import require


class TimmAttention(AttentionBlock):
    """Unchanged attention module of timm; its gates are not available.

    Args:
        channels: C.
        kind: name of the module in timm, such as ``cbam``.
        options: passed to the module, such as ``rd_ratio=0.25``.

    Raises:
        ConfigError: if the module does not accept the channels or an option.
        MissingExtraError: if timm is not installed.
    """

    is_gated = False

    def __init__(self, channels: int, kind: str, /, **options: Any) -> None:
        super().__init__(channels)
        layers = require("timm.layers", extra="timm", purpose=f"attention 'timm:{kind}'")
        try:
            self.module = layers.create_attn(kind, channels, **options)
        except (TypeError, ValueError, AssertionError) as error:
            raise ConfigError(
                f"attention 'timm:{kind}' must have channels and options that timm accepts; got "
                f"{channels} channels, options {options!r} ({error or type(error).__name__})."
            ) from None
        self.paper = f"timm, {type(self.module).__name__}"

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        """Return an empty mapping: timm's modules do not return their gates."""
        del x
        return {}

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the module, (N, C, H, W)."""
        out: Tensor = self.module(x)
        return out
