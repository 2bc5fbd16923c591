// Curves. The axis is 0 updates, 1 environment steps or 2 seconds: the columns of what the server tells.
import { ink, inOrder, stageColour, stageWords } from "./colours.js";
import { draw } from "./drawing.js";
import { byId, element, fill } from "./words.js";

const AXES = ["update", "steps", "seconds"];
// Further columns: of a success rate, and of how time was spent.
const [RATE, LOW, HIGH, EPISODES, MEAN_RETURN] = [3, 4, 5, 6, 7];
const SPENT = 3;
const axis = { number: 1 };
export const setAxis = (number) => {
  axis.number = Number(number);
};

function seconds(values) {
  const most = Math.max(0, ...values);
  return most > 2 * 3600 ? [3600, "hours"] : most > 180 ? [60, "minutes"] : [1, "seconds"];
}
function horizontal(runs) {
  if (axis.number !== 2) return { scale: 1, title: axis.number ? "environment steps" : "updates" };
  const [scale, title] = seconds(runs.map((run) => run.seconds));
  return { scale, title };
}
const faint = (colour, alpha) =>
  `${colour}${Math.round(255 * alpha)
    .toString(16)
    .padStart(2, "0")}`;

function rateTraces(rows, scale, name, colour, column) {
  const x = rows.map((row) => row[axis.number] / scale),
    line = { color: colour, width: 2, shape: "linear" };
  if (column === MEAN_RETURN) return [{ x, y: rows.map((row) => row[MEAN_RETURN]), name, mode: "lines", line }];
  return [
    { x, y: rows.map((row) => row[HIGH]), mode: "lines", line: { width: 0 }, hoverinfo: "skip" },
    {
      x,
      y: rows.map((row) => row[LOW]),
      mode: "lines",
      line: { width: 0 },
      fill: "tonexty",
      fillcolor: faint(colour, 0.16),
      hoverinfo: "skip",
    },
    {
      x,
      y: rows.map((row) => row[RATE]),
      name,
      mode: rows.length < 3 ? "lines+markers" : "lines",
      line,
      customdata: rows.map((row) => [row[LOW], row[HIGH], row[EPISODES]]),
      hovertemplate: "%{y:.0%} [%{customdata[0]:.0%}, %{customdata[1]:.0%}] of %{customdata[2]}",
    },
  ];
}
function evaluationTrace(rows, scale, name, colour, column) {
  const bars =
    column === RATE
      ? {
          error_y: {
            type: "data",
            symmetric: false,
            array: rows.map((row) => row[HIGH] - row[RATE]),
            arrayminus: rows.map((row) => row[RATE] - row[LOW]),
            thickness: 1.2,
            width: 3,
            color: colour,
          },
        }
      : {};
  return {
    x: rows.map((row) => row[axis.number] / scale),
    y: rows.map((row) => row[column]),
    name: `${name} evaluated`,
    mode: "markers",
    cliponaxis: false,
    marker: { color: colour, size: 8, line: { color: ink("panel"), width: 1.5 } },
    ...bars,
    customdata: rows.map((row) => [row[LOW], row[HIGH], row[EPISODES]]),
    hovertemplate:
      column === RATE ? "%{y:.0%} [%{customdata[0]:.0%}, %{customdata[1]:.0%}] of %{customdata[2]}" : "%{y:.4g}",
  };
}
// Evaluations of a task with those before and after training, in the form of a rate.
function evaluations(run, task) {
  const rows = [...(run.evaluations[task] ?? [])];
  for (const when of ["before", "after", "eval"]) {
    const line = run.ends[when],
      rate = line && (task === "success" ? line : line.per_task?.[task]);
    if (!rate || !rate.episodes) continue;
    rows.push([...line.place, rate.successes / rate.episodes, rate.low, rate.high, rate.episodes, rate.mean_return]);
  }
  return rows.sort((a, b) => a[axis.number] - b[axis.number]);
}
function rateChart(box, runs, task, column, up) {
  const { scale, title } = horizontal(runs);
  const traces = runs.flatMap((run) => {
    const rows = run.rollouts[task] ?? [],
      evaluated = evaluations(run, task);
    return [
      ...(rows.length ? rateTraces(rows, scale, run.name, run.colour, column) : []),
      ...(evaluated.length ? [evaluationTrace(evaluated, scale, run.name, run.colour, column)] : []),
    ];
  });
  draw(box, traces, title, up);
}
const SUCCESS = { range: [-0.06, 1.06], tickformat: ".0%" };
const boxes = (grid, names, caption) =>
  fill(grid, names, () =>
    names.map((name) =>
      element("figure", {}, element("figcaption", {}, ...caption(name)), element("div", { className: "chart" })),
    ),
  );
