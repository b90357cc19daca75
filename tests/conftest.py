"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# Machines differ in speed, so no deadline; in continuous integration the same examples each time.
settings.register_profile("attendet", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("attendet")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs {folder.relative_to(SHARED.parent)} beside the repository")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """The folder of published evaluator cases beside the repository."""
    return _shared("cases")


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in YOLO layout: ten training and four validation pictures of coloured squares."""
    root = tmp_path_factory.mktemp("data") / "squares"
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            name = f"{split}{number:02}"
            height, width = (int(side) for side in rng.integers(64, 97, 2))
            picture = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
            lines = []
            for class_id in rng.integers(0, 2, 2).tolist():
                side = int(rng.integers(14, 30))
                x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
                picture[y : y + side, x : x + side] = ((230, 60, 40), (40, 220, 90))[class_id]
                centre = f"{(x + side / 2) / width} {(y + side / 2) / height}"
                lines.append(f"{class_id} {centre} {side / width} {side / height}\n")
            Image.fromarray(picture).save(root / "images" / split / f"{name}.png")
            (root / "labels" / split / f"{name}.txt").write_text("".join(lines))
    (root / "data.yaml").write_text(
        "train: images/train\nval: images/val\nnames: [red, green]\n", encoding="utf-8"
    )
    return root
