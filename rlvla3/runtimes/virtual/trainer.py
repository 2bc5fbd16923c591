"""What the train loop is handed on the virtual clock: the streamer of a real run, and a learner that only takes time, on all ranks at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from rlvla3.observability.meter import Meter
from rlvla3.runtimes.virtual.clock import Signal
from rlvla3.runtimes.virtual.machine import Seat, together
from rlvla3.runtimes.virtual.world import World
from rlvla3.scheduling.streamer import Streamer
from rlvla3.types import Finished, MicroBatch, Version


class VirtualTrainer:
    """The trainer: the trajectories, learner and publisher of its train loop. Its ranks work on a micro-batch together, each on an equal part."""

    enough = False

    def __init__(self, world: World, streamer: Streamer, seats: Sequence[Seat], meter: Meter) -> None:
        self.stalled = 0.0
        self._world, self._streamer, self._seats, self._meter = world, streamer, seats, meter
        self._profile = world.profile
        self._news = Signal(world.clock)
        self._decisions = 0
        self._offload = world.offload(self._profile.memory.of_rank(len(seats)))
        self._away = world.offloads

    def arrived(self, finished: Finished) -> None:
        """The trajectory of a ticket is there."""
        self._streamer.arrived(finished.ticket.index, finished.decisions)
        self._news.give()

    async def of(self, update: int) -> AsyncIterator[MicroBatch]:
        for micro_batch in self._streamer.update(update):
            if micro_batch is not None:
                await self._enter()
                yield micro_batch
            else:
                with self._meter("trajectories"):
                    await self._news.wait()

    def begin_update(self, update: int) -> None:
        self._decisions = 0

    async def accumulate(self, micro_batch: MicroBatch) -> None:
        self._decisions += len(micro_batch) if not micro_batch.epoch else 0
        with self._meter("train"):
            if self.stalled:
                stalled, self.stalled = self.stalled, 0.0
                await self._world.clock.sleep(stalled)
            if not micro_batch.epoch:
                await self._seats[0].begin(self._profile.receive, len(micro_batch))
            share = len(micro_batch) / len(self._seats)
            await together(seat.begin(self._profile.train, share, self._world.across) for seat in self._seats)

    async def step(self) -> None:
        with self._meter("train"):
            await together(seat.begin(self._profile.step, 1) for seat in self._seats)

    async def finish_update(self) -> Mapping[str, float]:
        with self._meter("fit_critic"):
            await self._seats[0].begin(self._profile.fit, self._decisions)
        return {}

    async def publish(self, version: Version, metrics: Mapping[str, float]) -> None:
        with self._meter("publish"):
            await self._seats[0].begin(self._profile.publish, 1)
            if self._world.switches:
                await self._world.clock.sleep(self._profile.switch)
        await self._leave()
        self._world.publish(version, self._seats[0].device)

    async def _enter(self) -> None:
        """With engine.offload: enter the devices when every generator has left them."""
        if self._away:
            with self._meter("trajectories"):
                await self._world.free_devices()
            await self._move()
            self._away = False

    async def _leave(self) -> None:
        if self._world.offloads:
            await self._move()
            self._away = True

    async def _move(self) -> None:
        with self._meter("offload"):
            await self._world.clock.sleep(self._offload)
