"""The curves of a run: the lines of metrics.jsonl as numbers with names, for TensorBoard and for trackers. The glossary says what each of them means.

Invariant: a curve has the same name everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from rlvla3.observability.batching import by_name
from rlvla3.observability.events import WorkerTime
from rlvla3.observability.metrics_lines import JsonObject
from rlvla3.observability.worker_times import by_kind, mean_of

Axis = Literal["update", "clone/step"]


@dataclass(frozen=True, slots=True)
class Points:
    """One point of several curves. of: the event that they tell of. axis: what is counted along x. values: {curve: value}, finite numbers all."""

    of: str
    axis: Axis
    step: int
    values: Mapping[str, float]


def points(line: JsonObject) -> Points | None:
    """The points that a line gives. None for a phase, a notice, and a line of a kind that is not known."""
    match line["event"]:
        case "update":
            return Points("update", "update", line["update"], _finite(_of_update(line)))
        case "evaluation":
            rates = {"success": line, **line.get("per_task", {})}
            return Points("evaluation", "update", line["version"], _finite(pair for name, rate in rates.items() for pair in _rate("evaluation", name, rate)))
        case "clone":
            return Points("clone", "clone/step", line["step"], _finite([("clone/loss", line["loss"])]))
    return None


def _finite(pairs: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    """Without what JSON has no number for: it is null there."""
    return {name: float(value) for name, value in pairs if value is not None}


def _rate(group: str, name: str, rate: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """A success rate, and beside it the ends of its 95 % interval and the number of its episodes."""
    yield f"{group}/{name}", rate["successes"] / max(rate["episodes"], 1)
    yield f"{group}_low/{name}", rate["low"]
    yield f"{group}_high/{name}", rate["high"]
    yield f"{group}_episodes/{name}", rate["episodes"]


def _of_update(line: JsonObject) -> Iterator[tuple[str, float | None]]:
    rollouts, staleness = line["rollouts"], line["staleness"]
    yield from _rate("rollouts", "success", rollouts)
    yield "rollouts/return", rollouts["mean_return"]
    yield "rollouts/steps", rollouts["mean_steps"]
    yield "engine/throughput", line["throughput"]
    yield "engine/environment_steps", line["environment_steps"]
    yield "engine/staleness", sum(int(lag) * episodes for lag, episodes in staleness.items()) / max(sum(staleness.values()), 1)
    yield from ((f"tickets/{name}", line["tickets"].get(name)) for name in ("rerun", "set_aside"))
    yield from _times(line["workers"])
    for name, values in by_name(line.get("batching", ())).items():
        known = [value for value in values if value is not None]
        yield f"batching/{name}", fmean(known) if len(known) == len(values) else None
    yield from ((f"learner/{name}", value) for name, value in line["learner"].items())


def _times(workers: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """The mean over the workers of each kind: how much they are busy, and what they wait for."""
    times = [WorkerTime(worker["name"], _finite(worker["busy"].items()), _finite(worker["idle"].items())) for worker in workers]
    for kind, members in by_kind(times).items():
        mean = mean_of(kind, members)
        yield f"busy/{kind}", sum(mean.busy.values())
        yield from ((f"idle/{kind}/{cause}", share) for cause, share in mean.idle.items())
