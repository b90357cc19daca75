"""What a detector looks at in images: gates, class activation maps and the health of its gates.

H and W are rows and columns of the network input, K classes, n detections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attendet.attention import AttentionBlock
from attendet.attention.init import GateMix
from attendet.detections import Detections
from attendet.errors import ImageError
from attendet.explain.cam import class_activation_maps, detected_rows
from attendet.explain.gates import (
    cells_of_image,
    crop_to_image,
    first_image,
    gated_sites,
    record_gates,
)
from attendet.explain.health import BlockHealth, GateStatistics
from attendet.images import ImageArray
from attendet.inference.postprocess import Selection, select_detections
from attendet.inference.preprocess import ResizeTransform, resize_to_input
from attendet.inference.runtimes.torch_runtime import TorchRuntime, choose_device
from attendet.interop.hub import local_weights
from attendet.media.frames import read_images
from attendet.media.sources import Skipped, Source, find_sources
from attendet.models import DetectionNetwork, WeightsMetadata, load_weights

__all__ = ["Explanation", "ImageExplanation", "explain", "explain_network", "gate_health"]

Floats = NDArray[np.float32]
Gates = dict[str, dict[str, Floats]]

IMAGE_KINDS = ("image", "address")
"""Kinds of source that can be explained."""

DRAWN = 12
"""Images that are kept whole by default; all count in the statistics."""


@dataclass(frozen=True, eq=False)
class ImageExplanation:
    """What a detector did with one image."""

    source: Source
    """Where the image came from."""

    image: ImageArray
    """uint8 RGB."""

    transform: ResizeTransform
    """How it lay in the network input."""

    detections: Detections
    """What was detected, in pixels of the image."""

    gates: Gates
    """Site to gate name to values over the whole network input; broadcast to (C, H, W) of the
    site."""

    cams: dict[str, Floats]
    """Class name to class activation map of the image, in network input pixels that it covers."""

    def inside(self, site: str) -> dict[str, Floats]:
        """Return the gates of a site over the image, without the border of the network input."""
        return _inside(self.gates[site], self.transform)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all numbers by name, as they stand in the NPZ file.

        Returns:
            ``gate/SITE/NAME``; ``inside/SITE`` (first row, last row, first column, last column, the
            last ones excluded, of the cells in the image); ``cam/CLASS``; ``boxes_xyxy``,
            ``scores``, ``class_ids``, ``classes``; ``image_hw`` and ``input_hw``.
        """
        found = self.detections
        arrays: dict[str, NDArray[Any]] = {
            "boxes_xyxy": found.boxes_xyxy,
            "scores": found.scores,
            "class_ids": found.class_ids,
            "classes": np.array(found.classes),
            "image_hw": np.array(self.transform.image_hw),
            "input_hw": np.array(self.transform.input_hw),  # type: ignore[attr-defined]
        }
        for site, gates in self.gates.items():
            rows, columns = cells_of_image(self.transform, _cells(gates))
            arrays[f"inside/{site}"] = np.array(
                [rows.start, rows.stop, columns.start, columns.stop]
            )
            arrays |= {f"gate/{site}/{name}": gate for name, gate in gates.items()}
        arrays |= {f"cam/{name}": values for name, values in self.cams.items()}
        return arrays


@dataclass(eq=False)
class Explanation:
    """What a detector looks at in a set of images."""

    metadata: WeightsMetadata
    """Of the weights."""

    images: list[ImageExplanation] = field(default_factory=list)
    """The first images, as many as were asked for."""

    statistics: dict[str, GateStatistics] = field(default_factory=dict)
    """Site to the statistics of its gates over all images."""

    skipped: list[Skipped] = field(default_factory=list)
    """Images that could not be read."""

    count: int = 0
    """Images that were seen."""

    def health(self) -> dict[str, BlockHealth]:
        """Return the health of each attention block, by site."""
        return {site: one.health() for site, one in self.statistics.items()}


