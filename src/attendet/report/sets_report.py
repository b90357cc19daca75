"""The report of a study over several data sets, from its records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attendet import __version__
from attendet.errors import DataError, list_names
from attendet.files import write_atomically
from attendet.report.charts import (
    Interval,
    Point,
    chart_image,
    heat_map,
    interval_chart,
)
from attendet.report.pages import Cell, Image, Table, render_html, render_markdown
from attendet.report.study import SETS, SETS_LAYOUT, read_layout, value_at
from attendet.report.study_charts import trade_off_chart
from attendet.report.study_tables import (
    Row,
    interval,
    number,
    p_value,
    points,
    verdict_answer,
    verdict_tone,
    with_minus,
)
from attendet.report.tables import MISSING, flat, to_csv
from attendet.system import machine_text

LAYOUT = "attendet/sets-report/1"
"""Name and version of the layout of report.json."""

PAGE = "report.html"
"""Name of the page in the folder of a study."""

SHOWN_SEEDS = "5"
"""Number of seeds for which the summary states the test images that are needed."""

CHARTS = ("mean_chart", "heat_chart", "forest_charts", "cost_charts")


@dataclass(frozen=True)
class MultiDatasetStudy:
    """The records of a study over several data sets.

    Attributes:
        folder: Folder of the files.
        description: Content of sets.json.
    """

    folder: Path
    description: Mapping[str, Any]

    @property
    def baseline(self) -> str:
        """Name of the variant that the others are compared with."""
        return str(self.description["baseline"])

    @property
    def margin(self) -> float:
        """Largest AP difference that counts as no difference, 0 to 1."""
        return float(self.description["margin"])

    @property
    def sets(self) -> list[dict[str, Any]]:
        """Records of the data sets whose study has started."""
        return list(self.description["sets"])

    def names(self) -> list[str]:
        """Return the names of the data sets whose study has started."""
        return [each["name"] for each in self.sets]

    def verdicts(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the variants and their verdicts, largest mean difference first."""
        found = self.description["verdicts"].items()
        return sorted(found, key=lambda one: -one[1].get("difference", -1.0))

    def styles(self) -> dict[str, int]:
        """Return the color index of each variant."""
        return {each["name"]: i for i, each in enumerate(self.description["variants"])}

    def verdict_of(self, verdict: Mapping[str, Any]) -> str:
        """Return a verdict in a few words."""
        text = str(verdict["verdict"])
        return f"{text} > {100 * self.margin:g}" if text == "no difference" else text


def read_sets(folder: str | Path) -> MultiDatasetStudy:
    """Return the records in the folder of a study over several data sets.

    Raises:
        DataError: if the folder has no such study, or the file is damaged.
    """
    description = read_layout(Path(folder) / SETS, SETS_LAYOUT)
    if description is None:
        raise DataError(
            f"folder must contain {SETS}, of a study over several data sets ({folder})."
        )
    return MultiDatasetStudy(Path(folder), description)


def write_sets_report(sets: MultiDatasetStudy, output: Path, *, title: str = "") -> Path:
    """Write the report over all data sets and return the path of its HTML page.

    Args:
        sets: the records.
        output: folder of the report.
        title: heading of the page.

    Raises:
        MissingExtraError: if matplotlib or Jinja2 is not installed.
    """
    title = title or f"Does attention help on average over {len(sets.names())} data sets?"
    context = _page_context(with_short_names(sets), output)
    variants, effects = _variant_rows(sets), _effect_rows(sets)
    content = {
        "layout": LAYOUT,
        "version": __version__,
        "study": without_paths(sets),
        "variants": variants,
        "effects": effects,
    }
    write_atomically(output / "report.json", json.dumps(content, indent=1) + "\n")
    write_atomically(output / "variants.csv", to_csv(variants))
    write_atomically(output / "effects.csv", to_csv(effects))
    for image in (image for name in CHARTS for image in context[name]):
        write_atomically(output / "figures" / image.name, image.data)
    write_atomically(output / "report.md", render_markdown("sets", title, **context))
    return write_atomically(output / PAGE, render_html("sets", title, **context))


