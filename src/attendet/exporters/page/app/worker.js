// The worker that runs the network, so that the page stays responsive.
//
// It answers {id, load} with messages {progress}, then {id, ready}; {id, run} with {id, output}; or
// with {id, error}. WebGPU is used where the browser has it together with suspendable WebAssembly, else
// WebAssembly; with threads only if the page is cross-origin isolated.

import { resizeToInput } from "./resize.js";

const RUNTIMES = {
  webgpu: { script: "ort.webgpu.js", glue: "ort-wasm.webgpu.js", wasm: "ort-wasm.webgpu.wasm" },
  wasm: { script: "ort.wasm.js", glue: "ort-wasm.js", wasm: "ort-wasm.wasm" },
};
const MAX_THREADS = 4;

let ort;
let session;
let metadata;

// One message after the other: a session runs one input at a time.
let finished = Promise.resolve();
self.onmessage = ({ data }) => {
  finished = finished.then(() => handle(data));
};

async function handle({ id, load: description, run: input }) {
  try {
    if (description) {
      self.postMessage({ id, ready: await load(description) });
    } else {
      const output = await run(input);
      self.postMessage({ id, output }, [output.boxes.buffer, output.scores.buffer]);
    }
  } catch (error) {
    self.postMessage({ id, error: error?.message ?? String(error) });
  }
}

async function load({ root, model, backend }) {
  metadata = model;
  const progress = new Progress();
  const network = progress.fetch(new URL(model.file, root));
  network.catch(() => {}); // reported where it is awaited
  const choices = (await hasGpu(backend)) ? ["webgpu", "wasm"] : ["wasm"];
  let failure;
  for (const name of choices) {
    try {
      return await start(name, new URL("onnxruntime/", root), network, progress);
    } catch (error) {
      failure = error;
    }
  }
  throw failure;
}

async function hasGpu(backend) {
  if (backend === "wasm" || !self.navigator.gpu || !("Suspending" in WebAssembly)) return false;
  const adapter = await self.navigator.gpu.requestAdapter().catch(() => null);
  if (!adapter) return false;
  // A GPU that the processor emulates is slower than WebAssembly.
  return backend === "webgpu" || !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
}

async function start(name, folder, network, progress) {
  const files = RUNTIMES[name];
  const wasmBinary = await progress.fetch(new URL(files.wasm, folder));
  ort = await import(new URL(files.script, folder));
  const threads = Math.min(MAX_THREADS, Math.ceil(self.navigator.hardwareConcurrency / 2));
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = self.crossOriginIsolated ? threads : 1;
  ort.env.wasm.wasmPaths = { mjs: new URL(files.glue, folder), wasm: new URL(files.wasm, folder) };
  ort.env.wasm.wasmBinary = wasmBinary;
  session = await ort.InferenceSession.create(new Uint8Array(await network), {
    executionProviders: [name],
    logSeverityLevel: 3,
  });
  return { backend: name, threads: ort.env.wasm.numThreads };
}

async function run({ image }) {
  const { resize, color } = metadata.preprocess;
  const started = performance.now();
  const { input, transform } = resizeToInput(image, metadata.input_hw, resize, color);
  const resized = performance.now();
  const shape = [1, input.height, input.width, 3];
  const images = new ort.Tensor("uint8", input.data, shape);
  const found = await session.run({ images });
  const boxes = await found.boxes_xyxy.getData();
  const scores = await found.scores.getData();
  const finished = performance.now();
  const output = {
    boxes: boxes.slice(),
    scores: scores.slice(),
    transform,
    inputHw: [input.height, input.width],
    milliseconds: { resize: resized - started, network: finished - resized },
  };
  for (const tensor of [images, found.boxes_xyxy, found.scores]) tensor.dispose();
  return output;
}

/** Downloads, with the bytes received of all together. */
class Progress {
  #received = 0;
  #total = 0;

  async fetch(url) {
    const response = await fetch(url);
    const name = url.pathname.split("/").pop();
    if (!response.ok) throw new Error(`${name} could not be loaded (HTTP ${response.status}).`);
    // A compressed response states another length than it has in the end.
    const encoded = response.headers.get("Content-Encoding");
    this.#total += encoded ? 0 : Number(response.headers.get("Content-Length") ?? 0);
    const parts = [];
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      this.#received += value.length;
      self.postMessage({ progress: { received: this.#received, total: this.#total } });
    }
    return new Blob(parts).arrayBuffer();
  }
}
