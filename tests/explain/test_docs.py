"""The example code of docs/explain.md runs."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from attendet.attention import attend  # noqa: E402
from attendet.models import (  # noqa: E402
    WeightsMetadata,
    build_from_metadata,
    save_weights,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explain.md"


def test_the_examples_of_the_docs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    metadata = WeightsMetadata(
        classes=("RBC",), attention="ca", width_mult=0.125, input_hw=(64, 64)
    )
    network = build_from_metadata(metadata)
    for bias in (network.out_p5.bias, network.out_p4.bias):
        bias.data.fill_(1.0)  # everything is a cell
    save_weights("cells.safetensors", network, metadata)
    Path("slides").mkdir()
    for name in ("a", "b"):
        image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(image).save(f"slides/{name}.png")
    inner = torch.nn.Sequential(
        OrderedDict(conv1=torch.nn.Conv2d(3, 4, 1), conv2=torch.nn.Conv2d(4, 8, 3))
    )
    other = torch.nn.Sequential(OrderedDict(layer3=torch.nn.Sequential(inner)))
    space: dict[str, Any] = {
        "network": attend(other, {"layer3.0.conv2": "se"}).eval(),
        "batch": torch.rand(2, 3, 8, 8),
    }

    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL):
        exec(code, space)

    assert Path("runs/explain/explain.html").is_file()
    assert space["gates"]["layer3.0.conv2"]["channel"].shape == (2, 8, 1, 1)