def with_short_names(sets: MultiDatasetStudy) -> MultiDatasetStudy:
    """Return the records with variants named only by their attention, such as ``se``.

    `summarize` then names the sites once. The records are unchanged if the blocks are at different
    sites or the short names are not unique.
    """
    description = dict(sets.description)
    blocks = [each for each in description["variants"] if each["attention"] != "none"]
    short = {each["name"]: each["attention"] for each in blocks}
    sites = {tuple(each["sites"]) for each in blocks}
    if len(sites) != 1 or len(set(short.values())) < len(blocks) or "@" in "".join(short.values()):
        return sets

    def renamed(by_name: Mapping[str, Any]) -> dict[str, Any]:
        return {short.get(name, name): value for name, value in by_name.items()}

    for name in ("verdicts", "variant_summaries", "latency"):
        description[name] = renamed(description[name])
    description["variants"] = [
        {**each, "name": short.get(each["name"], each["name"])} for each in description["variants"]
    ]
    description["failed"] = [
        {**each, "variant_name": short.get(each["variant_name"], each["variant_name"])}
        for each in description["failed"]
    ]
    description["baseline"] = short.get(sets.baseline, sets.baseline)
    return MultiDatasetStudy(sets.folder, {**description, "sites": blocks[0]["sites"]})


def _page_context(sets: MultiDatasetStudy, output: Path) -> dict[str, Any]:
    """Return the values that the template ``sets.jinja`` shows."""
    description = sets.description
    return {
        "baseline": sets.baseline,
        "margin": f"{100 * sets.margin:g}",
        "summary": summarize(sets),
        "plain_facts": _cost_sentences(sets) + _power_sentences(sets),
        "waiting": ", ".join(description["waiting"]),
        "verdicts": _verdict_table(sets),
        "verdict_texts": [
            f"{name}: {with_minus(verdict['text'])}" for name, verdict in sets.verdicts()
        ],
        "mean_chart": _mean_chart(sets),
        "heat_chart": _heat_chart(sets),
        "effects": set_effects_table(sets),
        "forest_charts": _forest_charts(sets),
        "costs": _cost_table(sets),
        "cost_charts": _cost_charts(sets),
        "failures": [
            f"{each['data_set']}: {each['variant_name']}, seed {each['seed']}: {each['error']}"
            for each in description["failed"]
        ],
        "sets": _set_table(sets),
        "power": _power_table(sets),
        "reports": any((output / name / PAGE).is_file() for name in sets.names()),
        "command": description.get("command"),
        "facts": _facts(sets),
    }


def summarize(sets: MultiDatasetStudy) -> str:
    """Return the result in one paragraph: the mean difference of each variant, by verdict."""
    verdicts = [
        (name, sets.verdict_of(verdict), verdict.get("difference"))
        for name, verdict in sets.verdicts()
    ]
    if not verdicts:
        return "There is no second variant to compare yet."
    names, seeds = sets.names(), len(sets.description["seeds"])
    sites = sets.description.get("sites")
    where = f" All blocks are at {list_names(sites)}." if sites else ""
    return (
        f"{verdict_answer(verdicts)} In parentheses: AP points more or less than {sets.baseline}, "
        f"mean over {len(names)} data sets ({', '.join(names)}; {seeds} seed"
        f"{'s' if seeds != 1 else ''} each).{where}"
    )


def _cost_sentences(sets: MultiDatasetStudy) -> list[str]:
    """Return one sentence per runtime on the latency of the variants."""
    sentences = []
    for runtime in _runtimes(sets):
        medians = {
            name: value_at(sets.description, "latency", name, runtime, "median_ms")
            for name in sets.styles()
        }
        base = medians.pop(sets.baseline)
        known = {name: value for name, value in medians.items() if value is not None}
        if base is None or not known:
            continue
        low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
        sentences.append(
            with_minus(
                f"Cost in {runtime}: {base:.1f} ms per image for {sets.baseline}; "
                f"{known[low] - base:+z.1f} ms for {low}, the fastest variant, and "
                f"{known[high] - base:+z.1f} ms for {high}, the slowest."
            )
        )
    return sentences


def _power_sentences(sets: MultiDatasetStudy) -> list[str]:
    """Return sentences on the seeds and test images that show a difference of one AP point."""
    powers = {each["name"]: each["power"] for each in sets.sets if each["power"] is not None}
    if not powers:
        return []
    seeds = {name: power["seeds"] for name, power in powers.items()}
    images = {name: power["images"][SHOWN_SEEDS] for name, power in powers.items()}
    had = {f"{name} ({power['images_measured']})": seeds[name] for name, power in powers.items()}
    sentences = []
    if any(seeds.values()):
        sentences.append(
            f"Detecting a true difference of one AP point to {sets.baseline} with 80 % probability "
            f"takes {_by_name(seeds, 'seeds')}, with the current test images."
        )
    if not all(seeds.values()):
        sentences.append(
            f"No number of seeds is enough with the test images of {_without_number(had)}."
        )
    if any(images.values()):
        sentences.append(f"With {SHOWN_SEEDS} seeds it takes {_by_name(images, 'test images')}.")
    if not all(images.values()):
        sentences.append(
            f"No number of test images is enough with {SHOWN_SEEDS} seeds on "
            f"{_without_number(images)}."
        )
    return [" ".join(sentences)]


