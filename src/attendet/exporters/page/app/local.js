// The detector that runs in this browser.

import { selectDetections } from "./select.js";

/**
 * Load the network of model.json into a worker.
 *
 * @param model the content of model.json.
 * @param root address of its folder.
 * @param onProgress called with {received, total} bytes; total is 0 while unknown.
 * @param backend "wasm" or "webgpu" to insist on one.
 */
export async function loadLocal(model, root, onProgress, backend = null) {
  const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  const waiting = new Map();
  let number = 0;
  worker.onmessage = ({ data }) => {
    if (data.progress) {
      onProgress(data.progress);
      return;
    }
    const { resolve, reject } = waiting.get(data.id);
    waiting.delete(data.id);
    if (data.error) reject(new Error(data.error));
    else resolve(data.ready ?? data.output);
  };
  worker.onerror = (event) => {
    const error = new Error(event.message || "The worker of the page cannot start.");
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };
  const call = (message, transfer = []) =>
    new Promise((resolve, reject) => {
      const id = ++number;
      waiting.set(id, { resolve, reject });
      worker.postMessage({ id, ...message }, transfer);
    });
  const ready = await call({ load: { root: String(root), model, backend } });
  const name = ready.backend === "webgpu" ? "WebGPU" : "WebAssembly";
  return {
    backend: ready.threads > 1 && name === "WebAssembly" ? `${name}, ${ready.threads} threads` : name,
    note: "Runs in this browser. Images are not sent anywhere.",
    async detect(frame) {
      const image = frame.pixels();
      const output = await call({ run: { image } }, [image.data.buffer]);
      return {
        milliseconds: output.milliseconds,
        select: (settings) => selectDetections(output, output.transform, settings),
        fits: () => true,
      };
    },
  };
}
