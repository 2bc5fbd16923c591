"""What the page is told of a run: the reading side as JSON data.

Invariant: JSON has no number that is not finite, and a run may hold some. In data they become null. In settings they become words, as YAML writes them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from rlvla3.observability.glossary import of_curve
from rlvla3.observability.intervals import wilson
from rlvla3.observability.metrics_lines import JsonObject
from rlvla3.page.curves import RATE_POINTS, Point, Rate, Seconds, pooled
from rlvla3.page.episodes import Film
from rlvla3.page.failures import lost_workers
from rlvla3.page.machine_curves import MachineCurves
from rlvla3.page.run_metrics import RunMetrics, shares
from rlvla3.page.run_reader import RunReader
from rlvla3.page.run_settings import RunSettings
from rlvla3.page.timeline import Lane, batches, begin_of, end_of, waits, within

CURVE_POINTS = 400
SHOWN_NOTICES = 200
SHOWN_WORKERS = 64

NOT_FINITE = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}
"""Python's words, and those of YAML."""


def json_text(content: Any) -> str:
    """`content` as JSON, with null for each number that is not finite."""
    try:
        return json.dumps(content, separators=(",", ":"), allow_nan=False)
    except ValueError:  # few runs hold such a number, so it is looked for only then
        return json.dumps(finite(content, lambda _: None), separators=(",", ":"), allow_nan=False)


def finite(content: Any, instead: Callable[[float], Any]) -> Any:
    """JSON data with something else instead of each number that is not finite."""
    if isinstance(content, float):
        return content if math.isfinite(content) else instead(content)
    if isinstance(content, Mapping):
        return {name: finite(value, instead) for name, value in content.items()}
    return [finite(value, instead) for value in content] if isinstance(content, list | tuple) else content


def run_json(reader: RunReader) -> JsonObject:
    """All of a run but its films and its timeline. Until all of its lines are read, nobody knows its notices, its lost workers and its staleness: null."""
    metrics, state = reader.metrics, reader.state()
    last = metrics.last
    return {
        "state": state,
        "certain": state == "lost" and reader.signs().none_for_certain,
        "ended": reader.ended,
        "complete": reader.complete,
        "read_share": round(reader.read_share, 3),
        "damaged": reader.damaged,
        "update": metrics.update,
        "updates": _number(last.get("updates")) or _number(reader.settings.values.get("training.updates")),
        "phase": metrics.phase,
        "cloned": metrics.cloned,
        "steps": last.get("environment_steps", 0),
        "seconds": metrics.seconds,
        "training_seconds": last.get("wall_seconds", 0.0),
        "throughput": last.get("throughput"),
        "settings": _settings(reader.settings),
        "rollouts": {task: [_rate(rate) for rate in pooled(list(found), RATE_POINTS)] for task, found in metrics.rollouts.items()},
        "evaluations": {task: [_rate(rate) for rate in found] for task, found in metrics.evaluations.items()},
        "ends": {when: line | {"place": metrics.places[when]} for when, line in metrics.ends.items()},
        "best": metrics.best,
        "curves": {name: _columns(_thinned(curve.points())) for name, curve in metrics.curves.items() if not name.startswith(("busy/", "idle/"))},
        "spent": {kind: [_spent(bucket) for bucket in found] for kind, found in metrics.spent.items()},
        "workers": _workers(metrics),
        "staleness": metrics.staleness if reader.complete else None,
        "tickets": metrics.tickets,
        "lost": lost_workers(metrics.notices) if reader.complete else None,
        "notices": [asdict(told) for told in list(metrics.notices)[-SHOWN_NOTICES:]] if reader.complete else None,
    }


_metric = lru_cache(5000)(of_curve)


