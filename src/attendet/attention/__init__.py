"""Attention blocks by name: the mechanisms, their registry and the spec strings that place them.

Nothing here imports torch until a block is made, so a command line can list names and read specs
without it.

Example:
    >>> from attendet.attention import create_attention
    >>> block = create_attention("ca", channels=64)
    >>> block.channels
    64
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attendet.attention.base import AttentionBlock
    from attendet.attention.cbam import CBAM
    from attendet.attention.coordinate import CoordinateAttention
    from attendet.attention.eca import EfficientChannelAttention
    from attendet.attention.insertion import attend, detach, inserted_blocks
    from attendet.attention.places import Site, sites
    from attendet.attention.registry import (
        AttentionFactory,
        AttentionStart,
        attention_names,
        create_attention,
        register_attention,
    )
    from attendet.attention.spec import format_attention_spec, parse_attention_spec
    from attendet.attention.squeeze_excite import SqueezeExcite

__all__ = [
    "AttentionBlock",
    "AttentionFactory",
    "AttentionStart",
    "CBAM",
    "CoordinateAttention",
    "EfficientChannelAttention",
    "Site",
    "SqueezeExcite",
    "attend",
    "attention_names",
    "create_attention",
    "detach",
    "format_attention_spec",
    "inserted_blocks",
    "parse_attention_spec",
    "register_attention",
    "sites",
]

_HOMES = {
    "AttentionBlock": "base",
    "AttentionFactory": "registry",
    "AttentionStart": "registry",
    "CBAM": "cbam",
    "CoordinateAttention": "coordinate",
    "EfficientChannelAttention": "eca",
    "Site": "places",
    "SqueezeExcite": "squeeze_excite",
    "attend": "insertion",
    "attention_names": "registry",
    "create_attention": "registry",
    "detach": "insertion",
    "format_attention_spec": "spec",
    "inserted_blocks": "insertion",
    "parse_attention_spec": "spec",
    "register_attention": "registry",
    "sites": "places",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
