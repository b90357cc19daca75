"""The commands that the pages show are real: all of them parse, and the cheap ones are run.

Every ``attendet`` line in a ```` ```bash ```` block of the README and the docs must be accepted by
that command's parser, and every ``./dev`` line must name a command of that script. In the README
and the tutorial, a comment right above a ``bash`` or ``python`` block has it executed as well:

    <!-- tested -->                              as it stands
    <!-- tested with: --epochs 1 --size 96 -->   added to its `attendet train` lines

Marked blocks run in the page's order in one folder, as a reader would run them, so a later block
may use what an earlier one made. Before the first, the folder holds what the page takes for
granted: `cells/`, a small labeled data set, and `slide.jpg`, an image, for the README; `photos/`, a
part of a real data set, and `photo.jpg` for the tutorial. Lines of other programs (git, cd, pip,
./dev) are not run.

Chinese pages (``*.zh.md``) show commands of the English page only, so what runs there runs here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

import attendet
from attendet.cli import COMMANDS, load_command

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial.md"
PAGES = [
    *sorted(ROOT.glob("README*.md")),
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
CHINESE = [page for page in PAGES if page.name.endswith(".zh.md")]

FENCE = re.compile(
    r"(?:^<!-- tested(?: with: (?P<extra>[^\n]*?))?(?P<marked> )-->\n)?"
    r"^```(?P<language>bash|python)\n(?P<code>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    where: str
    language: str
    code: str
    marked: bool
    extra: tuple[str, ...]

    def lines(self) -> list[list[str]]:
        """The words of each command, continued lines joined, prompts and comments removed."""
        code = self.code.replace("\\\n", " ")
        commands = (
            shlex.split(line.removeprefix("$ "), comments=True) for line in code.split("\n")
        )
        return [words for words in commands if words]


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        yield Block(
            where=f"{page.name}:{text.count(chr(10), 0, match.start('code'))}",
            language=match["language"],
            code=match["code"],
            marked=match["marked"] is not None,
            extra=tuple(shlex.split(match["extra"] or "")),
        )


def _shell_lines(page: Path) -> list[list[str]]:
    return [words for block in _blocks(page) if block.language == "bash" for words in block.lines()]


SHELL_LINES = [
    pytest.param(words, id=f"{block.where} {' '.join(words[:3])}")
    for page in PAGES
    for block in _blocks(page)
    if block.language == "bash"
    for words in block.lines()
    if words[0] in ("attendet", "./dev")
]


@pytest.mark.parametrize("words", SHELL_LINES)
def test_a_shown_command_exists(words: list[str]) -> None:
    if words[:2] == ["./dev", "run"]:
        words = words[1:]
    if words[0] == "./dev":
        usage = subprocess.run([str(ROOT / "dev")], capture_output=True, text=True, check=True)
        assert re.search(rf"^  {re.escape(words[1])}  ", usage.stdout, flags=re.MULTILINE)
        return
    if words[1].startswith("-"):
        return
    assert words[1] in COMMANDS
    module = load_command(words[1])
    parser = ArgumentParser(prog=" ".join(words), allow_abbrev=False)
    module.add_arguments(parser)
    with contextlib.suppress(SystemExit) if "--help" in words else contextlib.nullcontext():
        parser.parse_args(words[2:])  # a wrong flag exits, which fails the test


@pytest.fixture(scope="module")
def reader_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small data set in YOLO layout and one image, as a reader would have."""
    folder = tmp_path_factory.mktemp("reader")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        images, labels = folder / "cells/images" / split, folder / "cells/labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(count):
            image = rng.integers(180, 220, (96, 128, 3), dtype=np.uint8)
            x, y = int(rng.integers(24, 104)), int(rng.integers(24, 72))
            cv2.circle(image, (x, y), 16, (90, 40, 160), thickness=-1)
            cv2.imwrite(str(images / f"{number:03}.png"), image)
            label = f"0 {x / 128:.6f} {y / 96:.6f} {32 / 128:.6f} {32 / 96:.6f}\n"
            (labels / f"{number:03}.txt").write_text(label)
    (folder / "cells/data.yaml").write_text(
        "train: images/train\nval: images/val\ntest: images/test\nnames: [cell]\n"
    )
    cv2.imwrite(str(folder / "slide.jpg"), image)
    return folder


