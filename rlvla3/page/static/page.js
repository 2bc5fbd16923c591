// The page: which runs are shown, and when they are asked for again. The address keeps the choice, so that it can be sent or opened again.
import { runColour } from "./colours.js";
import { drawCurves, drawLearning, drawMachine, drawOverTime, setAxis } from "./charts.js";
import { showExplanation, showFaults, showFilms, showSettings, showShares, showSummary } from "./panels.js";
import { listenTimeline, showTimeline } from "./timeline.js";
import { byId, choice, element, fill, percent, quantity } from "./words.js";

const SOON_MS = 2000,
  LATER_MS = 10000,
  MOST = 8,
  AGAIN = "Ask-Again-Ms";
const page = {
  listed: [],
  chosen: [],
  told: new Map(),
  films: [],
  span: "recent",
  which: "all",
  tags: new Map(),
  again: SOON_MS,
  repaint: () => {},
};

// What the server says; the last answer again where it has not changed.
async function ask(address) {
  const known = page.tags.get(address);
  const answer = await fetch(address, { headers: known ? { "If-None-Match": known.tag } : {}, cache: "no-store" });
  page.again = Number(answer.headers.get(AGAIN) ?? page.again);
  if (answer.status === 304) return known.content;
  if (!answer.ok) throw new Error(await answer.text());
  const content = await answer.json();
  page.tags.set(address, { tag: answer.headers.get("ETag"), content });
  return content;
}
const of = (what, name) => `/api/${what}?name=${encodeURIComponent(name)}`;
const shown = () =>
  page.chosen.map((name, number) => ({ ...page.told.get(name), colour: runColour(number) })).filter((run) => run.name);

function drawAll() {
  const runs = shown();
  if (!runs.length) return;
  const [run] = runs;
  showSummary(run);
  showShares(run, page.span);
  showFaults(run);
  showSettings(run, runs);
  showFilms(run.name, page.films, page.which);
  drawLearning(runs);
  drawOverTime(run);
  drawCurves(runs);
  drawMachine(run);
  page.repaint();
  document.body.dataset.drawn = String(run.update);
}
function showList() {
  byId("chosen").textContent = page.chosen.length > 1 ? `${page.chosen.length} runs` : (page.chosen[0] ?? "no run yet");
  fill(byId("run-list"), [page.listed, page.chosen], () =>
    page.listed.map((run) => {
      const number = page.chosen.indexOf(run.name),
        box = element("input", {
          type: "checkbox",
          checked: number >= 0,
          disabled: number < 0 && page.chosen.length >= MOST,
        });
      box.addEventListener("change", () =>
        choose(box.checked ? [...page.chosen, run.name] : page.chosen.filter((name) => name !== run.name)),
      );
      const rate = run.rollouts?.episodes ? percent(run.rollouts.successes / run.rollouts.episodes) : "";
      return element(
        "label",
        {},
        box,
        element("span", {
          className: "dot",
          style: `background:${number < 0 ? "transparent" : runColour(number)}`,
        }),
        run.name,
        element(
          "span",
          { className: "quiet" },
          [run.state === "running" ? "running" : run.ended.split(":")[0], `${quantity(run.update)} updates`, rate]
            .filter(Boolean)
            .join(", "),
        ),
      );
    }),
  );
}
function choose(names) {
  page.chosen = names.length ? names : page.chosen;
  history.replaceState(null, "", `#${new URLSearchParams(page.chosen.map((name) => ["run", name]))}`);
  showList();
  again(0);
}

let waiting;
function again(after) {
  clearTimeout(waiting);
  waiting = setTimeout(refresh, after);
}
async function refresh() {
  let running = false,
    reading = false;
  try {
    page.listed = await ask("/api/runs");
    const there = new Set(page.listed.map((run) => run.name));
    page.chosen = page.chosen.filter((name) => there.has(name));
    if (!page.chosen.length && page.listed.length) page.chosen = [page.listed[0].name];
    showList();
    byId("trouble").hidden = page.listed.length > 0;
    if (!page.listed.length)
      byId("trouble").textContent = "There is no run here yet. This page shows the first one as soon as it begins.";
    for (const name of page.chosen) page.told.set(name, await ask(of("run", name)));
    if (page.chosen.length) page.films = await ask(of("films", page.chosen[0]));
    drawAll();
    running = shown().some((run) => run.state === "running");
    reading = shown().some((run) => !run.complete);
    if (page.chosen.length) {
      if (page.timeline !== page.chosen[0] || shown()[0]?.state === "running") showTimeline(page.chosen[0]);
      page.timeline = page.chosen[0];
      ask(of("explanation", page.chosen[0])).then(showExplanation, () => {});
    }
  } catch (error) {
    byId("trouble").hidden = false;
    byId("trouble").textContent =
      error instanceof TypeError
        ? "The server of this page does not answer. Start `rlvla3 watch` again; training does not depend on it."
        : error.message;
  }
  again(reading ? SOON_MS : running ? page.again : LATER_MS);
}
function theme(name) {
  document.documentElement.dataset.theme = name;
  try {
    localStorage.theme = name;
  } catch {
    /* a browser that keeps nothing */
  }
}
function start() {
  const kept = (() => {
    try {
      return localStorage.theme;
    } catch {
      return undefined;
    }
  })();
  theme(kept ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  byId("theme").addEventListener("click", () => {
    theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    drawAll();
  });
  choice("axis", "axis", (number) => {
    setAxis(number);
    drawAll();
  });
  choice("span", "span", (span) => {
    page.span = span;
    drawAll();
  });
  choice("films", "films", (which) => {
    page.which = which;
    drawAll();
  });
  byId("more").addEventListener("toggle", drawAll);
  listenTimeline((repaint) => {
    page.repaint = repaint;
  });
  page.chosen = new URLSearchParams(location.hash.slice(1)).getAll("run").slice(0, MOST);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(waiting);
    else again(0);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") byId("runs").open = false;
  });
  document.addEventListener("click", (event) => {
    if (!byId("runs").contains(event.target)) byId("runs").open = false;
  });
  refresh();
}
start();
