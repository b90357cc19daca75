"""Drawings of attention gates for the page; needs torch."""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path
from typing import Any

from attendet.explain import crop_to_image, explain_image, gate_map, gated_sites
from attendet.images import ImageArray
from attendet.inference import Selection
from attendet.inference.runtimes.torch_runtime import TorchRuntime, choose_device
from attendet.media.sources import Source
from attendet.models import load_weights
from attendet.report.draw import draw_sorted_gates, gate_overlay, scale_to_width, to_jpeg

MAX_WIDTH = 960
"""Width of an overlay, pixels; the page scales it to the image."""

CHART_HW = (120, 480)
QUALITY = 88


class GateReader:
    """Reader of the gates that the attention blocks of a network apply to an image.

    Args:
        weights: a weights file.
        device: device such as ``cpu`` or ``cuda:0``; default: a GPU if available.
        input_hw: height and width of the network input, pixels; default: of the weights file.

    Attributes:
        sites: sites with gates, in the order of the network.
    """

    def __init__(
        self, weights: Path, device: str | None = None, input_hw: tuple[int, int] | None = None
    ) -> None:
        network, metadata = load_weights(weights)
        if input_hw is not None:
            metadata = dataclasses.replace(metadata, input_hw=input_hw)
        self._network = network.to(choose_device(device))
        self._runtime = TorchRuntime(self._network, metadata)
        self.sites = list(gated_sites(self._network))

    def read(self, image: ImageArray) -> list[dict[str, Any]]:
        """Return the gates of each site as JPEG images.

        Args:
            image: uint8 RGB, shape (H, W, 3).

        Returns:
            Dictionaries: ``site``; ``kind``, ``map`` (the product of the gates over the image) or
            ``channels`` (the gate of each channel, sorted); ``low`` and ``high``, the range of the
            values; ``image``, a data URL with a JPEG.
        """
        one = explain_image(
            self._network, self._runtime, Source("image", "image"), image, Selection(), cam=False
        )
        shown = scale_to_width(image, min(image.shape[1], MAX_WIDTH))
        drawings = []
        for site, gates in one.gates.items():
            product = gate_map(gates)
            if product is not None:
                values = crop_to_image(product, one.transform)
                drawings.append(_drawing(site, "map", values, gate_overlay(shown, values)))
            if "channel" in gates:
                values = gates["channel"].ravel()
                top = 2.0 if float(values.max()) > 1 else 1.0
                chart = draw_sorted_gates(values, CHART_HW[1], CHART_HW[0], top=top)
                drawings.append(_drawing(site, "channels", values, chart))
        return drawings


def _drawing(site: str, kind: str, values: Any, image: ImageArray) -> dict[str, Any]:
    jpeg = base64.b64encode(to_jpeg(image, QUALITY)).decode("ascii")
    return {
        "site": site,
        "kind": kind,
        "low": round(float(values.min()), 4),
        "high": round(float(values.max()), 4),
        "image": f"data:image/jpeg;base64,{jpeg}",
    }
