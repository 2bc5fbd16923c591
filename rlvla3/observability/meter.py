"""The meter: how each worker spends its time (law 7).

Invariant: a worker is always in exactly one stage. It is busy with something that has a name, or it waits for something that has a name. Entering a stage ends
the one before. So the shares of a worker always sum to 1.

The times are in shared memory. Reading them costs the workers nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from rlvla3.observability.events import WorkerTime
from rlvla3.shared_memory import SharedArrays
from rlvla3.types import Field

BUSY = (
    *("start", "reset", "simulate", "infer", "load_weights", "offload"),
    *("train", "fit_critic", "publish", "clone", "checkpoint", "send", "receive", "overhead"),
)
IDLE = ("ticket", "decision", "requests", "trajectories", "ranks", "publication", "version", "command")
"""What a worker can wait for.

A shard waits for a ticket (admission) or a decision. A generator waits for requests. A trainer waits for trajectories, for its other ranks (communication with
them included), for the publication of the last version, or for a command. A sender or a receiver of weights waits for a version.
"""
STAGES = BUSY + IDLE
JITTER_S = 0.5
"""The times of workers of another host may be so late, now more and now less."""

_NUMBER = {stage: number for number, stage in enumerate(STAGES)}


class MeterBoard:
    """The times of all workers. Any process can read them while workers write. now: the clock, in seconds. None means the machine's monotonic clock."""

    def __init__(self, workers: Sequence[str], now: Callable[[], float] | None = None) -> None:
        self.workers, self._now = tuple(workers), now or time.monotonic
        n = len(self.workers)
        self._arrays = SharedArrays(
            {"seconds": Field((n, len(STAGES)), np.float64), "stage": Field((n,), np.int64), "since": Field((n,), np.float64)},
        )
        self._began = self._now()
        self._arrays["since"][:] = self._began

    def meter(self, worker: str) -> Meter:
        row = self.workers.index(worker)
        return Meter(self._arrays["seconds"][row], self._arrays["stage"][row : row + 1], self._arrays["since"][row : row + 1], self._now)

    def read(self) -> NDArray[np.float64]:
        """Seconds [workers, stages] until now.

        The present stage gets all time since the start that no other stage has. So a row sums to that time, whatever a worker writes meanwhile.
        """
        stage, seconds = self._arrays["stage"].copy(), self._arrays["seconds"].copy()
        seconds[np.arange(len(self.workers)), stage] += self._now() - self._began - seconds.sum(axis=1)
        return seconds

    def busy_seconds(self, worker: str) -> float:
        """Seconds until now in which a worker was busy."""
        row = self.workers.index(worker)
        busy = float(self._arrays["seconds"][row, : len(BUSY)].sum())
        return busy + (self._now() - float(self._arrays["since"][row]) if self._arrays["stage"][row] < len(BUSY) else 0.0)

    def stages(self) -> NDArray[np.int64]:
        """The number of each worker's present stage: [workers]."""
        return self._arrays["stage"].copy()

    def since(self) -> NDArray[np.float64]:
        """When the present stage of each worker began, on the board's clock: [workers]."""
        return self._arrays["since"].copy()

    def left(self) -> NDArray[np.float64]:
        """Seconds [workers, stages] in stages that have ended."""
        seconds = self.read()
        seconds[np.arange(len(self.workers)), self.stages()] -= self._now() - self._arrays["since"]
        return np.maximum(seconds, 0.0)

    def restart(self, worker: str) -> None:
        """A new process of this worker is being started. To be called before it runs, or the stage in which the last one ended would seem to go on."""
        MeterBoard.meter(self, worker).enter("start")

    def ages(self) -> NDArray[np.float64]:
        """Seconds since the present stage of each worker began: [workers]."""
        return self._now() - self.since()

    def set_rows(self, first: int, seconds: NDArray[np.float64], stages: NDArray[np.int64], ages: NDArray[np.float64]) -> None:
        """Copy what another board has read, into the rows from `first` on. A stage that goes on keeps its beginning: messages take now more time, now less."""
        rows = slice(first, first + len(stages))
        since, told = self._now() - ages, self.since()[rows]
        goes_on = (self._arrays["stage"][rows] == stages) & (np.abs(since - told) < JITTER_S)
        self._arrays["since"][rows] = np.where(goes_on, told, since)
        self._arrays["seconds"][rows], self._arrays["stage"][rows] = seconds, stages

    def stage(self, worker: str) -> tuple[str, float]:
        """A worker's present stage, and the seconds since it began."""
        row = self.workers.index(worker)
        return STAGES[int(self._arrays["stage"][row])], self._now() - float(self._arrays["since"][row])

    def shares(self, since: NDArray[np.float64]) -> list[WorkerTime]:
        """Each worker's shares of the time since an earlier `read()`."""
        spent = np.maximum(self.read() - since, 0)
        shares = spent / np.maximum(spent.sum(axis=1, keepdims=True), 1e-9)
        return [
            WorkerTime(worker, *({stage: float(row[_NUMBER[stage]]) for stage in stages if row[_NUMBER[stage]] > 0} for stages in (BUSY, IDLE)))
            for worker, row in zip(self.workers, shares, strict=True)
        ]


class Meter:
    """The meter of one worker.

        with meter("infer", len(batch)):
            ...

    size: the number of items in the work (environments, decisions), 0 where there is nothing to count. Only a sampling meter uses it (sampling.py).
    """

    samples = False
    """Whether each time in a stage is looked at by itself. Then a worker waits for its device before it leaves a stage."""

    def __init__(self, seconds: NDArray[np.float64], stage: NDArray[np.int64], since: NDArray[np.float64], now: Callable[[], float]) -> None:
        self._seconds, self._stage, self._since, self._now = seconds, stage, since, now

    def enter(self, stage: str, size: int = 0) -> None:
        """Enter `stage`, and end the one before."""
        now = self._now()
        self._seconds[self._stage[0]] += now - self._since[0]
        self._since[0] = now  # write it before the stage: a reader between the two lines must not see the new stage with the old beginning
        self._stage[0] = _NUMBER[stage]

    @contextmanager
    def __call__(self, stage: str, size: int = 0) -> Iterator[None]:
        before = STAGES[int(self._stage[0])]
        self.enter(stage, size)
        try:
            yield
        finally:
            self.enter(before)


class OverlappingMeter:
    """The meter of a worker that does several things at once, in one thread. Its stage is the first one that is still going on, or `idle` where there is none.

    with meter("send"):
        await ...                       # meanwhile the worker may send or receive something else
    """

    def __init__(self, meter: Meter, idle: str) -> None:
        self._meter, self._idle, self._doing = meter, idle, list[str]()
        meter.enter(idle)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._doing.append(stage)
        self._meter.enter(self._doing[0])
        try:
            yield
        finally:
            self._doing.remove(stage)
            self._meter.enter(self._doing[0] if self._doing else self._idle)
