"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

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
