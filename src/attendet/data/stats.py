"""Counts and sizes of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from attendet.data.dataset import DataSet
from attendet.data.sample import Sample

SMALL_AREA = 32**2
MEDIUM_AREA = 96**2
"""Square pixels: a box is small below `SMALL_AREA`, medium below this, else large (COCO's rule)."""


def _describe_split(samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
    boxes = np.concatenate([sample.boxes_xyxy for sample in samples]).astype(np.float64)
    class_ids = np.concatenate([sample.class_ids for sample in samples])
    sides = boxes[:, 2:] - boxes[:, :2]
    area = sides.prod(axis=1)
    counts = np.bincount(class_ids, minlength=len(classes))
    sizes = Counter(sample.image_hw for sample in samples)
    return {
        "images": len(samples),
        "background_images": sum(len(sample.class_ids) == 0 for sample in samples),
        "boxes": len(boxes),
        "difficult_boxes": int(sum(sample.difficult.sum() for sample in samples)),
        "per_class": {name: int(count) for name, count in zip(classes, counts, strict=True)},
        "small_boxes": int((area < SMALL_AREA).sum()),
        "medium_boxes": int(((area >= SMALL_AREA) & (area < MEDIUM_AREA)).sum()),
        "large_boxes": int((area >= MEDIUM_AREA).sum()),
        "median_box_wh": np.median(sides, axis=0).tolist() if len(sides) else None,
        "median_box_aspect": float(np.median(sides[:, 0] / sides[:, 1])) if len(sides) else None,
        "image_sizes_wh": [
            {"width": width, "height": height, "images": count}
            for (height, width), count in sizes.most_common()
        ],
        "median_image_aspect": float(
            np.median([sample.image_hw[1] / sample.image_hw[0] for sample in samples])
        ),
    }


def describe(dataset: DataSet) -> dict[str, Any]:
    """Return counts and sizes for each split of a data set, as JSON-serializable values.

    Box sizes are in pixels of the original images; aspects are width / height.
    """
    return {
        "root": str(dataset.root),
        "format": dataset.format,
        "classes": list(dataset.classes),
        "split_source": dataset.split_source,
        "issues": dict(Counter(issue.kind for issue in dataset.issues)),
        "overlaps": len(dataset.overlaps),
        "splits": {
            name: {
                **_describe_split(samples, dataset.classes),
                "fingerprint": dataset.fingerprint(name),
            }
            for name, samples in dataset.splits.items()
        },
    }
