// Draws with Plotly. A chart is drawn when it is near the window, and again only where it has changed: drawing is most of
// what a page costs its machine.
import { ink, isDark } from "./colours.js";

const wanted = new Map();
const drawn = new WeakMap();
const near = new Set();
const sight = new IntersectionObserver(
  (entries) =>
    entries.forEach(({ target, isIntersecting }) => {
      if (isIntersecting) {
        near.add(target);
        drawWanted(target);
      } else near.delete(target);
    }),
  { rootMargin: "400px" },
);
function drawWanted(box) {
  const chart = wanted.get(box);
  wanted.delete(box);
  if (chart && box.isConnected) drawNow(box, ...chart);
}
export function draw(box, ...chart) {
  if (!window.Plotly || !box) return;
  const key = JSON.stringify([chart, isDark()]);
  if (drawn.get(box) === key) return;
  drawn.set(box, key);
  wanted.set(box, chart);
  if (near.has(box)) drawWanted(box);
  else sight.observe(box);
}
addEventListener("beforeprint", () => [...wanted.keys()].forEach(drawWanted));

function drawNow(box, traces, across, up = {}) {
  const quiet = ink("quiet");
  const grid = ink("grid");
  const plain = {
    gridcolor: grid,
    zerolinecolor: grid,
    linecolor: grid,
    tickfont: { color: quiet, size: 11 },
    automargin: true,
  };
  const layout = {
    margin: { l: 42, r: 10, t: 8, b: 34 },
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { family: "system-ui, Segoe UI, Helvetica Neue, DejaVu Sans, sans-serif", size: 12, color: ink("ink") },
    xaxis: {
      ...plain,
      title: { text: across, font: { size: 11, color: quiet }, standoff: 6 },
      showgrid: false,
      rangemode: "tozero",
      nticks: 6,
    },
    yaxis: { ...plain, nticks: 5, ...up },
    showlegend: false,
    hovermode: "x unified",
    dragmode: "zoom",
    uirevision: across,
    hoverlabel: { bgcolor: ink("panel"), bordercolor: ink("line"), font: { color: ink("ink"), size: 12 } },
  };
  window.Plotly.react(box, traces, layout, { displayModeBar: false, responsive: true, displaylogo: false });
}
