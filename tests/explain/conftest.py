"""Networks with gates that are known, and images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from attendet.models import (  # noqa: E402
    DetectionNetwork,
    WeightsMetadata,
    build_from_metadata,
)

Tiny = Callable[..., tuple[DetectionNetwork, WeightsMetadata]]


@pytest.fixture
def tiny() -> Tiny:
    """Makes a small network of known random weights whose scores pass 0.25."""

    def make(attention: str = "ca", **fields: object) -> tuple[DetectionNetwork, WeightsMetadata]:
        torch.manual_seed(0)
        settings = {"width_mult": 0.125, "input_hw": (64, 64), **fields}
        metadata = WeightsMetadata(classes=("red", "green"), attention=attention, **settings)
        network = build_from_metadata(metadata).eval()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.startswith("out_"):
                    parameter.normal_(std=0.3)
        return network, metadata

    return make


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Three images of two sizes, and one that is cut short."""
    folder = tmp_path / "shots"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, image_hw in (("a", (60, 90)), ("c", (90, 60)), ("d", (60, 90))):
        image = rng.integers(0, 256, (*image_hw, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{name}.jpg")
    (folder / "b.jpg").write_bytes((folder / "a.jpg").read_bytes()[:1500])
    return folder
