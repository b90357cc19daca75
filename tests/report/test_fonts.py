from __future__ import annotations

import io
import logging
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attendet.errors import ConfigError
from attendet.report import fonts
from attendet.report.draw import draw_detections, image_grid, text_mask
from attendet.report.fonts import FontFile, drawable_name, numbered_classes, split_by_font

HAN = "苹果香蕉"
UseFonts = Callable[..., None]


def block(pen, *corners):
    pen.moveTo(corners[0])
    for corner in corners[1:]:
        pen.lineTo(corner)
    pen.closePath()


@pytest.fixture(scope="module")
def han(tmp_path_factory: pytest.TempPathFactory) -> FontFile:
    """A font of four Chinese characters: bars of different heights; a box for all others."""
    builders = pytest.importorskip("fontTools.fontBuilder", reason="comes with matplotlib")
    pens = pytest.importorskip("fontTools.pens.ttGlyphPen")
    names = [".notdef", *(f"han{i}" for i in range(len(HAN)))]
    glyphs = {}
    for index, name in enumerate(names):
        pen = pens.TTGlyphPen(None)
        top = 150 + 150 * index
        block(pen, (100, 0), (100, top), (900, top), (900, 0))
        glyphs[name] = pen.glyph()
    builder = builders.FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(char): f"han{i}" for i, char in enumerate(HAN)})
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    builder.setupHorizontalHeader(ascent=880, descent=-120)
    builder.setupNameTable({"familyName": "Attendet Han", "styleName": "Regular"})
    builder.setupOS2(usWeightClass=500)
    builder.setupPost()
    path = tmp_path_factory.mktemp("fonts") / "han.ttf"
    builder.save(path)
    return FontFile(str(path))


def test_each_part_of_a_mixed_name_has_its_font(use_fonts: UseFonts, han: FontFile) -> None:
    use_fonts(han)
    assert split_by_font("苹果 apple 香") == [
        ("苹果", han),
        (" apple", None),
        (" ", None),
        ("香", han),
    ]


def test_two_characters_are_drawn_differently(use_fonts: UseFonts, han: FontFile) -> None:
    use_fonts(han)
    one, other = text_mask("苹", 20), text_mask("果", 20)
    assert one.shape == other.shape
    assert (one != other).any()
    # The bars of this font are 0.8 em wide, 0.30 and 0.45 em high.
    np.testing.assert_allclose([one.sum(), other.sum()], [16 * 6, 16 * 9], rtol=0.1)


def test_parts_are_drawn_side_by_side(use_fonts: UseFonts, han: FontFile) -> None:
    use_fonts(han)
    mixed = text_mask("Il苹Il", 40)
    dark = np.flatnonzero(mixed.max(axis=0) > 0.5)
    strokes = np.split(dark, np.flatnonzero(np.diff(dark) > 1) + 1)
    assert len(strokes) == 5
    assert [len(one) > 20 for one in strokes] == [False, False, True, False, False]


def test_an_accent_is_the_same_composed_and_apart(use_fonts: UseFonts, han: FontFile) -> None:
    use_fonts(han)
    name = "caf\u00e9"
    assert split_by_font(unicodedata.normalize("NFD", name)) == split_by_font(name)


def test_control_and_format_characters_are_not_drawn(use_fonts: UseFonts, han: FontFile) -> None:
    use_fonts(han)
    np.testing.assert_array_equal(text_mask("苹\t\u200b\ufe0f果", 20), text_mask("苹果", 20))


