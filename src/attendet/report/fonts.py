"""Font selection for text in any script, the same for images (Pillow) and charts (matplotlib).

Pillow's own font covers little more than ASCII. For other characters, these fonts are tried in
order: the file in the environment variable ATTENDET_FONT, the font that comes with matplotlib, and
the fonts of the system. Class names without a font are drawn as class numbers.

This module does not import matplotlib, because prediction runs without it.
"""

from __future__ import annotations

import importlib.util
import os
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import ImageFont

from attendet.errors import ConfigError
from attendet.system import font_folders

FONT_ENV_VAR = "ATTENDET_FONT"
"""Environment variable with the path of the font file to try first."""

COMPLEX_SCRIPTS = (
    (0x0590, 0x0DFF),
    (0x0F00, 0x109F),
    (0x1780, 0x17FF),
    (0xFB1D, 0xFDFF),
    (0xFE70, 0xFEFC),
)
"""Code point ranges of the scripts that Pillow draws wrongly without libraqm: right-to-left, joined
or reordered scripts (Hebrew to Sinhala, Tibetan, Myanmar, Khmer)."""

SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
PREFERRED = (
    *("msyh.ttc", "simhei.ttf", "meiryo.ttc", "malgun.ttf", "segoeui.ttf", "leelawui.ttf"),
    *("nirmala.ttf", "nirmala.ttc", "seguiemj.ttf", "hiragino sans gb.ttc", "stheiti medium.ttc"),
    *("arial unicode.ttf", "applesdgothicneo.ttc", "geezapro.ttc", "thonburi.ttc"),
)
"""Fonts of Windows and macOS to try before others: Chinese, Japanese, Korean, then the rest."""

PROBE_SIZE = 24
MAX_LISTED = 50
"""Maximum number of class names that `numbered_classes` lists."""


class FontFile(NamedTuple):
    """A font file and the index of the face in it."""

    path: str
    face: int = 0


MISSING = FontFile("")
"""Marks a character that no font has."""


