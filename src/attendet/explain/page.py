"""HTML page of an explanation, and its images and numbers as files."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from attendet import __version__
from attendet.errors import ConfigError
from attendet.explain.explanation import Explanation, ImageExplanation
from attendet.explain.gates import crop_to_image, gate_map
from attendet.explain.health import (
    CONSTANT,
    END,
    SWITCH,
    BlockHealth,
    GateNumbers,
    GateStatistics,
    Verdict,
    percent,
)
from attendet.files import write_atomically
from attendet.images import ImageArray
from attendet.report.charts import Line, chart_image, line_chart
from attendet.report.draw import (
    draw_detections,
    draw_gate_profiles,
    draw_sorted_gates,
    gate_overlay,
    image_grid,
    scale_to_width,
    to_jpeg,
)
from attendet.report.fonts import drawable_name, numbered_classes
from attendet.report.pages import Cell, Image, Table, Tone, render_html

CELL_WIDTH = 480
"""Width of an image on the page, pixels."""

LAYOUT = "attendet/explanation/1"
"""Name and version of the layout of health.json."""

TONES: dict[Verdict, Tone] = {"works": "good", "unknown": "quiet"}
"""Color of a verdict; all others are warnings."""

Floats = NDArray[np.floating]
Panel = tuple[ImageArray, str]
"""An image and its caption."""


def write_explanation(explanation: Explanation, folder: str | Path, *, command: str = "") -> Path:
    """Write an explanation into a folder and return the path of its page.

    ``explain.html`` works offline. For each image that was kept: ``NAME.png`` and ``NAME.npz`` (see
    `ImageExplanation.arrays`). For all images together: ``statistics.npz`` (``mean/SITE/GATE`` and
    ``deviation/SITE/GATE`` over images on a grid of 16 positions per axis, ``channels/SITE``) and
    ``health.json``.

    Args:
        explanation: result of `explain`.
        folder: created if it is missing; files with the same names are replaced.
        command: command line to show on the page.

    Raises:
        ConfigError: if a file would replace an explained image or another file.
    """
    folder = Path(folder)
    _check_names(explanation, folder)
    health = explanation.health()
    ranges = gate_ranges(explanation.images)
    images = []
    for number, one in enumerate(explanation.images, start=1):
        panels = _detection_panels(one), list(gate_panels(one, ranges))
        galleries = [to_gallery(f"{number}-{i}", part) for i, part in enumerate(panels) if part]
        images.append((Path(one.source.label).name, galleries))
        shown = [*panels[0], *panels[1]]
        sheet = image_grid(
            [image for image, _ in shown],
            min(3, len(shown)),
            captions=[caption for _, caption in shown],
            cell_width=CELL_WIDTH,
        )
        _, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
        write_atomically(folder / f"{one.source.name}.png", png.tobytes())
        write_atomically(folder / f"{one.source.name}.npz", _to_npz(one.arrays()))
    page = render_html(
        "explain",
        "What the attention does",
        metadata=explanation.metadata,
        count=explanation.count,
        answer=_answer(health),
        sentences=[f"{site}: {one.sentence}" for site, one in health.items()],
        block_table=block_table(health),
        gate_table=gate_table(health),
        limits={"constant": CONSTANT, "end": END, "switch": SWITCH},
        statistics=[_site_charts(one) for one in explanation.statistics.values()],
        images=images,
        numbered=numbered_classes(explanation.metadata.classes),
        command=command,
        facts=[
            ("attendet", __version__),
            ("weights made with attendet", explanation.metadata.version or "unknown"),
            ("PyTorch", str(torch.__version__)),
            ("machine", f"{platform.system()} {platform.machine()}"),
            ("files", "explain.html, health.json, statistics.npz; NAME.png and NAME.npz per image"),
        ],
        skipped=[one.reason for one in explanation.skipped],
    )
    record = {
        "layout": LAYOUT,
        "version": __version__,
        "images": explanation.count,
        "skipped": [one.reason for one in explanation.skipped],
        "blocks": {site: asdict(one) for site, one in health.items()},
    }
    write_atomically(folder / "health.json", json.dumps(record, indent=1) + "\n")
    write_atomically(folder / "statistics.npz", _to_npz(_statistics_arrays(explanation)))
    return write_atomically(folder / "explain.html", page)


def _check_names(explanation: Explanation, folder: Path) -> None:
    for one in explanation.images:
        if one.source.name == "statistics":  # used by statistics.npz
            raise ConfigError(f"image must not be called statistics; rename {one.source.path}.")
        if (folder / f"{one.source.name}.png").resolve() == Path(one.source.path).resolve():
            raise ConfigError(
                f"output must not be the folder of the images; got {str(folder)!r}, where "
                f"{Path(one.source.path).name} would be replaced (--output). Choose another."
            )


def _to_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _statistics_arrays(explanation: Explanation) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for site, statistics in explanation.statistics.items():
        for name in statistics.gates:
            mean, deviation = statistics.profile(name)
            arrays[f"mean/{site}/{name}"] = mean.astype(np.float32)
            arrays[f"deviation/{site}/{name}"] = deviation.astype(np.float32)
        arrays[f"channels/{site}"] = statistics.channel_means().astype(np.float32)
    return arrays


def _answer(health: Mapping[str, BlockHealth]) -> str:
    """Return one or two sentences: whether the gates depend on the images."""
    if not health:
        return "This network has no attention, so it has no gates."
    sites: dict[Verdict, list[str]] = {}
    for site, one in health.items():
        sites.setdefault(one.verdict, []).append(site)
    if set(sites) == {"unknown"}:
        return "One image cannot show whether the gates depend on the content. Use several images."
    count, works = len(health), len(sites.pop("works", []))
    answer = f"The gates of {works} of {count} attention blocks depend on the image."
    others = [f"{', '.join(names)} ({verdict})" for verdict, names in sites.items()]
    return f"{answer} The others: {', '.join(others)}." if others else answer


def block_table(health: Mapping[str, BlockHealth]) -> Table:
    """Return verdict and gate statistics of each attention block."""
    rows = []
    for site, one in health.items():
        ends = [gate.saturated for gate in one.gates.values() if gate.saturated is not None]
        tone = TONES.get(one.verdict, "warn")
        rows.append(
            {
                "site": site,
                "verdict": Cell(one.verdict, tone=tone, hint=one.sentence),
                "block": one.kind,
                **_columns(one.product, max(ends, default=None)),
            }
        )
    caption = "Product of each block's gates, over all images, positions and channels."
    return Table.of(rows, caption, text_columns=["verdict", "block"])


def gate_table(health: Mapping[str, BlockHealth]) -> Table:
    """Return the statistics of each gate."""
    rows = [
        {"gate": f"{site} {name}", **_columns(gate, gate.saturated)}
        for site, one in health.items()
        for name, gate in one.gates.items()
    ]
    return Table.of(rows, "Each gate, over all images, positions and channels.")


def _columns(gate: GateNumbers, saturated: float | None) -> dict[str, Cell | str]:
    return {
        "mean": f"{gate.mean:.3f}",
        "min": f"{gate.min:.3f}",
        "max": f"{gate.max:.3f}",
        "sd by image": f"{gate.std_images:.4f}",
        "sd by position": f"{gate.std_positions:.4f}",
        "sd by channel": f"{gate.std_channels:.4f}",
        "from 1": f"{gate.distance_from_1:.3f}",
        "saturated": "-" if saturated is None else percent(saturated),
    }


def _site_charts(statistics: GateStatistics) -> tuple[str, list[Image]]:
    """Return heading and charts of a site: channels, profiles, spatial gate."""
    charts = [_channel_chart(statistics)]
    if {"height", "width"} <= set(statistics.gates):
        charts.append(_profile_chart(statistics))
    if "spatial" in statistics.gates:
        mean = statistics.profile("spatial")[0][0].astype(np.float32)
        square = np.full((CELL_WIDTH, CELL_WIDTH, 3), 128, dtype=np.uint8)
        caption = (
            f"Spatial gate, mean over images: {mean.min():.3f} (dark) to {mean.max():.3f} (bright)."
        )
        charts.append(Image("spatial.jpg", to_jpeg(gate_overlay(square, mean, opacity=1)), caption))
    return f"{statistics.site}: {statistics.kind}, {statistics.channels} channels", charts


def _channel_chart(statistics: GateStatistics) -> Image:
    """Return the chart of the product of the gates of each channel, highest first."""
    means, deviations = (part.mean(axis=(1, 2)) for part in statistics.profile())
    order = np.argsort(-means, kind="stable")
    means, deviations = means[order], deviations[order]
    ranks = range(1, len(means) + 1)
    line = Line("product of the gates", ranks, means, (means - deviations, means + deviations))
    caption = "Mean of each channel. Band: one standard deviation between images."
    alt = f"Product of the gates of each channel at {statistics.site}, highest first"
    labels = {"x_label": "channels, highest first", "y_label": line.label}
    return chart_image("channels", line_chart, [line], caption, alt, **labels, height=2.6)


def _profile_chart(statistics: GateStatistics) -> Image:
    """Return the chart of row and column gates along the image, mean over channels."""
    lines = []
    for style, (name, label) in enumerate((("height", "rows"), ("width", "columns"))):
        mean, deviation = (part.mean(axis=0).ravel() for part in statistics.profile(name))
        positions = ((np.arange(len(mean)) + 0.5) / len(mean)).tolist()
        lines.append(Line(label, positions, mean, (mean - deviation, mean + deviation), style))
    caption = "Band: one standard deviation of a gate between images, mean over channels."
    return chart_image(
        "profiles",
        line_chart,
        lines,
        caption,
        f"Row and column gates along the image at {statistics.site}",
        x_label="position: 0 top or left, 1 bottom or right",
        y_label="gate, mean over channels",
        x_range=(0, 1),
        height=2.8,
    )


def gate_ranges(images: Sequence[ImageExplanation]) -> dict[str, tuple[float, float]]:
    """Return minimum and maximum of each site's gate map and profiles over all images."""
    maps: dict[str, list[Floats]] = {}
    for one in images:
        for site in one.gates:
            inside = one.inside(site)
            product = gate_map(inside)
            if product is not None:
                maps.setdefault(site, []).append(product)
            for name in {"height", "width"} & set(inside):
                maps.setdefault(f"{site} {name}", []).append(inside[name].mean(axis=0))
    return {
        name: (min(float(one.min()) for one in several), max(float(one.max()) for one in several))
        for name, several in maps.items()
    }


