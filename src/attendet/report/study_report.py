"""The report of a study, made from its records: an HTML page, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attendet import __version__
from attendet.files import write_atomically
from attendet.report.fonts import numbered_classes
from attendet.report.pages import Image, render_html, render_markdown
from attendet.report.study import Study, read_study
from attendet.report.study_charts import cost_charts, curve_charts, effect_chart
from attendet.report.study_examples import Example, find_examples
from attendet.report.study_tables import (
    OVERALL,
    SIZES,
    Keys,
    cost_table,
    effect_table,
    gate_table,
    points,
    run_rows,
    run_table,
    variant_rows,
    verdict_of,
    verdict_table,
)

LAYOUT = "attendet/report/1"
"""Name and version of the layout of report.json."""

UNDECIDED = ("not enough", "cut", "failed", "not measured")
"""Beginnings of the verdicts that leave open whether a variant helps."""

VERDICT_ORDER = ("helps", "hurts", "no difference", "not enough", "cut", "failed", "not measured")


def write_report(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    data: str | Path | None = None,
    examples: int = 3,
) -> Path:
    """Write the report of a study and return the path of its HTML page.

    ``report.html`` works offline. ``report.md`` with its ``figures`` has the same content.
    ``variants.csv`` and ``runs.csv`` hold one row per variant and run, ``report.json`` both.
    Nothing is trained or measured.

    Args:
        folder: folder of the study, as `attendet compare` writes it.
        output: folder of the report; default: that of the study.
        data: folder of the data set, if it has moved; only for example images.
        examples: number of images to show on which the variants disagree most.

    Raises:
        DataError: if there is no study in the folder, or it is damaged.
        MissingExtraError: if matplotlib or Jinja2 is not installed.
    """
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
    write_atomically(output / "variants.csv", _to_csv(variants))
    write_atomically(output / "runs.csv", _to_csv(runs))
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
        "baseline": study.baseline or "the baseline",
        "margin": f"{100 * study.margin:g}",
        "summary": _summary(study),
        "verdicts": verdict_table(study),
        "verdict_texts": [f"{variant}: {text}" for variant, text in texts.items() if text],
        "difference_chart": effect_chart(study, "difference", {"AP": ("ap",)}, "AP."),
        "failures": [
            f"{run['variant_name']}, seed {run['seed']}: {run.get('error') or 'reason unknown'}"
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
        "command": study.description.get("command"),
        "facts": _facts(study),
        "recipe": _flat(study.description.get("recipe") or {}),
        "runs": run_table(study),
    }


def _images(context: Mapping[str, Any]) -> list[Image]:
    charts = ("difference_chart", "cost_charts", "curve_charts", "size_chart", "class_chart")
    images = [image for name in charts for image in context[name]]
    return images + [image for example in context["examples"] for image in example.images]


def _data_facts(study: Study) -> dict[str, Any]:
    """Return the description of the data set, with its name instead of its path."""
    return {**(study.description.get("data") or {}), "root": study.data_name}


def _to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _summary(study: Study) -> str:
    """Return the answer of a study in one paragraph."""
    groups: dict[str, list[str]] = {}
    for variant in study.variants():
        if variant != study.baseline:
            difference = study.verdict(variant).get("difference")
            shown = "" if difference is None else f" ({points(difference, signed=True)})"
            groups.setdefault(verdict_of(study, variant), []).append(f"{variant}{shown}")
    if not groups:
        return "There is no second variant to compare yet."
    if "helps" in groups:
        answer = "Yes."
    elif any(verdict.startswith(UNDECIDED) for verdict in groups):
        answer = "Not decided yet."
    else:
        answer = "No."
    results = " ".join(
        f"{verdict[:1].upper()}{verdict[1:]}: {', '.join(groups[verdict])}."
        for verdict in sorted(groups, key=_verdict_rank)
    )
    seeds = len(study.description.get("seeds") or {run["seed"] for run in study.runs})
    plural = "s" if seeds != 1 else ""
    return (
        f"{answer} {results} In parentheses: AP points more or less than {study.baseline}, "
        f"mean over {seeds} seed{plural}."
    )


def _verdict_rank(verdict: str) -> int:
    ranks = [rank for rank, start in enumerate(VERDICT_ORDER) if verdict.startswith(start)]
    return ranks[0] if ranks else len(VERDICT_ORDER)


def _facts(study: Study) -> list[tuple[str, str]]:
    """Return the settings of a study as names and values."""
    description = study.description
    machines = list(dict.fromkeys(filter(None, (_machine(run) for run in study.runs))))
    of_runs = [run["versions"] for run in study.runs if run.get("versions")]
    versions = description.get("versions") or (of_runs[0] if of_runs else {})
    return [
        *_flat({"data": _data_facts(study)}),
        ("variants", ", ".join(study.variants())),
        ("baseline", study.baseline),
        ("seeds", ", ".join(map(str, description.get("seeds") or ()))),
        ("margin", f"{100 * study.margin:g} AP points"),
        *_flat(description.get("budget") or {"budget": "none: the whole grid"}),
        *_flat({key: description[key] for key in ("pretrained",) if description.get(key)}),
        *_flat(description.get("pairing") or {}),
        *((f"machine {i}", machine) for i, machine in enumerate(machines, start=1)),
        *_flat(versions),
        *_flat({key: description[key] for key in ("seconds",) if description.get(key)}),
        ("report", f"attendet {__version__}"),
    ]


def _machine(run: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in (run.get("machine") or {}).items())


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as names and texts.

    Example:
        >>> _flat({"a": {"b": True}, "c": [1, 2]})
        [('a b', 'yes'), ('c', '1, 2')]
    """
    facts = []
    for key, value in settings.items():
        name = f"{prefix} {key}".strip()
        if isinstance(value, Mapping):
            facts += _flat(value, name)
        elif isinstance(value, list):
            facts.append((name, ", ".join(map(str, value))))
        elif isinstance(value, bool):
            facts.append((name, "yes" if value else "no"))
        elif isinstance(value, float):
            facts.append((name, f"{value:.6g}"))
        else:
            facts.append((name, "-" if value is None else str(value)))
    return facts
