"""Images, figures, tables and pages from result records, and from nothing else.

`attendet.report.draw` and `attendet.report.tables` need nothing beyond the package's own
dependencies; `attendet.report.figures` needs matplotlib when a figure is made.
"""

from __future__ import annotations

from attendet.report.chart import (
    Dot,
    Interval,
    Series,
    interval_chart,
    line_chart,
    scatter_chart,
    standalone,
)
from attendet.report.draw import (
    draw_detections,
    draw_gate_profiles,
    draw_side_by_side,
    draw_sorted_gates,
    gate_overlay,
    image_grid,
    to_jpeg,
)
from attendet.report.figures import (
    confusion_figure,
    precision_recall_figure,
    save_figure,
    to_png,
    to_svg,
    training_figure,
)
from attendet.report.html import Cell, Page
from attendet.report.markdown import MarkdownPage
from attendet.report.study_report import write_report
from attendet.report.tables import class_table, markdown_table, plain_table, summary_table

__all__ = [
    "Cell",
    "Dot",
    "Interval",
    "MarkdownPage",
    "Page",
    "Series",
    "class_table",
    "confusion_figure",
    "draw_detections",
    "draw_gate_profiles",
    "draw_sorted_gates",
    "draw_side_by_side",
    "gate_overlay",
    "interval_chart",
    "line_chart",
    "markdown_table",
    "image_grid",
    "plain_table",
    "precision_recall_figure",
    "save_figure",
    "scatter_chart",
    "standalone",
    "summary_table",
    "to_jpeg",
    "to_png",
    "to_svg",
    "training_figure",
    "write_report",
]
