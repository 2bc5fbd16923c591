"""The data plane of one host: observations and decisions in shared memory, and a doorbell that wakes the process that waits for them.

    simulator  writes observation, asks  --ring-->  generator  gathers, infers, scatters  --ring-->  simulator

Invariants:
- `running` is, for each generator, how many of its shards have a ticket and so will ask for decisions. The shard supervisor writes it before it sends tickets
  and after it has taken episodes in. So a generator that sees a request knows of every shard that began together with it. A shard asks for all its slots at
  once and then waits. When `running` shards wait, no other one can ask;
- `serves` says which generator a shard asks. Only the shard supervisor writes it, while the shard has no ticket. So no request of the shard is under way, and
  the shard counts for one generator at any time;
- a ticket is handed out again only after its generator has forgotten the requests of the lost shard. So an answer never reaches the wrong episode;
- requests stand in memory and outlive a generator: each has a number, which its shard counts up when it asks. A ring only says where to look. So a request is
  taken once, however often it is rung, and the successor of a lost generator takes those that were not answered;
- no batch mixes decisions of training and of an evaluation beside it. Those of training come first;
- `withdrawn` says from which shards the tickets of an evaluation beside training are withdrawn, because they have tickets of training. Only the shard
  supervisor writes it: it sets it before it sends these tickets, and clears it after one of them has ended. So whoever sees it set knows that every ticket of
  the evaluation that such a shard has is withdrawn. A generator answers those requests without deciding, and the shard drops those episodes;
- the requests of a batch are answered together, even if the generator is killed meanwhile: what it was about to answer is written down first, and
  `take_over` completes it. So a batch that is inferred again has the same requests.
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
from rlvla3.types import BESIDE, Field, Layout, Observation, Purpose, Ticket

RECOUNT = 2**32 - 1
"""The number that is rung at a generator when `running` has changed: a batch may be due."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that one inference answers. tickets, rows: int64 [B]. explore: bool [B]. slots: that have asked.

    kept: the positions whose decisions are written (...: all). A batch of a replay is as wide as the recorded one, even if some of its decisions are void.
    beside: whether it belongs to an evaluation beside training.
    """

    tickets: NDArray[np.int64]
    rows: NDArray[np.int64]
    explore: NDArray[np.bool_]
    slots: tuple[int, ...]
    kept: NDArray[np.int64] | EllipsisType = ...
    beside: bool = False

    def __len__(self) -> int:
        return len(self.tickets)

    def keys(self) -> list[tuple[int, int, int]]:
        """The key of each decision, from which its noise is drawn: (purpose, ticket, decision). An evaluation beside training has the keys of any other."""
        return list(zip(self.explore.astype(int).tolist(), (self.tickets % BESIDE).tolist(), self.rows.tolist(), strict=True))


def asked_layout(slots: int) -> Layout:
    """The arrays of the requests of `slots` slots."""
    n = (slots,)
    return {
        "ticket": Field(n, np.int64),
        "row": Field(n, np.int64),
        "explore": Field(n, np.bool_),
        "at": Field(n, np.float64),
        "number": Field(n, np.int64),
        "answered": Field(n, np.int64),
    }


class DataPlane:
    """The memory and doorbells that the workers of one host share. Slots are numbered across all shards."""

    def __init__(self, spec: RolloutSpec, shards: Sequence[ShardSpec], generators: int) -> None:
        self.rollouts = Rollouts(spec)
        self.shards = tuple(shards)
        self._shard_of = [shard.number for shard in shards for _ in shard.slots]
        n = len(self._shard_of)
        self.asked = SharedArrays(asked_layout(n), what="asked")
        # What each generator is about to answer: the first `count` slots and the numbers of their requests. `count` is 0 where there is nothing.
        self.answering = SharedArrays(
            {"count": Field((generators,), np.int64), "slots": Field((generators, n), np.int64), "numbers": Field((generators, n), np.int64)},
        )
        self.counts = SharedArrays(
            {"running": Field((generators,), np.int64), "serves": Field((len(shards),), np.int64), "steps": Field((len(shards),), np.int64)}
            | {"withdrawn": Field((len(shards),), np.bool_)},
        )
        self.counts["serves"][:] = [shard.generator for shard in shards]
        self.choices = BatchingChoices(generators)
        self.requests = [Doorbell() for _ in range(generators)]
        self.answers = [Doorbell() for _ in shards]

    def shard_of(self, slot: int) -> int:
        return self._shard_of[slot]

    def answer(self, slots: Sequence[int], generator: int = 0) -> None:
        """Answer the requests of these slots and wake their shards: the decisions are in the data plane. Each shard is woken once."""
        places, count = list(slots), len(slots)
        numbers = self.asked["number"][places]
        self.answering["slots"][generator, :count], self.answering["numbers"][generator, :count] = places, numbers
        self.answering["count"][generator] = count
        self.asked["answered"][places] = numbers
        self.answering["count"][generator] = 0
        self._wake(places)

    def take_over(self, generator: int) -> int:
        """A generator is lost, and its process has ended. Complete the answer that it was giving. Returns how many requests wait for its successor."""
        if count := int(self.answering["count"][generator]):
            given, numbers = (self.answering[name][generator, :count] for name in ("slots", "numbers"))
            self.asked["answered"][given] = numbers
            self.answering["count"][generator] = 0
        slots = self._served_by(generator)
        self._wake(slots)  # it may have answered and not have rung
        return int((self.asked["number"][slots] != self.asked["answered"][slots]).sum())

    def answers_of(self, generator: int) -> int:
        """How many requests of the shards of a generator were answered until now."""
        return int(self.asked["answered"][self._served_by(generator)].sum())

    def _served_by(self, generator: int) -> list[int]:
        """The slots whose shards a generator serves."""
        return np.flatnonzero(self.counts["serves"][self._shard_of] == generator).tolist()

    def drop_requests(self, shard: int) -> None:
        """Drop the requests of a lost shard. To be called where nobody answers them any more: by their generator, or when it is lost too."""
        slots = self.shards[shard].slots
        self.asked["answered"][slots.start : slots.stop] = self.asked["number"][slots.start : slots.stop]

    def _wake(self, slots: Iterable[int]) -> None:
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
                self.requests[generator].remind(RECOUNT)  # the coordinator waits for no generator, not even for one that is stopped

    def set_withdrawn(self, shards: Sequence[bool]) -> None:
        """Say from which shards the tickets of the evaluation beside training are withdrawn, and wake the generators of those that lose them now."""
        withdrawn = self.counts["withdrawn"]
        newly = np.flatnonzero(np.greater(shards, withdrawn))
        withdrawn[:] = shards
        for generator in {*self.counts["serves"][newly].tolist()}:
            self.requests[generator].remind(RECOUNT)


class ShardPort:
    """A simulator process's side of the data plane."""

    def __init__(self, plane: DataPlane, shard: int, meter: Meter) -> None:
        self._plane, self._shard, self._meter = plane, shard, meter
        self._first, self._answers = plane.shards[shard].slots.start, plane.answers[shard]
        self._answers.collect()  # removes answers to a lost predecessor

    def is_withdrawn(self, ticket: Ticket) -> bool:
        """Whether a ticket that this shard has is withdrawn."""
        return ticket.beside and bool(self._plane.counts["withdrawn"][self._shard])

    def begin(self, ticket: Ticket, observation: Observation) -> Episode:
        return self._plane.rollouts.begin(ticket, observation)

    async def decide(self, episodes: Mapping[int, Episode]) -> dict[int, NDArray[np.float32] | None]:
        """The chunk [C, A] that is decided for each episode's present observation, by slot. None for a demonstration: the simulator's expert acts there. An
        episode whose ticket is withdrawn gets none."""
        asking = {slot: episode for slot, episode in episodes.items() if episode.ticket.purpose is not Purpose.DEMONSTRATE}
        asked = self._plane.asked
        for slot, episode in asking.items():
            number = self._first + slot
            asked["ticket"][number], asked["row"][number] = episode.ticket.index, episode.row
            asked["explore"][number], asked["at"][number] = episode.ticket.purpose is Purpose.TRAIN, time.monotonic()
        if asking:
            slots = [self._first + slot for slot in asking]
            asked["number"][slots] += 1  # last: whoever sees the new number sees the whole request
            self._plane.requests[self._plane.counts["serves"][self._shard]].ring(*slots)
            with self._meter("decision"):
                await self._answered(slots)
        return {slot: episode.actions if slot in asking else None for slot, episode in episodes.items() if not self.is_withdrawn(episode.ticket)}

    async def _answered(self, slots: list[int]) -> None:
        """Wait until all requests of these slots are answered. A ring may be one of an earlier answer."""
        asked, numbers = self._plane.asked["answered"], self._plane.asked["number"][slots]
        while True:
            await self._answers.wait()
            self._answers.collect()
            if np.array_equal(asked[slots], numbers):
                return


