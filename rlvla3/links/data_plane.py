"""The data plane of one host: observations and decisions in shared memory, and a doorbell that wakes the process that waits for them.

    simulator  writes observation, asks  --ring-->  generator  gathers, infers, scatters  --ring-->  simulator

Invariants:
- `running` is, for each generator, how many of its shards have a ticket and so will ask for decisions. The shard supervisor writes it before it sends tickets
  and after it has taken episodes in. So a generator that sees a request knows of every shard that began together with it. A shard asks for all its slots at
  once and then waits. When `running` shards wait, no other one can ask;
- `serves` says which generator a shard asks. Only the shard supervisor writes it, while the shard has no ticket. So no request of the shard is under way, and
  the shard counts for one generator at any time;
- a ticket is handed out again only after its generator has forgotten the requests of the lost shard. So an answer never reaches the wrong episode.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import EllipsisType

import numpy as np
from numpy.typing import NDArray

from rlvla3.links.doorbell import Doorbell
from rlvla3.links.rollouts import Episode, Rollouts, RolloutSpec
from rlvla3.observability.batching import BatchingChoices
from rlvla3.observability.meter import Meter
from rlvla3.scheduling.batcher import DynamicBatcher
from rlvla3.scheduling.limits import FixedLimits
from rlvla3.scheduling.sharding import ShardSpec
from rlvla3.shared_memory import SharedArrays
from rlvla3.types import Field, Observation, Purpose, Ticket

RECOUNT = 2**32 - 1
"""The number that is rung at a generator when `running` has changed: a batch may be due."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that one inference answers. tickets, rows: int64 [B]. explore: bool [B]. slots: that have asked.

    kept: the positions whose decisions are written (...: all). A batch of a replay is as wide as the recorded one, even if some of its decisions are void.
    """

    tickets: NDArray[np.int64]
    rows: NDArray[np.int64]
    explore: NDArray[np.bool_]
    slots: tuple[int, ...]
    kept: NDArray[np.int64] | EllipsisType = ...

    def __len__(self) -> int:
        return len(self.tickets)

    def keys(self) -> list[tuple[int, int, int]]:
        """The key of each decision, from which its noise is drawn: (purpose, ticket, decision)."""
        return list(zip(self.explore.astype(int).tolist(), self.tickets.tolist(), self.rows.tolist(), strict=True))


class DataPlane:
    """The memory and doorbells that the workers of one host share. Slots are numbered across all shards."""

    def __init__(self, spec: RolloutSpec, shards: Sequence[ShardSpec], generators: int) -> None:
        self.rollouts = Rollouts(spec)
        self.shards = tuple(shards)
        self._shard_of = [shard.number for shard in shards for _ in shard.slots]
        n = len(self._shard_of)
        self.asked = SharedArrays(
            {"ticket": Field((n,), np.int64), "row": Field((n,), np.int64), "explore": Field((n,), np.bool_), "at": Field((n,), np.float64)},
        )
        self.counts = SharedArrays(
            {"running": Field((generators,), np.int64), "serves": Field((len(shards),), np.int64), "steps": Field((len(shards),), np.int64)},
        )
        self.counts["serves"][:] = [shard.generator for shard in shards]
        self.choices = BatchingChoices(generators)
        self.requests = [Doorbell() for _ in range(generators)]
        self.answers = [Doorbell() for _ in shards]

    def shard_of(self, slot: int) -> int:
        return self._shard_of[slot]

    def answer(self, slots: Iterable[int]) -> None:
        """Wake the shards of these slots: their decisions are in the data plane."""
        answered: dict[int, list[int]] = {}
        for slot in slots:
            answered.setdefault(self._shard_of[slot], []).append(slot)
        for shard, its_slots in answered.items():
            self.answers[shard].ring(*its_slots)

    def set_running(self, counts: Iterable[int]) -> None:
        """Set how many running shards each generator serves, and wake the generators whose number has fallen."""
        running = self.counts["running"]
        for generator, count in enumerate(counts):
            fewer = count < running[generator]
            running[generator] = count
            if fewer:
                self.requests[generator].ring(RECOUNT)


class ShardPort:
    """A simulator process's side of the data plane."""

    def __init__(self, plane: DataPlane, shard: int, meter: Meter) -> None:
        self._plane, self._shard, self._meter = plane, shard, meter
        self._first, self._answers = plane.shards[shard].slots.start, plane.answers[shard]
        self._answers.collect()  # removes answers to a lost predecessor

    def begin(self, ticket: Ticket, observation: Observation) -> Episode:
        return self._plane.rollouts.begin(ticket, observation)

    async def decide(self, episodes: Mapping[int, Episode]) -> dict[int, NDArray[np.float32] | None]:
        """The chunk [C, A] that is decided for each episode's present observation, by slot. None for a demonstration: the simulator's expert acts there."""
        asking = {slot: episode for slot, episode in episodes.items() if episode.ticket.purpose is not Purpose.DEMONSTRATE}
        asked = self._plane.asked
        for slot, episode in asking.items():
            number = self._first + slot
            asked["ticket"][number], asked["row"][number] = episode.ticket.index, episode.row
            asked["explore"][number], asked["at"][number] = episode.ticket.purpose is Purpose.TRAIN, time.monotonic()
        if asking:
            self._plane.requests[self._plane.counts["serves"][self._shard]].ring(*(self._first + slot for slot in asking))
        answered = 0
        with self._meter("decision"):
            while answered < len(asking):
                await self._answers.wait()
                answered += len(self._answers.collect())
        return {slot: episode.actions if slot in asking else None for slot, episode in episodes.items()}