def glossary(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """What curves mean."""
    found = {name: _metric(name) for name in names}
    return {
        name: {"meaning": metric.meaning, "unit": metric.unit, "normal": metric.normal, "otherwise": metric.otherwise}
        for name, metric in found.items()
        if metric
    }


def film_json(film: Film) -> JsonObject:
    """A film, with its value and its reward at each decision where its record is there."""
    record = film.record
    shown = {"name": film.name, "when": film.when, "task": film.task, "ticket": film.ticket, "success": film.success, "written": film.written}
    if record is None:
        return shown
    told = {"task": record.task, "ticket": record.ticket, "version": record.version, "update": record.update}
    told["instruction"] = " / ".join(record.instructions)[:300]
    return shown | told | {"return": record.episode_return, "values": record.per_decision.value, "rewards": record.per_decision.reward}


def machine_json(machine: MachineCurves) -> JsonObject:
    """Shares of the machine that were in use, as curves over seconds of the run: cores, memory, and both of each GPU."""
    points = {name: _thinned(used.curve.points()) for name, used in machine.used.items() if not used.curve.empty}
    curves = {name: {"seconds": [at.place.seconds for at in found], "share": [round(at.value, 4) for at in found]} for name, found in points.items()}
    return {"curves": curves, "newest": machine.newest[-1].model_dump() if machine.newest else None}


def timeline_json(lanes: list[Lane], seconds: float, end: float | None = None) -> JsonObject:
    """The stages of each worker in `seconds` until `end` (None: the newest). Times are seconds from the beginning of what is shown."""
    newest = end_of(lanes)
    end = newest if end is None else end
    begin = end - seconds
    waited = waits(lanes, begin, end)
    return {
        "begin": begin,
        "seconds": seconds,
        "newest": newest,
        "oldest": begin_of(lanes),
        "lanes": [
            {
                "worker": lane.worker,
                "spans": [[span.stage, round(span.begin - begin, 5), round(span.end - begin, 5), span.size] for span in within(lane, begin, end)],
            }
            for lane in lanes
        ],
        "batches": batches(lanes, begin, end),
        "waits": {name: waited[min(int(share * len(waited)), len(waited) - 1)] for name, share in (("p50", 0.5), ("p95", 0.95), ("most", 1.0))}
        if waited
        else None,
    }


def _settings(settings: RunSettings) -> JsonObject:
    values, defaults = (finite(found, lambda number: NOT_FINITE[str(number)]) for found in (settings.values, settings.defaults))
    return {"values": values, "changed": settings.changed, "defaults": defaults, "unread": settings.unread}


def _number(value: object) -> int | float | None:
    """`value` if it is a number. A line of metrics.jsonl, or a recipe of another version, may hold anything."""
    return value if isinstance(value, int | float) else None


def _rate(rate: Rate) -> list[float]:
    """update, environment steps, seconds, rate, low, high, episodes, mean return"""
    low, high = wilson(rate.successes, rate.episodes)
    return [*rate.place, rate.successes / rate.episodes, low, high, rate.episodes, rate.returns / rate.episodes]


def _thinned(points: list[Point]) -> list[Point]:
    """At most CURVE_POINTS: the smallest and the largest of neighbours."""
    width = -(-2 * len(points) // CURVE_POINTS)
    if len(points) <= CURVE_POINTS:
        return points
    parts = (points[begin : begin + width] for begin in range(0, len(points), width))
    return [point for part in parts for point in sorted({min(part, key=_value), max(part, key=_value)}, key=lambda point: point.place)]


def _value(point: Point) -> float:
    return point.value


def _columns(points: list[Point]) -> dict[str, list[float]]:
    return {
        "update": [point.place.update for point in points],
        "steps": [point.place.steps for point in points],
        "seconds": [point.place.seconds for point in points],
        "value": [float(f"{point.value:.6g}") for point in points],
    }


def _spent(bucket: Seconds) -> list[Any]:
    """update, environment steps, seconds, {stage: share}"""
    return [*bucket.place, _rounded(shares(bucket.spent))]


def _workers(metrics: RunMetrics) -> list[JsonObject]:
    """Each worker with its shares of the whole run and of the last updates."""
    found = []
    for name, spent in list(metrics.workers.items())[:SHOWN_WORKERS]:
        now: dict[str, float] = {}
        for update in metrics.recent:
            for stage, seconds in update.get(name, {}).items():
                now[stage] = now.get(stage, 0.0) + seconds
        found.append({"name": name, "whole": _rounded(shares(spent)), "recent": _rounded(shares(now))})
    return found


def _rounded(found: Mapping[str, float]) -> dict[str, float]:
    return {name: round(share, 5) for name, share in found.items()}
