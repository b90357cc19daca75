"""Average precision on the validation split, shared out over the processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import nn

from attendet.data import Sample
from attendet.detections import Detections
from attendet.evaluation import compute_metrics, detect
from attendet.inference import Detector
from attendet.inference.runtimes.torch_runtime import TorchRuntime
from attendet.models import WeightsMetadata

__all__ = ["validate"]

Progress = Callable[[int, int], None]


def validate(
    fabric: Any,
    network: nn.Module,
    metadata: WeightsMetadata,
    samples: tuple[Sample, ...],
    *,
    batch: int,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[Detections]]:
    """Return the record of a network on a split and its detections, the same in every process.

    The network runs as `attendet.load` runs it from a file, so that both give the same numbers.

    Args:
        fabric: launched Lightning Fabric; each process detects on its share of the images.
        network: in eval mode, on the device.
        metadata: its description.
        samples: the split.
        batch: images at once.
        progress: called with the images done and their total in this process's share.
    """
    detector = Detector(TorchRuntime(network, metadata, fold=True))
    share = samples[fabric.global_rank :: fabric.world_size]
    found = detect(detector, share, batch=batch, progress=progress)
    if fabric.world_size > 1:
        shares: list[Any] = [None] * fabric.world_size
        dist.all_gather_object(shares, found)
        everything: list[Any] = [None] * len(samples)
        for rank, part in enumerate(shares):
            everything[rank :: fabric.world_size] = part
        found = everything
    record: dict[str, Any] = dict(compute_metrics(samples, found, metadata.classes))
    return record, found
