"""The example code of docs/attention.md runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from attendet.attention import attention_names, create_attention, registry

PAGE = Path(__file__).resolve().parents[2] / "docs" / "attention.md"


@pytest.fixture(scope="module")
def space() -> dict[str, Any]:
    """The names that the page's examples leave, run one after the other."""
    torch.manual_seed(0)
    space: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_registered", {})
        for code in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL):
            exec(code, space)
    return space


def test_block_of_ones_own(space: dict[str, Any]):
    x = torch.randn(2, 256, 5, 7)
    block = space["block"]
    assert torch.equal(block(x), x)
    torch.nn.init.normal_(block.mix[-1].weight)
    assert torch.equal(block(x), x * block.gates(x)["channel"])
    assert not torch.equal(block(x), x)


def test_the_page_of_blocks_lists_every_block_with_its_parameters():
    text = (PAGE.parent / "blocks.md").read_text("utf-8")
    rows = re.findall(
        r"^\| `([a-z-]+)` \| ([^|]+) \| [^|]+ \| ([\d,]+) \|", text, flags=re.MULTILINE
    )
    names = [name for name in attention_names()[1:] if ":" not in name]
    for (name, paper, parameters), expected in zip(rows, names, strict=True):
        blocks = [create_attention(name, channels) for channels in (512, 256, 128)]
        assert name == expected
        assert paper == blocks[0].paper
        assert int(parameters.replace(",", "")) == sum(
            parameter.numel() for block in blocks for parameter in block.parameters()
        )
    assert set(re.findall(r"timm:\w+", text)) >= {n for n in attention_names() if ":" in n}


def test_start_and_insertion(space: dict[str, Any]):
    assert space["same"] is True
    assert [site.name for site in space["listed"]][:2] == ["0", "1"]
    assert type(space["network"][0]) is torch.nn.Conv2d