def _by_name(numbers: Mapping[str, int | None], unit: str) -> str:
    """Return the known numbers with their names, smallest first.

    Example:
        >>> _by_name({"cells": 12, "cards": None, "plates": 4}, "seeds")
        '4 seeds on plates, 12 on cells'
    """
    known = sorted((count, name) for name, count in numbers.items() if count is not None)
    (count, name), *others = known
    return ", ".join([f"{count:,} {unit} on {name}", *(f"{n:,} on {where}" for n, where in others)])


def _without_number(numbers: Mapping[str, int | None]) -> str:
    return ", ".join(name for name, count in numbers.items() if count is None)


# --- tables ------------------------------------------------------------------------------------


def _verdict_table(sets: MultiDatasetStudy) -> Table:
    rows: list[Row] = []
    for name, verdict in sets.verdicts():
        i2 = verdict.get("i2")
        text = sets.verdict_of(verdict)
        rows.append(
            {
                "variant": name,
                "verdict": Cell(text, tone=verdict_tone(text), hint=verdict["text"]),
                "difference": points(verdict.get("difference"), signed=True),
                "95 % interval": interval(verdict.get("low"), verdict.get("high")),
                "next data set": interval(
                    verdict.get("prediction_low"), verdict.get("prediction_high")
                ),
                "p (Holm)": p_value(verdict.get("p_holm")),
                "sd between data sets": points(verdict.get("tau")),
                "I2": MISSING if i2 is None else f"{100 * i2:.0f} %",
                "data sets": str(len(verdict["sets"])),
                "data sets to add": number(verdict.get("further_sets")),
                "or seeds to add": number(verdict.get("further_seeds")),
            }
        )
    return Table.of(
        rows,
        "AP (mean over IoU 0.50 to 0.95) in points. Difference: variant minus "
        f"{sets.baseline}, mean over data sets. Next data set: 95 % prediction interval of the "
        "difference measured on one more. Sd: of the true differences, without noise.",
        text_columns=["verdict"],
    )


def set_effects_table(sets: MultiDatasetStudy) -> Table:
    """Return the table of the difference of each variant to the baseline on each data set."""
    rows: list[Row] = []
    for name, verdict in sets.verdicts():
        cells: Row = {"variant": name}
        for of in sets.names():
            found = verdict["by_set"].get(of) or {}
            cell = points(found.get("difference"), signed=True)
            hint = f"{found.get('verdict', 'not measured')}, 95 % interval "
            hint += str(interval(found.get("low"), found.get("high")))
            cells[of] = Cell(cell.text, cell.key, hint=hint)
        rows.append(cells)
    return Table.of(rows, "Differences in AP points by data set.")


def _cost_table(sets: MultiDatasetStudy) -> Table:
    description = sets.description
    runtimes = _runtimes(sets)
    base = description["variant_summaries"][sets.baseline].get("parameters")
    rows: list[Row] = []
    for name, costs in description["variant_summaries"].items():
        more = None if None in (base, costs["parameters"]) else costs["parameters"] - base
        row: Row = {
            "variant": name,
            "difference": points(
                value_at(description, "verdicts", name, "difference"), signed=True
            ),
            "parameters": number(costs["parameters"]),
            f"more than {sets.baseline}": number(more),
            "million MACs": number(costs["macs"], 1, scale=1e-6),
            "training, min": number(costs["seconds"], 1, scale=1 / 60),
            "memory, MiB": number(costs["memory_mib"]),
        }
        for runtime in runtimes:
            median = value_at(description, "latency", name, runtime, "median_ms")
            row[f"{runtime}, ms"] = number(median, 2)
        rows.append(row)
    where = machine_text(description.get("latency_machine") or {})
    note = f" Latency: median time for one image ({where})." if runtimes else ""
    return Table.of(rows, f"Means over the data sets.{note}")


