"""Where every second of every worker goes (law 7).

A worker is always in exactly one stage: busy with something named, or waiting for something named. Entering a stage closes the one before it, so the shares
of a worker sum to 1 by construction. The times stand in shared memory: watching costs the workers nothing.
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
"""What a worker can wait for: a shard for a ticket (admission) or a decision; a generator for requests; a trainer for trajectories, for its other ranks (what
it exchanges with them among it), for the publication of the version before, or for a command; who sends or receives weights, for a version."""
STAGES = BUSY + IDLE
_NUMBER = {stage: number for number, stage in enumerate(STAGES)}


class MeterBoard:
    """The times of all workers, readable by any process while they are being written. now: the clock, in seconds (the machine's)."""

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
        """Seconds [workers, stages] up to now; the present stage has what is left of the time since the start, so a row sums to it whatever is being
        written."""
        stage, seconds = self._arrays["stage"].copy(), self._arrays["seconds"].copy()
        seconds[np.arange(len(self.workers)), stage] += self._now() - self._began - seconds.sum(axis=1)
        return seconds

    def stages(self) -> NDArray[np.int64]:
        """The number of the stage that each worker is in: [workers]."""
        return self._arrays["stage"].copy()

    def note(self, first: int, seconds: NDArray[np.float64], stages: NDArray[np.int64]) -> None:
        """Take over what a board elsewhere has read, for the workers from number `first` on."""
        rows = slice(first, first + len(stages))
        self._arrays["seconds"][rows], self._arrays["stage"][rows] = seconds, stages

    def stage(self, worker: str) -> tuple[str, float]:
        """The stage a worker is in, and for how many seconds."""
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
    """One worker's own clock card.

    with meter("infer", len(batch)):
        ...

    size: of how many items the work is (environments, decisions; 0: nothing to count). A card takes no note of it; one that samples does (sampling.py).
    """

    def __init__(self, seconds: NDArray[np.float64], stage: NDArray[np.int64], since: NDArray[np.float64], now: Callable[[], float]) -> None:
        self._seconds, self._stage, self._since, self._now = seconds, stage, since, now

    def enter(self, stage: str, size: int = 0) -> None:
        """Be in `stage` from now on."""
        now = self._now()
        self._seconds[self._stage[0]] += now - self._since[0]
        self._since[0] = now  # before the stage: a reader in between must not see a new stage with an old beginning
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
    """The clock card of a worker that does several things at once, in one thread: it is in the stage of what it began first, and waits for `idle` while it does
    nothing.

    with lane("send"):
        await ...                       # meanwhile something else may be sent or received
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
