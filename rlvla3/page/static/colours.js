// Colours of runs and of stages. A stage has one colour everywhere. Waiting is pale: in one lane, no two waits have colours that are alike.
const STAGES = {
  simulate: 212,
  reset: 190,
  infer: 268,
  train: 152,
  fit_critic: 95,
  clone: 120,
  publish: 28,
  load_weights: 42,
  send: 14,
  receive: 58,
  checkpoint: 330,
  offload: 300,
  start: 240,
};
const WAITS = {
  ticket: 45,
  decision: 268,
  requests: 212,
  trajectories: 186,
  ranks: 110,
  publication: 18,
  version: 18,
  command: 320,
};
const WORDS = {
  ticket: "waits for a ticket",
  decision: "waits for a decision",
  requests: "waits for requests",
  trajectories: "waits for trajectories",
  ranks: "waits for other ranks",
  publication: "waits for a publication",
  version: "waits for a version",
  command: "waits for a command",
  load_weights: "receive weights",
  fit_critic: "fit critic",
  overhead: "work between stages",
};
const RUNS = ["#2f6fd0", "#d1610f", "#1f8f5f", "#8a4fd0", "#c22f6b", "#7a6a10", "#0f8793", "#6b7280"];

export const isDark = () => document.documentElement.dataset.theme === "dark";
export const isIdle = (stage) => stage in WAITS;
export const stageWords = (stage) => WORDS[stage] ?? stage.replaceAll("_", " ");
export const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
export const runColour = (number) => RUNS[number % RUNS.length];

export function stageColour(stage) {
  if (stage in WAITS) return isDark() ? `hsl(${WAITS[stage]} 32% 32%)` : `hsl(${WAITS[stage]} 62% 83%)`;
  if (stage in STAGES) return isDark() ? `hsl(${STAGES[stage]} 52% 58%)` : `hsl(${STAGES[stage]} 55% 48%)`;
  return isDark() ? "hsl(215 10% 55%)" : "hsl(215 12% 58%)";
}

// The order in which stages are stacked: work first, then overhead, then waiting.
const ORDER = [...Object.keys(STAGES), "overhead", ...Object.keys(WAITS)];
const place = (stage) => {
  const found = ORDER.indexOf(stage);
  return found < 0 ? Object.keys(STAGES).length : found;
};
export const inOrder = (stages) => [...stages].sort((a, b) => place(a) - place(b) || a.localeCompare(b));
