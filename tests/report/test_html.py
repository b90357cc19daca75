from __future__ import annotations

import base64
import hashlib
import re
import stat
from html.parser import HTMLParser

import pytest

from attendet.report.html import Cell, Page

NASTY = "<script>alert('1')</script> & \"q\""


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.seen, self.addresses, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "alt")]

    def handle_data(self, data):
        self.texts.append(data)


def test_every_text_is_escaped():
    page = (
        Page(NASTY, language=NASTY)
        .add_section(NASTY)
        .add_text(NASTY)
        .add_code(NASTY)
        .add_table([NASTY], [[NASTY]], caption=NASTY)
        .add_figure(b"\x89PNG\r\n\x1a\n", NASTY, alt=NASTY)
    )
    tags = Tags(page.to_html())
    assert "script" not in tags.seen
    assert tags.texts.count(NASTY) == 9
    assert NASTY in tags.addresses


def test_nothing_is_fetched_and_figures_are_inside():
    svg = '<svg xmlns="http://www.w3.org/2000/svg"></svg>'
    html = Page("t").add_figure(svg, "s").add_figure(b"\xff\xd8\xff", "j").to_html()
    sources = [address for address in Tags(html).addresses if address.startswith("data:")]
    assert [source.split(";")[0] for source in sources] == ["data:image/svg+xml", "data:image/jpeg"]
    assert base64.b64decode(sources[0].split(",")[1]).decode() == svg
    assert not re.search(r"https?://|url\(|@import|<link|<script", html)


def test_an_empty_line_parts_paragraphs():
    html = Page("t").add_text("one\n\ntwo").to_html()
    assert "<p>one</p>\n<p>two</p>" in html


def test_a_sortable_table_brings_the_one_script_that_the_policy_allows():
    page = Page("t").add_table(["a", "b"], [["x", Cell("1,2", 12.0, "good", NASTY)]], sortable=True)

    html = page.to_html()

    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert f"{policy}; script-src 'sha256-{digest}'" in html
    assert 'data-key="12.0"' in html
    assert '<span class="badge good">1,2</span>' in html
    assert "<script>alert" not in html
    assert "script-src" not in Page("t").add_table(["a"], [["x"]]).to_html()


def test_a_value_that_is_not_known_sorts_last():
    html = (
        Page("t").add_table(["a", "b"], [["x", Cell("-", float("nan"))]], sortable=True).to_html()
    )
    assert 'data-key=""' in html


def test_contents_lead_to_the_sections():
    html = Page("t", contents=True).add_section("One & two").add_section("Three").to_html()
    assert '<a href="#s1">One &amp; two</a><a href="#s2">Three</a>' in html
    assert '<h2 id="s2">Three</h2>' in html


def test_page_is_light_and_dark():
    assert "prefers-color-scheme: dark" in Page("t").to_html()


def test_write_replaces_whole_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "deep" / "page.html"
    Page("one").write(path)
    assert Page("zwei ä").write(path) == path
    assert "zwei ä" in path.read_text(encoding="utf-8")
    assert [entry.name for entry in path.parent.iterdir()] == ["page.html"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600


def test_a_failed_write_keeps_the_old_page(tmp_path, monkeypatch):
    path = Page("old").write(tmp_path / "a.html")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        Page("new").write(path)
    assert "old" in path.read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.html"]
