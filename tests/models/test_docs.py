"""docs/network.md: its code runs, and its tables say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from attendet.models import WeightsMetadata  # noqa: E402
from attendet.models import metadata as metadata_module  # noqa: E402

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "network.md").read_text(encoding="utf-8")


def test_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(code, space)
    assert (tmp_path / "cells.safetensors").is_file()
    assert space["boxes_xyxy"].shape == (1, 3 * (10 * 13 + 20 * 26), 4)
    assert space["scores"].shape[-1] == 3


def test_table_of_fields_is_complete():
    fields = re.findall(r"^\| `(\w+)`( \*)? \|", PAGE.split("## The weights file")[1], re.MULTILINE)
    assert [name for name, _ in fields] == [
        "classes",
        *(name for name in WeightsMetadata.__dataclass_fields__ if name != "classes"),
    ]
    assert {name for name, needed in fields if needed} == set(metadata_module._NEEDED)