def _set_table(sets: MultiDatasetStudy) -> Table:
    rows: list[Row] = [
        {
            "data set": each["name"],
            "classes": str(len(each["data"]["classes"])),
            **{name: number(each["data"]["splits"].get(name)) for name in ("train", "val", "test")},
            "measured on": each["data"]["measured_split"],
            "epochs": number(each["recipe"]["epochs"]),
            f"AP of {sets.baseline}": points(each["baseline_ap"]),
            "complete": "yes" if each["done"] else "no",
        }
        for each in sets.sets
    ]
    return Table.of(rows, "Images in each split.", text_columns=["measured on", "complete"])


def _power_table(sets: MultiDatasetStudy) -> Table:
    rows: list[Row] = []
    for each in sets.sets:
        power = each["power"]
        if power is None:
            continue
        rows.append(
            {
                "data set": each["name"],
                "sd between seeds": points(power["seed_sd"]),
                "se of test images": points(power["image_se"]),
                **{
                    f"shown with {seeds} seeds": points(value)
                    for seeds, value in power["detectable"].items()
                },
                "seeds for 1 point": number(power["seeds"]),
                "test images": number(power["images_measured"]),
                **{
                    f"images for 1 point, {seeds} seeds": number(count)
                    for seeds, count in power["images"].items()
                },
            }
        )
    return Table.of(
        rows,
        "Of the difference between two variants, points. Shown: smallest true difference that is "
        "detected with 80 % probability, for one variant and the baseline. "
        '"-": no number is enough.',
    )


def _variant_rows(sets: MultiDatasetStudy) -> list[dict[str, Any]]:
    """Return one flat record per variant; AP is 0 to 1."""
    names = ("difference", "low", "high", "p", "p_holm", "prediction_low", "prediction_high")
    more = ("tau", "i2", "q", "q_p", "further_sets", "further_seeds")
    return [
        {
            "variant": name,
            "verdict": verdict["verdict"],
            **{key: verdict.get(key) for key in (*names, *more)},
            "sets": len(verdict["sets"]),
            **sets.description["variant_summaries"][name],
            **{
                f"{runtime}_ms": value_at(sets.description, "latency", name, runtime, "median_ms")
                for runtime in _runtimes(sets)
            },
        }
        for name, verdict in sets.verdicts()
    ]


def _effect_rows(sets: MultiDatasetStudy) -> list[dict[str, Any]]:
    """Return one flat record per variant and data set; AP is 0 to 1."""
    return [
        {
            "variant": name,
            "data_set": of,
            "verdict": found["verdict"],
            **{
                key: found.get(key)
                for key in ("difference", "low", "high", "seed_se", "image_se", "ap", "baseline_ap")
            },
            "seeds": len(found.get("seeds") or ()),
        }
        for name, verdict in sets.verdicts()
        for of, found in verdict["by_set"].items()
    ]


# --- charts ------------------------------------------------------------------------------------


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _bar(
    label: str,
    found: Mapping[str, Any],
    style: int,
    values: Sequence[float] = (),
    *,
    is_prediction: bool = False,
) -> Interval:
    """Return the row of a chart, in points: a difference with its 95 % interval.

    Args:
        label: label of the row.
        found: verdict, difference and interval, 0 to 1.
        style: color index.
        values: differences shown as small dots, 0 to 1.
        is_prediction: the row shows the prediction interval, without text.
    """
    names = ("prediction_low", "prediction_high") if is_prediction else ("low", "high")
    low, high = (_percent(found[name]) for name in names)
    text = f"{points(found['difference'], signed=True)}, {found['verdict']}"
    return Interval(
        label,
        100 * found["difference"],
        low,
        high,
        [100 * value for value in values],
        "" if is_prediction else text,
        style,
    )


def _mean_chart(sets: MultiDatasetStudy) -> list[Image]:
    """Return the chart of the mean difference of each variant."""
    styles = sets.styles()
    rows = [
        _bar(
            name,
            verdict,
            styles[name],
            [verdict["by_set"][of]["difference"] for of in verdict["sets"]],
        )
        for name, verdict in sets.verdicts()
        if "difference" in verdict
    ]
    if not rows:
        return []
    label = f"difference in AP to {sets.baseline}, points"
    caption = (
        "Mean over data sets. Small dots: data sets. Bar: 95 % interval of the mean. Shaded: "
        "counts as no difference."
    )
    alt, settings = f"{label}, of each variant", {"x_label": label, "zone": _zone(sets)}
    return [chart_image("means", interval_chart, rows, caption, alt, **settings)]


def _zone(sets: MultiDatasetStudy) -> tuple[float, float]:
    return -100 * sets.margin, 100 * sets.margin


