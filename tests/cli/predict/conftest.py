"""An untrained detector, a folder of images, and the command that puts one to the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from attendet.cli import main  # noqa: E402
from attendet.models import WeightsMetadata, build_from_metadata, save_weights  # noqa: E402


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network: every score is near 0.005."""
    torch.manual_seed(0)
    metadata = WeightsMetadata(
        classes=("cat", "dog"), attention="ca", width_mult=0.25, input_hw=(96, 96)
    )
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    return save_weights(path, build_from_metadata(metadata), metadata)


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Three good images of two sizes; a truncated one amid them."""
    folder = tmp_path / "shots"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, image_hw in (("a", (60, 90)), ("c", (90, 60)), ("d", (60, 90))):
        image = rng.integers(0, 256, (*image_hw, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{name}.jpg")
    (folder / "b.jpg").write_bytes((folder / "a.jpg").read_bytes()[:1500])
    return folder


@pytest.fixture
def run(weights: Path, tmp_path: Path) -> Callable[..., int]:
    def call(*words: object, confidence: float = 0.001) -> int:
        start = ["predict", weights, *words, "--output", tmp_path / "out", "--device", "cpu"]
        return main([str(word) for word in [*start, "--confidence", confidence]])

    return call
