// The page: opens images, videos and the camera, shows detections, saves them.

import { drawDetections } from "./draw.js";
import { save, toImage, toJson, toYolo } from "./files.js";
import { Frame, closeVideo, openVideo, readImage } from "./frames.js";

const MAX_ROWS = 100;
const SEARCH_FROM = 12;
const $ = (id) => document.getElementById(id);

const state = {
  model: null,
  detector: null,
  frame: null,
  result: null,
  detections: [], // shown: above the thresholds, of a chosen class
  hidden: new Set(), // ids of classes that are not shown
  highlight: null,
  video: null,
  paused: false,
  rerunning: false,
  task: 0, // number of the latest image; older ones stop
};

const settings = () => ({
  confidence: Number($("confidence").value),
  nmsIou: Number($("overlap").value),
  maxDetections: state.model.max_detections,
});

// --- start ---------------------------------------------------------------------------------------

async function start() {
  const root = new URL(".", document.baseURI);
  const response = await fetch(new URL("model.json", root));
  if (!response.ok) throw new Error(`model.json could not be loaded (HTTP ${response.status}).`);
  state.model = await response.json();
  describe(state.model);
  const backend = new URLSearchParams(location.search).get("backend");
  if (state.model.server) {
    const { connect } = await import("./remote.js");
    state.detector = await connect(state.model, root, { rerun, redraw });
  } else {
    const { loadLocal } = await import("./local.js");
    state.detector = await loadLocal(state.model, root, showProgress, backend);
  }
  $("loading").hidden = true;
  $("backend").textContent = state.detector.backend;
  $("backend").hidden = false;
  $("note").textContent = state.detector.note;
  $("open").disabled = $("camera").disabled = false;
  say("Ready");
}

function describe(model) {
  document.title = model.name;
  $("title").textContent = model.name;
  const classes = model.classes.length === 1 ? "1 class" : `${model.classes.length} classes`;
  const [height, width] = model.input_hw;
  const attention = model.attention === "none" ? [] : [`attention ${model.attention}`];
  const about = [model.architecture, ...attention, `${width}\u00a0×\u00a0${height}\u00a0px`, classes];
  $("about").textContent = about.join(" · ");
  $("made").textContent = `Made with attendet ${model.version}`;
  if (model.limits) {
    $("confidence").min = Math.max(0.01, model.limits.min_confidence);
    $("overlap").max = model.limits.max_nms_iou;
  }
  $("confidence").value = model.confidence;
  $("overlap").value = model.nms_iou;
  $("search").hidden = model.classes.length < SEARCH_FROM;
  showThresholds();
  listClasses();
}

