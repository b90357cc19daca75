"""The documentation site builds without a warning in both languages; it loads nothing remote."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert result.returncode == 0, result.stderr
    return folder


def test_every_page_is_there_in_both_languages(site: Path) -> None:
    for page in (ROOT / "docs").glob("*.md"):
        name = page.name.removesuffix(".md").removesuffix(".zh")
        path = "index.html" if name == "index" else f"{name}/index.html"

        assert (site / path).is_file()
        assert 'lang="zh"' in (site / "zh" / path).read_text(encoding="utf-8")


def test_a_chinese_page_is_chinese(site: Path) -> None:
    page = (site / "zh/index.html").read_text(encoding="utf-8")

    assert "注意力机制" in page


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loaded = re.compile(
        r"""<(?:script|img|iframe|link rel="?(?:stylesheet|preconnect)"?)[^>]*?https?://[^>]*"""
    )
    found = {
        match[0]
        for page in site.rglob("*.html")
        for match in loaded.finditer(page.read_text(encoding="utf-8"))
    }

    assert found == set()
