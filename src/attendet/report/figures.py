"""Figures from result records: training curves, precision-recall curves, confusion matrices.

Each function returns a matplotlib figure of its own; no global state of matplotlib is used.
`to_png`, `to_svg` and `save_figure` give the file.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attendet.errors import ConfigError
from attendet.files import write_atomically
from attendet.report.palette import INK, MUTED, PALETTE, to_hex
from attendet.system import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "confusion_figure",
    "precision_recall_figure",
    "save_figure",
    "to_png",
    "to_svg",
    "training_figure",
]

MAX_NAMED_CURVES = 10
MAX_NUMBERED_CELLS = 16
LINES = ("-", "--", "-.", ":")
COLORS = [to_hex(color) for color in PALETTE]
GRID = "#d1d9e0"


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, with a network input of its own."""
    module = require("matplotlib.figure", extra="train", purpose="drawing figures")
    agg = require("matplotlib.backends.backend_agg", extra="train", purpose="drawing figures")
    figure: Figure = module.Figure(figsize=(width, height), dpi=144, layout="constrained")
    figure.set_facecolor("white")
    agg.FigureCanvasAgg(figure)
    return figure


def _dress(axes: Axes, *, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Give axes the common look: left and bottom lines, a faint grid, letters of 10 points."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=to_hex(INK))
    axes.set_xlabel(xlabel, fontsize=10, color=to_hex(INK))
    axes.set_ylabel(ylabel, fontsize=10, color=to_hex(INK))
    axes.tick_params(labelsize=9, colors=to_hex(INK), length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(to_hex(MUTED))
    axes.grid(True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def _style(index: int) -> dict[str, Any]:
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": LINES[index // len(COLORS) % len(LINES)],
    }


def training_figure(epochs: Sequence[Mapping[str, Any]]) -> Figure:
    """Return the course of a training run: loss terms, average precision and learning rate.

    Args:
        epochs: a record an epoch: ``epoch`` (int), ``losses`` (name to value), and where they are
            known ``ap``, ``ap50`` (0 to 1 or None) and ``learning_rate``.

    Raises:
        ConfigError: if there is no record.
        MissingExtraError: if matplotlib is not installed.
    """
    if not epochs:
        raise ConfigError("epochs must be at least one record; got none. Train an epoch first.")
    figure = _figure(10.5, 3.4)
    losses, quality, rate = figure.subplots(1, 3, width_ratios=(1.15, 1.15, 0.8))
    numbers = [record["epoch"] for record in epochs]
    mark = "o" if len(epochs) == 1 else ""
    names = list(dict.fromkeys(name for record in epochs for name in record.get("losses", {})))
    for index, name in enumerate(names):
        values = [_number(record.get("losses", {}).get(name)) for record in epochs]
        losses.plot(numbers, values, label=name, linewidth=1.8, marker=mark, **_style(index))
    _dress(losses, title="Loss terms", xlabel="epoch", ylabel="loss")
    losses.set_ylim(bottom=0)
    for index, (name, label) in enumerate((("ap50", "AP50"), ("ap", "AP (0.50:0.95)"))):
        points = [(r["epoch"], r[name]) for r in epochs if r.get(name) is not None]
        if points:
            look = {"linewidth": 1.8, "markersize": 3, **_style(index)}
            dot = "o" if len(points) < 40 else ""
            quality.plot(*zip(*points, strict=True), label=label, marker=dot, **look)
    _dress(quality, title="Average precision, validation", xlabel="epoch")
    quality.set_ylim(0, 1)
    rates = [_number(record.get("learning_rate")) for record in epochs]
    rate.plot(numbers, rates, linewidth=1.8, marker=mark, color=to_hex(MUTED))
    _dress(rate, title="Learning rate", xlabel="epoch")
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_formatter("{x:g}")
    for axes in (losses, quality, rate):
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=9, frameon=False)
    return figure


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def precision_recall_figure(record: Mapping[str, Any]) -> Figure:
    """Return the precision-recall curves of an evaluation record.

    Up to ten classes have a named curve each; more are drawn thin and gray under their mean.

    Args:
        record: as `attendet.evaluation.compute_metrics` returns, with curves.

    Raises:
        ConfigError: if the record has no curves.
        MissingExtraError: if matplotlib is not installed.
    """
    if "precision_recall" not in record:
        raise ConfigError("record must hold precision_recall. Evaluate with curves=True.")
    curves = record["precision_recall"]["per_class"]
    iou = record["precision_recall"]["iou"]
    figure = _figure(6.2, 4.4)
    axes = figure.subplots()
    few = len(curves) <= MAX_NAMED_CURVES
    for index, (name, curve) in enumerate(curves.items()):
        look = (
            {**_style(index), "linewidth": 1.8, "label": name}
            if few
            else {"color": to_hex(MUTED), "linewidth": 0.5, "alpha": 0.5}
        )
        axes.plot(curve["recall"], curve["precision"], **look)
    if len(curves) > 1:
        mean = np.mean([curve["precision"] for curve in curves.values()], axis=0)
        recall = next(iter(curves.values()))["recall"]
        label = "mean" if few else f"mean of {len(curves)} classes"
        axes.plot(recall, mean, color=to_hex(INK), linewidth=2.6, label=label)
    _dress(
        axes, title=f"Precision and recall at IoU {iou:.2f}", xlabel="recall", ylabel="precision"
    )
    axes.set_xlim(0, 1.005)
    axes.set_ylim(0, 1.02)
    axes.set_aspect("equal")
    if curves:
        axes.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def confusion_figure(record: Mapping[str, Any]) -> Figure:
    """Return the confusion matrix of an evaluation record: shares of each row, and counts.

    Args:
        record: as `attendet.evaluation.compute_metrics` returns, with curves.

    Raises:
        ConfigError: if the record has no confusion matrix.
        MissingExtraError: if matplotlib is not installed.
    """
    if "confusion" not in record:
        raise ConfigError("record must hold confusion. Evaluate with curves=True.")
    confusion = record["confusion"]
    labels = confusion["labels"]
    counts = np.array(confusion["matrix"], dtype=np.int64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(2.4 + 0.62 * len(labels), 4.6, 14))
    figure = _figure(side + 0.9, side)
    axes = figure.subplots()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    numbered = len(labels) <= MAX_NUMBERED_CELLS
    for row, column in np.ndindex(*counts.shape) if numbered else ():
        if (row, column) == (len(labels) - 1, len(labels) - 1):
            continue
        count, share = counts[row, column], shares[row, column]
        color = "white" if share > 0.55 else to_hex(INK)
        text = f"{count}\n{_percent(share)}" if count else "0"
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=9,
            color=color if count else to_hex(MUTED),
        )
    _dress(axes, xlabel="detected as", ylabel="gt")
    axes.set_title(
        f"Confusions at confidence {confusion['confidence']:.2f}, IoU {confusion['iou']:.2f}",
        loc="left",
        fontsize=11,
        fontweight="bold",
        color=to_hex(INK),
    )
    axes.grid(False)
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("share of the row", fontsize=10, color=to_hex(INK))
    bar.ax.tick_params(labelsize=9)
    bar.outline.set_visible(False)
    return figure


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "<1%"


def to_png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure: Figure) -> str:
    """Return a figure as SVG text, the same for the same figure."""
    matplotlib = require("matplotlib", extra="train", purpose="drawing figures")
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "attendet", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure, whole or not at all, as SVG if the name ends so, else as PNG."""
    path = Path(path)
    content = to_svg(figure) if path.suffix.lower() == ".svg" else to_png(figure)
    return write_atomically(path, content)
