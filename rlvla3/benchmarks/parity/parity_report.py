"""What came of a parity measurement: parity.json with everything, parity.md with the table, parity.png with the curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rlvla3 import __version__
from rlvla3.benchmarks.parity.curves import WINDOW, Curve, Measure, read_curve
from rlvla3.benchmarks.parity.differences import RANGES, Difference, difference
from rlvla3.benchmarks.parity.picture import draw, need_matplotlib
from rlvla3.benchmarks.parity.plan import SYNC, Plan, Schedule
from rlvla3.benchmarks.parity.running import train_all
from rlvla3.observability.run_directory import RunDirectory, complete

Curves = Mapping[Schedule, list[Curve]]
Differences = Mapping[tuple[str, Schedule], Difference]
"""By range of environment steps and schedule."""

COLUMNS = (
    *("averaged over", "max_staleness", "correction", "sync", "full_async", "difference", "95 % over seeds", "95 % of episodes", "holds 0"),
    *("environment steps", "episodes", "mean staleness"),
)

EXPLANATION = """\
Training episodes with exploration noise, counted when they are trained on. A row compares the means over the environment steps that all of its runs cover,
or over the last half of these. The difference is full_async less sync, seed by seed. The interval over seeds is Student's t on these differences; that of
episodes is what the chance in each episode alone would leave. Mean staleness is what the episodes had, in updates; max_staleness is the most they may have."""


def main(plan: Plan, measure: Measure, jobs: int) -> None:
    """Train what is missing, then compare."""
    need_matplotlib()
    train_all(plan, jobs)
    curves = {
        schedule: [read_curve(RunDirectory(plan.folder(plan.trial(seed, schedule))).records(), measure) for seed in plan.seeds]
        for schedule in (SYNC, *plan.schedules)
    }
    differences = {
        (name, schedule): difference(curves[SYNC], curves[schedule], measure, begins) for name, begins in RANGES.items() for schedule in plan.schedules
    }
    table = markdown(plan, differences, measure)
    with complete(plan.out / "parity.json") as beside:
        beside.write_text(json.dumps(figures(plan, curves, differences, measure), indent=2) + "\n")
    with complete(plan.out / "parity.md") as beside:
        beside.write_text(table)
    draw(plan.out / "parity.png", _title(plan), measure, curves[SYNC], _by_staleness(plan, curves))
    print(f"\n{table}\nkept in {plan.out}: parity.md, parity.json, parity.png", flush=True)


def markdown(plan: Plan, differences: Differences, measure: Measure) -> str:
    """The table, with what its columns mean."""
    rows = [_row(plan, name, schedule, found, measure) for (name, schedule), found in differences.items()]
    seeds = ", ".join(map(str, plan.seeds))
    what = "success" if measure == "success" else "mean return"
    return "\n".join([f"{_title(plan)}: {what}, seeds {seeds} (`{plan.start}`)", "", _line(COLUMNS), _line(["---"] * len(COLUMNS)), *rows, "", EXPLANATION, ""])


def figures(plan: Plan, curves: Curves, differences: Differences, measure: Measure) -> dict[str, Any]:
    """Everything: shares in [0, 1] or returns, environment steps, updates."""
    return {
        "recipe": plan.recipe.model_dump(mode="json"),
        "measure": measure,
        "seeds": plan.seeds,
        "window_updates": WINDOW,
        "version": __version__,
        "comparisons": [
            {"range": name, "max_staleness": schedule.max_staleness, "correction": plan.schedules[schedule]}
            | {"difference": found.mean, "within": found.within}
            | asdict(found)
            for (name, schedule), found in differences.items()
        ],
        "runs": [
            _run(plan, plan.trial(seed, schedule).name, seed, schedule, curve)
            for schedule, of_seeds in curves.items()
            for seed, curve in zip(plan.seeds, of_seeds, strict=True)
        ],
    }


def _run(plan: Plan, name: str, seed: int, schedule: Schedule, curve: Curve) -> dict[str, Any]:
    summary = json.loads((plan.out / "runs" / name / "summary.json").read_text())
    return {
        "name": name,
        "seed": seed,
        "max_staleness": schedule.max_staleness,
        "correction": plan.schedules.get(schedule),
        "staleness": summary["staleness"],
        "training_seconds": summary["training_seconds"],
        "environment_steps": curve.steps.tolist(),
        "episodes": curve.episodes.tolist(),
        "values": curve.values.tolist(),
    }


def _row(plan: Plan, name: str, schedule: Schedule, found: Difference, measure: Measure) -> str:
    def shown(value: float) -> str:
        return f"{100 * value:.1f} %" if measure == "success" else f"{value:.1f}"

    def around(half_width: float | None) -> str:
        """The interval, in points of a percentage or in returns."""
        scale = 100 if measure == "success" else 1
        return "not known" if half_width is None else f"[{scale * (found.mean - half_width):+.1f}, {scale * (found.mean + half_width):+.1f}]"

    points = f"{100 * found.mean:+.1f} points" if measure == "success" else f"{found.mean:+.1f}"
    holds = {None: "not known", True: "yes", False: "no"}[found.within]
    steps, episodes = f"{found.begin:,.0f} to {found.end:,.0f}", f"{found.episodes[0]:,} / {found.episodes[1]:,}"
    cells = [name, schedule.max_staleness, plan.schedules[schedule], shown(found.sync), shown(found.full_async), points]
    return _line([*cells, around(found.over_seeds), around(found.of_episodes), holds, steps, episodes, f"{found.staleness:.2f}"])


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _title(plan: Plan) -> str:
    return ", ".join(plan.recipe.tasks)


def _by_staleness(plan: Plan, curves: Curves) -> dict[int, dict[str, list[Curve]]]:
    panels: dict[int, dict[str, list[Curve]]] = {}
    for schedule, correction in plan.schedules.items():
        panels.setdefault(schedule.max_staleness, {})[correction] = curves[schedule]
    return panels