const chartOf = (grid, number) => grid.children[number]?.querySelector(".chart");

export function drawLearning(runs) {
  fill(
    byId("run-colours"),
    runs.map((run) => [run.name, run.colour]),
    () =>
      runs.length < 2
        ? []
        : runs.map((run) =>
            element("li", {}, element("span", { className: "swatch", style: `background:${run.colour}` }), run.name),
          ),
  );
  const grouped = runs.some((run) => run.settings.values["algorithm.group_size"] > 1);
  byId("alike").textContent = grouped
    ? "Episodes of a group share an initial state, so they are alike: the true interval of training is wider."
    : "";
  rateChart(byId("chart-success"), runs, "success", RATE, SUCCESS);
  rateChart(byId("chart-return"), runs, "success", MEAN_RETURN, {});
  const tasks = [
      ...new Set(
        runs.flatMap((run) =>
          Object.keys({ ...run.rollouts, ...run.evaluations, ...(run.ends.after?.per_task ?? {}) }),
        ),
      ),
    ]
      .filter((task) => task !== "success")
      .slice(0, 24),
    grid = byId("tasks");
  boxes(grid, tasks, (task) => [task]);
  tasks.forEach((task, number) => rateChart(chartOf(grid, number), runs, task, RATE, SUCCESS));
}

export function drawOverTime(run) {
  const { scale, title } = horizontal([run]),
    kinds = Object.keys(run.spent),
    grid = byId("over-time");
  boxes(grid, kinds, (kind) => [kind]);
  kinds.forEach((kind, number) => {
    const rows = run.spent[kind],
      x = rows.map((row) => row[axis.number] / scale);
    const traces = inOrder(new Set(rows.flatMap((row) => Object.keys(row[SPENT])))).map((stage) => ({
      x,
      y: rows.map((row) => row[SPENT][stage] ?? 0),
      name: stageWords(stage),
      stackgroup: "all",
      mode: "lines",
      line: { width: 0, color: stageColour(stage) },
      fillcolor: stageColour(stage),
      hovertemplate: "%{y:.1%}",
    }));
    draw(chartOf(grid, number), traces, title, { range: [0, 1], tickformat: ".0%" });
  });
}

const LOSSES = [
  "policy_loss",
  "value_loss",
  "entropy",
  "approx_kl",
  "clip_share",
  "explained_variance",
  "gradient_norm",
  "effective_sample_size",
  "learning_rate",
].map((name) => `learner/${name}`);
const RATIOS = {
  "ratio, 5th, 50th and 95th percentile": ["learner/ratio_p05", "learner/ratio_p50", "learner/ratio_p95"],
};
const SPEED = {
  "Throughput, steps/s": ["engine/throughput"],
  "Staleness, mean of an update": ["engine/staleness"],
  "Decisions in an inference, expected": ["batching/expected_batch"],
  "Longest wait for a batch, ms": ["batching/max_wait_ms"],
  "Seconds of an update": ["engine/update_seconds"],
};
const words = (name) => name.split("/").at(-1).replaceAll("_", " ");

