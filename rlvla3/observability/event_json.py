"""Events as JSON data: the lines of metrics.jsonl and of `--json`, and the input of a summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite

from rlvla3.observability.events import (
    CloneStep,
    EpisodeFilmed,
    EpisodeFinished,
    EvaluationFinished,
    Event,
    Notice,
    PhaseStarted,
    Resumed,
    SuccessRate,
    UpdateFinished,
)
from rlvla3.observability.intervals import success_rate
from rlvla3.observability.metrics_lines import JsonObject


def event_json(event: Event) -> JsonObject | None:
    """`event` as JSON data. None where no line tells of it: of a single episode, its update or evaluation does. Numbers that are not finite become null."""
    match event:
        case UpdateFinished():
            return _update(event)
        case EvaluationFinished():
            more: JsonObject = {"initial_states": event.initial_states.json()} if event.initial_states else {}
            if event.protocol:
                more["protocol"] = event.protocol
            if event.best:
                more["best"] = True
            if event.planned is not None:
                more |= {"complete": False, "planned": event.planned}
            if event.deviations:
                more["deviations"] = event.deviations
            return {"event": "evaluation", "when": event.when, "version": event.version, **rate_json(event.success), **more}
        case CloneStep():
            return {"event": "clone", "step": event.step, "total": event.total, "loss": _number(event.loss)}
        case PhaseStarted():
            return {"event": "phase", "phase": event.phase, "total": event.total}
        case Notice():
            return {"event": "notice", "text": event.text}
        case EpisodeFinished() | EpisodeFilmed() | Resumed():
            return None


def rate_json(success: SuccessRate) -> JsonObject:
    """A success rate as JSON data. It has `per_task` only where there are several tasks."""
    plain: JsonObject = {
        "successes": success.successes,
        "episodes": success.episodes,
        "low": success.low,
        "high": success.high,
        "mean_return": _number(success.mean_return),
        "mean_steps": success.mean_steps,
    }
    if len(success.per_task) > 1:
        plain["per_task"] = {task: rate_json(of_task) for task, of_task in success.per_task.items()}
    return plain


def _update(event: UpdateFinished) -> JsonObject:
    return {
        "event": "update",
        "update": event.update,
        "updates": event.updates,
        "rollouts": rate_json(success_rate(event.episodes)),
        "learner": _numbers(event.learner),
        "environment_steps": event.environment_steps,
        "throughput": _number(event.throughput),
        "staleness": {str(lag): episodes for lag, episodes in sorted(event.staleness.items())},
        "tickets": asdict(event.tickets),
        "workers": [{"name": worker.name, "busy": _numbers(worker.busy), "idle": _numbers(worker.idle)} for worker in event.workers],
        "batching": [_numbers(figures) for figures in event.batching],
        "wall_seconds": event.wall_seconds,
    }


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in values.items()}


def _number(value: float) -> float | None:
    """`value` as a Python float. None where JSON has no such number."""
    return float(value) if isfinite(value) else None
