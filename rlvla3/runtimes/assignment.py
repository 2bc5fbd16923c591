"""Which generator serves which shard, in every runtime and on its clock. A shard keeps its generator, unless the number of active generators follows the load
(engine.elastic).

Invariants:
- a shard changes its generator only while it runs no ticket. It has then asked for nothing and no answer is on its way. So the counts of generators
  (links/data_plane.py) stay exact, and one generator makes all decisions of an episode;
- a shard that is to change gets no ticket until it has changed. It finishes the tickets that it runs, whatever other shards do;
- nothing is measured while shards change: `look` compares settled states.
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
    """serves: int64 [shards], the generator of each shard; only this class writes it. slots: of each shard. elastic: None if the assignment never changes.
    board, now: the time of every worker, and the clock in seconds. steps: environment steps since the run began.

        leaving = assignment.look()                  # at every hand-in: the shards that get no ticket until they have changed their generator
        moved = assignment.move(is_busy)             # before tickets are dispatched: the shards that change now
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
        serves[:] = self._wanted  # no shard runs a ticket yet
        self._begin()

    @property
    def active(self) -> int:
        """How many generators are active."""
        return self._active.count

    def begin_anew(self) -> None:
        """Other work begins. Its pace must not be compared with the pace before."""
        self._active.begin_anew()
        self._begin()

    def look(self) -> list[int]:
        """Evaluate what was measured, if that is due. Returns the shards that are to change their generator."""
        seconds = self._now() - self._since
        if seconds < self._every_s or self._leaving:
            return []
        self._wanted = share_out(self._homes, self._slots, self._active.look(self._load(seconds)))
        self._leaving = {shard for shard, wanted in enumerate(self._wanted) if self.serves[shard] != wanted}
        self._begin()
        return sorted(self._leaving)

    def move(self, is_busy: Callable[[int], bool]) -> list[int]:
        """Change the generator of every leaving shard that has no ticket. Returns these shards. is_busy: whether a shard has a ticket."""
        moved = [shard for shard in sorted(self._leaving) if not is_busy(shard)]
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
        """Begin to measure."""
        self._since, self._spent, self._steps_before = self._now(), self._board.read(), self._steps()
