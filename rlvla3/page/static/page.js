// The page: which runs are shown, and when they are asked for again. The address keeps the choice, so that it can be sent or opened again.
import { runColour } from "./colours.js";
import { drawCurves, drawLearning, drawMachine, drawOverTime, setAxis } from "./charts.js";
import { showExplanation, showFaults, showFilms, showSettings, showShares, showSummary } from "./panels.js";
import { listenTimeline, showTimeline } from "./timeline.js";
import { byId, choice, element, fill, percent, quantity } from "./words.js";

const SOON_MS = 2000,
  LATER_MS = 10000,
  MOST = 8,
  AGAIN = "Ask-Again-Ms",
  TAB = "Browser-Tab",
  NO_SERVER = "The server of this page does not answer. Start `rlvla3 watch` again; training does not depend on it.";
const page = {
  listed: [],
  chosen: [],
  told: new Map(),
  films: new Map(),
  span: "recent",
  which: "all",
  tags: new Map(),
  tab: Math.random().toString(36).slice(2),
  again: SOON_MS,
  repaint: () => {},
};

// What the server says; the last answer again where it has not changed.
async function ask(address) {
  const known = page.tags.get(address),
    headers = { [TAB]: page.tab, ...(known ? { "If-None-Match": known.tag } : {}) };
  const answer = await fetch(address, { headers, cache: "no-store" }).catch(() => {
    throw new Error(NO_SERVER);
  });
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
// The run whose bars, films and sentences are shown: the first chosen one that the server could read.
const first = () => shown()[0]?.name;

function drawAll() {
  const runs = shown();
  document.body.classList.toggle("nothing", !runs.length);
  if (!runs.length) return;
  const [run] = runs;
  showSummary(run);
  showShares(run, page.span);
  showFaults(run);
  showSettings(run, runs);
  showFilms(run.name, page.films.get(run.name) ?? [], page.which);
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
          run.unread
            ? `cannot be read: ${run.unread}`
            : [run.state === "lost" ? "stopped" : run.ended.split(":")[0], `${quantity(run.update)} updates`, rate]
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
  if (!document.hidden) waiting = setTimeout(refresh, after);
}
function showTrouble(sentences) {
  byId("trouble").hidden = !sentences.length;
  byId("trouble").textContent = sentences.join(" ");
}
// What one part of the page needs. Where there is no answer, `trouble` says so, and the other parts are shown.
async function part(address, name, trouble) {
  try {
    return await ask(address);
  } catch (error) {
    trouble.push(`${name}: ${error.message.replace(/\.$/, "")}.`);
    return null;
  }
}
async function tell(trouble) {
  for (const name of page.chosen) {
    const told = await part(of("run", name), name, trouble);
    if (told) page.told.set(name, told);
  }
  const name = first();
  if (!name) return;
  const films = await part(of("films", name), `films of ${name}`, trouble);
  if (films) page.films.set(name, films);
}
// The sentences of the first run. They may come late, when another run is shown.
function explain(name) {
  if (page.explained !== name) showExplanation([]);
  page.explained = name;
  const show = (sentences) => name === first() && showExplanation(sentences);
  ask(of("explanation", name)).then(show, (error) =>
    show([{ topic: "in words", verdict: "bad", text: error.message }]),
  );
}
async function refresh() {
  const trouble = [];
  let running = false,
    reading = false;
  try {
    page.listed = await ask("/api/runs");
    const there = new Set(page.listed.map((run) => run.name));
    page.chosen = page.chosen.filter((name) => there.has(name));
    if (!page.chosen.length && page.listed.length)
      page.chosen = [(page.listed.find((run) => !run.unread) ?? page.listed[0]).name];
    showList();
    if (!page.listed.length)
      trouble.push("There is no run here yet. This page shows the first one as soon as it begins.");
    await tell(trouble);
    running = shown().some((run) => run.state === "running");
    reading = shown().some((run) => !run.complete);
    const name = first();
    if (name) {
      if (page.timeline !== name || page.told.get(name).state === "running") showTimeline(name);
      page.timeline = name;
      explain(name);
    }
  } catch (error) {
    trouble.push(error.message);
  }
  try {
    drawAll();
  } catch (error) {
    console.error(error);
    trouble.push(
      `This page cannot draw what the server has answered (${error.message}). That is a mistake of the page.`,
    );
  }
  showTrouble(trouble);
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