function showProgress({ received, total }) {
  const bar = $("loading");
  if (total > 0) bar.value = Math.min(1, received / total);
  else bar.removeAttribute("value");
  say(`Loading … ${(received / 1e6).toFixed(0)} MB`);
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

const complain = (error) => say(error?.message ?? String(error), true);

// --- images, videos, camera ----------------------------------------------------------------------

async function openFile(file) {
  if (!file || !state.detector) return;
  if (file.type.startsWith("video/")) {
    await play(file);
    return;
  }
  stopVideo();
  const task = ++state.task;
  try {
    const started = performance.now();
    say("Reading …");
    const frame = await readImage(file);
    await detect(frame, task, performance.now() - started);
  } catch (error) {
    if (task === state.task) complain(error);
  }
}

/** Detect in one frame and show it, unless something newer was opened. */
async function detect(frame, task, reading = null) {
  if (reading !== null) say("Detecting …");
  const asked = settings();
  const result = await state.detector.detect(frame, asked);
  if (task !== state.task) return;
  Object.assign(state, { frame, result, highlight: null });
  result.milliseconds = { read: reading, ...result.milliseconds };
  refresh();
}

async function play(file) {
  stopVideo();
  const task = ++state.task;
  try {
    say(file ? "Opening the video …" : "Opening the camera …");
    const video = await openVideo(file);
    if (task !== state.task) {
      closeVideo(video);
      return;
    }
    Object.assign(state, { video, paused: false });
    showVideoButtons();
    await follow(video, task, file?.name ?? null);
  } catch (error) {
    if (task === state.task) {
      stopVideo();
      complain(error);
    }
  }
}

/** Detect in the newest frame of a video, again and again; frames in between are skipped. */
async function follow(video, task, name) {
  let last = -1;
  let before = performance.now();
  while (task === state.task && !video.ended) {
    if (!state.paused && video.currentTime !== last && video.readyState >= 2) {
      last = video.currentTime;
      await detect(new Frame(video, name), task);
      const now = performance.now();
      $("timing").textContent += ` · ${(1000 / (now - before)).toFixed(1)} frames/s`;
      before = now;
    }
    await new Promise(requestAnimationFrame);
  }
  if (task === state.task) stopVideo();
}

function stopVideo() {
  if (state.video) closeVideo(state.video);
  Object.assign(state, { video: null, paused: false });
  state.task++;
  showVideoButtons();
}

function showVideoButtons() {
  const live = state.video !== null;
  $("pause").hidden = $("stop").hidden = !live;
  $("camera").hidden = live;
  $("pause").textContent = state.paused ? "Continue" : "Pause";
}

function togglePause() {
  state.paused = !state.paused;
  if (state.video.srcObject === null) {
    if (state.paused) state.video.pause();
    else state.video.play();
  }
  showVideoButtons();
}

// --- what is shown -------------------------------------------------------------------------------

/** Select the detections by the thresholds and show them. */
function refresh() {
  if (!state.result) return;
  const found = state.result.select(settings());
  state.detections = found.filter(({ classId }) => !state.hidden.has(classId));
  if (state.highlight >= state.detections.length) state.highlight = null;
  countClasses(found);
  listDetections();
  const count = state.detections.length;
  const objects = count === 1 ? "1 object" : `${count} objects`;
  if (!state.video || state.paused) say(objects);
  else $("status").textContent = objects;
  $("timing").textContent = timing(state.result.milliseconds);
  for (const id of ["save-image", "save-json", "save-yolo"]) $(id).disabled = false;
  redraw();
}

/** Run the network again on the frame that is shown, until the result fits the settings. */
async function rerun() {
  if (state.rerunning || !state.frame || (state.video && !state.paused)) return;
  state.rerunning = true;
  const { task } = state;
  try {
    do await detect(state.frame, task);
    while (task === state.task && !state.result.fits(settings()));
  } catch (error) {
    if (task === state.task) complain(error);
  } finally {
    state.rerunning = false;
  }
}

function timing(milliseconds) {
  const shown = Object.entries(milliseconds).filter(([, value]) => value !== null);
  return shown.map(([name, value]) => `${name} ${value.toFixed(value < 9.5 ? 1 : 0)} ms`).join(" · ");
}

function redraw() {
  const { frame, detections, model, highlight, result } = state;
  if (!frame) return;
  const canvas = $("view");
  canvas.hidden = false;
  $("empty").hidden = true;
  $("drop").classList.remove("empty-now");
  const pixelRatio = window.devicePixelRatio || 1;
  const most = [$("drop").clientWidth, Math.max(280, window.innerHeight * 0.74)];
  const scale = Math.min(most[0] / frame.width, most[1] / frame.height);
  const size = [frame.width, frame.height].map((side) => Math.max(1, Math.round(side * scale)));
  canvas.style.width = `${size[0]}px`;
  canvas.style.height = `${size[1]}px`;
  const pixels = size.map((side) => Math.round(side * pixelRatio));
  if (canvas.width !== pixels[0] || canvas.height !== pixels[1]) {
    [canvas.width, canvas.height] = pixels;
  }
  const names = new Map();
  for (const { classId } of detections) names.set(classId, (names.get(classId) ?? 0) + 1);
  const parts = [...names].map(([classId, count]) => `${count} ${model.classes[classId]}`);
  const label = parts.join(", ") || "no detections";
  canvas.setAttribute("aria-label", `${frame.name ?? "Camera"}: ${label}`);
  const overlay = state.detector.overlay?.(result) ?? null;
  drawDetections(canvas, frame, detections, model, { pixelRatio, highlight, overlay });
}

function swatch(classId) {
  const dot = document.createElement("span");
  dot.className = "dot";
  dot.style.background = state.model.colors[classId][0];
  return dot;
}

function span(className, text) {
  const element = document.createElement("span");
  element.className = className;
  element.textContent = text;
  return element;
}

function listClasses() {
  const rows = state.model.classes.map((name, classId) => {
    const row = document.createElement("li");
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => {
      if (box.checked) state.hidden.delete(classId);
      else state.hidden.add(classId);
      refresh();
    });
    label.append(box, swatch(classId), span("name", name), span("muted", ""));
    row.append(label);
    row.dataset.classId = classId;
    return row;
  });
  $("classes").replaceChildren(...rows);
}

