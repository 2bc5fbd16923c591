"""Draw the picture of the README from the figures in docs/pictures/quickstart.json and docs/pictures/ladder.json.

    python scripts/draw_readme_picture.py                              # draw docs/pictures/readme.png
    python scripts/draw_readme_picture.py runs/s0 runs/s1 runs/s2      # first read quickstart.json anew from finished runs of recipes/quickstart.yaml

It needs matplotlib: pip install 'rlvla3[plots]'. The background is white, so that the picture can be read on a light page and on a dark page.
"""

from __future__ import annotations

import argparse
import json
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlvla3.config import load_recipe

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
QUICKSTART, LADDER, PICTURE = PICTURES / "quickstart.json", PICTURES / "ladder.json", PICTURES / "readme.png"

WINDOW = 5
"""Updates of which a point of the learning curve is the mean: 160 episodes of the quickstart."""

COLOURS = ("#1f77b4", "#d95f02", "#2a9d5c")
"""Of the seeds, in order. They can be told apart by readers who do not see red and green."""

BARS = "#5b6b8c"


def figures_of(run: Path) -> dict[str, Any]:
    """What the picture needs of one run directory. Raises ValueError where the run has not been evaluated after its last update."""
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    evaluations = {event["when"]: event for event in events if event["event"] == "evaluation"}
    if missing := {"before", "after"} - set(evaluations):
        raise ValueError(f"{run} has no evaluation {' and '.join(sorted(missing))} training: let the run end, then give it again")
    kept = ("successes", "episodes", "low", "high")
    updates = [event for event in events if event["event"] == "update"]
    return {
        "seed": load_recipe(run / "config.yaml").seed,
        "before": {name: evaluations["before"][name] for name in kept},
        "after": {name: evaluations["after"][name] for name in kept},
        "updates": [[event["environment_steps"], event["rollouts"]["successes"], event["rollouts"]["episodes"]] for event in updates],
    }


def keep(runs: list[Path]) -> None:
    """Write quickstart.json: a line for each run."""
    seeds = sorted((figures_of(run) for run in runs), key=lambda figures: figures["seed"])
    lines = ",\n".join(f"    {json.dumps(figures)}" for figures in seeds)
    QUICKSTART.write_text(
        "{\n"
        '  "command": "rlvla3 train recipes/quickstart.yaml seed=SEED",\n'
        '  "updates": "[environment steps so far, successes, episodes] of each update; training episodes, with exploration noise",\n'
        '  "before, after": "evaluation without exploration noise; low and high: 95 % Wilson score interval of the success rate",\n'
        f'  "seeds": [\n{lines}\n  ]\n}}\n',
        encoding="utf-8",
    )


def learning_curve(axes: Axes, seeds: list[dict[str, Any]]) -> None:
    """Success against environment steps: the mean of the last WINDOW updates, and the evaluations at both ends."""
    for colour, figures in zip(cycle(COLOURS), seeds, strict=False):
        updates = figures["updates"]
        windows = [updates[end - WINDOW : end] for end in range(WINDOW, len(updates) + 1)]
        steps = [window[-1][0] / 1000 for window in windows]
        success = [100 * sum(row[1] for row in window) / sum(row[2] for row in window) for window in windows]
        axes.plot(steps, success, color=colour, linewidth=1.8, label=f"seed {figures['seed']}")
        for at, evaluation in ((0.0, figures["before"]), (updates[-1][0] / 1000, figures["after"])):
            rate = 100 * evaluation["successes"] / evaluation["episodes"]
            error = [[rate - 100 * evaluation["low"]], [100 * evaluation["high"] - rate]]
            axes.errorbar([at], [rate], yerr=error, fmt="o", color=colour, markersize=5, capsize=3, linewidth=1.2)
    axes.set_xlim(left=-4)
    axes.set_ylim(0, 103)
    axes.set_xlabel("environment steps (thousands)")
    axes.set_ylabel("success (%)")
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.legend(loc="lower right", frameon=False)
    axes.set_title("Quickstart: press a button from pixels", loc="left", fontsize=11, fontweight="bold")
    note = (
        f"dots: {seeds[0]['before']['episodes']} evaluation episodes, without exploration noise\n"
        f"lines: training episodes, with exploration noise;\n"
        f"          mean of {WINDOW} updates"
    )
    axes.annotate(note, (0.03, 0.05), xycoords="axes fraction", fontsize=9)


def ladder(axes: Axes, figures: dict[str, Any]) -> None:
    """Environment steps a second of each mode, and how many times as fast as `sync` that is."""
    pace = figures["steps_per_second"]
    bars = axes.barh(list(pace), list(pace.values()), color=BARS, height=0.62)
    axes.bar_label(bars, [f" {steps} ({steps / pace['sync']:.2f} x)" for steps in pace.values()], fontsize=10)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.32 * max(pace.values()))
    axes.set_xlabel("environment steps a second")
    axes.tick_params(left=False)
    axes.set_title("The same work in each mode, 2 cores", loc="left", fontsize=11, fontweight="bold")


def draw() -> None:
    """Write readme.png."""
    figure = Figure(figsize=(11, 3.9), dpi=140, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    learning_curve(left, json.loads(QUICKSTART.read_text(encoding="utf-8"))["seeds"])
    ladder(right, json.loads(LADDER.read_text(encoding="utf-8")))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, metadata={"Software": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the picture of the README.")
    parser.add_argument("runs", nargs="*", type=Path, help="run directories of recipes/quickstart.yaml; without any, quickstart.json stays as it is")
    arguments = parser.parse_args()
    if arguments.runs:
        keep(arguments.runs)
    draw()
