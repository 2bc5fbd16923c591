"""Events of a made-up training run."""

from __future__ import annotations

from rlvla3.config import make_recipe
from rlvla3.observability.events import (
    UpdateFinished,
    WorkerTime,
)
from rlvla3.types import Finished, Ticket, TicketCounts

RECIPE = make_recipe({"training": {"updates": 20}})


def episode(index: int, success: bool, task: str = "reach-v3", return_: float | None = None) -> Finished:
    return Finished(
        Ticket(index, task, seed=index, group=index), decisions=14, steps=70, success=success, return_=float(success) if return_ is None else return_
    )


def finished(ticket: int, decisions: int) -> Finished:
    """The news of an episode of so many decisions."""
    return Finished(Ticket(ticket, "reach-v3", seed=ticket, group=ticket), decisions, steps=decisions, success=False, return_=0.0)


def episodes(successes: int, count: int, task: str = "reach-v3") -> list[Finished]:
    return [episode(index, index < successes, task) for index in range(count)]


def update(
    number: int,
    successes: int = 40,
    *,
    workers: int = 1,
    lags: dict[int, int] | None = None,
    returns: float | None = None,
    learner: dict[str, float] | None = None,
) -> UpdateFinished:
    """Update `number` of 20, ten seconds after the one before it; workers simulate in 3/4 of their time in odd updates and in 1/4 of it in even ones."""
    share = 0.75 if number % 2 else 0.25
    return UpdateFinished(
        update=number,
        updates=20,
        episodes=[episode(index, index < successes, return_=returns) for index in range(64)],
        learner={"kl": 0.01, "entropy": float("nan"), **(learner or {})},
        environment_steps=4500 * number,
        throughput=450.0,
        staleness=lags or {0: 60, 1: 4},
        tickets=TicketCounts(issued=64 * number + 8, trained=64 * number, rerun=1),
        workers=[WorkerTime(f"shard {index}", {"simulate": share}, {"decision": 1 - share}) for index in range(workers)],
        wall_seconds=10.0 * number,
    )


class Clock:
    """A clock that stands still until it is moved on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now
