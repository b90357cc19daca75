from __future__ import annotations

import base64
import hashlib
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("jinja2")

from attendet import exporters
from attendet.errors import MissingExtraError
from attendet.report import pages
from attendet.report.pages import Cell, Image, Table, render_html, render_markdown

NASTY = "<script>alert('1')</script> & \"q\" *x* `y` [z](a) # | \\ <b>"
PNG = b"\x89PNG\r\n\x1a\n"

TEMPLATE = """
{{ show.lead(text) }}
{{ show.section(text) }}
{{ show.heading(text) }}
{% call show.text() %}
{{ text }}
next line
{% endcall %}
{{ show.list([text]) }}
{{ show.code(text) }}
{{ show.facts([(text, text)]) }}
{{ show.table(table) }}
{{ show.figure(image) }}
{{ show.figure(image, text) }}
{{ show.gallery([image]) }}
"""


class Tags(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.seen, self.addresses, self.texts, self.hints = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        self.hints += [value for name, value in attributes if name in ("alt", "title")]

    def handle_data(self, data):
        self.texts.append(data.removesuffix(" next line"))


@pytest.fixture(autouse=True)
def template(monkeypatch):
    """Makes ``test`` a page template that shows every part."""
    import jinja2

    package = jinja2.PackageLoader("attendet.report")
    loader = jinja2.ChoiceLoader([jinja2.DictLoader({"test.jinja": TEMPLATE}), package])
    monkeypatch.setattr(jinja2, "PackageLoader", lambda _: loader)
    pages._environment.cache_clear()
    yield
    pages._environment.cache_clear()


def context(text=NASTY, table=None, image=None):
    rows = [{text: text, "n": Cell(text, 12.0, "good", text)}, {text: "b", "n": "-"}]
    return {
        "text": text,
        "table": table or Table.of(rows, text, text_columns=["n"]),
        "image": image or Image("a.png", PNG, text),
    }


def test_all_texts_of_a_page_are_escaped():
    tags = Tags(render_html("test", NASTY, **context()))

    assert tags.seen.count("script") == 1
    assert "b" not in tags.seen
    assert tags.texts.count(NASTY) == 18
    assert tags.hints == [NASTY] * 4


def test_all_texts_of_a_markdown_report_are_escaped():
    text = render_markdown("test", NASTY, **context())

    code = next(line for line in text.splitlines() if line.startswith("    "))
    assert code == f"    {NASTY}"
    rest = text.replace(code, "")
    assert "<b>" not in rest.replace("\\<b\\>", "")
    assert not re.search(r"(?<!\\)\*x", rest)
    rows = [line for line in rest.splitlines() if line.startswith("|")]
    assert len(rows) == 3 + 4
    assert all(line.replace("\\|", "").count("|") == 3 for line in rows)
    assert "\n\n\n" not in text
    assert text.endswith("\n")


def test_a_page_holds_its_images_and_allows_no_request():
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'
    html = render_html("test", "t", **context("x", image=Image("a.svg", svg)))

    sources = [address for address in Tags(html).addresses if address.startswith("data:")]
    assert [source.split(",")[0] for source in sources] == ["data:image/svg+xml;base64"] * 3
    assert base64.b64decode(sources[0].split(",")[1]) == svg
    assert not re.search(r"https?://|url\(|@import|<link", html)


def test_the_policy_allows_only_the_script_of_the_page():
    html = render_html("test", "t", **context())

    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert f"{policy}; script-src 'sha256-{digest}'" in html


def test_cells_have_sort_keys_badges_and_tooltips():
    rows = [{"a": "x", "b": Cell("1,2", 12.0, "good", "why")}, {"a": "y", "b": "3"}]
    html = render_html("test", "t", **context("x", Table.of(rows)))

    assert '<td data-key="12.0" title="why"><span class="badge good">1,2</span></td>' in html
    assert '<table class="sortable">' in html
    assert "<td>3</td>" in html
    assert 'class="sortable"' not in render_html("test", "t", **context("x", Table.of(rows[:1])))


def test_the_contents_link_to_the_sections():
    html = render_html("test", "t", **context("One & two"))

    assert '<a href="#one-&amp;-two">One &amp; two</a>' in html
    assert '<h2 id="one-&amp;-two">One &amp; two</h2>' in html


def test_pages_have_light_and_dark_colors():
    html = render_html("test", "t", **context())

    assert "prefers-color-scheme: dark" in html
    assert ":root[data-theme=dark]" in html


def colors(css):
    """Return the light and the dark colors of a style sheet: those first set in each mode."""
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    light, dark = css.split("prefers-color-scheme: dark", 1)
    return [dict(re.findall(r"(--[\w-]+): (#\w+)", part.split("}")[0])) for part in (light, dark)]


def test_the_pages_have_the_colors_of_the_exported_web_page():
    report, web = (
        colors((Path(package.__file__).parent / name).read_text(encoding="utf-8"))
        for package, name in ((pages, "templates/page.css"), (exporters, "page/style.css"))
    )

    for own, other in zip(report, web, strict=True):
        assert len(other) >= 7
        assert own.items() >= other.items()


def test_a_theme_is_the_same_by_the_system_and_by_the_button():
    css = (Path(pages.__file__).parent / "templates/page.css").read_text(encoding="utf-8")

    system, button = re.findall(r"color-scheme: dark; (--ink.*?) \}", css, flags=re.DOTALL)
    assert system.split() == button.split()


def test_the_extra_is_named_if_jinja2_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)

    with pytest.raises(MissingExtraError, match=r"attendet\[train\]"):
        render_html("test", "t", **context())


def test_markdown_shows_images_as_files():
    text = render_markdown("test", "t", **context("caption"))

    assert text.count("![caption](figures/a.png)\n\n*caption*\n") == 3
