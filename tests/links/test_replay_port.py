"""The replay's port, in one event loop: batches come as they were recorded."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from rlvla3.links.data_plane import DataPlane, ShardPort
from rlvla3.links.replay_port import ReplayPort
from rlvla3.links.rollouts import RolloutSpec
from rlvla3.observability.meter import MeterBoard
from rlvla3.scheduling.recorded_run import DECISION, EMITTED, ReplayError, recorded_run
from rlvla3.scheduling.sharding import Sharding, lay_out
from rlvla3.types import ActionSpace, Observation, Spaces, Ticket

Decision = tuple[int, int]
"""(ticket, row)."""


def port_of(batches: list[tuple[int, list[Decision]]], shards: int = 3) -> tuple[ReplayPort, list[ShardPort], DataPlane, list[object]]:
    """A port on a recorded run of two tickets and one update; what it says to the coordinator comes into the list."""
    entries = [(number, version, row, ticket) for number, (version, decisions) in enumerate(batches) for ticket, row in decisions]
    lengths = {ticket: 1 + max(row for _, _, row, other in entries if other == ticket) for ticket in (0, 1)}
    replay = recorded_run([np.array(entries, DECISION)], np.array([(0, length, ticket) for ticket, length in lengths.items()], EMITTED), batch=2, end=1)
    plane = DataPlane(RolloutSpec(Spaces({}, 1, ActionSpace("continuous", 1), max_steps=4), 1, {}, capacity=4), lay_out([Sharding(shards, 1)], 1), 1)
    board, said = MeterBoard(["generator 0", *map(str, range(shards))]), list[object]()
    port = ReplayPort(plane, replay, board.meter("generator 0"), take_in=lambda: None, done=lambda: said.append("done"), stuck=lambda *what: said.append(what))
    return port, [ShardPort(plane, shard, board.meter(str(shard))) for shard in range(shards)], plane, said


async def asks(shard: ShardPort, ticket: int, row: int) -> asyncio.Task[Any]:
    episode = shard.begin(Ticket(ticket, "reach", 0, 0), Observation({}, np.zeros(1, np.float32)))
    episode.row = row
    task = asyncio.create_task(shard.decide({0: episode}))
    await asyncio.sleep(0)
    return task


def test_batches_come_as_recorded_whoever_asks_first_and_a_lost_simulator_is_answered_again():
    async def run() -> None:
        port, shards, plane, said = port_of([(0, [(1, 0)]), (0, [(0, 0), (1, 1)])])
        plane.set_running([2])
        await asks(shards[0], 0, 0)
        other = await asks(shards[1], 1, 0)
        port.proceed(0)
        first = await port.batch()
        assert (first.tickets.tolist(), first.slots) == ([1], (1,))
        port.answer(first)
        await other
        port.forget(1)
        again = await asks(shards[2], 1, 0)  # in another simulator: decided already
        due = asyncio.create_task(port.batch())
        await again
        await asks(shards[2], 1, 1)
        second = await due
        assert (second.tickets.tolist(), second.rows.tolist(), second.slots) == ([0, 1], [0, 1], (0, 2))
        due = asyncio.create_task(port.batch())
        await asyncio.sleep(0)
        assert said == ["done"]
        due.cancel()

    asyncio.run(asyncio.wait_for(run(), 20))


def test_the_port_finds_out_a_simulator_that_asks_for_too_much_or_too_little():
    async def run() -> None:
        port, shards, plane, said = port_of([(0, [(0, 0), (1, 0)])])
        plane.set_running([1])
        port.proceed(0)
        await asks(shards[0], 0, 0)
        due = asyncio.create_task(port.batch())
        await asyncio.sleep(0)
        assert said == [(1, (1, 0))]
        await asks(shards[1], 1, 1)
        with pytest.raises(ReplayError, match="ticket 1 asks for its decision 1, and 1 of it were recorded"):
            await due

    asyncio.run(asyncio.wait_for(run(), 20))
