"""Identifiers, help texts, messages and pages use the field's terms.

Each entry of `BANNED` is a word that the project does not use, with the term to use instead.
"""

from __future__ import annotations

import re
import tokenize
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import pytest

from attendet.cli import COMMANDS, load_command

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    *sorted((ROOT / "src" / "attendet").rglob("*.py")),
    *sorted(path for path in (ROOT / "tests").rglob("*.py") if path.name != "test_vocabulary.py"),
]
PAGES = [
    *(ROOT / name for name in ("README.md", "README.zh.md", "CONTRIBUTING.md")),
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "studies" not in path.parts),
]

BANNED = {
    r"pictures?": "image",
    r"(?<!ground[ _-])truths?": "ground truth, gt",
    r"canvas(es)?": "network input, padded image",
    r"arms?": "variant",
    r"contenders?": "candidate",
    r"faults?": "label error, issue",
    r"told|tells?|telling": "log, report, print, warn, return",
    r"laid|relaid|lays": "resize, place",
    r"shares?": "ratio, fraction, probability",
    r"anew": "again, newly",
    r"rooms?|house": "package, layer",
    r"left out|left alone|passed over|left_out": "ignored, skipped, removed, by default",
    r"whoever": "who",
    r"nominal_batch|final_lr_share|plain_share": "effective_batch, min_lr_ratio, no_aug_fraction",
    r"colours?|centres?|grey|behaviour|licence": "American spelling",
    r"(quant|normal|initial|optim|recogn|summar)is(e|ed|es|ing|ation)": "American spelling",
}

ALLOWED = re.compile(
    r"FigureCanvasAgg|share_inputs|shares_memory|told apart|\.\./shared|shared? memory|share_index"
    r"|file share|share/fonts|sharex|sharey|truth_thresh|\bARM\b"
)
"""Other people's names."""

PATTERNS = {
    re.compile(rf"(?<![A-Za-z])(?:{words})(?![A-Za-z])", re.IGNORECASE): instead
    for words, instead in BANNED.items()
}


def _violations(text: str, where: str) -> Iterator[str]:
    plain = ALLOWED.sub("", text)
    for pattern, instead in PATTERNS.items():
        for found in pattern.finditer(plain):
            yield f"{where}: {found[0]!r}; use: {instead}"


def _words_of(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("_", " ")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_uses_the_terms_of_the_field(path: Path) -> None:
    found: list[str] = []
    with path.open("rb") as stream:
        for token in tokenize.tokenize(stream.readline):
            where = f"line {token.start[0]}"
            if token.type == tokenize.NAME:
                found += _violations(_words_of(ALLOWED.sub("", token.string)), where)
            elif token.type in (tokenize.STRING, tokenize.COMMENT):
                found += _violations(token.string, where)

    assert found == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_use_the_terms_of_the_field(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()

    assert [v for n, line in enumerate(lines, 1) for v in _violations(line, f"line {n}")] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_uses_the_terms_of_the_field_and_lists_choices(command: str) -> None:
    parser = ArgumentParser(prog=command)
    load_command(command).add_arguments(parser)

    text = parser.format_help()

    assert list(_violations(text, command)) == []
    assert re.findall(r"--[\w-]+ V\b", text) == []  # a metavar that says nothing


def test_a_banned_word_is_found() -> None:
    text = "Each picture that was laid on the canvas tells its share."

    assert len(list(_violations(text, "here"))) == 5
