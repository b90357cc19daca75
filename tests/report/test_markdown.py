from __future__ import annotations

from attendet.report import Cell, Interval, MarkdownPage, interval_chart

NASTY = "<b>*x*</b> `y` [z](a) # | \\"


def test_every_text_is_shown_as_it_is():
    page = (
        MarkdownPage(NASTY)
        .add_section(NASTY)
        .add_text(NASTY)
        .add_list([NASTY])
        .add_table([NASTY], [[NASTY]], caption=NASTY)
        .add_facts([(NASTY, NASTY)])
    )
    text = page.to_markdown()
    assert "<b>" not in text.replace("\\<b\\>", "")
    assert text.count("\\*x\\*") == 9
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") in (2, 3) for line in rows)


def test_code_with_fences_in_it_is_fenced_further():
    assert MarkdownPage("t").add_code("a\n```\nb").to_markdown().endswith("````\na\n```\nb\n````\n")


def test_figures_are_files_beside_the_page(tmp_path):
    chart = interval_chart([Interval("a", 1)], alt="", x_label="")
    page = MarkdownPage("t").add_section("AP & more").add_chart(chart, "caption")
    page.add_figure(b"\xff\xd8\xff", "photo").add_gallery([(b"\x89PNG\r\n\x1a\n", "one")])

    path = page.write(tmp_path / "deep" / "report.md")

    names = sorted(one.name for one in (tmp_path / "deep" / "figures").iterdir())
    assert names == ["ap-more-1.svg", "ap-more-2.jpg", "ap-more-3.png"]
    assert all(f"](figures/{name})" in path.read_text(encoding="utf-8") for name in names)
    assert (tmp_path / "deep/figures/ap-more-1.svg").read_text().startswith("<svg xmlns=")


def test_cells_show_their_text():
    text = MarkdownPage("t").add_table(["a", "b"], [["x", Cell("1.0", 1.0, "good")]]).to_markdown()
    assert "| x |" in text
    assert "1.0" in text
