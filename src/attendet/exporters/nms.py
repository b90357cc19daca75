"""Non-maximum suppression as standard ONNX operators, appended to an exported network.

N is the batch, B the boxes of one image, K the classes, M the maximum number of detections per
image.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attendet.inference.postprocess import Selection
from attendet.system import require

# Each box has only its best class. The scores that NonMaxSuppression keeps are scattered into zeros
# of shape (N, B), so that one TopK finds the best M of each image in the batch. M zeros are
# appended to each row, because TopK needs at least M values.
_GRAPH = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
suppression (float[batch,boxes,4] boxes_xyxy, float[batch,boxes,classes] scores)
    => (float[batch,{max_detections},6] detections)
<
    int64[1] last = {{-1}}, int64[2] image_and_row = {{0, 2}},
    int64[4] padding = {{0, 0, 0, {max_detections}}},
    int64[1] max_rows = {{{max_detections}}}, int64[1] box_axis = {{1}}, int64[1] one = {{1}},
    float[1] iou = {{{iou}}}, float[1] confidence = {{{confidence}}},
    float zero = {{0}}, float no_class = {{-1}}
>
{{
    best_score = ReduceMax <keepdims = 1> (scores, last)
    best_class = ArgMax <axis = 2, keepdims = 1> (scores)
    is_best = Equal (scores, best_score)
    of_best_class = Where (is_best, scores, zero)
    by_class = Transpose <perm = [0, 2, 1]> (of_best_class)
    kept = NonMaxSuppression (boxes_xyxy, by_class, max_rows, iou, confidence)
    kept_rows = Gather <axis = 1> (kept, image_and_row)
    score = Squeeze (best_score, last)
    kept_scores = GatherND (score, kept_rows)
    score_shape = Shape (score)
    all_zero = ConstantOfShape (score_shape)
    only_kept = ScatterND (all_zero, kept_rows, kept_scores)
    padded = Pad (only_kept, padding)
    top_score, top_row = TopK <axis = 1> (padded, max_rows)
    boxes_count = Gather <axis = 0> (score_shape, box_axis)
    last_box = Sub (boxes_count, one)
    box_row = Min (top_row, last_box)
    box_index = Unsqueeze (box_row, last)
    top_box = GatherND <batch_dims = 1> (boxes_xyxy, box_index)
    top_class = GatherND <batch_dims = 1> (best_class, box_index)
    class_number = Cast <to = 1> (top_class)
    row_score = Unsqueeze (top_score, last)
    is_valid = Greater (row_score, zero)
    row_box = Where (is_valid, top_box, zero)
    row_class = Where (is_valid, class_number, no_class)
    detections = Concat <axis = 2> (row_box, row_score, row_class)
}}
"""


def add_nms(model: Any, selection: Selection) -> Any:
    """Return an ONNX model that returns detections instead of every box.

    Args:
        model: ``onnx.ModelProto`` with outputs ``boxes_xyxy`` (N, B, 4) and ``scores`` (N, B, K).
        selection: score threshold, IoU threshold, M.

    Returns:
        The model with one output ``detections`` (N, M, 6): left, top, right, bottom, score, class.
        Rows are sorted by score, highest first; padding rows have score 0 and class -1.
    """
    onnx = require("onnx", extra="export", purpose="exporting to ONNX")
    require("onnx.compose", extra="export", purpose="exporting to ONNX")
    # The operator removes scores equal to the threshold, `select_detections` keeps them.
    below = np.nextafter(np.float32(selection.confidence), np.float32(0))
    text = _GRAPH.format(
        ir_version=model.ir_version,
        opset=model.opset_import[0].version,
        max_detections=selection.max_detections,
        iou=f"{selection.nms_iou:.9g}",
        confidence=f"{below:.9g}",
    )
    nms = onnx.compose.add_prefix(
        onnx.parser.parse_model(text), "suppression_", rename_outputs=False, rename_inputs=False
    )
    pairs = [(name, name) for name in ("boxes_xyxy", "scores")]
    merged = onnx.compose.merge_models(model, nms, io_map=pairs)
    opsets = {entry.domain: entry.version for entry in merged.opset_import}
    del merged.opset_import[:]  # both parts list the same domains; readers expect each once
    merged.opset_import.extend(onnx.helper.make_opsetid(*each) for each in opsets.items())
    return merged
