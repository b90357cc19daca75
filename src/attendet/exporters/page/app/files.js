// Results as files: JSON and YOLO labels as `attendet predict` writes them, the annotated image.

import { drawDetections } from "./draw.js";

const stem = (name) => name.replace(/\.[^.]+$/, "");

/** Return the text of detections.json. */
export function toJson(frame, detections, model) {
  const name = frame.name ?? "camera";
  const entry = {
    image: name,
    name: stem(name),
    image_hw: [frame.height, frame.width],
    detections: detections.map(({ classId, score, box }) => ({
      class_id: classId,
      name: model.classes[classId],
      score: Number(score.toFixed(6)),
      box_xyxy: box.map((edge) => Number(edge.toFixed(2))),
    })),
  };
  return `${JSON.stringify({ images: [entry] }, null, 2)}\n`;
}

/** Return YOLO labels: a line "class cx cy w h score" each, as fractions of the image. */
export function toYolo(frame, detections) {
  const lines = detections.map(({ classId, score, box: [left, top, right, bottom] }) => {
    const [width, height] = [frame.width, frame.height];
    const values = [(left + right) / 2 / width, (top + bottom) / 2 / height];
    values.push((right - left) / width, (bottom - top) / height, score);
    return `${classId} ${values.map((value) => value.toFixed(6)).join(" ")}\n`;
  });
  return lines.join("");
}

/** Return the annotated image at its own size, PNG. */
export async function toImage(frame, detections, model, options) {
  const canvas = document.createElement("canvas");
  canvas.width = frame.width;
  canvas.height = frame.height;
  drawDetections(canvas, frame, detections, model, options);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** Save a text or a blob under the name of the frame. */
export function save(content, frame, ending) {
  const blob = content instanceof Blob ? content : new Blob([content]);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${stem(frame.name ?? "camera")}${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
