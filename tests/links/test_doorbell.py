"""Doorbells between two real processes and by hand."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from rlvla3.links.doorbell import Doorbell
from tests.support.processes import PATIENCE_S, another_process

RINGS = 6000
"""Of three writers: more than fit into a pipe at once."""


def ring_often(bell: Doorbell, writer: int) -> None:
    for number in range(RINGS):
        bell.ring(writer * RINGS + number)


async def hear(bell: Doorbell, count: int) -> list[int]:
    heard: list[int] = []
    while len(heard) < count:
        await asyncio.wait_for(bell.wait(), PATIENCE_S)
        heard += bell.collect()
    return heard


def test_no_ring_of_many_writers_is_lost_torn_or_overtaken():
    bell = Doorbell()
    with another_process(ring_often, bell, 0), another_process(ring_often, bell, 1), another_process(ring_often, bell, 2):
        heard = asyncio.run(hear(bell, 3 * RINGS))
    for writer in range(3):
        assert [number for number in heard if number // RINGS == writer] == list(range(writer * RINGS, (writer + 1) * RINGS))
    assert bell.collect() == []


def waited(bell: Doorbell, *, deadline: float | None = None, meanwhile: Any = None) -> float:
    """Seconds that a wait took. meanwhile: called once it has begun."""

    async def wait() -> float:
        began = time.monotonic()
        if meanwhile is not None:
            asyncio.get_running_loop().call_soon(meanwhile)
        await asyncio.wait_for(bell.wait(None if deadline is None else began + deadline), PATIENCE_S)
        return time.monotonic() - began

    return asyncio.run(wait())


def test_a_ring_before_the_wait_ends_it_and_stays_to_be_collected():
    bell = Doorbell()
    for number in (7, 3, 7):
        bell.ring(number)
    waited(bell)
    assert bell.collect() == [7, 3, 7]
    assert bell.collect() == []


def test_a_ring_ends_a_wait_long_before_its_deadline():
    bell = Doorbell()
    assert waited(bell, deadline=PATIENCE_S, meanwhile=lambda: bell.ring(5)) < PATIENCE_S / 2
    assert bell.collect() == [5]


def test_a_wait_ends_at_its_deadline_with_nothing_heard():
    bell = Doorbell()
    assert 0.03 <= waited(bell, deadline=0.03) < PATIENCE_S / 2
    assert bell.collect() == []


def test_a_deadline_that_has_passed_does_not_wait():
    assert waited(Doorbell(), deadline=-1.0) < PATIENCE_S / 2


def test_who_listens_is_called_at_once_and_at_each_ring_until_the_block_ends():
    bell, heard = Doorbell(), list[list[int]]()

    async def run() -> None:
        bell.ring(1)
        with bell.heard_by(lambda: heard.append(bell.collect())):
            assert heard == [[1]]
            bell.ring(2, 3)
            await asyncio.sleep(0.01)
            assert heard == [[1], [2, 3]]
        bell.ring(4)
        await bell.wait()
        assert len(heard) == 2 and bell.collect() == [4]

    asyncio.run(run())


def test_a_reminder_never_waits_and_is_heard_or_needless() -> None:
    bell = Doorbell()
    for _ in range(100_000):  # far more than a pipe holds
        bell.remind(7)
    heard = bell.collect()
    assert heard and set(heard) == {7}
    bell.remind(8)
    assert bell.collect() == [8]
