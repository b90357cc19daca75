from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from attendet.errors import MissingExtraError
from attendet.system import require

ROOT = Path(__file__).resolve().parents[1]


def test_require_gives_the_module() -> None:
    import xml.dom

    assert require("xml.dom", extra="train", purpose="a test") is xml.dom


def test_require_names_the_purpose_the_package_and_the_command() -> None:
    with pytest.raises(MissingExtraError) as caught:
        require("nowhere_to_be_found.part", extra="samples", purpose="the sample set")
    assert str(caught.value) == (
        "the sample set needs 'nowhere_to_be_found', which is not installed. "
        "Install it with: pip install 'attendet[samples]'"
    )
    assert caught.value.exit_code == 5


def test_require_passes_on_what_a_present_package_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_installed.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        require("half_installed", extra="train", purpose="a test")
    assert "half_installed" not in sys.modules


def test_every_extra_asked_for_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {
        extra
        for path in (ROOT / "src").rglob("*.py")
        for extra in re.findall(r'extra="(\w+)"', path.read_text())
    }
    assert asked
    assert asked <= set(project["optional-dependencies"])