class GeneratorPort:
    """A generator's side of the data plane: requests come in batches, by B_max and T_max. Those of an evaluation beside training are answered whenever no batch
    of training is due, all that wait at once.

    It begins with the requests that a lost predecessor has not answered.

    take_in: called if a batch is due at once. It reads control messages, which a generator that never waits would otherwise not see.
    """

    def __init__(self, plane: DataPlane, generator: int, limits: FixedLimits, meter: Meter, take_in: Callable[[], None] = lambda: None) -> None:
        self._plane, self._generator, self._meter, self._take_in = plane, generator, meter, take_in
        self._bell = plane.requests[generator]
        self._batcher: DynamicBatcher[int] = DynamicBatcher(limits)
        self._beside: DynamicBatcher[int] = DynamicBatcher(FixedLimits(None, 0.0))
        self._taken: list[int] = plane.asked["answered"].tolist()  # of each slot: the number of the last request that was taken
        self._take_up(np.flatnonzero(plane.asked["number"] != plane.asked["answered"]).tolist())

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

    def due(self, like: Batch) -> Batch | None:
        """The batch that is due now, or None. It needs the same version of the weights as the batch `like`."""
        self._take_in()
        if like.beside:
            return None  # decisions of training come first, and need another version
        slots = self._due(beside=False)
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
        tickets = asked["ticket"][order]
        return Batch(tickets, asked["row"][order], asked["explore"][order], tuple(order.tolist()), beside=bool(tickets[0] >= BESIDE))

    def answer(self, batch: Batch) -> None:
        """Wake the shards of the oldest batch that is not answered yet: its decisions are in the data plane."""
        self._plane.answer(batch.slots, self._generator)
        (self._beside if batch.beside else self._batcher).answered(time.monotonic())
        self._plane.choices.write(self._generator, self._batcher.limits.choice)

    def measured(self, size: int, seconds: float) -> None:
        """An inference of `size` decisions was tried, and took `seconds`."""
        self._batcher.limits.measured(size, seconds)

    def limit(self, largest: int) -> None:
        """A batch may have at most `largest` decisions, whatever B_max is: the device can do no more."""
        self._batcher.largest = self._beside.largest = largest

    def forget(self, shard: int) -> None:
        """Drop the requests of a lost shard."""
        self._collect()
        self._batcher.forget(shard)
        self._beside.forget(shard)
        self._plane.drop_requests(shard)
        self._bell.ring(RECOUNT)  # other requests that were collected here may be due, and `batch` waits for the doorbell

    def _due(self, beside: bool = True) -> list[int]:
        """The slots whose requests are due. beside: whether those of an evaluation beside training may be among them."""
        self._collect()
        slots = self._batcher.take(time.monotonic(), running=int(self._plane.counts["running"][self._generator]))
        if len(self._beside):
            self._dismiss()
            return slots or (self._beside.take(time.monotonic(), running=0) if beside else [])
        return slots

    def _dismiss(self) -> None:
        """Answer the shards whose tickets of the evaluation are withdrawn, without deciding anything for them."""
        slots = [slot for slot in self._beside if self._plane.counts["withdrawn"][self._plane.shard_of(slot)]]
        for shard in {self._plane.shard_of(slot) for slot in slots}:
            self._beside.forget(shard)
        if slots:
            self._plane.answer(slots, self._generator)

    def _collect(self) -> None:
        self._take_up([slot for slot in self._bell.collect() if slot != RECOUNT])

    def _take_up(self, slots: list[int]) -> None:
        """Take the requests of these slots that are for this generator and were not taken yet."""
        asked, serves = self._plane.asked, self._plane.counts["serves"]
        wanted = zip(slots, *(asked[name][slots].tolist() for name in ("number", "at", "row", "ticket")), strict=True)
        for slot, number, at, row, ticket in wanted:
            shard = self._plane.shard_of(slot)
            if number != self._taken[slot] and serves[shard] == self._generator:
                self._taken[slot] = number
                (self._beside if ticket >= BESIDE else self._batcher).add(slot, shard, at, first=row == 0)
