"""The results of a parity measurement: parity.json with all figures, parity.md with the table, parity.png with the curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rlvla3.benchmarks.parity.curves import WINDOW, Curve, Measure, read_curve
from rlvla3.benchmarks.parity.curves_picture import draw_curves, need_matplotlib
from rlvla3.benchmarks.parity.differences import RANGES, Difference, difference
from rlvla3.benchmarks.parity.running import train_all
from rlvla3.benchmarks.parity.trials import SYNC, ParityMeasurement, Schedule
from rlvla3.observability.run_directory import RunDirectory, complete_file
from rlvla3.version import __version__

Curves = Mapping[Schedule, list[Curve]]
Differences = Mapping[tuple[str, Schedule], Difference]
"""The differences by range of environment steps and by schedule."""

COLUMNS = (
    *("averaged over", "max_staleness", "correction", "sync", "full_async", "difference", "95 % over seeds", "95 % of episodes", "holds 0"),
    *("environment steps", "episodes", "mean staleness"),
)

EXPLANATION = """\
The episodes are training episodes with exploration noise, counted when they are trained on. A row compares means over the environment steps that all of its
runs cover, or over the last half of these. The difference is full_async minus sync, seed by seed. The interval over seeds is Student's t on these differences.
The interval of episodes shows what would remain if only the chance in each episode made runs differ. Mean staleness is that of the episodes, in updates;
max_staleness is its limit."""


def main(measurement: ParityMeasurement, measure: Measure, jobs: int) -> None:
    """Train the runs that are not finished, then compare all runs and write the results."""
    need_matplotlib()
    train_all(measurement, jobs)
    curves = {
        schedule: [read_curve(RunDirectory(measurement.folder(measurement.trial(seed, schedule))).metric_lines(), measure) for seed in measurement.seeds]
        for schedule in (SYNC, *measurement.schedules)
    }
    differences = {
        (name, schedule): difference(curves[SYNC], curves[schedule], measure, begins) for name, begins in RANGES.items() for schedule in measurement.schedules
    }
    table = markdown(measurement, differences, measure)
    with complete_file(measurement.out / "parity.json") as beside:
        beside.write_text(json.dumps(figures(measurement, curves, differences, measure), indent=2) + "\n")
    with complete_file(measurement.out / "parity.md") as beside:
        beside.write_text(table)
    draw_curves(measurement.out / "parity.png", _title(measurement), measure, curves[SYNC], _by_staleness(measurement, curves))
    print(f"\n{table}\nwritten to {measurement.out}: parity.md, parity.json, parity.png", flush=True)


def markdown(measurement: ParityMeasurement, differences: Differences, measure: Measure) -> str:
    """The table, with an explanation of its columns."""
    rows = [_row(measurement, name, schedule, found, measure) for (name, schedule), found in differences.items()]
    seeds = ", ".join(map(str, measurement.seeds))
    what = "success" if measure == "success" else "mean return"
    return "\n".join(
        [f"{_title(measurement)}: {what}, seeds {seeds} (`{measurement.start}`)", "", _line(COLUMNS), _line(["---"] * len(COLUMNS)), *rows, "", EXPLANATION, ""]
    )


def figures(measurement: ParityMeasurement, curves: Curves, differences: Differences, measure: Measure) -> dict[str, Any]:
    """All figures as plain data: success rates in [0, 1] or returns; environment steps; staleness in updates."""
    return {
        "recipe": measurement.recipe.model_dump(mode="json"),
        "measure": measure,
        "seeds": measurement.seeds,
        "window_updates": WINDOW,
        "version": __version__,
        "comparisons": [
            {"range": name, "max_staleness": schedule.max_staleness, "correction": measurement.schedules[schedule]}
            | {"difference": found.mean, "within": found.within}
            | asdict(found)
            for (name, schedule), found in differences.items()
        ],
        "runs": [
            _run(measurement, measurement.trial(seed, schedule).name, seed, schedule, curve)
            for schedule, of_seeds in curves.items()
            for seed, curve in zip(measurement.seeds, of_seeds, strict=True)
        ],
    }


def _run(measurement: ParityMeasurement, name: str, seed: int, schedule: Schedule, curve: Curve) -> dict[str, Any]:
    summary = json.loads((measurement.out / "runs" / name / "summary.json").read_text())
    return {
        "name": name,
        "seed": seed,
        "max_staleness": schedule.max_staleness,
        "correction": measurement.schedules.get(schedule),
        "staleness": summary["staleness"],
        "training_seconds": summary["training_seconds"],
        "environment_steps": curve.steps.tolist(),
        "episodes": curve.episodes.tolist(),
        "values": curve.values.tolist(),
    }


def _row(measurement: ParityMeasurement, name: str, schedule: Schedule, found: Difference, measure: Measure) -> str:
    def shown(value: float) -> str:
        return f"{100 * value:.1f} %" if measure == "success" else f"{value:.1f}"

    def around(half_width: float | None) -> str:
        """The interval, in points of a percentage or in returns."""
        scale = 100 if measure == "success" else 1
        return "not known" if half_width is None else f"[{scale * (found.mean - half_width):+.1f}, {scale * (found.mean + half_width):+.1f}]"

    points = f"{100 * found.mean:+.1f} points" if measure == "success" else f"{found.mean:+.1f}"
    holds = {None: "not known", True: "yes", False: "no"}[found.within]
    steps, episodes = f"{found.begin:,.0f} to {found.end:,.0f}", f"{found.episodes[0]:,} / {found.episodes[1]:,}"
    cells = [name, schedule.max_staleness, measurement.schedules[schedule], shown(found.sync), shown(found.full_async), points]
    return _line([*cells, around(found.over_seeds), around(found.of_episodes), holds, steps, episodes, f"{found.staleness:.2f}"])


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _title(measurement: ParityMeasurement) -> str:
    return ", ".join(measurement.recipe.tasks)


def _by_staleness(measurement: ParityMeasurement, curves: Curves) -> dict[int, dict[str, list[Curve]]]:
    panels: dict[int, dict[str, list[Curve]]] = {}
    for schedule, correction in measurement.schedules.items():
        panels.setdefault(schedule.max_staleness, {})[correction] = curves[schedule]
    return panels
