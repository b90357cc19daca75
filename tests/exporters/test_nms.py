"""Non-maximum suppression in a file returns the same as `select_detections`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")

from attendet.exporters.nms import add_nms  # noqa: E402
from attendet.inference import Selection  # noqa: E402
from attendet.inference.postprocess import select_detections  # noqa: E402
from attendet.inference.preprocess import Stretch  # noqa: E402

INPUT_HW = (64, 96)

PASSING = """
<ir_version: 10, opset_import: ["" : 18]>
passing (float[batch,boxes,4] given_boxes, float[batch,boxes,classes] given_scores)
    => (float[batch,boxes,4] boxes_xyxy, float[batch,boxes,classes] scores)
{
    boxes_xyxy = Identity (given_boxes)
    scores = Identity (given_scores)
}
"""


def _run(selection: Selection, boxes: Any, scores: Any, library: str) -> Any:
    model = add_nms(onnx.parser.parse_model(PASSING), selection)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    if library == "onnxruntime":
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return session.run(None, {"given_boxes": boxes, "given_scores": scores})[0]
    compiled = openvino.Core().compile_model(openvino.Core().read_model(content), "CPU")
    return np.array(compiled([boxes, scores])[0])


def _boxes(rng: Any, shape: tuple[int, int]) -> Any:
    corners = rng.uniform((0, 0), (80, 50), (*shape, 2)).astype(np.float32)
    sides = rng.uniform(6, 16, (*shape, 2)).astype(np.float32)
    return np.concatenate([corners, (corners + sides).clip(0, (96, 64))], axis=-1, dtype=np.float32)


def _expected(selection: Selection, boxes: Any, scores: Any) -> Any:
    names = tuple(f"class {number}" for number in range(scores.shape[-1]))
    transform = Stretch(INPUT_HW, INPUT_HW)
    table = np.zeros((len(boxes), selection.max_detections, 6), dtype=np.float32)
    table[..., 5] = -1
    for rows, own_boxes, own_scores in zip(table, boxes, scores, strict=True):
        kept = select_detections(own_boxes, own_scores, transform, names, selection)
        rows[: len(kept)] = np.c_[kept.boxes_xyxy, kept.scores, kept.class_ids]
    return table


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("selection", "classes"),
    [
        (Selection(0.25, 0.5, 300), 3),
        (Selection(0.25, 0.5, 5), 3),
        (Selection(0.0, 0.3, 40), 1),
        (Selection(0.9, 0.1, 10), 80),
        (Selection(1.0, 1.0, 1), 2),
    ],
)
def test_rows_match_select_detections(library: str, selection: Selection, classes: int) -> None:
    rng = np.random.default_rng(classes)
    boxes = _boxes(rng, (3, 50))
    scores = rng.uniform(0, 1, (3, 50, classes)).astype(np.float32)
    scores[2] *= 0.2  # an image with little, or nothing

    found = _run(selection, boxes, scores, library)

    np.testing.assert_allclose(found, _expected(selection, boxes, scores), atol=1e-6)


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_a_score_equal_to_the_confidence_is_kept(library: str) -> None:
    boxes = np.array([[[0, 0, 10, 10], [20, 20, 30, 30]]], dtype=np.float32)
    scores = np.array([[[0.5], [0.49999]]], dtype=np.float32)

    rows = _run(Selection(0.5, 0.5, 3), boxes, scores, library)[0]

    np.testing.assert_allclose(rows[0], [0, 0, 10, 10, 0.5, 0])
    np.testing.assert_array_equal(rows[1:], [[0, 0, 0, 0, 0, -1]] * 2)