// A range for a curve that never changes. Plotly would take one from the value less 1 to the value plus 1.
function aroundOneValue(values) {
  const most = Math.max(...values);
  return most - Math.min(...values) > 1e-9 * Math.abs(most)
    ? {}
    : { range: most > 0 ? [0, 1.15 * most] : [1.15 * most, most < 0 ? 0 : 1] };
}
function curveGrid(grid, runs, groups) {
  const there = Object.entries(groups).filter(([, names]) =>
    runs.some((run) => names.some((name) => run.curves[name])),
  );
  const about = Object.assign({}, ...runs.map((run) => run.glossary));
  boxes(
    grid,
    there.map(([title]) => title),
    (title) => {
      const [name, ...more] = groups[title],
        said = more.length ? null : about[name];
      return [
        title,
        " ",
        said
          ? element(
              "span",
              { className: "quiet line", title: `${said.meaning} ${said.normal}` },
              said.meaning.split(/(?<=[.])\s/)[0],
            )
          : null,
      ];
    },
  );
  const { scale, title: across } = horizontal(runs);
  there.forEach(([, names], number) => {
    const traces = runs.flatMap((run) =>
      names
        .filter((name) => run.curves[name])
        .map((name) => {
          const curve = run.curves[name];
          return {
            x: curve[AXES[axis.number]].map((at) => at / scale),
            y: curve.value,
            name: runs.length > 1 ? run.name : words(name),
            mode: curve.value.length < 3 ? "lines+markers" : "lines",
            line: {
              color: run.colour,
              width: 1.6,
              dash: names.length > 1 && !name.endsWith("p50") ? "dot" : "solid",
            },
            hovertemplate: "%{y:.4g}",
          };
        }),
    );
    draw(chartOf(grid, number), traces, across, {
      tickformat: "~g",
      exponentformat: "power",
      ...aroundOneValue(traces.flatMap((trace) => trace.y)),
    });
  });
}
const asGroups = (names) => Object.fromEntries(names.map((name) => [words(name), [name]]));
export function drawCurves(runs) {
  curveGrid(byId("speed"), runs, SPEED);
  curveGrid(byId("curves"), runs, { ...asGroups(LOSSES), ...RATIOS });
  if (!byId("more").open) return;
  const drawn = new Set([...LOSSES, ...Object.values(RATIOS).flat(), ...Object.values(SPEED).flat()]);
  const rest = [...new Set(runs.flatMap((run) => Object.keys(run.curves)))]
    .filter((name) => !drawn.has(name))
    .sort()
    .slice(0, 120);
  curveGrid(
    byId("more-curves"),
    runs,
    Object.fromEntries(rest.map((name) => [name.replace("/", ": ").replaceAll("_", " "), [name]])),
  );
}
// The machine: shares in use of cores, memory and GPUs.
export function drawMachine(run) {
  const { curves, newest } = run.machine,
    names = Object.keys(curves),
    grid = byId("machine"),
    [scale, title] = seconds([run.seconds]);
  byId("machine-now").textContent = newest
    ? `${newest.cores} cores, ${(newest.memory / 2 ** 30).toFixed(0)} GiB, ${newest.gpus.length ? newest.gpus.map((gpu) => gpu.name).join(", ") : "no GPU"}`
    : "nothing is known of it";
  boxes(grid, names, (name) => [name]);
  names.forEach((name, number) =>
    draw(
      chartOf(grid, number),
      [
        {
          x: curves[name].seconds.map((at) => at / scale),
          y: curves[name].share,
          name,
          mode: "lines",
          line: { color: run.colour, width: 1.6 },
          hovertemplate: "%{y:.0%}",
        },
      ],
      title,
      { range: [0, 1.02], tickformat: ".0%" },
    ),
  );
}
// Bars of a count: batch sizes of the time that the timeline shows.
export function drawBars(box, counts, across, colour) {
  draw(
    box,
    [
      {
        type: "bar",
        x: Object.keys(counts).map(Number),
        y: Object.values(counts),
        marker: { color: colour },
        hovertemplate: "%{y} inferences of %{x}<extra></extra>",
      },
    ],
    across,
    {},
  );
}
