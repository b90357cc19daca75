"""What a detector looks at, as a page, images and numbers to keep."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from attendet import __version__
from attendet.errors import ConfigError
from attendet.explain.explanation import Explanation, ImageExplanation
from attendet.explain.gates import crop_to_image, gate_map
from attendet.explain.health import (
    END,
    FLAT,
    SWITCHED,
    BlockHealth,
    GateNumbers,
    GateStatistics,
    Verdict,
)
from attendet.files import write_atomically
from attendet.images import ImageArray
from attendet.report import (
    Cell,
    Page,
    Series,
    draw_detections,
    draw_gate_profiles,
    draw_sorted_gates,
    gate_overlay,
    image_grid,
    line_chart,
    to_jpeg,
)
from attendet.report.html import Tone

__all__ = ["write_explanation"]

CELL_WIDTH = 480
"""Width of an image on the page, pixels."""

LAYOUT = "attendet/explanation/1"
"""Name and version of the layout of health.json."""

TONES: dict[Verdict, Tone] = {
    "works": "good",
    "idle": "warn",
    "constant": "warn",
    "mask": "warn",
    "switch": "warn",
    "unknown": "quiet",
}

Floats = NDArray[np.floating]
Span = tuple[float, float]


def write_explanation(explanation: Explanation, folder: str | Path, *, command: str = "") -> Path:
    """Write an explanation into a folder; return the path of its page.

    ``explain.html`` opens offline. Beside it, for each image that was kept, ``NAME.png`` and
    ``NAME.npz`` (see `ImageExplanation.arrays`); for all images together ``statistics.npz``
    (``mean/SITE/GATE``, ``deviation/SITE/GATE`` over images on a grid of 16 places an axis, and
    ``channels/SITE``) and ``health.json``.

    Args:
        explanation: what `explain` returned.
        folder: made if it is not there; files of the same names are replaced.
        command: what was called, for the page.

    Raises:
        ConfigError: if a file would take the place of an explained image, or of another file.
    """
    folder = Path(folder)
    for one in explanation.images:
        if one.source.name == "statistics":  # the file of all images together
            raise ConfigError(f"image must not be called statistics; rename {one.source.path}.")
        if (folder / f"{one.source.name}.png").resolve() == Path(one.source.path).resolve():
            raise ConfigError(
                f"output must not be the folder of the images; got {str(folder)!r}, where "
                f"{Path(one.source.path).name} would be replaced (--output). Choose another."
            )
    health = explanation.health()
    page = Page("What the attention does", contents=True)
    _add_summary(page, explanation, health)
    _add_health(page, health)
    _add_statistics(page, explanation)
    _add_images(page, explanation, folder)
    _add_end(page, explanation, command)
    content = {
        "layout": LAYOUT,
        "version": __version__,
        "images": explanation.count,
        "skipped": [one.reason for one in explanation.skipped],
        "blocks": {site: one.to_record() for site, one in health.items()},
    }
    write_atomically(folder / "health.json", json.dumps(content, indent=1) + "\n")
    write_atomically(folder / "statistics.npz", _to_npz(_statistics_arrays(explanation)))
    return page.write(folder / "explain.html")


def _to_npz(arrays: dict[str, NDArray[np.generic]]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _statistics_arrays(explanation: Explanation) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = {}
    for site, statistics in explanation.statistics.items():
        for name in statistics.running:
            mean, deviation = statistics.profile(name)
            arrays[f"mean/{site}/{name}"] = mean.astype(np.float32)
            arrays[f"deviation/{site}/{name}"] = deviation.astype(np.float32)
        arrays[f"channels/{site}"] = statistics.channel_means().astype(np.float32)
    return arrays


def _add_summary(page: Page, explanation: Explanation, health: dict[str, BlockHealth]) -> None:
    metadata = explanation.metadata
    height, width = metadata.input_hw
    images = "one image" if explanation.count == 1 else f"{explanation.count} images"
    page.add_text(
        f"A {metadata.architecture} network with attention {metadata.attention!r}, "
        f"{len(metadata.classes)} classes, {width} x {height} pixels, seen on {images}."
    )
    if not health:
        page.add_lead("This network has no attention: there are no gates to show.")
        return
    page.add_list([f"{site}: {one.sentence}" for site, one in health.items()])


def _add_health(page: Page, health: dict[str, BlockHealth]) -> None:
    if not health:
        return
    page.add_section("Health of the gates")
    rows: list[list[object]] = []
    for site, one in health.items():
        product = one.product
        ends = [gate.saturated for gate in one.gates.values() if gate.saturated is not None]
        saturated = max(ends, default=None)
        rows.append(
            [
                site,
                Cell(one.verdict, tone=TONES[one.verdict], hint=one.sentence),
                one.kind,
                f"{product.mean:.3f}",
                *_spreads(product),
                f"{product.distance:.3f}",
                "-" if saturated is None else f"{saturated:.1%}",
            ]
        )
    page.add_table(
        [
            "site",
            "verdict",
            "block",
            "mean",
            "by image",
            "by place",
            "by channel",
            "from 1",
            "saturated",
        ],
        rows,
        words={1, 2},
        sortable=len(rows) > 1,
        caption="The product of each block's gates, over all images, places and channels.",
    )
    gates = [
        [
            f"{site} {name}",
            f"{gate.mean:.3f}",
            f"{gate.least:.3f}",
            f"{gate.greatest:.3f}",
            *_spreads(gate),
            f"{gate.distance:.3f}",
            "-" if gate.saturated is None else f"{gate.saturated:.1%}",
        ]
        for site, one in health.items()
        for name, gate in one.gates.items()
    ]
    page.add_table(
        [
            "gate",
            "mean",
            "least",
            "greatest",
            "by image",
            "by place",
            "by channel",
            "from 1",
            "saturated",
        ],
        gates,
        sortable=len(gates) > 1,
        caption="Each gate alone.",
    )
    page.add_text(
        "By image, by place, by channel: standard deviations that split the whole variance of a "
        "gate; a gate that attends differs by image or by place. From 1: root mean square of "
        "gate - 1, so 0 is a gate that does nothing. Values over the gray border that fills up a "
        "image to the network's input are left out."
    )
    page.add_text(
        f"Constant is a gate that varies by less than {FLAT:.0%} of its mean between images and "
        f"places, idle one that is also within {FLAT:g} of 1: one step of an 8-bit activation is "
        "1/127 = 0.8 % of its range, so less than that is lost when the network is quantized. A "
        "mask differs by place but not between images. Saturated is a value within "
        f"{END:.0%} of the ends of its range, where the sigmoid's slope is below 4 % of its "
        f"greatest; a switch is a block with {SWITCHED:.0%} of such values in each gate."
    )


def _spreads(gate: GateNumbers) -> list[str]:
    spreads = (gate.spread_images, gate.spread_places, gate.spread_channels)
    return [f"{spread:.4f}" for spread in spreads]


def _add_statistics(page: Page, explanation: Explanation) -> None:
    if not explanation.statistics:
        return
    page.add_section("The gates over all images")
    for site, statistics in explanation.statistics.items():
        page.add_heading(f"{site}: {statistics.kind}, {statistics.channels} channels")
        _add_channels(page, statistics)
        if {"height", "width"} <= set(statistics.running):
            _add_profiles(page, statistics)
        if "spatial" in statistics.running:
            mean, _ = statistics.profile("spatial")
            shown = gate_overlay(_gray(explanation), mean[0].astype(np.float32), opacity=1.0)
            caption = (
                f"The spatial gate, mean over images: {mean.min():.3f} (dark) to "
                f"{mean.max():.3f} (bright)."
            )
            page.add_gallery([(to_jpeg(shown), caption)])


def _gray(explanation: Explanation) -> ImageArray:
    height, width = explanation.metadata.input_hw
    return np.full((max(1, round(height * CELL_WIDTH / width)), CELL_WIDTH, 3), 128, dtype=np.uint8)


def _add_channels(page: Page, statistics: GateStatistics) -> None:
    """Add the gates of the channels, the greatest first, with their spread between images."""
    means = statistics.channel_means()
    order = np.argsort(-means, kind="stable")
    series = [
        Series("all gates", [(rank + 1, float(means[one])) for rank, one in enumerate(order)])
    ]
    if "channel" in statistics.running and statistics.images > 1:
        _, deviation = statistics.profile("channel")
        spread = deviation.mean(axis=(1, 2))
        gate = statistics.profile("channel")[0].mean(axis=(1, 2))
        ranked = np.argsort(-gate, kind="stable")
        series = [
            Series(
                "channel gate",
                [(rank + 1, float(gate[one])) for rank, one in enumerate(ranked)],
                [
                    (rank + 1, float(gate[one] - spread[one]), float(gate[one] + spread[one]))
                    for rank, one in enumerate(ranked)
                ],
            )
        ]
    words = "channel gate" if "channel" in statistics.running else "product of the gates"
    page.add_chart(
        line_chart(
            series,
            alt=f"{words} of each channel at {statistics.site}, sorted",
            x_label="channels, the most open first",
            y_label=words,
            height=240,
        ),
        "Each channel's mean; the band is one standard deviation between images."
        if series[0].band
        else "Each channel's mean over images and places.",
    )


def _add_profiles(page: Page, statistics: GateStatistics) -> None:
    """Add the row and column gates along the image, mean over channels."""
    series = []
    for tone, (name, words) in enumerate((("height", "rows"), ("width", "columns"))):
        mean, deviation = (part.mean(axis=0).ravel() for part in statistics.profile(name))
        places = (np.arange(len(mean)) + 0.5) / len(mean)
        triples = list(zip(places, mean, deviation, strict=True))
        series.append(
            Series(
                f"{words}, mean over channels",
                [(float(x), float(y)) for x, y, _ in triples],
                [(float(x), float(y - d), float(y + d)) for x, y, d in triples],
                tone=tone,
            )
        )
    page.add_chart(
        line_chart(
            series,
            alt=f"row and column gates along the image at {statistics.site}",
            x_label="place in the image: 0 top or left, 1 bottom or right",
            y_label="gate",
            x_range=(0, 1),
            height=280,
        ),
        "The band is how much a channel's gate at that place differs between images (one "
        "standard deviation, mean over channels).",
    )


def _add_images(page: Page, explanation: Explanation, folder: Path) -> None:
    if not explanation.images:
        return
    page.add_section("ImageArrays")
    shown = len(explanation.images)
    which = "All" if shown == explanation.count else f"The first {shown} of {explanation.count}"
    page.add_text(
        f"{which} images. Activation: what raised the scores of the detections of a class, on "
        "the last map that all outputs see (Layer-CAM); bright is much. Gates: the product of a "
        "block's gates at each place, mean over channels; dark and bright are the two values "
        "behind 'scale', the same on all images. Row gates stand along the right edge and column "
        "gates below, with least and greatest value in the corner. Channel gates are sorted."
    )
    spans = _spans(explanation)
    for one in explanation.images:
        found = _found_panels(one)
        gates = [
            panel
            for site, named in one.gates.items()
            for panel in _site_panels(one, site, named, spans)
        ]
        page.add_heading(Path(one.source.label).name)
        for panels, least_width in ((found, 300), (gates, 420)):
            if panels:
                page.add_gallery(
                    [(to_jpeg(image, 88), words) for image, words in panels],
                    least_width=least_width,
                )
        sheet = image_grid(
            [image for image, _ in [*found, *gates]],
            min(3, len(found) + len(gates)),
            captions=[words for _, words in [*found, *gates]],
            cell_width=CELL_WIDTH,
        )
        _, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
        write_atomically(folder / f"{one.source.name}.png", png.tobytes())
        write_atomically(folder / f"{one.source.name}.npz", _to_npz(one.arrays()))


def _spans(explanation: Explanation) -> dict[str, Span]:
    """Return least and greatest of each site's map, and of its profiles, over the images."""
    spans: dict[str, Span] = {}
    for one in explanation.images:
        for site in one.gates:
            inside = one.inside(site)
            opened = gate_map(inside)
            if opened is not None:
                _widen(spans, site, opened)
            for name in ("height", "width"):
                if name in inside:
                    _widen(spans, f"{site} {name}", inside[name].mean(axis=0))
    return spans