function countClasses(found) {
  const counts = new Map();
  for (const { classId } of found) counts.set(classId, (counts.get(classId) ?? 0) + 1);
  for (const row of $("classes").children) {
    const count = counts.get(Number(row.dataset.classId));
    row.querySelector(".muted").textContent = count ?? "";
  }
}

function chooseClasses(all) {
  state.hidden = new Set(all ? [] : state.model.classes.keys());
  for (const box of $("classes").querySelectorAll("input")) box.checked = all;
  refresh();
}

function searchClasses() {
  const wanted = $("search").value.trim().toLowerCase();
  for (const row of $("classes").children) {
    const name = state.model.classes[Number(row.dataset.classId)].toLowerCase();
    row.hidden = !name.includes(wanted);
  }
}

function listDetections() {
  const rows = state.detections.slice(0, MAX_ROWS).map(({ classId, score }, index) => {
    const row = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    const score_ = span("muted", score.toFixed(2));
    button.append(swatch(classId), span("name", state.model.classes[classId]), score_);
    const mark = (value) => () => {
      state.highlight = value;
      redraw();
    };
    button.addEventListener("pointerenter", mark(index));
    button.addEventListener("focus", mark(index));
    button.addEventListener("pointerleave", mark(null));
    button.addEventListener("blur", mark(null));
    row.append(button);
    return row;
  });
  $("detections").replaceChildren(...rows);
  const more = state.detections.length - rows.length;
  $("count").textContent = more > 0 ? `best ${MAX_ROWS} of ${state.detections.length}` : "";
  $("nothing").hidden = rows.length > 0;
  $("nothing").textContent = "No detections above the confidence threshold.";
}

function showThresholds() {
  $("confidence-value").textContent = Number($("confidence").value).toFixed(2);
  $("overlap-value").textContent = Number($("overlap").value).toFixed(2);
}

// --- events --------------------------------------------------------------------------------------

$("open").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  openFile($("file").files[0]);
  $("file").value = "";
});
$("camera").addEventListener("click", () => play(null));
$("pause").addEventListener("click", togglePause);
$("stop").addEventListener("click", stopVideo);
$("confidence").addEventListener("input", () => {
  showThresholds();
  refresh();
});
$("overlap").addEventListener("input", () => {
  showThresholds();
  if (state.result && !state.result.fits(settings())) rerun();
  else refresh();
});
$("all").addEventListener("click", () => chooseClasses(true));
$("none").addEventListener("click", () => chooseClasses(false));
$("search").addEventListener("input", searchClasses);
$("save-json").addEventListener("click", () => {
  save(toJson(state.frame, state.detections, state.model), state.frame, ".json");
});
$("save-yolo").addEventListener("click", () => {
  save(toYolo(state.frame, state.detections), state.frame, ".txt");
});
$("save-image").addEventListener("click", async () => {
  const overlay = state.detector.overlay?.(state.result) ?? null;
  const { frame, detections, model } = state;
  save(await toImage(frame, detections, model, { overlay }), frame, "-annotated.png");
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") openFile(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => openFile(event.clipboardData.files[0]));
window.addEventListener("resize", redraw);

start().catch((error) => {
  $("loading").hidden = true;
  complain(error);
});
