// Panels without curves: summary, shares of time, episodes, faults, settings.
import { inOrder, isIdle, stageColour, stageWords } from "./colours.js";
import { byId, duration, element, fill, percent, plain, quantity } from "./words.js";

const numbers = (box, found) =>
  fill(box, found, () =>
    found.map(([name, value, more, kind]) =>
      element(
        "div",
        {},
        element("dt", {}, name),
        element("dd", { className: kind ?? "" }, value, more ? element("small", {}, ` ${more}`) : null),
      ),
    ),
  );

function stateOf(run) {
  if (run.state === "running") return [run.phase[0] === "train" ? "running" : `running: ${run.phase[0]}`, "good"];
  if (run.state === "lost") return [run.certain ? "stopped without an end" : "seems to have stopped", "bad"];
  return [
    run.ended.length > 60 ? `${run.ended.slice(0, 60)}…` : run.ended,
    run.ended.startsWith("failed") ? "bad" : run.ended === "finished" ? "good" : "",
  ];
}
export function showSummary(run) {
  const [state, kind] = stateOf(run),
    recent = run.rollouts.success?.at(-1),
    evaluated = run.ends.after ?? run.best;
  byId("name").textContent = run.name;
  byId("state").textContent = state;
  byId("state").className = `badge ${kind}`;
  byId("state").title = run.ended;
  const faults = [
    run.lost && `${run.lost} lost`,
    run.tickets.rerun && `${run.tickets.rerun} rerun`,
    run.tickets.set_aside && `${run.tickets.set_aside} set aside`,
  ].filter(Boolean);
  byId("fault").hidden = !faults.length;
  byId("fault").textContent = `faults: ${faults.join(", ")}`;
  const { values } = run.settings;
  byId("place").textContent = [values["simulator.name"], values["policy.name"], run.place].filter(Boolean).join(" · ");
  byId("progress").value = run.updates ? Math.min(run.update / run.updates, 1) : 0;
  document.title = `${run.updates ? `${Math.round((100 * run.update) / run.updates)} % ` : ""}${run.name} · rlvla3`;
  const stale = Object.entries(run.staleness ?? {}),
    episodes = stale.reduce((sum, [, count]) => sum + count, 0);
  numbers(byId("numbers"), [
    ["updates", quantity(run.update), run.updates ? `of ${quantity(run.updates)}` : ""],
    ["environment steps", quantity(run.steps)],
    ["time", duration(run.seconds), run.training_seconds ? `${duration(run.training_seconds)} of training` : ""],
    ["throughput", quantity(run.throughput), "steps/s"],
    [
      "training success",
      recent ? percent(recent[3]) : "–",
      recent ? `[${(100 * recent[4]).toFixed(0)}, ${(100 * recent[5]).toFixed(0)}] of ${recent[6]}` : "",
    ],
    ...(evaluated
      ? [
          [
            "evaluated",
            percent(evaluated.successes / Math.max(evaluated.episodes, 1)),
            `[${(100 * evaluated.low).toFixed(0)}, ${(100 * evaluated.high).toFixed(0)}] of ${evaluated.episodes}${evaluated.planned ? ` (${evaluated.planned} were planned)` : ""}, version ${evaluated.version}`,
          ],
        ]
      : []),
    [
      "staleness",
      episodes ? (stale.reduce((sum, [lag, count]) => sum + lag * count, 0) / episodes).toFixed(2) : "–",
      stale.length ? `at most ${Math.max(...stale.map(([lag]) => lag))}` : "",
    ],
    [
      "lost workers",
      quantity(run.lost),
      run.tickets.rerun === 1 ? "1 episode rerun" : `${quantity(run.tickets.rerun ?? 0)} episodes rerun`,
      run.lost || run.tickets.rerun ? "bad" : "",
    ],
  ]);
}
export const showExplanation = (sentences) =>
  fill(byId("explanation"), sentences, () =>
    sentences.flatMap((said) => [element("dt", { className: said.verdict }, said.topic), element("dd", {}, said.text)]),
  );

export function showShares(run, span) {
  const stages = inOrder(
    new Set(
      run.workers.flatMap((worker) =>
        Object.entries({ ...worker.whole, ...worker.recent })
          .filter(([, share]) => share > 0.002)
          .map(([stage]) => stage),
      ),
    ),
  );
  const dark = document.documentElement.dataset.theme;
  fill(byId("stages"), [stages, dark], () =>
    stages.map((stage) =>
      element(
        "li",
        {},
        element("span", { className: "swatch", style: `background:${stageColour(stage)}` }),
        stageWords(stage),
      ),
    ),
  );
  fill(byId("shares"), [run.workers, span, dark], () =>
    run.workers.map((worker) => {
      const shares = inOrder(Object.keys(worker[span])).map((stage) => [stage, worker[span][stage]]),
        idle = shares.filter(([stage]) => isIdle(stage)).sort((a, b) => b[1] - a[1]);
      const waits = idle.reduce((sum, [, share]) => sum + share, 0);
      const said = shares
        .filter(([, share]) => share >= 0.005)
        .map(([stage, share]) => `${stageWords(stage)} ${percent(share)}`)
        .join(", ");
      return element(
        "div",
        { className: "worker" },
        element("span", {}, worker.name),
        element(
          "div",
          { className: "stack", role: "img", "aria-label": `${worker.name}: ${said}`, title: said },
          ...shares.map(([stage, share]) =>
            element("span", {
              style: `width:${100 * share}%;background:${stageColour(stage)}`,
              title: `${stageWords(stage)} ${percent(share, 1)}`,
            }),
          ),
        ),
        element(
          "span",
          { className: "quiet" },
          `busy ${percent(1 - waits)}${idle.length && idle[0][1] > 0.05 ? `, ${stageWords(idle[0][0])}` : ""}`,
        ),
      );
    }),
  );
}