def _widen(spans: dict[str, Span], name: str, values: Floats) -> None:
    low, high = spans.get(name, (np.inf, -np.inf))
    spans[name] = min(low, float(values.min())), max(high, float(values.max()))


def _found_panels(one: ImageExplanation) -> list[tuple[ImageArray, str]]:
    """Return the image with its detections, and the activation map of each class."""
    small = _scaled(one.image)
    found = one.detections
    boxes_xyxy = found.boxes_xyxy * (small.shape[1] / one.image.shape[1])
    drawn = draw_detections(small, boxes_xyxy, found.names, found.class_ids, found.scores)
    panels = [(drawn, f"detections: {len(found)}")]
    for name, activation in one.cams.items():
        count = found.names.count(name)
        words = f"activation: {name}, {count} detected"
        panels.append((gate_overlay(small, activation, opacity=0.7), words))
    return panels


def _site_panels(
    one: ImageExplanation,
    site: str,
    gates: dict[str, NDArray[np.float32]],
    spans: dict[str, Span],
) -> Iterator[tuple[ImageArray, str]]:
    """Give the image under the gates of a site, and the site's channel gates, with captions."""
    small = _scaled(one.image)
    opened = gate_map(gates)
    if opened is not None:
        inside = crop_to_image(opened, one.transform)
        panel = gate_overlay(small, inside, value_range=spans[site])
        if {"height", "width"} <= set(gates):
            rows = crop_to_image(gates["height"].mean(0), one.transform)[:, 0]
            columns = crop_to_image(gates["width"].mean(0), one.transform)[0]
            panel = draw_gate_profiles(
                panel,
                rows,
                columns,
                row_range=spans[f"{site} height"],
                column_range=spans[f"{site} width"],
            )
        low, high = spans[site]
        words = f"{site}: gates {inside.min():.3f} - {inside.max():.3f}"
        yield panel, f"{words}, scale {low:.3f} - {high:.3f}"
    if "channel" in gates:
        channels = gates["channel"].ravel()
        top = 2.0 if float(channels.max()) > 1 else 1.0
        height, width = small.shape[:2]
        yield (
            draw_sorted_gates(channels, width, height // 2, top=top),
            f"{site}: channel gates, sorted",
        )


def _scaled(image: ImageArray) -> ImageArray:
    height = max(1, round(image.shape[0] * CELL_WIDTH / image.shape[1]))
    smaller = image.shape[1] > CELL_WIDTH
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    resized = cv2.resize(image, (CELL_WIDTH, height), interpolation=method)
    return np.asarray(resized, dtype=np.uint8)


def _add_end(page: Page, explanation: Explanation, command: str) -> None:
    page.add_section("How this was made")
    if command:
        page.add_code(command)
    page.add_facts(
        [
            ("attendet", __version__),
            ("weights from", explanation.metadata.version or "unknown"),
            ("PyTorch", str(torch.__version__)),
            ("machine", f"{platform.system()} {platform.machine()}"),
            ("files", "explain.html, health.json, statistics.npz; NAME.png and NAME.npz an image"),
        ]
    )
    if explanation.skipped:
        page.add_text(f"{len(explanation.skipped)} images could not be read:")
        page.add_list([one.reason for one in explanation.skipped])