def explain(
    weights: str | Path,
    sources: Sequence[str | Path],
    *,
    cam: bool = True,
    drawn: int = DRAWN,
    selection: Selection | None = None,
    device: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Explanation:
    """Return what a detector looks at: gates, class activation maps, and the health of its gates.

    Args:
        weights: a weights file of attendet.
        sources: images, folders, patterns or lists, as for `attendet predict`.
        cam: compute class activation maps (needs the ``explain`` extra).
        drawn: images that are kept whole; all count in the statistics.
        selection: which boxes are detections; confidence 0.25, overlap 0.5 if left out.
        device: such as ``cpu`` or ``cuda:0``; a GPU where there is one if left out.
        progress: told after each image how many are done.

    Raises:
        WeightsError: if the file is missing or not ours.
        ImageError: if no image can be read.
        MissingExtraError: if ``cam`` is wanted and grad-cam is not installed.
    """
    network, metadata = load_weights(local_weights(weights))
    found = find_sources(sources)
    network = network.to(choose_device(device))
    return explain_network(
        network, metadata, found, cam=cam, drawn=drawn, selection=selection, progress=progress
    )


def explain_network(
    network: DetectionNetwork,
    metadata: WeightsMetadata,
    sources: Sequence[Source],
    *,
    cam: bool = True,
    drawn: int = DRAWN,
    selection: Selection | None = None,
    progress: Callable[[int], None] | None = None,
) -> Explanation:
    """Return what a network looks at; see `explain`.

    Args:
        network: where it is to run, with attention anywhere.
        metadata: its classes, input size and preprocessing.
        sources: the images.
        cam: compute class activation maps.
        drawn: images that are kept whole.
        selection: which boxes are detections.
        progress: told after each image how many are done.
    """
    runtime = TorchRuntime(network, metadata)
    rule = selection or Selection()
    result = Explanation(metadata, statistics=_statistics_of(network))
    result.skipped += [
        Skipped(
            source.label, f"explanations are of images; this is a {source.kind} ({source.label})"
        )
        for source in sources
        if source.kind not in IMAGE_KINDS
    ]
    stills = [source for source in sources if source.kind in IMAGE_KINDS]
    for source, image in read_images(stills, on_skip=result.skipped.append):
        keep = len(result.images) < drawn
        one = _explain_image(network, runtime, source, image, rule, cam=cam and keep)
        for site, gates in one.gates.items():
            if site not in result.statistics:
                first = result.statistics[site.rpartition(" (")[0]]
                result.statistics[site] = GateStatistics(site, first.kind, top=first.top)
            result.statistics[site].add(_inside(gates, one.transform))
        if keep:
            result.images.append(one)
        result.count += 1
        if progress is not None:
            progress(result.count + len(result.skipped))
    if not result.count:
        reasons = "; ".join(one.reason for one in result.skipped[:3])
        raise ImageError(f"no image could be read: {reasons}")
    return result


def gate_health(
    network: DetectionNetwork, metadata: WeightsMetadata, paths: Iterable[str | Path]
) -> dict[str, BlockHealth]:
    """Return the health of each attention block over images, by site.

    Args:
        network: in eval mode, where it is to run.
        metadata: its input size and preprocessing.
        paths: image files.

    Raises:
        ImageError: if no image can be read.
    """
    sources = [Source(Path(path).stem, Path(path)) for path in paths]
    return explain_network(network, metadata, sources, cam=False, drawn=0).health()


def _explain_image(
    network: DetectionNetwork,
    runtime: TorchRuntime,
    source: Source,
    image: ImageArray,
    rule: Selection,
    *,
    cam: bool,
) -> ImageExplanation:
    metadata = runtime.metadata
    preprocess = metadata.preprocessing()
    padded, transform = resize_to_input(image, metadata.input_hw, preprocess.resize)
    if preprocess.color == "bgr":
        padded = np.ascontiguousarray(padded[..., ::-1])
    with record_gates(network) as gates, torch.inference_mode():
        boxes_xyxy, scores = runtime.run(padded[None])
        values = first_image(gates)
    found = select_detections(boxes_xyxy[0], scores[0], transform, metadata.classes, rule)
    cams: dict[str, Floats] = {}
    if cam:
        rows = detected_rows(boxes_xyxy[0], scores[0], transform, rule)
        maps = class_activation_maps(network, padded, rows)
        cams = {
            metadata.classes[index]: crop_to_image(one, transform) for index, one in maps.items()
        }
    return ImageExplanation(source, image, transform, found, values, cams)


def _statistics_of(network: DetectionNetwork) -> dict[str, GateStatistics]:
    return {
        site: GateStatistics(site, _kind(block), top=_top(block))
        for site, block in gated_sites(network).items()
    }


def _kind(block: torch.nn.Module) -> str:
    inner = block.block if isinstance(block, GateMix) else block
    return type(inner).__name__ if isinstance(block, AttentionBlock) else "scale_channels"


def _top(block: torch.nn.Module) -> float | None:
    """Return what an open gate of a block is; None where its range is not known."""
    if isinstance(block, GateMix):
        return None
    return 2.0 if getattr(block, "init", "paper") == "identity" else 1.0


def _cells(gates: dict[str, Floats]) -> tuple[int, int]:
    return max(g.shape[1] for g in gates.values()), max(g.shape[2] for g in gates.values())


def _inside(gates: dict[str, Floats], transform: ResizeTransform) -> dict[str, Floats]:
    rows, columns = cells_of_image(transform, _cells(gates))
    inside = {}
    for name, gate in gates.items():
        cut = gate if gate.shape[1] == 1 else gate[:, rows]
        inside[name] = cut if cut.shape[2] == 1 else cut[:, :, columns]
    return inside
