"""What the generate loop is handed on the virtual clock: requests in the batcher of a real run, and an engine that only takes time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rlvla3.observability.meter import Meter
from rlvla3.runtimes.virtual.clock import Promise, Signal, VirtualClock
from rlvla3.runtimes.virtual.costs import Profile
from rlvla3.runtimes.virtual.machine import Seat
from rlvla3.scheduling.batcher import DynamicBatcher
from rlvla3.scheduling.limits import FixedLimits
from rlvla3.types import Ticket, Version


class AskingShard(Protocol):
    number: int

    def is_withdrawn(self, ticket: Ticket) -> bool:
        """Whether a ticket that it has is withdrawn."""

    def answer(self) -> None:
        """One of its requests is answered."""


class DecidedEpisode(Protocol):
    ticket: Ticket
    decisions: int

    def decided(self, version: Version) -> None:
        """A decision was made by `version`."""


@dataclass(slots=True, frozen=True)
class Request:
    """One decision that is asked for, and when."""

    shard: AskingShard
    episode: DecidedEpisode
    at: float


class VirtualGenerator:
    """A generator process: requests, weights and engine of its generate loop.

    running: returns how many of its shards have tickets of training. newest: the newest version that has reached it. pinned: the version that is evaluated
    beside training. offload: seconds that it needs to enter or to leave its device (0: it never leaves).
    """

    def __init__(
        self,
        clock: VirtualClock,
        profile: Profile,
        seat: Seat,
        meter: Meter,
        limits: FixedLimits,
        running: Callable[[], int],
        offload: float,
    ) -> None:
        self.device, self.version, self.newest, self.pinned, self.inferences = seat.device, -1, -1, -1, 0
        self._running, self._offload = running, offload
        self._away, self._asked_to_leave = offload > 0, clock.promise()
        self._asked_to_leave.resolve()
        self._clock, self._profile, self._seat, self._meter = clock, profile, seat, meter
        self._batcher: DynamicBatcher[Request] = DynamicBatcher(limits)
        self._beside: DynamicBatcher[Request] = DynamicBatcher(FixedLimits(None, 0.0))
        self._bell = Signal(clock)
        self._under_way: list[Request] = []
        self.largest = 0

    def ask(self, request: Request) -> None:
        self._queue(request).add(request, request.shard.number, request.at, first=request.episode.decisions == 0)
        self._bell.give()

    def recount(self) -> None:
        """One of its shards may have no ticket any more, so a batch may be due."""
        self._bell.give()

    def forget(self, shard: AskingShard) -> None:
        """Drop the requests of a lost shard."""
        self._batcher.forget(shard.number)
        self._beside.forget(shard.number)
        self._under_way = [request for request in self._under_way if request.shard is not shard]
        self._bell.give()

    def begin_anew(self) -> None:
        """It was lost: the requests of its present batch wait again, and it has no weights."""
        self.version = -1
        self._has_left()
        self._batcher.abandon()
        self._beside.abandon()
        for request in self._under_way:
            self._queue(request).add(request, request.shard.number, request.at, first=True)
        self._under_way = []

    beside_host = False

    def due(self, like: list[Request]) -> None:
        """Not asked: its device does not compute beside the host."""

    def wanted(self, batch: list[Request]) -> Version:
        return self.pinned if batch[0].episode.ticket.beside else self.newest

    async def batch(self) -> list[Request]:
        with self._meter("requests"):
            while not (due := self._due()):
                if not self._asked_to_leave.done:
                    await self._move()
                    self._has_left()
                    continue
                await self._bell.wait(self._batcher.deadline())
        self._under_way, self.largest = due, max(self.largest, len(due))
        return due

    def leave(self) -> Promise:
        """To be awaited: it has left its device, until it has a batch."""
        if not self._away and self._offload:
            self._asked_to_leave = self._clock.promise()
            self._bell.give()
        return self._asked_to_leave

    async def load_weights(self, batch: list[Request]) -> None:
        await self._enter()
        with self._meter("load_weights"):
            version = self.wanted(batch)
            await self._seat.begin(self._profile.load, 1)
            self.version = version

    async def begin(self, batch: list[Request]) -> None:
        """Nothing: a batch is computed in `end`."""

    async def end(self, batch: list[Request]) -> None:
        await self._enter()
        with self._meter("infer"):
            await self._seat.begin(self._profile.dispatch, len(batch))
            await self._seat.begin(self._profile.infer, len(batch))
        self.inferences += 1

    def write(self, batch: list[Request]) -> None:
        """Nothing: `answer` notes the decisions."""

    def answer(self, batch: list[Request]) -> None:
        for request in self._under_way:  # of `batch`, those whose shard still lives
            request.episode.decided(self.version)
            request.shard.answer()
        self._under_way = []
        self._queue(batch[0]).answered(self._clock.now)

    def _queue(self, request: Request) -> DynamicBatcher[Request]:
        return self._beside if request.episode.ticket.beside else self._batcher

    def _due(self) -> list[Request]:
        """Requests of training come first. Those of withdrawn tickets are answered without a decision."""
        for request in [request for request in self._beside if request.shard.is_withdrawn(request.episode.ticket)]:
            self._beside.forget(request.shard.number)
            request.shard.answer()
        return self._batcher.take(self._clock.now, self._running()) or self._beside.take(self._clock.now, running=0)

    async def _enter(self) -> None:
        if self._away:
            await self._move()
            self._away = False

    async def _move(self) -> None:
        with self._meter("offload"):
            await self._clock.sleep(self._offload)

    def _has_left(self) -> None:
        self._away = self._offload > 0
        self._asked_to_leave.resolve()
