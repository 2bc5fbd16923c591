"""Where the time of a Ray run's workers goes, as their actors report it.

Invariants:
- an actor may be restarted, and then reports only its present life. Here, the seconds of its workers and its environment steps go on;
- the seconds of a worker sum to the time since the run began. Time that no report covers counts as `start`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import Recipe
from rlvla3.observability.meter import STAGES, MeterBoard
from rlvla3.runtimes.ray.messages import Status
from rlvla3.runtimes.worker_names import WEIGHTS, trainer_name

START = STAGES.index("start")


def workers_of_host(host: int, recipe: Recipe) -> list[str]:
    """The names of a host's workers, in the order of its board. recipe: the host's own part."""
    counts = {"shard": sum(simulator.shards for simulator in recipe.mixed.values()), "generator": recipe.engine.generators}
    return [*(f"{kind} {host}.{number}" for kind, count in counts.items() for number in range(count)), f"{WEIGHTS} {host}"]


def workers_of_rank(rank: int) -> list[str]:
    """The names of the workers in the actor of a trainer rank, in the order of its board."""
    return [trainer_name(rank)] if rank else [trainer_name(rank), WEIGHTS]


@dataclass
class ActorReport:
    """What an actor has reported.

    rows: of its workers on the board. earlier: their seconds before its present life (None: nothing was reported in this life). steps: all its environment
    steps. steps_earlier: those before its present life. batching: of its generators (observability/batching.py).
    """

    rows: range
    earlier: NDArray[np.float64] | None = None
    steps: int = 0
    steps_earlier: int = 0
    batching: Sequence[Mapping[str, float]] = ()


class Reports:
    """workers: the names of each actor's workers.

    reports = Reports({"host 0": ["shard 0.0", "generator 0.0"], "trainer": ["trainer"]})
    reports.take("host 0", status)
    reports.lost("host 0")
    reports.board.shares(since)
    """

    def __init__(self, workers: Mapping[str, Sequence[str]], now: Callable[[], float] | None = None) -> None:
        self.board = MeterBoard([name for names in workers.values() for name in names], now)
        self._told: dict[str, ActorReport] = {}
        first = 0
        for actor, names in workers.items():
            self._told[actor] = ActorReport(range(first, first + len(names)))
            first += len(names)

    def steps(self) -> int:
        """Environment steps of all actors."""
        return sum(told.steps for told in self._told.values())

    def batching(self) -> list[Mapping[str, float]]:
        """How the generators of all actors batch."""
        return [figures for told in self._told.values() for figures in told.batching]

    def take(self, actor: str, status: Status) -> None:
        told = self._told[actor]
        if told.earlier is None:
            told.earlier = self._seconds(told)
            told.earlier[:, START] -= status.seconds.sum(axis=1)
        self.board.set_rows(told.rows.start, told.earlier + status.seconds, status.stages, status.ages)
        told.steps, told.batching = told.steps_earlier + status.steps, status.batching

    def lost(self, actor: str) -> None:
        """The actor is lost. Until it reports again, its workers count as being started."""
        told = self._told[actor]
        self.board.set_rows(told.rows.start, self._seconds(told), np.full(len(told.rows), START), np.zeros(len(told.rows)))
        told.earlier, told.steps_earlier = None, told.steps

    def _seconds(self, told: ActorReport) -> NDArray[np.float64]:
        return self.board.read()[told.rows.start : told.rows.stop]
