"""Which differences between a file and its network count."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from attendet.data import load_dataset
from attendet.exporters import parity
from attendet.exporters.parity import compare_outputs
from attendet.inference import Detector
from attendet.inference.runtimes.base import Limits
from attendet.inference.runtimes.torch_runtime import TorchRuntime


def _runtime(*scores: float) -> Any:
    """Return a file with NMS inside that returns boxes side by side with these scores."""
    lefts = 40.0 * np.arange(len(scores), dtype=np.float32)
    boxes = np.stack([lefts, lefts * 0, lefts + 20, lefts * 0 + 20], axis=1)
    outputs = boxes[None], np.array(scores, dtype=np.float32)[None, :, None]
    return SimpleNamespace(
        run=lambda inputs: outputs,
        limits=Limits(confidence=0.25, nms_iou=0.5, max_detections=10),
        metadata=SimpleNamespace(classes=("cell",)),
    )


@pytest.mark.parametrize(
    ("network", "file", "largest"),
    [
        ((0.9, 0.25001), (0.9, 0.24999), 0.0),
        ((0.25001,), (0.24999,), 0.0),
        ((0.24999,), (0.25001,), 0.0),
        ((0.9, 0.25001), (0.8, 0.24999), 0.1),
        ((0.9, 0.3), (0.9, 0.2), 40.0),
        ((0.9,), (0.2,), np.inf),
        ((0.2,), (0.9,), np.inf),
    ],
)
def test_a_detection_at_the_confidence_may_be_on_one_side_only(
    network: Any, file: Any, largest: float
) -> None:
    inputs = np.zeros((1, 64, 96, 3), dtype=np.uint8)

    box_px, _, score, _ = compare_outputs(_runtime(*network), _runtime(*file), [inputs])

    assert max(box_px, score) == pytest.approx(largest)


def test_the_network_predicts_the_images_once_for_all_files(
    one_level: Any, squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, metadata = one_level("none")
    metadata = dataclasses.replace(metadata, classes=("red", "green"))
    samples = load_dataset(squares).split("val")
    reference = TorchRuntime(network, metadata)
    exact, other = TorchRuntime(network, metadata), TorchRuntime(one_level("se")[0], metadata)
    predicted: list[Any] = []
    monkeypatch.setattr(
        parity,
        "Detector",
        lambda runtime, *settings: SimpleNamespace(
            predict_batch=lambda images, **options: (
                predicted.append(runtime) or Detector(runtime, *settings).predict_batch(images)
            )
        ),
    )
    check = parity.ParityCheck(reference, samples, "val", metadata.classes)

    same, worse, again = (check.compare(runtime) for runtime in (exact, other, exact))

    assert [each is reference for each in predicted].count(True) == 1
    assert same.max_score == same.extra == 0
    assert worse.max_score > 0
    assert again == same
