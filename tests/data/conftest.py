"""Tiny data sets made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Box = tuple[str, float, float, float, float]


@pytest.fixture
def image() -> Callable[..., Path]:
    """Write an image of noise, 40 wide and 30 high by default, different for each path."""

    def write(path: Path, width: int = 40, height: int = 30, *, orientation: int = 1) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw = np.random.default_rng(list(path.as_posix().encode()))
        pil_image = Image.fromarray(draw.integers(0, 255, (height, width, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = orientation
        pil_image.save(path, exif=exif) if orientation != 1 else pil_image.save(path)
        return path

    return write


@pytest.fixture
def annotation() -> Callable[..., Path]:
    """Write a VOC XML file; each object begins on a line of its own, the first on line 4."""

    def write(
        path: Path,
        boxes: Sequence[Box] = (),
        *,
        size: tuple[int, int] | None = (40, 30),
        name: str = "",
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
        objects = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
            f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>\n"
            for label, left, top, right, bottom in boxes
        )
        path.write_text(
            f"<annotation>\n<filename>{name}</filename>\n{stated}\n{objects}</annotation>\n"
        )
        return path

    return write


@pytest.fixture
def voc_folder(image: Callable[..., Path], annotation: Callable[..., Path]) -> Callable[..., Path]:
    """Write a flat VOC folder of images p00, p01, ... with the boxes given for each."""

    def write(folder: Path, images: Sequence[Sequence[Box]], prefix: str = "p") -> Path:
        for index, boxes in enumerate(images):
            image(folder / f"{prefix}{index:02}.png")
            annotation(folder / f"{prefix}{index:02}.xml", boxes)
        return folder

    return write
