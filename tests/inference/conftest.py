"""A runtime without a network: it finds the bright rectangle of a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from attendet.models.metadata import WeightsMetadata

Scene = Callable[..., NDArray[np.uint8]]


class BrightRuntime:
    """Boxes the pixels above 200 of the first channel; further boxes lie far outside."""

    def __init__(self, **fields: object) -> None:
        self.metadata = WeightsMetadata(classes=("cat", "dog"), **fields)  # type: ignore[arg-type]
        self.shapes: list[tuple[int, ...]] = []

    def run(self, canvases: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        assert canvases.dtype == np.uint8
        self.shapes.append(canvases.shape)
        boxes = np.full((len(canvases), 3, 4), 1e6, dtype=np.float32)
        scores = np.zeros((len(canvases), 3, 2), dtype=np.float32)
        for index, canvas in enumerate(canvases):
            rows, columns = np.nonzero(canvas[:, :, 0] > 200)
            if len(rows):
                boxes[index, 1] = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                scores[index, 1] = [0.3, 0.9]
            scores[index, 2] = 0.99
        return boxes, scores


@pytest.fixture
def bright() -> type[BrightRuntime]:
    return BrightRuntime


@pytest.fixture
def scene() -> Scene:
    """Make a dark picture with one bright rectangle."""

    def make(
        image_hw: tuple[int, int] = (480, 640), box: Sequence[int] = (100, 50, 300, 250)
    ) -> NDArray[np.uint8]:
        picture = np.zeros((*image_hw, 3), dtype=np.uint8)
        left, top, right, bottom = box
        picture[top:bottom, left:right] = 255
        return picture

    return make


@pytest.fixture
def folder(tmp_path: Path, scene: Scene) -> Path:
    """A folder with pictures a.png, b.jpg, c.png, a truncated d.jpg and a text file."""
    made = tmp_path / "shots"
    made.mkdir()
    Image.fromarray(scene()).save(made / "a.png")
    Image.fromarray(scene((300, 200), (20, 30, 120, 130))).save(made / "b.jpg")
    Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(made / "c.png")
    whole = (made / "b.jpg").read_bytes()
    (made / "d.jpg").write_bytes(whole[: len(whole) // 2])
    (made / "notes.md").write_text("no picture")
    return made
