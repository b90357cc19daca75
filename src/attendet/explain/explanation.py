"""Explanation of a detector on images: gates, class activation maps and gate health.

H and W are rows and columns of the network input, n detections.
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
from attendet.explain.cam import class_activation_maps
from attendet.explain.gates import cells_of_image, crop_to_image, gated_sites, record_gates
from attendet.explain.health import BlockHealth, GateStatistics
from attendet.images import ImageArray
from attendet.inference.postprocess import Selection, select_boxes, select_detections
from attendet.inference.preprocess import ResizeTransform, resize_to_input
from attendet.inference.runtimes.torch_runtime import TorchRuntime, choose_device
from attendet.interop.hub import local_weights
from attendet.media.frames import read_images
from attendet.media.sources import Skipped, Source, find_sources
from attendet.models import DetectionNetwork, WeightsMetadata, load_weights

Floats = NDArray[np.float32]
Gates = dict[str, dict[str, Floats]]

IMAGE_KINDS = ("image", "address")
"""Kinds of source that can be explained."""

MAX_IMAGES = 12
"""Images whose gates and maps are kept by default."""


@dataclass(frozen=True, eq=False)
class ImageExplanation:
    """Detections, gates and class activation maps for one image.

    Attributes:
        source: Source of the image.
        image: uint8 RGB.
        transform: Transform from the image to the network input.
        detections: Detections in pixels of the image.
        gates: Site to gate name to values over the whole network input; each broadcasts to the
            feature map of its site.
        cams: Class name to class activation map, one value per pixel of the image in the network
            input.
    """

    source: Source
    image: ImageArray
    transform: ResizeTransform
    detections: Detections
    gates: Gates
    cams: dict[str, Floats]

    def inside(self, site: str) -> dict[str, Floats]:
        """Return the gates of a site over the image, without the padding of the network input."""
        rows, columns = self._cells(site)
        whole = slice(None)
        return {
            name: gate[
                :, rows if gate.shape[1] > 1 else whole, columns if gate.shape[2] > 1 else whole
            ]
            for name, gate in self.gates[site].items()
        }

    def _cells(self, site: str) -> tuple[slice, slice]:
        """Return the rows and columns of a site's feature map that are in the image."""
        shapes = [gate.shape for gate in self.gates[site].values()]
        cells_hw = max(shape[1] for shape in shapes), max(shape[2] for shape in shapes)
        return cells_of_image(self.transform, cells_hw)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all arrays by name, for the NPZ file.

        Returns:
            ``gate/SITE/NAME``; ``inside/SITE`` (start and stop row, start and stop column of the
            cells in the image); ``cam/CLASS``; ``boxes_xyxy``, ``scores``, ``class_ids``,
            ``classes``; ``image_hw`` and ``input_hw``.
        """
        found = self.detections
        arrays: dict[str, NDArray[Any]] = {
            "boxes_xyxy": found.boxes_xyxy,
            "scores": found.scores,
            "class_ids": found.class_ids,
            "classes": np.array(found.classes),
            "image_hw": np.array(self.transform.image_hw),
            "input_hw": np.array(self.transform.input_hw),
        }
        for site, gates in self.gates.items():
            rows, columns = self._cells(site)
            window = [rows.start, rows.stop, columns.start, columns.stop]
            arrays[f"inside/{site}"] = np.array(window)
            arrays |= {f"gate/{site}/{name}": gate for name, gate in gates.items()}
        return arrays | {f"cam/{name}": values for name, values in self.cams.items()}


@dataclass(eq=False)
class Explanation:
    """Gates, class activation maps and gate statistics of a detector on a set of images.

    Attributes:
        metadata: Metadata of the weights.
        images: The first images, up to ``max_images``.
        statistics: Site to the statistics of its gates over all images.
        skipped: Sources that are not readable images.
        count: Number of images in the statistics.
    """

    metadata: WeightsMetadata
    images: list[ImageExplanation] = field(default_factory=list)
    statistics: dict[str, GateStatistics] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    count: int = 0

    def health(self) -> dict[str, BlockHealth]:
        """Return the health of each attention block, by site."""
        return {site: one.health() for site, one in self.statistics.items()}


def explain(
    weights: str | Path,
    sources: Sequence[str | Path],
    *,
    cam: bool = True,
    max_images: int = MAX_IMAGES,
    selection: Selection | None = None,
    device: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Explanation:
    """Return gates, class activation maps and gate health of a detector on images.

    Args:
        weights: a weights file of attendet.
        sources: images, folders, patterns or lists, as for `attendet predict`.
        cam: compute class activation maps.
        max_images: number of images whose gates and maps are kept; the statistics include all
            images.
        selection: thresholds of detections; default: confidence 0.25, NMS IoU 0.5.
        device: such as ``cpu`` or ``cuda:0``; default: a GPU if one is available.
        progress: called after each image with the number of images done.

    Raises:
        WeightsError: if the weights file is missing or not one of attendet.
        ImageError: if no image can be read.
    """
    network, metadata = load_weights(local_weights(weights))
    return explain_network(
        network.to(choose_device(device)),
        metadata,
        find_sources(sources),
        cam=cam,
        max_images=max_images,
        selection=selection,
        progress=progress,
    )


def explain_network(
    network: DetectionNetwork,
    metadata: WeightsMetadata,
    sources: Sequence[Source],
    *,
    cam: bool = True,
    max_images: int = MAX_IMAGES,
    selection: Selection | None = None,
    progress: Callable[[int], None] | None = None,
) -> Explanation:
    """Return gates, class activation maps and gate health of a network; see `explain`.

    Args:
        network: in eval mode, on the device to use.
        metadata: its classes, input size and preprocessing.
        sources: the images.
        cam: compute class activation maps.
        max_images: number of images whose gates and maps are kept.
        selection: thresholds of detections.
        progress: called after each image with the number of images done.

    Raises:
        ImageError: if no image can be read.
    """
    runtime = TorchRuntime(network, metadata)
    result = Explanation(metadata)
    for site, block in gated_sites(network).items():
        result.statistics[site] = GateStatistics(site, _kind(block), top=_max_gate(block))
    for source in sources:
        if source.kind not in IMAGE_KINDS:
            reason = f"only images can be explained; this is a {source.kind} ({source.label})"
            result.skipped.append(Skipped(source.label, reason))
    images = [source for source in sources if source.kind in IMAGE_KINDS]
    for source, image in read_images(images, on_skip=result.skipped.append):
        keep = len(result.images) < max_images
        one = explain_image(
            network, runtime, source, image, selection or Selection(), cam=cam and keep
        )
        for site in one.gates:
            if site not in result.statistics:  # a later call of the same block
                first = result.statistics[site.rpartition(" (")[0]]
                result.statistics[site] = GateStatistics(site, first.kind, top=first.top)
            result.statistics[site].add(one.inside(site))
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
    """Return the health of each attention block on images, by site.

    Args:
        network: in eval mode, on the device to use.
        metadata: its input size and preprocessing.
        paths: image files.

    Raises:
        ImageError: if no image can be read.
    """
    sources = [Source(Path(path).stem, Path(path)) for path in paths]
    return explain_network(network, metadata, sources, cam=False, max_images=0).health()


def explain_image(
    network: DetectionNetwork,
    runtime: TorchRuntime,
    source: Source,
    image: ImageArray,
    selection: Selection,
    *,
    cam: bool,
) -> ImageExplanation:
    """Return detections, gates and class activation maps for one image.

    Args:
        network: in eval mode.
        runtime: runtime of this network.
        source: source of the image.
        image: uint8 RGB, shape (H, W, 3).
        selection: thresholds of detections.
        cam: compute class activation maps.
    """
    metadata = runtime.metadata
    preprocess = metadata.preprocessing()
    padded, transform = resize_to_input(
        image, metadata.input_hw, preprocess.resize, preprocess.color
    )
    with record_gates(network) as recorded, torch.inference_mode():
        boxes_xyxy, scores = (output[0] for output in runtime.run(padded[None]))
        gates = {
            site: {name: gate[0].float().cpu().numpy() for name, gate in named.items()}
            for site, named in recorded.items()
        }
    detections = select_detections(boxes_xyxy, scores, transform, metadata.classes, selection)
    cams = {}
    if cam:
        rows, class_ids, _ = select_boxes(boxes_xyxy, scores, transform, selection)
        by_class = {int(index): rows[class_ids == index] for index in np.unique(class_ids)}
        for index, values in class_activation_maps(network, padded, by_class).items():
            cams[metadata.classes[index]] = crop_to_image(values, transform)
    return ImageExplanation(source, image, transform, detections, gates, cams)


def _kind(block: torch.nn.Module) -> str:
    inner = block.block if isinstance(block, GateMix) else block
    return type(inner).__name__ if isinstance(block, AttentionBlock) else "scale_channels"


def _max_gate(block: torch.nn.Module) -> float | None:
    """Return the maximum value of a block's gates; None if their range is unknown."""
    if not getattr(block, "sigmoid_gates", True):
        return None
    return 2.0 if getattr(block, "init", "paper") == "identity" else 1.0
