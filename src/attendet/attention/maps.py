"""Attention for modules that return several feature maps: one block per map."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from attendet.attention.base import AttentionBlock
from attendet.attention.dry_run import Key


class MapsAttention(nn.Module):
    """Container that applies one block to each (N, C, H, W) map in a tuple, list or mapping.

    Entries without a block are passed on unchanged. The output has the type of the input.

    Args:
        blocks: key or index of a map to its block.

    Example:
        >>> import torch
        >>> from attendet.attention import SqueezeExcite
        >>> attention = MapsAttention({0: SqueezeExcite(8)})
        >>> [type(part).__name__ for part in attention((torch.zeros(1, 8, 2, 2), None))]
        ['Tensor', 'NoneType']
    """

    def __init__(self, blocks: Mapping[Key, AttentionBlock]) -> None:
        super().__init__()
        self._names: dict[Key, str] = {}
        for key, block in blocks.items():
            name = "map_" + re.sub(r"\W", "_", str(key))
            while name in self._names.values():  # keys such as "p.3" and "p_3"
                name += "_"
            self._names[key] = name
            self.add_module(self._names[key], block)

    def blocks(self) -> dict[Key, AttentionBlock]:
        """Return the block of each map, by key or index."""
        return {key: self._block(key) for key in self._names}

    def _block(self, key: Key) -> AttentionBlock:
        block: AttentionBlock = getattr(self, self._names[key])
        return block

    def forward(self, output: Any) -> Any:
        """Return the output with the blocks applied to its maps."""
        if isinstance(output, Mapping):
            return type(output)({key: self._attend(key, part) for key, part in output.items()})  # type: ignore[call-arg]
        parts = [self._attend(key, part) for key, part in enumerate(output)]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)

    def _attend(self, key: Key, part: Any) -> Any:
        return self._block(key)(part) if key in self._names else part
