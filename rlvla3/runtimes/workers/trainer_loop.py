"""What the train loop is handed in a trainer process: trajectories as they arrive, and the learner with its time on the meter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

from rlvla3.observability.meter import Meter
from rlvla3.runtimes.processes.control import Control
from rlvla3.runtimes.processes.messages import Arrived
from rlvla3.scheduling.streamer import Streamer
from rlvla3.training.learner import Learner
from rlvla3.types import Finished, MicroBatch, TicketCounts


class ArrivingTrajectories:
    """The micro-batches of an update, as the trajectories of its tickets are handed in.

    finish_passes: called before it waits. A device that still computes is not waiting.
    """

    def __init__(self, streamer: Streamer, control: Control, meter: Meter, finish_passes: Callable[[], None] = lambda: None) -> None:
        self.streamer, self._control, self._meter, self._finish_passes = streamer, control, meter, finish_passes
        self.following: MicroBatch | None = None
        """The micro-batch after the present one, where it is known already."""
        self.tickets = TicketCounts()
        """The counts of the run when the last trajectory arrived."""
        self._finished: dict[int, Finished] = {}
        self._news = asyncio.Event()
        control.handle(Arrived, self._arrived)

    async def of(self, update: int) -> AsyncIterator[MicroBatch]:
        for micro_batch in self._looking_ahead(self.streamer.update(update)):
            if micro_batch is not None:
                yield micro_batch
                self._control.poll()
            else:
                self._news.clear()
                if not self._meter.samples:  # else each pass has been waited for
                    with self._meter("train"):
                        self._finish_passes()
                with self._meter("trajectories"):
                    await self._news.wait()

    def _looking_ahead(self, stream: Iterator[MicroBatch | None]) -> Iterator[MicroBatch | None]:
        """The same, with the micro-batch after each one in `following`."""
        self.following = None
        for coming in stream:
            micro_batch = coming
            while micro_batch is not None:
                self.following = next(stream, None)
                yield micro_batch
                micro_batch = self.following
            if coming is None:
                yield None

    def taken(self, update: int) -> list[Finished]:
        """The episodes of an update that is done, in ticket order. They are dropped here."""
        return [self._finished.pop(ticket) for ticket in self.streamer.tickets(update)]

    def _arrived(self, message: Arrived) -> None:
        index = message.finished.ticket.index
        self._finished[index], self.tickets = message.finished, message.tickets
        self.streamer.arrived(index, message.finished.decisions)
        self._news.set()


class MeteredLearner:
    """The learner as the train loop asks for it, with its time on the meter.

    following: returns the micro-batch after the present one, or None. While the device computes, it is prepared.
    enter: called before the first pass of an update. Until then, the device may belong to generators.
    """

    def __init__(
        self,
        learner: Learner,
        streamer: Streamer,
        meter: Meter,
        following: Callable[[], MicroBatch | None] = lambda: None,
        enter: Callable[[], None] = lambda: None,
    ) -> None:
        self._learner, self._streamer, self._meter, self._following, self._enter = learner, streamer, meter, following, enter
        self._coming: int | None = None

    @property
    def enough(self) -> bool:
        return self._learner.enough

    def begin_update(self, update: int) -> None:
        self._coming = update

    async def accumulate(self, micro_batch: MicroBatch) -> None:
        if self._coming is not None:
            self._enter()
            self._learner.begin_update(self._coming, self._streamer.tickets(self._coming))
            self._coming = None
        with self._meter("train", len(micro_batch)):
            self._learner.accumulate(micro_batch)
            if (following := self._following()) is not None:
                self._learner.prepare(following)
            self._finish_where_sampled()

    async def step(self) -> None:
        with self._meter("train"):
            self._learner.step()
            self._finish_where_sampled()

    async def finish_update(self) -> Mapping[str, float]:
        with self._meter("fit_critic"):
            return self._learner.finish_update()

    def _finish_where_sampled(self) -> None:
        """Let the stage last until the device is done, where a profile or a trace needs the time of each stage."""
        if self._meter.samples:
            self._learner.finish_passes()
