"""The report of a study, made from its records alone: a page, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attendet import __version__
from attendet.files import write_atomically
from attendet.report.html import Page
from attendet.report.markdown import MarkdownPage
from attendet.report.study import StudyRecords, flat_facts, number, read_study
from attendet.report.study_charts import (
    curve_chart,
    difference_chart,
    loss_of,
    part_chart,
    trade_chart,
)
from attendet.report.study_examples import Example, find_examples
from attendet.report.study_tables import (
    OVERLAPS,
    SIZES,
    StudyTable,
    cost_table,
    effect_table,
    gate_table,
    points,
    run_rows,
    run_table,
    variant_rows,
    verdict_table,
    verdict_word,
)

__all__ = ["write_report"]

LAYOUT = "attendet/report/1"
"""Name and version of the layout of report.json."""

EXAMPLES = 3

AnyPage = Page | MarkdownPage

Part = tuple[str, tuple[str, ...]]
"""Name of a part of AP, and where its number stands in ``metrics``."""


def write_report(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    data: str | Path | None = None,
    examples: int = EXAMPLES,
) -> Path:
    """Write the report of a study; return the path of its page.

    ``report.html`` opens offline; ``report.md`` with its ``figures`` says the same;
    ``variants.csv`` and ``runs.csv`` hold a row a variant and a run, ``report.json`` both.
    Nothing is measured anew.

    Args:
        folder: of the study, as `attendet compare` leaves it.
        output: folder of the report; that of the study if left out.
        data: folder of the data set, if it is not where it was; only for example images.
        examples: images on which the variants disagree most, at most.

    Raises:
        DataError: if there is no study in the folder, or it is damaged.
    """
    study = read_study(folder)
    output = study.folder if output is None else Path(output)
    shown: tuple[list[Example], str] = ([], "Left out on request.")
    if examples:
        shown = find_examples(study, count=examples, root=None if data is None else Path(data))
    title = f"Attention on {study.data_name}"
    variants, runs = variant_rows(study), run_rows(study)
    head = {**study.head, "data": _data_facts(study)}
    content = {
        "layout": LAYOUT,
        "version": __version__,
        "study": head,
        "variants": variants,
        "runs": runs,
    }
    write_atomically(output / "report.json", json.dumps(content, indent=1) + "\n")
    write_atomically(output / "variants.csv", _to_csv(variants))
    write_atomically(output / "runs.csv", _to_csv(runs))
    markdown = MarkdownPage(title)
    _build(markdown, study, shown)
    markdown.write(output / "report.md")
    page = Page(title, contents=True)
    _build(page, study, shown)
    return page.write(output / "report.html")


def _data_facts(study: StudyRecords) -> dict[str, Any]:
    """Return what is known of the data set, with its name instead of where it is."""
    known = {
        name: value for name, value in (study.head.get("data") or {}).items() if name != "root"
    }
    return {"data": study.data_name, **known}


def _to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO(newline="")
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _build(page: AnyPage, study: StudyRecords, examples: tuple[list[Example], str]) -> None:
    _add_verdicts(page, study)
    _add_costs(page, study)
    _add_curves(page, study)
    _add_parts(page, study)
    _add_examples(page, *examples)
    _add_gates(page, study)
    _add_setting(page, study)
    _add_runs(page, study)


def _add_table(page: AnyPage, table: StudyTable, *, sortable: bool = True) -> None:
    page.add_table(
        table.header,
        table.rows,
        caption=table.caption,
        words=table.words,
        sortable=sortable and len(table.rows) > 1,
    )


def _add_verdicts(page: AnyPage, study: StudyRecords) -> None:
    page.add_lead(_lead(study))
    page.add_section("Verdicts")
    _add_table(page, verdict_table(study))
    sentences = [
        f"{variant}: {study.verdict(variant)['text']}"
        for variant in study.variants()
        if study.verdict(variant).get("text")
    ]
    if sentences:
        page.add_list(sentences)
    page.add_text(
        f"Helps or hurts: the difference to {study.baseline or 'the baseline'} is not zero, at a "
        "level of 5 % over all variants together (p adjusted by Holm's method). No difference: the "
        f"whole interval lies within {100 * study.margin:g} points of zero. Not enough seeds: "
        "neither can be said yet; further seeds is how many more of each would give a clear "
        "answer. Variants of one seed begin with the same weights and see the same images, so they "
        "are compared in pairs."
    )
    chart = difference_chart(study)
    if chart:
        page.add_chart(
            chart,
            "Dots: each seed. Bar: 95 % interval of the mean. Shaded: differences that count as "
            "none.",
        )
    broken = [run for run in study.runs if run.get("stopped") == "failed"]
    if broken:
        words = (
            "One run failed and is" if len(broken) == 1 else f"{len(broken)} runs failed and are"
        )
        page.add_text(f"{words} left out:")
        page.add_list(
            [
                f"{run.get('variant_name')}, seed {run.get('seed')}: "
                f"{run.get('error') or 'no reason kept'}"
                for run in broken
            ]
        )


def _lead(study: StudyRecords) -> str:
    """Return the outcome in one paragraph."""
    groups: dict[str, list[str]] = {}
    for variant in study.variants():
        if variant != study.baseline:
            found = number(study.verdict(variant).get("difference"))
            words = variant if found is None else f"{variant} ({points(found, signed=True).text})"
            groups.setdefault(verdict_word(study, variant), []).append(words)
    if not groups:
        return "There is no second variant yet to compare with."
    order = ("helps", "hurts", "no difference", "not enough", "cut", "failed", "not measured")
    place = {
        word: min((i for i, one in enumerate(order) if word.startswith(one)), default=9)
        for word in groups
    }
    said = " ".join(
        f"{word[:1].upper()}{word[1:]}: {', '.join(groups[word])}."
        for word in sorted(groups, key=place.__getitem__)
    )
    seeds = len(study.head.get("seeds") or {run.get("seed") for run in study.runs})
    return f"Against {study.baseline}, {seeds} seed{'' if seeds == 1 else 's'} a variant. {said}"


def _add_costs(page: AnyPage, study: StudyRecords) -> None:
    page.add_section("Cost beside gain")
    _add_table(page, cost_table(study))
    runtimes: list[str | None] = [*study.latency()] or [None]
    for runtime in runtimes:
        chart = trade_chart(study, runtime)
        if chart:
            page.add_chart(
                chart,
                "Mean AP over seeds; vertical bars reach from the least to the greatest seed"
                + (", horizontal ones hold half of the calls" if runtime else "")
                + ". Dashed: the variants that no other beats in both.",
            )


def _add_curves(page: AnyPage, study: StudyRecords) -> None:
    quality = curve_chart(
        study,
        lambda epoch: None if number(epoch.get("ap")) is None else 100 * epoch["ap"],
        y_label="validation AP, points",
    )
    loss = curve_chart(study, loss_of, y_label="training loss")
    if not quality and not loss:
        return
    page.add_section("Course of training")
    caption = "Line: mean over seeds. Band: from the least to the greatest seed."
    for chart in (quality, loss):
        if chart:
            page.add_chart(chart, caption)


def _add_parts(page: AnyPage, study: StudyRecords) -> None:
    page.add_section("By size and by class")
    sizes: list[Part] = [(words, (name,)) for name, words in SIZES.items()]
    _add_table(page, effect_table(study, [*((w, (n,)) for n, w in OVERLAPS.items()), *sizes]))
    chart = part_chart(study, sizes)
    if chart:
        page.add_chart(chart, "By size of the object: below 32 x 32, below 96 x 96 pixels, above.")
    classes: list[Part] = [(name, ("per_class", name, "ap")) for name in study.classes()]
    if not classes:
        return
    _add_table(
        page, effect_table(study, classes, part_a_row="class", caption="The same by class, AP.")
    )
    chart = part_chart(study, classes)
    if chart:
        page.add_chart(chart, "By class.")


def _add_examples(page: AnyPage, examples: Sequence[Example], words: str) -> None:
    page.add_section("Where the variants disagree most")
    page.add_text(words)
    for example in examples:
        page.add_heading(example.name)
        page.add_gallery(example.panels, least_width=260)


def _add_gates(page: AnyPage, study: StudyRecords) -> None:
    page.add_section("What the gates do")
    table = gate_table(study)
    if table.rows:
        _add_table(page, table)
        page.add_text("attendet explain shows the gates of one run over images.")
    else:
        page.add_text("The records hold no gates: no variant has attention, or none was looked at.")


def _add_setting(page: AnyPage, study: StudyRecords) -> None:
    head = study.head
    page.add_section("How it was made")
    if head.get("command"):
        page.add_code(str(head["command"]))
    versions = head.get("versions") or {}
    told = dict.fromkeys(_one_line(run.get("machine")) for run in study.runs)
    machines = [machine for machine in told if machine]
    seen = [run.get("versions") for run in study.runs]
    facts = [
        *flat_facts(_data_facts(study)),
        ("variants", ", ".join(study.variants())),
        ("baseline", study.baseline),
        ("seeds", ", ".join(map(str, head.get("seeds") or ()))),
        ("margin", f"{100 * study.margin:g} AP points"),
        *flat_facts(head.get("budget") or {"budget": "none: the whole grid"}),
        *(("pretrained", str(head[name])) for name in ("pretrained",) if head.get(name)),
        *flat_facts(head.get("pairing") or {}),
        *(
            (f"machine {number}" if len(machines) > 1 else "machine", machine)
            for number, machine in enumerate(machines, start=1)
        ),
        *flat_facts(versions or next((one for one in seen if one), {})),
        *flat_facts({"seconds": head["seconds"]} if head.get("seconds") else {}),
        ("report", f"attendet {__version__}"),
    ]
    page.add_facts(facts)
    if head.get("recipe"):
        page.add_heading("Recipe")
        page.add_facts(flat_facts(head["recipe"]))


def _one_line(machine: object) -> str:
    if isinstance(machine, Mapping):
        return ", ".join(f"{name} {value}" for name, value in machine.items())
    return "" if machine is None else str(machine)


def _add_runs(page: AnyPage, study: StudyRecords) -> None:
    page.add_section("Every run")
    _add_table(page, run_table(study))
