"""What the lines of metrics.jsonl say, in bounded memory: curves, where time went, evaluations, faults.

Names of curves are those of TensorBoard.

Invariant: the seconds of an update are those since the update before it. Where that one was not seen, they are not known, and nothing rests on them.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import fmean

from rlvla3.observability.metrics_lines import JsonObject
from rlvla3.observability.worker_times import kind_of_name
from rlvla3.page.curves import Buckets, Curve, Place, Point, Rate, Seconds, rates, times

MOST_CURVES = 500
"""A damaged file may hold any number of names."""

MOST_WORKERS = 2000

MOST_NOTICES = 1000

NEWEST = 60
"""Lines of updates that are kept whole."""

RECENT = 10
"""Updates that "now" is taken over."""

WHOLE = "success"
"""The name of the success rate of all tasks together."""


@dataclass(frozen=True, slots=True)
class Told:
    """A notice, and the second of the run at which it was given."""

    seconds: float
    text: str


@dataclass
class RunMetrics:
    """What is known of a run from its lines so far. `add` each of them in their order.

    curves: {name: curve}. rollouts, evaluations: {WHOLE or task: success rates}, evaluations those during training.
    ends: the evaluations before and after training, or of `eval`: {when: line}. spent: {kind of worker: seconds by stage over time}.
    workers: {worker: seconds by stage, of the whole run}. recent: the same for each of the last updates. staleness: {staleness: episodes}.
    phase: the newest one, with its total.
    """

    curves: dict[str, Curve] = field(default_factory=dict)
    rollouts: dict[str, Buckets[Rate]] = field(default_factory=dict)
    evaluations: dict[str, Buckets[Rate]] = field(default_factory=dict)
    ends: dict[str, JsonObject] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    """Where the versions of `ends` were made."""
    best: JsonObject | None = None
    spent: dict[str, Buckets[Seconds]] = field(default_factory=dict)
    workers: dict[str, dict[str, float]] = field(default_factory=dict)
    recent: deque[dict[str, dict[str, float]]] = field(default_factory=lambda: deque(maxlen=RECENT))
    staleness: Counter[int] = field(default_factory=Counter)
    tickets: dict[str, int] = field(default_factory=dict)
    notices: deque[Told] = field(default_factory=lambda: deque(maxlen=MOST_NOTICES))
    phase: tuple[str, int] = ("start", 0)
    newest: deque[JsonObject] = field(default_factory=lambda: deque(maxlen=NEWEST))
    """The lines of the last updates."""
    last: JsonObject = field(default_factory=dict)
    """The newest line of an update."""
    seconds: float = 0.0
    """Of the newest line."""
    cloned: int = 0

    def add(self, line: JsonObject) -> None:
        """A line that metrics_lines.py has accepted."""
        self.seconds = float(line["seconds"])
        match line["event"]:
            case "update":
                self._add_update(line)
            case "evaluation":
                self._add_evaluation(line)
            case "clone":
                self.cloned = line["step"]
                self._point("clone/loss", Place(line["step"], 0, self.seconds), line["loss"])
            case "notice":
                self.notices.append(Told(self.seconds, line["text"]))
            case "phase":
                self.phase = str(line.get("phase", ""))[:40], int(_finite(line.get("total")) or 0)

    @property
    def update(self) -> int:
        return int(self.last.get("update", 0))

    def _place(self) -> Place:
        return Place(self.update, int(self.last.get("environment_steps", 0)), self.seconds)

    def _add_update(self, line: JsonObject) -> None:
        took = self._seconds_of(line)
        self.last = line
        self.newest.append(line)
        place, rollouts = self._place(), line["rollouts"]
        self._add_rates(self.rollouts, place, rollouts)
        lags = {int(lag): count for lag, count in line["staleness"].items() if lag.isascii() and lag.isdigit() and len(lag) < 10}
        self.staleness.update(lags)
        episodes = sum(lags.values())
        values = {
            "rollouts/return": rollouts["mean_return"],
            "rollouts/steps": rollouts.get("mean_steps"),
            "engine/throughput": line["throughput"],
            "engine/environment_steps": line["environment_steps"],
            "engine/staleness": sum(lag * count for lag, count in lags.items()) / episodes if episodes else None,
            "engine/staleness_max": max(lags, default=None),
            "engine/update_seconds": took,
            **{f"tickets/{name}": count for name, count in line["tickets"].items()},
            **{f"batching/{name}": value for name, value in _batching(line).items()},
            **{f"learner/{name}": value for name, value in line["learner"].items()},
        }
        for name, value in values.items():
            self._point(name, place, value)
        self.tickets = dict(line["tickets"])
        if took is not None:
            self._add_workers(line["workers"], place, took)

    def _seconds_of(self, line: JsonObject) -> float | None:
        """How long the update took. None where the line before it is not that of the update before it."""
        if line["update"] != self.update + 1:
            return None
        return max(float(line["wall_seconds"]) - float(self.last.get("wall_seconds", 0.0)), 0.0)

    def _add_workers(self, workers: Iterable[JsonObject], place: Place, took: float) -> None:
        seconds = {worker["name"]: _seconds(worker, took) for worker in workers}
        self.recent.append(seconds)
        kinds: dict[str, dict[str, float]] = {}
        for name, spent in seconds.items():
            if name in self.workers or len(self.workers) < MOST_WORKERS:
                _sum_into(self.workers.setdefault(name, {}), spent)
            _sum_into(kinds.setdefault(_kind(name), {}), spent)
        for kind, total in kinds.items():
            if kind in self.spent or len(self.spent) < MOST_CURVES:
                self.spent.setdefault(kind, times()).add(Seconds(place, total))

    def _add_evaluation(self, line: JsonObject) -> None:
        if line.get("best"):
            self.best = line
        if line["when"] != "during":
            self.ends[line["when"]] = line
            self.places[line["when"]] = self._place_of(line["version"])
            return
        self._add_rates(self.evaluations, self._place_of(line["version"]), line)

    def _place_of(self, version: int) -> Place:
        """Where a version was made. An evaluation ends later."""
        made = [point.place for point in self.curves["engine/environment_steps"].points() if point.place.update <= version] if self.last else []
        return made[-1]._replace(update=version) if made else Place(version, 0, self.seconds)

    def _add_rates(self, group: dict[str, Buckets[Rate]], place: Place, whole: JsonObject) -> None:
        per_task = whole.get("per_task")
        for name, rate in {WHOLE: whole, **(per_task if isinstance(per_task, dict) else {})}.items():
            if (name in group or len(group) < MOST_CURVES) and (found := _rate(place, rate)):
                group.setdefault(name, rates()).add(found)

    def _point(self, name: str, place: Place, value: object) -> None:
        number = _finite(value)
        if number is not None and (name in self.curves or len(self.curves) < MOST_CURVES):
            self.curves.setdefault(name, Curve()).add(Point(place, number))


_kind = lru_cache(10_000)(kind_of_name)


def _sum_into(total: dict[str, float], spent: Mapping[str, float]) -> None:
    for stage, seconds in spent.items():
        total[stage] = total.get(stage, 0.0) + seconds


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Shares that sum to 1. Empty where no time was spent."""
    total = sum(seconds.values())
    return {stage: spent / total for stage, spent in seconds.items() if spent > 0} if total > 0 else {}