const spark = (values, colour, label) => {
  const least = Math.min(...values, 0),
    most = Math.max(...values, least + 1e-9),
    step = 100 / Math.max(values.length - 1, 1);
  const points = values
    .map((value, at) => `${(at * step).toFixed(2)},${(38 - (34 * (value - least)) / (most - least)).toFixed(2)}`)
    .join(" ");
  const box = document.createElementNS("http://www.w3.org/2000/svg", "svg"),
    line = document.createElementNS(box.namespaceURI, "polyline");
  box.setAttribute("viewBox", "0 0 100 42");
  box.setAttribute("preserveAspectRatio", "none");
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", label);
  line.setAttribute("points", points);
  line.setAttribute("fill", "none");
  line.setAttribute("stroke", colour);
  line.setAttribute("stroke-width", "1.6");
  line.setAttribute("vector-effect", "non-scaling-stroke");
  box.append(line);
  return box;
};
const finite = (values) => (Array.isArray(values) ? values.filter((value) => Number.isFinite(value)) : []);
export function showFilms(run, films, which) {
  const chosen = films.filter((film) => which === "all" || film.success === (which === "success"));
  byId("film-count").textContent = films.length
    ? `${chosen.length} of ${films.length}`
    : "No episode is on film. Evaluations are filmed with evaluation.videos, training with training.videos.";
  fill(byId("film-list"), [run, chosen], () =>
    chosen.map((film) => {
      const values = finite(film.values),
        rewards = finite(film.rewards),
        { version, instruction } = film;
      return element(
        "article",
        { className: "film" },
        element("video", {
          src: `/api/film?name=${encodeURIComponent(run)}&film=${encodeURIComponent(film.name)}#t=0.001`,
          controls: true,
          loop: true,
          muted: true,
          preload: "auto",
          "aria-label": `${film.task}, ${film.success ? "success" : "failure"}`,
        }),
        element(
          "div",
          {},
          element("strong", { className: film.success ? "good" : "bad" }, film.success ? "succeeded" : "failed"),
          ` ${instruction || film.task}`,
          element(
            "div",
            { className: "quiet" },
            `${instruction ? `${film.task}, ` : ""}${film.when}${film.update == null ? "" : ` of update ${film.update}`}, ticket ${film.ticket}${version === undefined || version < 0 ? "" : `, version ${version}`}`,
          ),
          values.length > 1
            ? element(
                "div",
                { className: "quiet" },
                "value",
                spark(values, stageColour("infer"), "value of each decision"),
              )
            : null,
          rewards.length > 1
            ? element(
                "div",
                { className: "quiet" },
                "reward",
                spark(rewards, stageColour("train"), "reward of each decision"),
              )
            : null,
        ),
      );
    }),
  );
}

export function showFaults(run) {
  const tickets = run.tickets;
  numbers(byId("tickets"), [
    [
      "tickets trained on",
      quantity(tickets.trained ?? 0),
      tickets.issued ? `of ${quantity(tickets.issued)} issued` : "",
    ],
    ["rerun", quantity(tickets.rerun ?? 0), "", tickets.rerun ? "bad" : ""],
    ["set aside", quantity(tickets.set_aside ?? 0), "", tickets.set_aside ? "bad" : ""],
    ...(run.damaged ? [["damaged lines", quantity(run.damaged), "left out", "bad"]] : []),
    ...(run.complete ? [] : [["read so far", percent(run.read_share)]]),
  ]);
  const told = [...(run.notices ?? [])].reverse();
  if (run.ended.startsWith("failed")) told.unshift({ seconds: run.seconds, text: run.ended });
  fill(byId("notices"), [told, run.complete], () =>
    told.length
      ? told.map((notice) =>
          element(
            "li",
            {},
            element("span", { className: "quiet" }, duration(notice.seconds)),
            element("span", {}, notice.text),
          ),
        )
      : [
          element(
            "li",
            {},
            element("span"),
            element("span", {}, run.notices ? "nothing was told" : "told when all lines are read"),
          ),
        ],
  );
}

const table = (caption, head, rows) =>
  element(
    "table",
    { "aria-label": caption },
    element("thead", {}, element("tr", {}, ...head.map((word) => element("th", { scope: "col" }, word)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell))))),
  );
export function showSettings(run, runs) {
  const { values, changed, defaults, unread } = run.settings;
  fill(byId("changed"), [run.name, run.settings], () => [
    unread ? element("p", { className: "bad" }, unread) : element("h3", {}, "What differs from the defaults"),
    table(
      "Settings that are no defaults",
      ["setting", "here", "default"],
      changed.map((name) => [name, plain(values[name]), name in defaults ? plain(defaults[name]) : "–"]),
    ),
  ]);
  fill(byId("all-settings"), [run.name, values], () => [
    table(
      "All settings",
      ["setting", "value"],
      Object.entries(values).map(([name, value]) => [name, plain(value)]),
    ),
  ]);
  const names = [...new Set(runs.flatMap((each) => Object.keys(each.settings.values)))].filter(
    (name) => new Set(runs.map((each) => plain(each.settings.values[name] ?? "–"))).size > 1,
  );
  fill(byId("differing"), [runs.map((each) => [each.name, each.settings.values])], () =>
    runs.length < 2
      ? []
      : [
          element("h3", {}, "What differs between these runs"),
          table(
            "Settings in which the runs differ",
            ["setting", ...runs.map((each) => each.name)],
            names.map((name) => [name, ...runs.map((each) => plain(each.settings.values[name] ?? "–"))]),
          ),
        ],
  );
}