def _heat_chart(sets: MultiDatasetStudy) -> list[Image]:
    """Return the heat map of differences by variant and data set."""
    verdicts, names = sets.verdicts(), sets.names()
    values = [
        [_percent((verdict["by_set"].get(of) or {}).get("difference")) for of in names]
        for _, verdict in verdicts
    ]
    if not any(value is not None for row in values for value in row):
        return []
    clear = {
        (row, column)
        for row, (_, verdict) in enumerate(verdicts)
        for column, of in enumerate(names)
        if (verdict["by_set"].get(of) or {}).get("verdict") in ("helps", "hurts")
    }
    labels = {"rows": [name for name, _ in verdicts], "columns": names}
    caption = (
        f"Difference in AP to {sets.baseline}, points. Bold: helps or hurts on that data set, by "
        "the verdict there."
    )
    alt = "differences by variant and data set"
    return [chart_image("differences", heat_map, values, caption, alt, **labels, bold=clear)]


def _forest_charts(sets: MultiDatasetStudy) -> list[Image]:
    """Return the forest plot of each variant: data sets, mean, and prediction for the next one."""
    charts = []
    for index, (name, verdict) in enumerate(sets.verdicts()):
        style = sets.styles()[name]
        rows = [
            _bar(of, found, style, found["differences"])
            for of, found in verdict["by_set"].items()
            if found.get("difference") is not None
        ]
        if "difference" not in verdict:
            continue
        rows.append(_bar("mean", verdict, style))
        rows.append(_bar("next data set", verdict, style, is_prediction=True))
        label = f"{name}: difference in AP to {sets.baseline}, points"
        settings = {"x_label": label, "zone": _zone(sets)}
        caption = (
            f"{name}. Small dots: seeds. Bars: 95 % intervals; of the next data set, 95 % "
            "prediction interval."
        )
        alt = f"differences of {name} by data set"
        file = f"forest-{index:02}"
        charts.append(chart_image(file, interval_chart, rows, caption, alt, **settings))
    return charts


def _cost_charts(sets: MultiDatasetStudy) -> list[Image]:
    """Return charts of the mean difference by latency, one per runtime."""
    charts: list[Image] = []
    styles = sets.styles()
    for runtime in _runtimes(sets):
        dots = []
        for name in styles:
            verdict = sets.description["verdicts"].get(name, {})
            measured = value_at(sets.description, "latency", name, runtime)
            value = 0.0 if name == sets.baseline else _percent(verdict.get("difference"))
            if measured is None or value is None:
                continue
            low, high = _percent(verdict.get("low")), _percent(verdict.get("high"))
            y_range = None if low is None or high is None else (low, high)
            x_range = measured["low_ms"], measured["high_ms"]
            dots.append(Point(name, measured["median_ms"], value, x_range, y_range, styles[name]))
        caption = "Means over data sets. Vertical bars: 95 % intervals."
        y_label = f"difference to {sets.baseline}, points"
        charts += trade_off_chart("gain", runtime, dots, caption, y_label=y_label)
    return charts


# --- settings ----------------------------------------------------------------------------------


def without_paths(sets: MultiDatasetStudy) -> dict[str, Any]:
    """Return the content of sets.json with the names of the data sets instead of their paths."""
    shown = [{**each, "data": {**each["data"], "root": each["name"]}} for each in sets.sets]
    return {**sets.description, "sets": shown}


def _runtimes(sets: MultiDatasetStudy) -> list[str]:
    found = sets.description["latency"].values()
    return list(dict.fromkeys(runtime for by_runtime in found for runtime in by_runtime))


def _facts(sets: MultiDatasetStudy) -> list[tuple[str, str]]:
    description = sets.description
    return [
        *(
            (f"fingerprint of {each['name']}", str(each["data"]["fingerprint"]))
            for each in sets.sets
        ),
        ("seeds", ", ".join(map(str, description["seeds"]))),
        ("margin", f"{100 * sets.margin:g} AP points"),
        *flat({"pretrained": description.get("pretrained") or "none"}),
        *flat(_common_recipe(sets), "recipe"),
        *flat(description.get("versions") or {}),
        ("report", f"attendet {__version__}"),
    ]


def _common_recipe(sets: MultiDatasetStudy) -> dict[str, Any]:
    """Return the settings that all data sets have in common."""
    recipes = [each["recipe"] for each in sets.sets]
    first = recipes[0] if recipes else {}
    return {
        name: value
        for name, value in first.items()
        if all(recipe.get(name) == value for recipe in recipes)
    }
