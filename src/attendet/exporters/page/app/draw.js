// Boxes and names drawn on a canvas.

/**
 * Draw a frame with its detections over the whole of a canvas.
 *
 * @param canvas of the aspect ratio of the frame.
 * @param frame see frames.js.
 * @param detections list of {classId, score, box}.
 * @param model content of model.json: names and colors of the classes.
 * @param options {pixelRatio, highlight, overlay}: screen pixels per CSS pixel; the number of the
 *   detection to emphasize; an image drawn between frame and boxes.
 */
export function drawDetections(canvas, frame, detections, model, options = {}) {
  const { highlight = null, overlay = null } = options;
  const pen = canvas.getContext("2d");
  const scale = canvas.width / frame.width;
  const unit = options.pixelRatio ?? Math.max(canvas.width, canvas.height) / 900;
  pen.imageSmoothingQuality = "high";
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(frame.canvas, 0, 0, canvas.width, canvas.height);
  if (overlay) pen.drawImage(overlay, 0, 0, canvas.width, canvas.height);
  const line = Math.max(2, Math.round(2 * unit));
  const text = Math.max(9, (canvas.width < 500 * unit ? 10.5 : 12.5) * unit);
  pen.font = `600 ${text}px system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif`;
  pen.textBaseline = "middle";
  const order = detections.map((one, index) => ({ ...one, index })).reverse(); // best on top
  if (highlight !== null) order.sort((a, b) => (a.index === highlight) - (b.index === highlight));
  for (const { classId, score, box, index } of order) {
    const [fill, ink] = model.colors[classId];
    const [left, top, right, bottom] = box.map((edge) => Math.round(edge * scale));
    pen.globalAlpha = highlight === null || highlight === index ? 1 : 0.3;
    pen.strokeStyle = fill;
    pen.lineWidth = highlight === index ? 2 * line : line;
    pen.strokeRect(left, top, right - left, bottom - top);
    const label = `${model.classes[classId]} ${score.toFixed(2)}`;
    const width = pen.measureText(label).width + text * 0.7;
    const height = text * 1.45;
    const x = Math.max(0, Math.min(left - line / 2, canvas.width - width));
    const y = top >= height ? top - height : Math.min(top, canvas.height - height);
    pen.fillStyle = fill;
    pen.fillRect(x, y, width, height);
    pen.fillStyle = ink;
    pen.fillText(label, x + text * 0.35, y + height / 2);
  }
  pen.globalAlpha = 1;
}
