"""A data plane with its shards and generators in one event loop."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import numpy as np

from rlvla3.links.data_plane import Batch, DataPlane, GeneratorPort, ShardPort
from rlvla3.links.rollouts import Episode, RolloutSpec
from rlvla3.observability.meter import MeterBoard
from rlvla3.scheduling.limits import FixedLimits
from rlvla3.scheduling.sharding import Sharding, lay_out
from rlvla3.types import ActionSpace, Observation, Purpose, Spaces, Ticket

PATIENCE_S = 20.0
"""How long any of this may take at most: a hang fails instead of lasting."""


SPACES = Spaces({}, state=1, action=ActionSpace("continuous", 1), max_steps=6)


NEVER = math.inf


class Host:
    """A data plane with a few shards, and generators that decide (ticket, row) for (ticket, row)."""

    def __init__(self, shards: int = 2, slots: int = 1, generators: int = 1, max_batch: int | None = None, max_wait: float = NEVER, beside: int = 0) -> None:
        self.plane = DataPlane(RolloutSpec(SPACES, chunk=2, trace={}, capacity=8, beside=beside), lay_out([Sharding(shards, slots)], generators), generators)
        board = MeterBoard([*(f"shard {number}" for number in range(shards)), *(f"generator {number}" for number in range(generators))])
        self.shards = [ShardPort(self.plane, number, board.meter(f"shard {number}")) for number in range(shards)]
        self.generators = [
            GeneratorPort(self.plane, number, FixedLimits(max_batch, max_wait), board.meter(f"generator {number}")) for number in range(generators)
        ]
        self.batches: list[Batch] = []

    def begin(self, shard: int, *indices: int, purpose: Purpose = Purpose.TRAIN) -> dict[int, Episode]:
        """Episodes of some tickets, by slot."""
        shown = Observation({}, np.zeros(1, np.float32))
        return {slot: self.shards[shard].begin(Ticket(index, "reach", index, index, purpose), shown) for slot, index in enumerate(indices)}

    async def decide(self, shard: int, episodes: Mapping[int, Episode]) -> dict[int, list[list[float]] | None]:
        chunks = await self.shards[shard].decide(episodes)
        return {slot: None if chunk is None else chunk.tolist() for slot, chunk in chunks.items()}

    def respond(self, port: GeneratorPort, batch: Batch) -> None:
        self.batches.append(batch)
        chunks = np.stack([batch.tickets, batch.rows], axis=1)[:, :, None]
        self.plane.rollouts.scatter(batch.tickets, batch.rows, {"actions": chunks.astype(np.float32)})
        port.answer(batch)

    @property
    def tickets(self) -> list[list[int]]:
        """The tickets of every batch so far."""
        return [batch.tickets.tolist() for batch in self.batches]

    @asynccontextmanager
    async def generating(self) -> AsyncIterator[None]:
        async def serve(port: GeneratorPort) -> None:
            while True:
                self.respond(port, await port.batch())

        tasks = [asyncio.create_task(serve(port)) for port in self.generators]
        try:
            async with asyncio.timeout(PATIENCE_S):
                yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def settle() -> None:
    """Let everybody go as far as they get without time passing."""
    for _ in range(10):
        await asyncio.sleep(0)
