// The timeline: a lane for each worker, drawn on a canvas. Wheel, drag or keys move and zoom; what is under the pointer is said beside it.
import { ink, stageColour, stageWords } from "./colours.js";
import { drawBars } from "./charts.js";
import { byId, element, fill, short } from "./words.js";

const LANE = 20,
  LEFT = 144,
  FOOT = 22,
  SHORTEST = 0.005,
  LONGEST = 3600;
const NO_TRACE = "This run keeps no timeline. Start it with engine.trace=true, or with rlvla3 train --watch.";
const view = { run: null, seconds: 60, end: null, told: null, drag: null, asked: 0 };

export async function showTimeline(run) {
  if (view.run !== run) {
    Object.assign(view, { run, seconds: 60, end: null, told: null });
    paint();
  }
  const asked = ++view.asked;
  const end = view.end === null ? "" : `&end=${view.end}`;
  const answer = await fetch(`/api/timeline?name=${encodeURIComponent(run)}&seconds=${view.seconds}${end}`);
  const told = answer.ok ? await answer.json() : (view.told ?? { lanes: [], failed: true });
  if (asked !== view.asked) return;
  view.told = told;
  paint();
}

function paint() {
  const told = view.told,
    canvas = byId("timeline"),
    none = !told || !told.lanes.length;
  byId("timeline-box").hidden = none;
  byId("timeline-none").textContent = !none
    ? ""
    : !told
      ? "The timeline is being read ..."
      : told.failed
        ? "The timeline could not be read."
        : NO_TRACE;
  byId("timeline-span").textContent = none ? "" : `${short(told.seconds)}${view.end === null ? ", the newest" : ""}`;
  byId("live").setAttribute("aria-pressed", String(view.end === null));
  if (none) return;
  const width = canvas.clientWidth,
    height = told.lanes.length * LANE + FOOT,
    ratio = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext("2d"),
    scale = (width - LEFT) / told.seconds;
  pen.scale(ratio, ratio);
  pen.clearRect(0, 0, width, height);
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  told.lanes.forEach((lane, row) => {
    pen.fillStyle = ink("quiet");
    pen.fillText(lane.worker, 2, row * LANE + LANE / 2, LEFT - 10);
    for (const [stage, begin, end] of lane.spans) {
      pen.fillStyle = stageColour(stage);
      pen.fillRect(LEFT + begin * scale, row * LANE + 2, Math.max((end - begin) * scale, 0.6), LANE - 4);
    }
  });
  const step = niceStep(told.seconds / 8);
  pen.fillStyle = ink("quiet");
  pen.strokeStyle = ink("line");
  pen.textAlign = "center";
  for (let back = 0; back <= told.seconds; back += step) {
    const x = LEFT + (told.seconds - back) * scale;
    pen.beginPath();
    pen.moveTo(x, height - FOOT);
    pen.lineTo(x, height - FOOT + 4);
    pen.stroke();
    if (x > LEFT + 20 && x < width - 14)
      pen.fillText(
        back ? `−${Number(back.toPrecision(3)) >= 1 ? `${Number(back.toPrecision(3))} s` : short(back)}` : "",
        x,
        height - 8,
      );
  }
  const box = byId("speed"),
    sizes = told.batches;
  let chart = byId("chart-batches");
  if (!chart && Object.keys(sizes).length) {
    chart = element("div", { className: "chart", id: "chart-batches" });
    box.after(
      element(
        "div",
        { className: "grid" },
        element(
          "figure",
          {},
          element(
            "figcaption",
            {},
            "Batch sizes of inference ",
            element("span", { className: "quiet" }, "in the time that the timeline shows"),
          ),
          chart,
        ),
        element(
          "figure",
          {},
          element(
            "figcaption",
            {},
            "Waiting for a decision ",
            element("span", { className: "quiet" }, "from the request to the answer"),
          ),
          element("dl", { className: "numbers", id: "waits" }),
        ),
      ),
    );
  }
  if (chart) drawBars(chart, sizes, "decisions in an inference", stageColour("infer"));
  if (chart && told.waits)
    fill(byId("waits"), told.waits, () =>
      [
        ["median", "p50"],
        ["95 % are below", "p95"],
        ["longest", "most"],
      ].map(([name, key]) => element("div", {}, element("dt", {}, name), element("dd", {}, short(told.waits[key])))),
    );
}
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((digit) => digit * power).find((step) => step >= least);
}
function move(seconds, end) {
  const told = view.told;
  if (!told) return;
  view.seconds = Math.min(Math.max(seconds, SHORTEST), LONGEST);
  view.end =
    end === null || end >= told.newest
      ? null
      : Math.max(end, told.oldest + Math.min(view.seconds, told.newest - told.oldest));
  showTimeline(view.run);
}
const end = () => view.end ?? view.told.newest;
const zoom = (factor, at = 0.5) =>
  move(view.seconds * factor, view.end === null && at === 0.5 ? null : end() - (1 - at) * view.seconds * (1 - factor));
const shift = (share) => move(view.seconds, end() + share * view.seconds);

export function listenTimeline(repaint) {
  const canvas = byId("timeline");
  const actions = {
    "later-off": () => shift(-0.5),
    "later-on": () => shift(0.5),
    "zoom-in": () => zoom(0.5),
    "zoom-out": () => zoom(2),
    live: () => move(view.seconds, null),
  };
  for (const [id, act] of Object.entries(actions)) byId(id).addEventListener("click", act);
  const keys = {
    ArrowLeft: actions["later-off"],
    ArrowRight: actions["later-on"],
    "+": actions["zoom-in"],
    "=": actions["zoom-in"],
    "-": actions["zoom-out"],
    Home: () => move(view.seconds, view.told.oldest),
    End: actions.live,
  };
  canvas.addEventListener("keydown", (event) => {
    if (keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  const share = (event) => Math.min(Math.max((event.offsetX - LEFT) / (canvas.clientWidth - LEFT), 0), 1);
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (event.ctrlKey || event.shiftKey) {
        event.preventDefault();
        zoom(event.deltaY > 0 ? 1.4 : 0.7, share(event));
      }
    },
    { passive: false },
  );
  canvas.addEventListener("pointerdown", (event) => {
    view.drag = { x: event.offsetX, end: end() };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", () => {
    view.drag = null;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!view.told) return;
    if (view.drag) {
      move(view.seconds, view.drag.end - ((event.offsetX - view.drag.x) / (canvas.clientWidth - LEFT)) * view.seconds);
      return;
    }
    const lane = view.told.lanes[Math.floor(event.offsetY / LANE)],
      at = ((event.offsetX - LEFT) / (canvas.clientWidth - LEFT)) * view.told.seconds;
    const span = lane?.spans.find(([, begin, until]) => begin <= at && at <= until);
    byId("under").textContent = span
      ? `${lane.worker}: ${stageWords(span[0])}, ${short(span[2] - span[1])}${span[3] ? `, ${span[3]} at once` : ""}`
      : "";
  });
  new ResizeObserver(() => paint()).observe(canvas.parentElement);
  repaint(paint);
}
