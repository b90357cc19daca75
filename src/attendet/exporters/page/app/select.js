// From decoded boxes to detections: the selection of attendet's Python package
// (inference/postprocess.py, boxes.py).

/** Most candidates, the best ones, that enter non-maximum suppression. */
const MAX_CANDIDATES = 3000;

/**
 * Return the detections of one image, best score first.
 *
 * @param output {boxes, scores}: B x 4 edges in network input pixels, B x K scores.
 * @param transform of `resizeToInput`.
 * @param settings {confidence, nmsIou, maxDetections}.
 * @returns list of {classId, score, box}; box is left, top, right, bottom in image pixels.
 */
export function selectDetections(output, transform, settings) {
  const { boxes, scores } = output;
  const count = boxes.length / 4;
  const classes = count ? scores.length / count : 0;
  const lowest = Math.fround(settings.confidence);
  let candidates = [];
  for (let row = 0; row < count; row++) {
    let classId = 0;
    for (let k = 1; k < classes; k++) {
      if (scores[row * classes + k] > scores[row * classes + classId]) classId = k;
    }
    const score = scores[row * classes + classId];
    if (score >= lowest) candidates.push({ row, classId, score });
  }
  candidates.sort((a, b) => b.score - a.score);
  candidates = candidates.slice(0, MAX_CANDIDATES);
  const found = candidates.map(({ row, classId, score }) => {
    return { classId, score, box: toImage(boxes.subarray(row * 4, row * 4 + 4), transform) };
  });
  const visible = found.filter(({ box }) => box[2] > box[0] && box[3] > box[1]);
  return suppress(visible, settings.nmsIou).slice(0, settings.maxDetections);
}

function toImage(box, { imageHw: [height, width], left, top, scaleX, scaleY }) {
  const clip = (value, limit) => Math.min(Math.max(value, 0), limit);
  return [
    clip((box[0] - left) / scaleX, width),
    clip((box[1] - top) / scaleY, height),
    clip((box[2] - left) / scaleX, width),
    clip((box[3] - top) / scaleY, height),
  ];
}

/** Return the detections, sorted by score, that no better one of their class overlaps too far. */
export function suppress(sorted, nmsIou) {
  const kept = [];
  const ofClass = new Map();
  for (const one of sorted) {
    const better = ofClass.get(one.classId) ?? [];
    if (better.some((other) => iou(one.box, other.box) > nmsIou)) continue;
    better.push(one);
    ofClass.set(one.classId, better);
    kept.push(one);
  }
  return kept;
}

export function iou(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(a) + area(b) - width * height);
}