class GeneratorPort:
    """A generator's side of the data plane: requests come in batches, by B_max and T_max.

    take_in: called if a batch is due at once. It reads control messages, which a generator that never waits would otherwise not see.
    """

    def __init__(self, plane: DataPlane, generator: int, limits: FixedLimits, meter: Meter, take_in: Callable[[], None] = lambda: None) -> None:
        self._plane, self._generator, self._meter, self._take_in = plane, generator, meter, take_in
        self._bell = plane.requests[generator]
        self._batcher: DynamicBatcher[int] = DynamicBatcher(limits)

    async def batch(self) -> Batch:
        """The next batch, as soon as it is due."""
        with self._meter("requests"):
            slots = self._due()
            if slots:
                self._take_in()
            while not slots:
                deadline = self._batcher.deadline()
                await self._bell.wait(deadline if deadline < float("inf") else None)
                slots = self._due()
        return self._batch(slots)

    def due(self) -> Batch | None:
        """The batch that is due now, or None."""
        self._take_in()
        slots = self._due()
        return self._batch(slots) if slots else None

    def heard_by(self, call: Callable[[], None]) -> AbstractContextManager[None]:
        """Within the block, `call` is called at once, and then whenever something was rung that `waiting` may not have seen."""
        return self._bell.heard_by(call)

    def waiting(self) -> dict[int, tuple[int, int]]:
        """The decisions that are asked for and that no batch has taken, (ticket, row) by slot, oldest first."""
        self._collect()
        asked, slots = self._plane.asked, list(self._batcher)
        return dict(zip(slots, zip(asked["ticket"][slots].tolist(), asked["row"][slots].tolist(), strict=True), strict=True))

    def _batch(self, slots: list[int]) -> Batch:
        asked = self._plane.asked
        order = np.array(slots)[np.argsort(asked["ticket"][slots])]  # in ticket order: the same batch is the same computation, whatever the order of requests
        return Batch(asked["ticket"][order], asked["row"][order], asked["explore"][order], tuple(order.tolist()))

    def answer(self, batch: Batch) -> None:
        """Wake the shards of the oldest batch that is not answered yet: its decisions are in the data plane."""
        self._plane.answer(batch.slots)
        self._batcher.answered(time.monotonic())
        self._plane.choices.write(self._generator, self._batcher.limits.choice)

    def measured(self, size: int, seconds: float) -> None:
        """An inference of `size` decisions was tried, and took `seconds`."""
        self._batcher.limits.measured(size, seconds)

    def limit(self, largest: int) -> None:
        """A batch may have at most `largest` decisions, whatever B_max is: the device can do no more."""
        self._batcher.largest = largest

    def forget(self, shard: int) -> None:
        """Drop the requests of a lost shard."""
        self._collect()
        self._batcher.forget(shard)
        self._bell.ring(RECOUNT)  # other requests that were collected here may be due, and `batch` waits for the doorbell

    def _due(self) -> list[int]:
        self._collect()
        return self._batcher.take(time.monotonic(), running=int(self._plane.counts["running"][self._generator]))

    def _collect(self) -> None:
        slots = [slot for slot in self._bell.collect() if slot != RECOUNT]
        asked = self._plane.asked
        for slot, at, row in zip(slots, asked["at"][slots].tolist(), asked["row"][slots].tolist(), strict=True):
            self._batcher.add(slot, self._plane.shard_of(slot), at, first=row == 0)
