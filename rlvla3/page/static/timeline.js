// The timeline: a lane for each worker, drawn on a canvas. Wheel, drag or keys move and zoom; what is under the pointer is said beside it.
import { ink, stageColour, stageWords } from "./colours.js";
import { drawBars } from "./charts.js";
import { byId, element, fill, short } from "./words.js";

const LANE = 20,
  LEFT = 144,
  FOOT = 22,
  SHORTEST = 0.005,
  LONGEST = 3600;
const WAITS = [
  ["median", "p50"],
  ["95 % are below", "p95"],
  ["longest", "most"],
];
const NO_TRACE = "This run keeps no timeline. Start it with engine.trace=true, or with rlvla3 train --watch.";
const view = { run: null, seconds: 60, end: null, told: null, drag: null, asked: 0 };

export async function showTimeline(run) {
  if (view.run !== run) {
    Object.assign(view, { run, seconds: 60, end: null, told: null });
    paint();
  }
  const asked = ++view.asked;
  const end = view.end === null ? "" : `&end=${view.end}`;
  const address = `/api/timeline?name=${encodeURIComponent(run)}&seconds=${view.seconds}${end}`,
    answer = await fetch(address).catch(() => ({ ok: false }));
  const told = answer.ok ? await answer.json() : (view.told ?? { lanes: [], failed: true });
  if (asked !== view.asked) return;
  view.told = told;
  paint();
}

function paint() {
  const told = view.told,
    none = !told || !told.lanes.length;
  byId("timeline-box").hidden = none;
  byId("timeline-none").textContent = none ? whyNone(told) : "";
  byId("timeline-span").textContent = none ? "" : `${short(told.seconds)}${view.end === null ? ", the newest" : ""}`;
  byId("live").setAttribute("aria-pressed", String(view.end === null));
  if (none) return;
  const size = { width: byId("timeline").clientWidth, height: told.lanes.length * LANE + FOOT },
    scale = (size.width - LEFT) / told.seconds,
    pen = cleared(byId("timeline"), size);
  paintLanes(pen, told.lanes, scale);
  paintTimes(pen, told.seconds, scale, size);
  showBatches(told);
}
function whyNone(told) {
  if (!told) return "The timeline is being read ...";
  return told.failed ? "The timeline could not be read." : NO_TRACE;
}
// A pen on an empty canvas of this size. Its unit is the page's pixel, whatever the screen's is.
function cleared(canvas, { width, height }) {
  const ratio = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  return pen;
}
function paintLanes(pen, lanes, scale) {
  lanes.forEach((lane, row) => {
    pen.fillStyle = ink("quiet");
    pen.fillText(lane.worker, 2, row * LANE + LANE / 2, LEFT - 10);
    for (const [stage, begin, end] of lane.spans) {
      pen.fillStyle = stageColour(stage);
      pen.fillRect(LEFT + begin * scale, row * LANE + 2, Math.max((end - begin) * scale, 0.6), LANE - 4);
    }
  });
}
// Below the lanes: how long before the end of what is shown.
function paintTimes(pen, seconds, scale, { width, height }) {
  pen.fillStyle = ink("quiet");
  pen.strokeStyle = ink("line");
  pen.textAlign = "center";
  const step = niceStep(seconds / 8);
  for (let back = 0; back <= seconds; back += step) {
    const x = LEFT + (seconds - back) * scale;
    pen.beginPath();
    pen.moveTo(x, height - FOOT);
    pen.lineTo(x, height - FOOT + 4);
    pen.stroke();
    if (back && x > LEFT + 20 && x < width - 14) pen.fillText(`−${secondsBack(back)}`, x, height - 8);
  }
}
function secondsBack(back) {
  const rounded = Number(back.toPrecision(3));
  return rounded >= 1 ? `${rounded} s` : short(back);
}
// Two figures of what the timeline shows. They are there as soon as there is an inference.
function showBatches({ batches, waits }) {
  if (!byId("chart-batches")) {
    if (!Object.keys(batches).length) return;
    const chart = element("div", { className: "chart", id: "chart-batches" }),
      numbers = element("dl", { className: "numbers", id: "waits" });
    byId("speed").after(
      element(
        "div",
        { className: "grid" },
        figure("Batch sizes of inference", "in the time that the timeline shows", chart),
        figure("Waiting for a decision", "from the request to the answer", numbers),
      ),
    );
  }
  drawBars(byId("chart-batches"), batches, "decisions in an inference", stageColour("infer"));
  if (waits) fill(byId("waits"), waits, () => WAITS.map(([name, key]) => number(name, short(waits[key]))));
}
const figure = (name, more, content) =>
  element("figure", {}, element("figcaption", {}, `${name} `, element("span", { className: "quiet" }, more)), content);
const number = (name, value) => element("div", {}, element("dt", {}, name), element("dd", {}, value));
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

const newest = () => move(view.seconds, null);
const BUTTONS = {
  "later-off": () => shift(-0.5),
  "later-on": () => shift(0.5),
  "zoom-in": () => zoom(0.5),
  "zoom-out": () => zoom(2),
  live: newest,
};
const KEYS = {
  ArrowLeft: BUTTONS["later-off"],
  ArrowRight: BUTTONS["later-on"],
  "+": BUTTONS["zoom-in"],
  "=": BUTTONS["zoom-in"],
  "-": BUTTONS["zoom-out"],
  Home: () => move(view.seconds, view.told.oldest),
  End: newest,
};

export function listenTimeline(repaint) {
  const canvas = byId("timeline");
  for (const [id, act] of Object.entries(BUTTONS)) byId(id).addEventListener("click", act);
  canvas.addEventListener("keydown", (event) => {
    if (!KEYS[event.key]) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  canvas.addEventListener("wheel", onWheel, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    view.drag = { x: event.offsetX, end: end() };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", () => {
    view.drag = null;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!view.told) return;
    if (view.drag) move(view.seconds, view.drag.end - secondsIn(event.offsetX - view.drag.x));
    else byId("under").textContent = under(event);
  });
  new ResizeObserver(() => paint()).observe(canvas.parentElement);
  repaint(paint);
}
// The seconds that a width on the canvas stands for.
const secondsIn = (pixels) => (pixels / (byId("timeline").clientWidth - LEFT)) * view.told.seconds;
// A wheel alone scrolls the page.
function onWheel(event) {
  if (!view.told || !(event.ctrlKey || event.shiftKey)) return;
  event.preventDefault();
  const share = secondsIn(event.offsetX - LEFT) / view.told.seconds;
  zoom(event.deltaY > 0 ? 1.4 : 0.7, Math.min(Math.max(share, 0), 1));
}
// What the worker under the pointer does, in words.
function under({ offsetX, offsetY }) {
  const lane = view.told.lanes[Math.floor(offsetY / LANE)],
    at = secondsIn(offsetX - LEFT);
  const span = lane?.spans.find(([, begin, until]) => begin <= at && at <= until);
  if (!span) return "";
  const [stage, begin, until, size] = span;
  return `${lane.worker}: ${stageWords(stage)}, ${short(until - begin)}${size ? `, ${size} at once` : ""}`;
}