def _seconds(worker: JsonObject, took: float) -> dict[str, float]:
    return {stage: max(share or 0.0, 0.0) * took for part in ("busy", "idle") for stage, share in worker[part].items()}


def _rate(place: Place, rate: object) -> Rate | None:
    """The rate of a task in a line. None where it has no such numbers: what a line says of single tasks has no schema."""
    if not isinstance(rate, dict):
        return None
    successes, episodes = rate.get("successes"), rate.get("episodes")
    if not isinstance(successes, int) or not isinstance(episodes, int) or not 0 <= successes <= episodes <= 2**53 or not episodes:
        return None
    return Rate(place, successes, episodes, (_finite(rate.get("mean_return")) or 0.0) * episodes)


def _batching(line: JsonObject) -> dict[str, float]:
    """The mean of each figure over the generators that have it."""
    generators = line.get("batching")
    complete = [figures for figures in generators if isinstance(figures, dict)] if isinstance(generators, list) else []
    names = dict.fromkeys(name for figures in complete for name in figures)
    found = {name: [number for figures in complete if (number := _finite(figures.get(name))) is not None] for name in names}
    return {name: fmean(values) for name, values in found.items() if values}


def _finite(value: object) -> float | None:
    """`value` as a finite number. None where it is none: not everything in a line has a schema."""
    try:
        number = float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
