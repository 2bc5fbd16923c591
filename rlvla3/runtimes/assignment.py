"""Which generator serves which shard, for every runtime on its own clock: always the same one, or as many as the load needs (engine.elastic).

Invariants:
- a shard goes over to another generator only while it runs no ticket. Then it has asked for nothing and no answer is on its way, so what generators count
  (links/data_plane.py) stays exact, and all decisions of an episode are one generator's;
- a shard that is to go over is dealt no ticket until it has: it comes to an end of those that it runs, whatever the others do;
- nothing is measured while shards are on their way: a look compares settled states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import ElasticConfig
from rlvla3.observability.meter import MeterBoard
from rlvla3.runtimes.worker_names import generator_name, shard_name
from rlvla3.scheduling.elastic import ActiveGenerators, Load, share_out


class Assignment:
    """serves: int64 [shards], the generator of each, kept up to date here and by nobody else. slots: of each shard. elastic: None where all stays as it is.
    board, now: where everybody's time goes, and the clock in seconds. steps: environment steps since the run began.

        leaving = assignment.look()                  # at every hand-in: the shards that are to be dealt nothing until they have gone over
        moved = assignment.move(runs)                # before tickets are dealt: those that go over now
    """

    def __init__(
        self,
        serves: NDArray[np.int64],
        slots: Sequence[int],
        generators: int,
        elastic: ElasticConfig | None,
        board: MeterBoard,
        now: Callable[[], float],
        steps: Callable[[], int],
    ) -> None:
        self.serves, self._homes, self._slots = serves, [int(home) for home in serves], slots
        self._board, self._now, self._steps = board, now, steps
        self._every_s = elastic.every_s if elastic else float("inf")
        self._active = ActiveGenerators(min(elastic.least, generators), generators) if elastic else ActiveGenerators(generators, generators)
        self._wanted = share_out(self._homes, slots, self._active.count)
        self._leaving: set[int] = set()
        serves[:] = self._wanted  # nobody runs anything yet
        self._begin()

    @property
    def active(self) -> int:
        """How many generators are meant to serve."""
        return self._active.count

    def begin_anew(self) -> None:
        """Other work begins, whose pace is not to be compared with that before."""
        self._active.begin_anew()
        self._begin()

    def look(self) -> list[int]:
        """See what was measured, if that is due. Returns the shards that are to go over."""
        seconds = self._now() - self._since
        if seconds < self._every_s or self._leaving:
            return []
        self._wanted = share_out(self._homes, self._slots, self._active.look(self._load(seconds)))
        self._leaving = {shard for shard, wanted in enumerate(self._wanted) if self.serves[shard] != wanted}
        self._begin()
        return sorted(self._leaving)

    def move(self, runs: Callable[[int], bool]) -> list[int]:
        """Let shards go over that are to and run nothing. Returns them. runs: whether a shard has a ticket."""
        moved = [shard for shard in sorted(self._leaving) if not runs(shard)]
        for shard in moved:
            self.serves[shard] = self._wanted[shard]
        self._leaving.difference_update(moved)
        if moved and not self._leaving:
            self._begin()
        return moved

    def _load(self, seconds: float) -> Load:
        idle = {worker.name: worker.idle for worker in self._board.shares(self._spent)}
        generators = [idle[generator_name(number)] for number in sorted(set(self._wanted))]
        shards = [idle[shard_name(number)] for number in range(len(self._slots))]
        return Load(
            busy=1 - fmean(share.get("requests", 0.0) for share in generators),
            waiting=fmean(share.get("decision", 0.0) for share in shards),
            pace=(self._steps() - self._steps_before) / seconds,
        )

    def _begin(self) -> None:
        """Measure from now on."""
        self._since, self._spent, self._steps_before = self._now(), self._board.read(), self._steps()