def _detection_panels(one: ImageExplanation) -> list[Panel]:
    """Return the image with its detections, and the activation map of each class."""
    image, found = scale_to_width(one.image, CELL_WIDTH), one.detections
    boxes_xyxy = found.boxes_xyxy * (CELL_WIDTH / one.image.shape[1])
    drawn = draw_detections(image, boxes_xyxy, found.names, found.class_ids, found.scores)
    panels = [(drawn, f"detections: {len(found)}")]
    for name, activation in one.cams.items():
        shown = drawable_name(name, found.classes.index(name))
        caption = f"activation: {shown}, {found.names.count(name)} detected"
        panels.append((gate_overlay(image, activation, opacity=0.7), caption))
    return panels


def gate_panels(
    one: ImageExplanation, ranges: Mapping[str, tuple[float, float]]
) -> Iterator[Panel]:
    """Yield the gate map and channel gates of each site for an image, with captions.

    Args:
        one: the image.
        ranges: scale of each map and profile, as `gate_ranges` returns it.
    """
    image = scale_to_width(one.image, CELL_WIDTH)
    for site, gates in one.gates.items():
        product = gate_map(gates)
        if product is not None:
            inside = crop_to_image(product, one.transform)
            panel = gate_overlay(image, inside, value_range=ranges[site])
            if {"height", "width"} <= set(gates):
                panel = draw_gate_profiles(
                    panel,
                    crop_to_image(gates["height"].mean(0), one.transform)[:, 0],
                    crop_to_image(gates["width"].mean(0), one.transform)[0],
                    row_range=ranges[f"{site} height"],
                    column_range=ranges[f"{site} width"],
                )
            low, high = ranges[site]
            values = f"{inside.min():.3f} - {inside.max():.3f}"
            yield panel, f"{site}: gates {values}, scale {low:.3f} - {high:.3f}"
        if "channel" in gates:
            channels = gates["channel"].ravel()
            top = 2.0 if float(channels.max()) > 1 else 1.0
            strip = draw_sorted_gates(channels, CELL_WIDTH, image.shape[0] // 2, top=top)
            yield strip, f"{site}: channel gates, sorted"


def to_gallery(name: str, panels: Iterable[Panel]) -> list[Image]:
    """Return panels as JPEG images of a page, with file names that start with a name."""
    return [
        Image(f"{name}-{number}.jpg", to_jpeg(image, 88), caption)
        for number, (image, caption) in enumerate(panels)
    ]