@lru_cache(maxsize=64)
def load_font(file: FontFile | None, height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return a font at a size in pixels; Pillow's own font if the file is None."""
    if file is None:
        return ImageFont.load_default(size=height)
    return ImageFont.truetype(file.path, height, file.face)


def split_by_font(text: str) -> list[tuple[str, FontFile | None]]:
    """Return the parts of a line of text, each with its font; None is Pillow's own font.

    Characters that no font has become "?".

    Example:
        >>> split_by_font("apple 0.87")
        [('apple 0.87', None)]
    """
    if text.isascii() and text.isprintable():
        return [(text, None)]
    parts: list[tuple[str, FontFile | None]] = []
    spaces = ""
    for cluster in _clusters(text):
        if cluster.isspace():
            spaces += cluster
            continue
        font = _find_font(cluster)
        if font is MISSING:
            cluster, font = "?", None
        if parts and font == parts[-1][1]:
            parts[-1] = (parts[-1][0] + spaces + cluster, font)
        elif spaces and font is not None:  # spaces at the edge of right-to-left text would move
            parts += [(spaces, None), (cluster, font)]
        else:
            parts.append((spaces + cluster, font))
        spaces = ""
    return [*parts, (spaces, None)] if spaces or not parts else parts


def font_files(text: str) -> list[FontFile]:
    """Return the fonts that a text needs in addition to Pillow's own, in order of first use."""
    return list(dict.fromkeys(font for _, font in split_by_font(text) if font is not None))


def printable(text: str) -> str:
    """Return one line of text with "?" for each character that no font has."""
    return "".join(part for part, _ in split_by_font(text))


def has_glyphs(text: str) -> bool:
    """Return whether fonts on this machine have all characters of a text."""
    if text.isascii():
        return True
    return all(_find_font(cluster) is not MISSING for cluster in _clusters(text))


def drawable_name(name: str, class_id: int) -> str:
    """Return a class name if it can be drawn, else ``class`` and its number.

    Example:
        >>> drawable_name("apple", 0)
        'apple'
    """
    return name if has_glyphs(name) else f"class {class_id}"


def numbered_classes(classes: Sequence[str]) -> str:
    """Return the legend of class names that are drawn as numbers; "" if all can be drawn."""
    numbered = [f"{i} = {name}" for i, name in enumerate(classes) if not has_glyphs(name)]
    if not numbered:
        return ""
    more = f", and {len(numbered) - MAX_LISTED} more" if len(numbered) > MAX_LISTED else ""
    return (
        "No font on this machine has the characters of some class names, so images and charts "
        f"show class numbers: {', '.join(numbered[:MAX_LISTED])}{more}. Install a font such as "
        f"Noto Sans CJK, or set {FONT_ENV_VAR} to a font file."
    )


def _clusters(text: str) -> Iterator[str]:
    """Yield the characters of a text, each with its combining marks.

    Accents are composed where Unicode has a composed character. Control characters are removed;
    invisible format characters too, if Pillow has no libraqm.
    """
    cluster = ""
    for char in unicodedata.normalize("NFC", text):
        category = unicodedata.category(char)
        if category == "Cc" or (_is_invisible(char) and not _has_raqm()):
            continue
        if cluster and (category.startswith("M") or category == "Cf"):
            cluster += char
            continue
        if cluster:
            yield cluster
        cluster = char
    if cluster:
        yield cluster


def _is_invisible(char: str) -> bool:
    """Return whether a character has no glyph: format characters and variation selectors."""
    return unicodedata.category(char) == "Cf" or 0xFE00 <= ord(char) <= 0xFE0F


@cache
def _has_raqm() -> bool:
    from PIL import features

    return bool(features.check("raqm"))


@lru_cache(maxsize=4096)
def _find_font(cluster: str) -> FontFile | None:
    """Return the first font with all characters of a cluster (None: Pillow's own), or `MISSING`."""
    chars = [char for char in cluster if not char.isspace() and not _is_invisible(char)]
    is_shaped = any(low <= ord(char) <= high for char in chars for low, high in COMPLEX_SCRIPTS)
    if is_shaped and not _has_raqm():
        return MISSING
    for font in (None, *_candidates()):
        if all(_has_glyph(font, char) for char in chars):
            return font
    return MISSING


@lru_cache(maxsize=16384)
def _has_glyph(file: FontFile | None, char: str) -> bool:
    """Return whether a font has a glyph for a character, other than its missing-glyph sign."""
    missing = _glyph(file, "\uffff")  # not a character, so no font has it
    return missing is not None and _glyph(file, char) != missing


def _glyph(file: FontFile | None, char: str) -> tuple[tuple[int, int], bytes] | None:
    """Return size and pixels of a glyph; None if the file is not a scalable font."""
    font = _probe_font(file)
    if font is None:
        return None
    mask = font.getmask(char)
    return mask.size, bytes(mask)


@lru_cache(maxsize=512)
def _probe_font(file: FontFile | None) -> ImageFont.FreeTypeFont | ImageFont.ImageFont | None:
    if file is None:
        return ImageFont.load_default(size=PROBE_SIZE)
    try:
        layout = ImageFont.Layout.BASIC
        return ImageFont.truetype(file.path, PROBE_SIZE, file.face, layout_engine=layout)
    except OSError:  # not a font, or a bitmap font
        return None


@cache
def _candidates() -> tuple[FontFile, ...]:
    """Return the fonts to try after Pillow's own, best first.

    Raises:
        ConfigError: if ATTENDET_FONT is not the path of a font file.
    """
    fonts = []
    chosen = os.environ.get(FONT_ENV_VAR)
    if chosen:
        fonts.append(FontFile(chosen))
        if _probe_font(fonts[0]) is None:
            raise ConfigError.must(FONT_ENV_VAR, "a font file (.ttf, .otf or .ttc)", chosen)
    package = importlib.util.find_spec("matplotlib")  # finds the folder, imports nothing
    if package is not None and package.origin:
        own = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        fonts.append(FontFile(str(own)))
    return (*fonts, *(_fontconfig_files() or _folder_files()))


def _fontconfig_files() -> list[FontFile]:
    """Return the system's fonts in fontconfig's order of preference; [] if it is unavailable."""
    import shutil
    import subprocess

    program = shutil.which("fc-match")
    if program is None:
        return []
    command = [program, "--sort", "--format", "%{file}\t%{index}\n", "sans-serif"]
    try:
        listed = subprocess.run(command, capture_output=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [os.fsdecode(row).split("\t") for row in listed.splitlines()]
    return [FontFile(row[0], int(row[1])) for row in rows if row[0].lower().endswith(SUFFIXES)]


def _folder_files() -> list[FontFile]:
    """Return the fonts in the standard folders of the system, `PREFERRED` ones first."""
    found = [path for folder in font_folders() for path in sorted(folder.rglob("*"))]
    fonts = [path for path in found if path.suffix.lower() in SUFFIXES]
    ranks = {name: rank for rank, name in enumerate(PREFERRED)}
    fonts.sort(key=lambda path: ranks.get(path.name.lower(), len(ranks)))
    # Apple's LastResort draws a box for every character.
    return [FontFile(str(path)) for path in fonts if "lastresort" not in path.name.lower()]