@pytest.fixture
def photos_folder(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with some labeled photos and one photo, and the pretrained weights in the cache."""
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    source, weights = shared_data / "boards", shared_data.parent / "weights" / "yolo-fastest"
    if not (source / "data.yaml").is_file() or not weights.is_dir():
        pytest.skip("needs shared/data/boards and shared/weights")
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(source / "data.yaml", photos)
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        for image in sorted((source / "images" / split).iterdir())[:count]:
            label = source / "labels" / split / f"{image.stem}.txt"
            for path in (image, label):
                target = photos / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    shutil.copy(image, tmp_path / "photo.jpg")
    cached = tmp_path / "cache" / "yolo-fastest-xl"
    shutil.copytree(weights, cached)
    monkeypatch.setenv("ATTENDET_CACHE", str(cached.parent))
    return tmp_path


def _run(command: list[str], folder: Path, where: str) -> None:
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    result = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=240, env=environment
    )
    assert result.returncode == 0, f"{where}: {shlex.join(command)}\n{result.stdout}{result.stderr}"


def _run_marked_blocks(page: Path, folder: Path) -> None:
    marked = [block for block in _blocks(page) if block.marked]
    assert marked
    for block in marked:
        if block.language == "python":
            _run([sys.executable, "-c", block.code], folder, block.where)
            continue
        for words in block.lines():
            extra = block.extra if words[1] == "train" else ()
            if words[0] == "attendet":
                _run([sys.executable, "-m", *words, *extra], folder, block.where)


def test_the_marked_blocks_of_the_readme_run(reader_folder: Path) -> None:
    _run_marked_blocks(README, reader_folder)


def test_the_marked_blocks_of_the_tutorial_run(photos_folder: Path) -> None:
    _run_marked_blocks(TUTORIAL, photos_folder)

    found = json.loads((photos_folder / "found/detections.json").read_text())["images"][0]
    detector = attendet.load(photos_folder / "runs/photos/best.safetensors")
    detections = detector.predict(photos_folder / "photo.jpg").to_dicts()
    assert [one["name"] for one in found["detections"]] == [one["name"] for one in detections]
    for ours, theirs in zip(found["detections"], detections, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=0.001)
        assert ours["box_xyxy"] == pytest.approx(theirs["box_xyxy"], abs=0.1)


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.name)
def test_a_chinese_page_shows_commands_of_the_english_page(page: Path) -> None:
    english = page.with_name(page.name.replace(".zh.md", ".md"))
    known = _shell_lines(english)

    assert [words for words in _shell_lines(page) if words not in known] == []


def test_the_two_readmes_and_tutorials_show_the_same_blocks() -> None:
    for english in (README, TUTORIAL):
        chinese = english.with_name(f"{english.stem}.zh.md")

        shown = [(block.language, block.lines()) for block in _blocks(chinese)]
        assert shown == [(block.language, block.lines()) for block in _blocks(english)]


def test_the_chinese_readme_links_to_the_same_pages_in_chinese_where_there_are_any() -> None:
    english, chinese = (
        re.findall(r"\]\(([\w/.-]+\.md)", (ROOT / name).read_text(encoding="utf-8"))
        for name in ("README.md", "README.zh.md")
    )

    def in_chinese(page: str) -> str:
        translated = page.replace(".md", ".zh.md")
        return translated if (ROOT / translated).is_file() else page

    pages = {page for page in english if not page.endswith(".zh.md")}
    assert {in_chinese(page) for page in pages} <= set(chinese)
    assert [page for page in chinese if page != "README.md" and in_chinese(page) != page] == []


OUTSIDE_THE_SITE = [
    *(ROOT / name for name in ("README.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ROOT / "benchmarks" / "README.md",
]
"""Pages whose links `mkdocs build --strict` does not check."""


@pytest.mark.parametrize("page", OUTSIDE_THE_SITE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8"))

    for path, anchor in links:
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor:
            assert anchor in _anchors(target.read_text(encoding="utf-8")), f"{path}#{anchor}"


def _anchors(text: str) -> set[str]:
    """Return the names that links to the headings of a page use."""
    headings = re.findall(r"^#+ (.+?)(?: \{#([\w-]+)\})?$", text, flags=re.MULTILINE)
    return {
        stated or re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        for heading, stated in headings
    }


def test_blocks_are_found_with_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- tested with: --epochs 1 -->\n```bash\n$ attendet train cells \\\n    --size 96  # x\n"
        "```\n\n```python\nimport attendet\n```\n<!-- tested -->\n```bash\ngit pull\n```\n"
    )

    first, second, third = _blocks(page)

    assert (first.where, first.marked, first.extra) == ("page.md:2", True, ("--epochs", "1"))
    assert first.lines() == [["attendet", "train", "cells", "--size", "96"]]
    assert (second.language, second.marked) == ("python", False)
    assert (third.marked, third.extra, third.lines()) == (True, (), [["git", "pull"]])


def test_the_readme_is_short() -> None:
    prose = re.sub(r"<!--.*?-->", "", README.read_text(encoding="utf-8"), flags=re.DOTALL)

    assert len(prose.split()) < 800