def test_without_libraqm_joined_scripts_have_no_font(
    use_fonts: UseFonts, han: FontFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fonts(han)
    monkeypatch.setattr(fonts, "_has_glyph", lambda file, char: True)
    monkeypatch.setattr(fonts, "_has_raqm", lambda: True)
    assert fonts.has_glyphs("تفاحة")
    fonts._find_font.cache_clear()
    monkeypatch.setattr(fonts, "_has_raqm", lambda: False)
    assert not fonts.has_glyphs("تفاحة")
    assert fonts.has_glyphs("яблоко")


def test_without_a_font_tags_show_class_numbers(use_fonts: UseFonts) -> None:
    use_fonts()
    image = np.full((80, 160, 3), 128, dtype=np.uint8)
    box, score = np.array([[20.0, 40.0, 90.0, 70.0]]), np.array([0.5])
    drawn = draw_detections(image, box, ["苹果"], [3], score)
    same = draw_detections(image, box, ["class 3"], [3], score)
    np.testing.assert_array_equal(drawn, same)


def test_without_a_font_other_texts_have_question_marks(use_fonts: UseFonts) -> None:
    use_fonts()
    image = np.full((80, 160, 3), 128, dtype=np.uint8)
    one, other = (image_grid([image], 1, captions=[text]) for text in ("苹果: 2", "??: 2"))
    np.testing.assert_array_equal(one, other)


def test_the_legend_lists_the_names_without_a_font(use_fonts: UseFonts, han: FontFile) -> None:
    use_fonts()
    classes = ("apple", "苹果", "香蕉")
    assert "show class numbers: 1 = 苹果, 2 = 香蕉. Install" in numbered_classes(classes)
    assert [drawable_name(name, i) for i, name in enumerate(classes)] == [
        "apple",
        "class 1",
        "class 2",
    ]
    many = numbered_classes([f"苹{i}" for i in range(60)])
    assert "49 = 苹49, and 10 more. " in many
    use_fonts(han)
    assert numbered_classes(classes) == ""


def test_the_chosen_font_is_tried_first(
    monkeypatch: pytest.MonkeyPatch, han: FontFile, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(fonts._candidates.cache_clear)
    fonts._candidates.cache_clear()
    monkeypatch.setenv(fonts.FONT_ENV_VAR, han.path)
    assert fonts._candidates()[0] == han
    fonts._candidates.cache_clear()
    monkeypatch.setenv(fonts.FONT_ENV_VAR, str(Path(__file__)))
    with pytest.raises(ConfigError, match="ATTENDET_FONT must be a font file"):
        fonts._candidates()


def test_fonts_are_found_in_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("a.ttf", "b.pcf", "MSYH.TTC", "LastResort.otf", "sub/z.otf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(fonts, "font_folders", lambda: [tmp_path, tmp_path / "missing"])
    found = [Path(font.path).relative_to(tmp_path).as_posix() for font in fonts._folder_files()]
    assert found == ["MSYH.TTC", "a.ttf", "sub/z.otf"]


def test_finding_fonts_does_not_import_matplotlib() -> None:
    program = (
        "import sys; from attendet.report import fonts; fonts.has_glyphs('苹果');"
        "sys.exit('matplotlib' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def record(classes: tuple[str, ...]) -> dict[str, object]:
    curve = {"recall": [0.0, 1.0], "precision": [1.0, 0.5], "confidence": [0.9, 0.5]}
    matrix = np.eye(len(classes) + 1, dtype=int).tolist()
    labels = [*classes, "background"]
    return {
        "precision_recall": {"iou": 0.5, "per_class": dict.fromkeys(classes, curve)},
        "confusion": {"labels": labels, "matrix": matrix, "confidence": 0.25, "iou": 0.5},
    }


def test_charts_have_the_glyphs_of_all_names(
    use_fonts: UseFonts, han: FontFile, caplog: pytest.LogCaptureFixture
) -> None:
    charts = pytest.importorskip("attendet.report.charts")
    use_fonts(han)
    with caplog.at_level(logging.WARNING):
        for build in (charts.confusion_figure, charts.precision_recall_figure):
            figure = build(record(("苹果", "香蕉 banana")))
            figure.axes[0].set_title("苹果", fontweight="bold")
            same = build(record(("苹果", "果苹 banana")))
            same.axes[0].set_title("苹果", fontweight="bold")
            assert charts.to_png(figure) != charts.to_png(same)
            figure.savefig(io.BytesIO())  # a missing glyph would be a warning, which is an error
            assert "苹果" in charts.to_svg(figure)
    assert not caplog.records


def test_without_a_font_charts_show_class_numbers(use_fonts: UseFonts) -> None:
    charts = pytest.importorskip("attendet.report.charts")
    use_fonts()
    figures = [
        build(record(("apple", "苹果")))
        for build in (charts.confusion_figure, charts.precision_recall_figure)
    ]
    ticks = [label.get_text() for label in figures[0].axes[0].get_yticklabels()]
    assert ticks == ["apple", "class 1", "background"]
    legend = [text.get_text() for text in figures[1].axes[0].get_legend().get_texts()]
    assert legend == ["apple", "class 1", "mean"]
    for figure in figures:
        figure.savefig(io.BytesIO())
