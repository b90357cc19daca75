"""The example code of docs/attention.md runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from attendet.attention import registry

PAGE = Path(__file__).resolve().parents[2] / "docs" / "attention.md"


def test_block_of_ones_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_registered", {})
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    space: dict[str, object] = {}
    exec(code, space)
    x = torch.randn(2, 256, 5, 7)
    block = space["block"]
    assert torch.equal(block(x), x * block.gates(x)["channel"])
