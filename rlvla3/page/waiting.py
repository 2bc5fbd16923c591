"""What bounds a run, and who waits for what: from the shares of time of its workers (law 7)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rlvla3.config import Recipe
from rlvla3.observability.events import WorkerTime
from rlvla3.observability.formatting import percent
from rlvla3.observability.worker_times import by_kind, mean_of

JsonObject = Mapping[str, Any]

SETTLED_UPDATES = 50
"""At most so many of the last updates tell how a run is now."""

HARDLY = 0.1
"""A worker that waits for a smaller share of its time bounds the others."""

MENTIONED = 0.03
"""A smaller share is left out of a sentence."""


STAGES_IN_WORDS = {"fit_critic": "fit the critic", "load_weights": "load weights", "overhead": "work between stages"}
CAUSES_IN_WORDS = {"ticket": "tickets", "decision": "decisions", "ranks": "other ranks", "publication": "the last publication", "version": "a version"}


def settled(updates: Sequence[JsonObject], recipe: Recipe | None) -> Sequence[JsonObject]:
    """The updates that tell how a run is when it has settled: of the last ones, the second half at least.

    The first update is left out: its workers were being started. So are the last ones of a run: there are no tickets of later updates beside them.
    """
    ahead = recipe.engine.max_staleness if recipe else 1
    whole = [line for line in updates if line["update"] <= _planned(line) - ahead] or updates
    half = whole[len(whole) // 2 :] if len(whole) > 1 else whole
    return half[-SETTLED_UPDATES:]


def _planned(line: JsonObject) -> int:
    """How many updates the run is to make."""
    planned, made = line.get("updates"), int(line["update"])
    return planned if isinstance(planned, int) else made


def times_by_kind(updates: Sequence[JsonObject]) -> dict[str, WorkerTime]:
    """How the workers of each kind (shard, generator, trainer, weights) spent their time in these updates: the mean over workers and over time."""
    busy: dict[str, defaultdict[str, float]] = {}
    idle: dict[str, defaultdict[str, float]] = {}
    before = 0.0
    for line in updates:
        seconds, before = max(line["wall_seconds"] - before, 0.0) if before else 1.0, line["wall_seconds"]
        for worker in line["workers"]:
            for shares, spent in ((worker["busy"], busy), (worker["idle"], idle)):
                of_worker = spent.setdefault(worker["name"], defaultdict(float))
                for name, share in shares.items():
                    of_worker[name] += max(share or 0.0, 0.0) * seconds
    workers = [_shares(name, busy[name], idle[name]) for name in busy]
    return {kind: mean_of(kind, members) for kind, members in by_kind(workers).items()}


def bound(times: Mapping[str, WorkerTime], recipe: Recipe | None) -> str:
    """What bounds the run, in a sentence."""
    trainer, generator, shard = (times.get(kind) for kind in ("trainer", "generator", "shard"))
    if trainer is None or shard is None or not (trainer.busy or trainer.idle):
        return "What bounds it cannot be told: no update says how its workers spent their time."
    starved = trainer.idle.get("trajectories", 0.0)
    if starved < HARDLY:
        return f"Training bounds it: the trainer is busy {percent(_all(trainer.busy))} of the time, so faster simulators or generators would change little."
    if recipe is not None and not recipe.engine.overlaps:
        slow = _slow_part_of_rollout(*(worker and _during_rollout(worker, starved) for worker in (shard, generator)))
        return (
            f"Rollout and training take turns (engine.mode={recipe.engine.mode}): rollout takes {percent(starved)} of the time, and training the rest. "
            f"During rollout, {slow}."
        )
    return f"Rollout bounds it: the trainer waits {percent(starved)} of the time for trajectories. There, {_slow_part_of_rollout(shard, generator)}."


def waits(times: Mapping[str, WorkerTime], updates: Sequence[JsonObject]) -> str:
    """Who waited for what in these updates, in a sentence."""
    said = [f"{_named(kind)}: {_in_words(worker)}" for kind, worker in times.items() if worker.busy or worker.idle]
    first, last = updates[0]["update"], updates[-1]["update"]
    when = f"In updates {first} to {last}" if last > first else f"In update {last}"
    return f"{when}, {'; '.join(said)}." if said else "Who waits for what cannot be told before the first update."


def _during_rollout(worker: WorkerTime, rollout: float) -> WorkerTime:
    """The time of a worker that does nothing while the trainer works. rollout: the share of time in which the trainer waits."""
    idle = dict(worker.idle)
    for cause in ("ticket", "requests"):
        if cause in idle:
            idle[cause] = max(idle[cause] - (1 - rollout), 0.0)
    return _shares(worker.name, worker.busy, idle)


def _slow_part_of_rollout(shard: WorkerTime | None, generator: WorkerTime | None) -> str:
    """What would help most if it took no time: inference, simulation, or what a decision waits for beside inference."""
    if shard is None:
        return "nothing is known of the simulators"
    simulating, deciding, admission = _all(shard.busy), shard.idle.get("decision", 0.0), shard.idle.get("ticket", 0.0)
    inferring = _all(generator.busy) if generator is not None else 0.0
    if admission > max(simulating, deciding):
        return f"simulators wait {percent(admission)} of their time for tickets: the last episodes of an update hold up all others"
    if deciding - inferring > max(simulating, inferring):
        return (
            f"simulators wait {percent(deciding)} of their time for decisions, and generators are busy only {percent(inferring)}: requests wait for others "
            f"to join their batch, or for a free core"
        )
    slow, busier, other = ("inference", "generators", "simulators") if inferring > simulating else ("simulation", "simulators", "generators")
    most, less = max(inferring, simulating), min(inferring, simulating)
    return f"{slow} is the slow part: {busier} are busy {percent(most)} of the time, and {other} {percent(less)}"


def _in_words(worker: WorkerTime) -> str:
    parts = [f"{STAGES_IN_WORDS.get(stage, stage)} {percent(share)}" for stage, share in _largest_first(worker.busy)]
    parts += [f"wait for {CAUSES_IN_WORDS.get(cause, cause)} {percent(share)}" for cause, share in _largest_first(worker.idle)]
    return ", ".join(parts) or "nothing"


def _largest_first(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(((name, share) for name, share in shares.items() if share >= MENTIONED), key=lambda part: -part[1])


def _named(kind: str) -> str:
    return {"shard": "simulators", "generator": "generators", "trainer": "the trainer"}.get(kind, kind)


def _all(shares: Mapping[str, float]) -> float:
    return sum(shares.values())


def _shares(name: str, busy: Mapping[str, float], idle: Mapping[str, float]) -> WorkerTime:
    total = _all(busy) + _all(idle)
    return WorkerTime(name, *({part: seconds / total for part, seconds in spent.items()} if total else {} for spent in (busy, idle)))
