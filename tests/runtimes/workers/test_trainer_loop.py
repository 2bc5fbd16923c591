"""What the train loop is handed: every micro-batch once and in order, with the one after it, and no arrival missed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlvla3.loops import train
from rlvla3.observability.meter import MeterBoard
from rlvla3.observability.sampling import SamplingBoard
from rlvla3.runtimes.processes.messages import Arrived
from rlvla3.runtimes.workers.trainer_loop import ArrivingTrajectories, MeteredLearner
from rlvla3.scheduling.streamer import Streamer
from rlvla3.types import MicroBatch, TicketCounts
from tests.support.events import finished
from tests.support.processes import PATIENCE_S

BATCH = 8


def streamer() -> Streamer:
    return Streamer(batch=BATCH, group_size=1, steps=2, epochs=2, micro_batch=3, streaming=True, seed=0)


class Channel:
    """The control of a trainer. Tickets arrive in `order`, `burst` of them whenever it is polled, and the next one where nobody polls."""

    def __init__(self, order: Sequence[int], burst: int) -> None:
        self._coming, self._burst = list(order), burst

    def handle(self, kind: type, handler: Callable[[Any], None]) -> None:
        self._arrived = handler

    def poll(self) -> None:
        for _ in range(min(self._burst, len(self._coming))):
            ticket = self._coming.pop(0)
            self._arrived(Arrived(finished(ticket, 1 + ticket % 4), TicketCounts()))

    async def go_on(self) -> None:
        while self._coming:
            self._arrived(Arrived(finished(ticket := self._coming.pop(0), 1 + ticket % 4), TicketCounts()))
            await asyncio.sleep(0)


class Noting:
    """A learner that notes what it is asked for."""

    enough = False

    def __init__(self) -> None:
        self.learned: list[MicroBatch] = []
        self.prepared: list[MicroBatch | None] = []
        self.waits = 0

    def begin_update(self, update: int, tickets: range) -> None: ...

    def accumulate(self, batch: MicroBatch) -> None:
        self.learned.append(batch)
        self.prepared.append(None)

    def prepare(self, batch: MicroBatch) -> None:
        self.prepared[-1] = batch

    def step(self) -> None: ...

    def finish_passes(self) -> None:
        self.waits += 1

    def finish_update(self) -> dict[str, float]:
        return {}


class Published:
    async def publish(self, version: int, metrics: Any) -> None: ...


@pytest.mark.parametrize("burst", [0, 1, 3, BATCH])
def test_every_micro_batch_comes_once_in_order_and_the_known_ones_are_prepared(burst: int) -> None:
    order = np.random.default_rng(3).permutation(BATCH).tolist()
    learner = Noting()

    async def run() -> None:
        channel, meter = Channel(order, burst), MeterBoard(["trainer"]).meter("trainer")
        trajectories = ArrivingTrajectories(streamer(), channel, meter, learner.finish_passes)  # type: ignore[arg-type]
        metered = MeteredLearner(learner, trajectories.streamer, meter, lambda: trajectories.following)  # type: ignore[arg-type]
        arriving = asyncio.ensure_future(channel.go_on())
        await asyncio.wait_for(train([0], trajectories, metered, Published()), PATIENCE_S)
        await arriving

    asyncio.run(run())
    plain = streamer()
    for ticket in order:
        plain.arrived(ticket, 1 + ticket % 4)
    assert [named(batch) for batch in learner.learned] == [named(batch) for batch in plain.update(0) if batch is not None]
    following = [*learner.learned[1:], None]
    assert all(prepared is None or prepared is after for prepared, after in zip(learner.prepared, following, strict=True))
    later = [batch is not None and batch.epoch == 1 for batch in following]
    assert all(prepared is after for prepared, after, known in zip(learner.prepared, following, later, strict=True) if known)
    assert learner.waits > 0


@pytest.mark.parametrize("sampled", [True, False])
def test_only_a_profile_waits_for_the_device_after_each_pass_and_each_step(tmp_path: Path, sampled: bool) -> None:
    board = SamplingBoard(["trainer"], folder=tmp_path) if sampled else MeterBoard(["trainer"])
    learner = Noting()
    metered = MeteredLearner(learner, streamer(), board.meter("trainer"))  # type: ignore[arg-type]
    asyncio.run(metered.accumulate(MicroBatch(np.zeros(1, np.int64), np.zeros(1, np.int64), epoch=0, step=0, closes_step=True)))
    assert learner.waits == sampled
    asyncio.run(metered.step())
    assert learner.waits == 2 * sampled


def named(batch: MicroBatch) -> tuple[Any, ...]:
    return batch.tickets.tolist(), batch.rows.tolist(), batch.epoch, batch.step, batch.closes_step, batch.closes_epoch
