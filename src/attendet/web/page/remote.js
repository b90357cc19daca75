// The detector that runs on the server of this page.

const LOWEST = 0.01; // detections above this score are requested; the slider hides some of them

/**
 * Return the detector.
 *
 * @param model the content of model.json.
 * @param root address of the page.
 * @param page {rerun, redraw}: functions of the page.
 */
export async function connect(model, root, page) {
  const gates = new GateView(model.server.gates, page);
  const post = async (path, body) => {
    let response;
    try {
      response = await fetch(new URL(path, root), { method: "POST", body });
    } catch {
      throw new Error("The server does not answer. Is it still running?");
    }
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error ?? `The server answered ${response.status}.`);
    return answer;
  };
  return {
    backend: `${model.server.runtime} on the server`,
    note: "Images are sent to this server, which does not keep them.",
    async detect(frame, settings) {
      const body = await frame.blob();
      if (body.size > model.server.max_upload * 1e6) {
        throw new Error(`The image must be at most ${model.server.max_upload} MB.`);
      }
      const query = new URLSearchParams({
        confidence: Math.max(LOWEST, model.limits.min_confidence),
        nms_iou: settings.nmsIou,
        max_detections: settings.maxDetections,
      });
      const started = performance.now();
      const answer = await post(`predict?${query}`, body);
      const total = performance.now() - started;
      const drawings = gates.site ? (await post("gates", body)).gates : null;
      const found = answer.detections.map(({ class_id, score, box_xyxy }) => {
        return { classId: class_id, score, box: box_xyxy };
      });
      return {
        milliseconds: { ...answer.milliseconds, total },
        overlays: await gates.load(drawings),
        select: ({ confidence }) => found.filter(({ score }) => score >= confidence),
        fits: ({ nmsIou }) => nmsIou === settings.nmsIou && !(gates.site && !drawings),
      };
    },
    overlay: (result) => gates.show(result.overlays),
  };
}

/** The section of the page that shows the gates of a site. */
class GateView {
  site = "";

  constructor(sites, { rerun, redraw }) {
    if (!sites.length) return;
    const section = document.getElementById("extras");
    const title = document.createElement("h2");
    title.textContent = "Attention gates";
    const choice = document.createElement("select");
    choice.id = "gates";
    choice.setAttribute("aria-label", "Attention gates");
    choice.append(new Option("Off", ""), ...sites.map((site) => new Option(site, site)));
    this.chart = document.createElement("img");
    this.chart.hidden = true;
    this.scale = document.createElement("p");
    this.scale.className = "scale";
    this.scale.hidden = true;
    section.append(title, choice, this.chart, this.scale);
    section.hidden = false;
    choice.addEventListener("change", () => {
      const had = this.site !== "";
      this.site = choice.value;
      if (this.site && !had) rerun();
      else redraw();
    });
  }

  /** Return the drawings with their images loaded, or null. */
  async load(drawings) {
    if (!drawings) return null;
    return Promise.all(
      drawings.map(async (one) => {
        const image = new Image();
        image.src = one.image;
        await image.decode();
        return { ...one, image };
      }),
    );
  }

  /** Show chart and range of the chosen site; return its overlay, or null. */
  show(overlays) {
    if (!this.chart) return null;
    const ofSite = (this.site && overlays?.filter(({ site }) => site === this.site)) || [];
    const map = ofSite.find(({ kind }) => kind === "map");
    const channels = ofSite.find(({ kind }) => kind === "channels");
    this.chart.hidden = !channels;
    if (channels) {
      this.chart.src = channels.image.src;
      this.chart.alt = `Gates of the channels, ${range(channels)}`;
    }
    this.scale.hidden = !map;
    if (map) this.scale.textContent = range(map);
    return map?.image ?? null;
  }
}

const range = ({ low, high }) => `${low.toFixed(3)} to ${high.toFixed(3)}`;
