"""The report of a study from its records: an HTML page, Markdown, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attendet import __version__
from attendet.errors import ConfigError
from attendet.files import write_atomically
from attendet.report.fonts import numbered_classes
from attendet.report.pages import Image, render_html, render_markdown
from attendet.report.sets_report import read_sets, write_sets_report
from attendet.report.study import SETS, STUDY, Study, read_study
from attendet.report.study_charts import cost_charts, curve_charts, effect_chart
from attendet.report.study_examples import Example, find_examples
from attendet.report.study_tables import (
    OVERALL,
    SIZES,
    Keys,
    cost_table,
    effect_table,
    gate_table,
    run_rows,
    run_table,
    variant_rows,
    verdict_answer,
    verdict_of,
    verdict_table,
    with_minus,
)
from attendet.report.tables import flat, to_csv
from attendet.system import machine_text

LAYOUT = "attendet/report/1"
"""Name and version of the layout of report.json."""


def write_report(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    data: str | Path | None = None,
    examples: int = 3,
) -> Path:
    """Write the report of a study and return the path of its HTML page.

    ``report.html`` works offline. ``report.md`` with its ``figures`` has the same content.
    ``variants.csv`` has one row per variant, ``runs.csv`` one row per run, ``report.json`` both.
    Nothing is trained or measured. For a study over several data sets, the report covers all of
    them, and each data set has its own report in a subfolder.

    Args:
        folder: folder of the study, as `attendet compare` writes it.
        output: folder of the report; default: the folder of the study.
        data: folder of the data set, if it has moved; only for example images.
        examples: number of example images; those on which the variants differ most are shown.

    Raises:
        ConfigError: if ``data`` is given for a study over several data sets.
        DataError: if there is no study in the folder, or it is damaged.
        MissingExtraError: if matplotlib or Jinja2 is not installed.
    """
    if (Path(folder) / SETS).is_file():
        advice = f"Report one of them: attendet report {folder}/NAME --data ..."
        rule = "for a study of one data set"
        ConfigError.check(data is None, "data", rule, str(data), "--data", advice)
        sets, output = read_sets(folder), Path(output or folder)
        for name in sets.names():
            if (sets.folder / name / STUDY).is_file():
                write_report(sets.folder / name, output / name, examples=examples)
        return write_sets_report(sets, output)
    study = read_study(folder)
    output = study.folder if output is None else Path(output)
    shown: tuple[list[Example], str] = ([], "Not requested.")
    if examples:
        shown = find_examples(study, count=examples, root=None if data is None else Path(data))
    variants, runs = variant_rows(study), run_rows(study)
    content = {
        "layout": LAYOUT,
        "version": __version__,
        "study": {**study.description, "data": _data_facts(study)},
        "variants": variants,
        "runs": runs,
    }
    write_atomically(output / "report.json", json.dumps(content, indent=1) + "\n")
    write_atomically(output / "variants.csv", to_csv(variants))
    write_atomically(output / "runs.csv", to_csv(runs))
    title, context = f"Does attention help on {study.data_name}?", _page_context(study, *shown)
    for image in _images(context):
        write_atomically(output / "figures" / image.name, image.data)
    write_atomically(output / "report.md", render_markdown("study", title, **context))
    return write_atomically(output / "report.html", render_html("study", title, **context))


def _page_context(study: Study, examples: list[Example], examples_note: str) -> dict[str, Any]:
    """Return the values that the template ``study.jinja`` shows."""
    classes: dict[str, Keys] = {name: ("per_class", name, "ap") for name in study.classes()}
    texts = {variant: study.verdict(variant).get("text") for variant in study.variants()}
    size_caption = "AP by object size: below 32 x 32 pixels, below 96 x 96 pixels, larger."
    return {
        "baseline": study.baseline,
        "margin": f"{100 * study.margin:g}",
        "summary": _summary(study),
        "verdicts": verdict_table(study),
        "verdict_texts": [
            f"{variant}: {with_minus(text)}" for variant, text in texts.items() if text
        ],
        "difference_chart": effect_chart(study, "difference", {"AP": ("ap",)}, "AP."),
        "failures": [
            f"{run['variant_name']}, seed {run['seed']}: {run['error']}"
            for run in study.failed_runs()
        ],
        "costs": cost_table(study),
        "cost_charts": cost_charts(study),
        "curve_charts": curve_charts(study),
        "size_effects": effect_table(study, OVERALL | SIZES),
        "size_chart": effect_chart(study, "by-size", SIZES, size_caption),
        "class_effects": effect_table(
            study, classes, first_column="class", caption="AP of each class."
        ),
        "class_chart": effect_chart(study, "by-class", classes, "AP by class."),
        "examples": examples,
        "examples_note": examples_note,
        "numbered": numbered_classes(study.classes()) if examples else "",
        "gates": gate_table(study),
        "command": study.description["command"],
        "facts": _facts(study),
        "recipe": flat(study.description["recipe"]),
        "runs": run_table(study),
    }


def _images(context: Mapping[str, Any]) -> list[Image]:
    charts = ("difference_chart", "cost_charts", "curve_charts", "size_chart", "class_chart")
    images = [image for name in charts for image in context[name]]
    return images + [image for example in context["examples"] for image in example.images]


def _data_facts(study: Study) -> dict[str, Any]:
    """Return the description of the data set, with its name instead of its path."""
    return {**study.description["data"], "root": study.data_name}


def _summary(study: Study) -> str:
    """Return the result of a study in one paragraph."""
    verdicts = [
        (variant, verdict_of(study, variant), study.verdict(variant).get("difference"))
        for variant in study.variants()
        if variant != study.baseline
    ]
    if not verdicts:
        return "There is no second variant to compare yet."
    seeds = len(study.description["seeds"])
    plural = "s" if seeds != 1 else ""
    return (
        f"{verdict_answer(verdicts)} In parentheses: AP points more or less than {study.baseline}, "
        f"mean over {seeds} seed{plural}."
    )


def _facts(study: Study) -> list[tuple[str, str]]:
    """Return the settings of a study as names and values."""
    description = study.description
    texts = (machine_text(run["machine"] or {}) for run in study.runs)
    machines = list(dict.fromkeys(filter(None, texts)))
    return [
        *flat({"data": _data_facts(study)}),
        ("variants", ", ".join(study.variants())),
        ("baseline", study.baseline),
        ("seeds", ", ".join(map(str, description["seeds"]))),
        ("margin", f"{100 * study.margin:g} AP points"),
        *flat(description["budget"] or {"budget": "none: the whole grid"}),
        *flat({key: description[key] for key in ("pretrained",) if description[key]}),
        *flat(description.get("pairing") or {}),
        *((f"machine {i}", machine) for i, machine in enumerate(machines, start=1)),
        *flat(description["versions"]),
        *flat({key: description[key] for key in ("seconds",) if description.get(key)}),
        ("report", f"attendet {__version__}"),
    ]
