"""The generate loop over a real data plane, with a device that computes beside the host: it computes late, from the rows that it was given.

Whatever is gathered, begun and written meanwhile, each decision must be the one for its own observation, noise and version.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rlvla3.config import PolicyConfig
from rlvla3.inference.actor import Actor
from rlvla3.links.data_plane import DataPlane, GeneratorPort, ShardPort
from rlvla3.links.rollouts import RolloutSpec
from rlvla3.loops import generate
from rlvla3.observability.meter import MeterBoard
from rlvla3.policies.base import Decisions, Observations
from rlvla3.policies.noise import decision_noise
from rlvla3.policies.registry import make_policy
from rlvla3.runtimes.workers.policy_engine import DataPlanePolicyEngine
from rlvla3.scheduling.limits import FixedLimits
from rlvla3.scheduling.sharding import Sharding, lay_out
from rlvla3.training.offload import Residence
from rlvla3.types import ActionSpace, Observation, Outcome, Purpose, Spaces, Ticket

torch.set_num_threads(1)
CPU = torch.device("cpu")
SEED, CHUNK, DECISIONS = 5, 2, 6
SPACES = Spaces({"front": (8, 8, 3)}, 3, ActionSpace("continuous", 2), max_steps=CHUNK * DECISIONS)
BLIND = Spaces({}, 3, SPACES.action, SPACES.max_steps)


class LateAnswer:
    """Computed when the device has ended."""

    def __init__(self, compute: Callable[[], Decisions], seconds: float) -> None:
        self._compute, self._seconds = compute, seconds

    async def ended(self, waiter: object) -> None:
        await asyncio.sleep(self._seconds)
        self.decisions = self._compute()


class LateActor(Actor):
    """A device that computes a batch at its end, from the rows that were waiting when the batch began."""

    seconds = staticmethod(lambda: 0.001)

    def __init__(self, *given):
        super().__init__(*given)
        self._waiting = [*self._waiting, copy.deepcopy(self._waiting[0])]

    @property
    def beside_host(self) -> bool:
        return True

    def begin(self, order, instructions, noise, explore):
        waiting = self._waiting[0]
        given = partial(self._as_they_are, waiting, order, instructions, noise, explore)
        waiting.clear()
        self._waiting.reverse()
        policy = copy.deepcopy(self.policy)  # weights that are loaded later are not those of this batch
        return LateAnswer(lambda: policy.act(*given()), self.seconds())


class Weights:
    """Version v has the first weights times 1 + v / 10."""

    def __init__(self, policy) -> None:
        self.newest, self._policy = 0, policy
        self._first = [parameter.detach().clone() for parameter in policy.parameters()]

    def wanted(self, batch) -> int:
        return self.newest

    def load(self, pinned: bool = False) -> int:
        self.into(self._policy, self.newest)
        return self.newest

    def into(self, policy, version: int):
        with torch.no_grad():
            for parameter, first in zip(policy.parameters(), self._first, strict=True):
                parameter.copy_(first * (1 + version / 10))
        return policy


class World:
    def __init__(self, shards: int, max_batch: int | None = None, kind: type[Actor] = LateActor) -> None:
        torch.manual_seed(0)
        self.policy = make_policy(PolicyConfig(name="actor_critic", chunk=CHUNK), BLIND).eval()
        self.policy.spaces = SPACES  # it has frames to carry, and does not look at them
        trace = self.policy.options.trace(SPACES, CHUNK)
        self.plane = DataPlane(RolloutSpec(SPACES, CHUNK, trace, capacity=64), lay_out([Sharding(shards, 1)], 1), 1)
        board = MeterBoard([*(f"shard {number}" for number in range(shards)), "generator"])
        self.port = GeneratorPort(self.plane, 0, FixedLimits(max_batch, 0.0), board.meter("generator"))
        self.weights = Weights(self.policy)
        self.actor = kind(self.policy, CPU, "eager", shards)
        self.engine = DataPlanePolicyEngine(
            self.actor,
            self.weights,  # type: ignore[arg-type]
            self.plane.rollouts,
            SEED,
            Residence(CPU),
            board.meter("generator"),
            None,
            self.port,
        )
        self.board = board
        self.shards = [ShardPort(self.plane, number, board.meter(f"shard {number}")) for number in range(shards)]
        self.answered = 0

    def takes(self, seconds: Callable[[], float]) -> None:
        """The time of an inference."""
        self.actor.seconds = seconds  # type: ignore[attr-defined]

    def show(self, ticket: int, row: int, attempt: int = 0) -> Observation:
        draw = np.random.default_rng([ticket, row, attempt])
        return Observation({"front": draw.integers(0, 256, (8, 8, 3), np.uint8)}, draw.normal(size=3).astype(np.float32))

    def expected(self, ticket: int, row: int, version: int, attempt: int = 0) -> NDArray[np.float32]:
        seen, policy = self.show(ticket, row, attempt), self.weights.into(copy.deepcopy(self.policy), version)
        observations = Observations({}, torch.from_numpy(np.asarray(seen.state))[None], torch.zeros(1), [""])
        noise = decision_noise(SEED, [(1, ticket, row)], policy.options.noise_shape(SPACES, CHUNK))
        actions: NDArray[np.float32] = policy.act(observations, torch.from_numpy(noise), torch.ones(1, dtype=torch.bool)).actions[0].numpy()
        return actions

    def begin(self, shard: int, ticket: int, attempt: int = 0):
        return self.shards[shard].begin(Ticket(ticket, "push", ticket, ticket, Purpose.TRAIN), self.show(ticket, 0, attempt))

    async def run_episode(self, shard: int, ticket: int, think: Callable[[], float]) -> None:
        episode = self.begin(shard, ticket)
        for row in range(DECISIONS):
            chunk = (await self.shards[shard].decide({0: episode}))[0]
            assert chunk is not None
            version = int(self.plane.rollouts.rows(ticket, "version")[row])
            np.testing.assert_allclose(chunk, self.expected(ticket, row, version), atol=1e-5, err_msg=f"ticket {ticket}, row {row}, version {version}")
            np.testing.assert_array_equal(self.plane.rollouts.rows(ticket, "image.front")[row], self.show(ticket, row).images["front"])
            self.answered += 1
            await asyncio.sleep(think())
            episode.record(Outcome(chunk.copy(), np.zeros(CHUNK, np.float32), self.show(ticket, row + 1), truncated=row + 1 == DECISIONS))

    @asynccontextmanager
    async def generating(self) -> AsyncIterator[None]:
        loop = asyncio.create_task(generate(self.port, self.weights, self.engine))
        try:
            async with asyncio.timeout(20):
                yield
        finally:
            loop.cancel()
            with suppress(asyncio.CancelledError):
                await loop


@pytest.mark.parametrize("kind", [LateActor, Actor])
@pytest.mark.parametrize("max_batch", [None, 3])
def test_each_decision_is_the_one_for_its_own_observation_noise_and_version(kind, max_batch):
    world, draw = World(shards=7, max_batch=max_batch, kind=kind), random.Random(3)
    world.takes(lambda: draw.choice([0.0, 0.001, 0.004]))
    gathered_beside: list[int] = []
    gather = world.engine._gather
    world.engine._gather = lambda decisions: (gathered_beside.append(len(decisions) if world.engine._under_way else 0), gather(decisions))[1]  # type: ignore[func-returns-value,method-assign]

    async def shard(number: int) -> None:
        for ticket in range(number, 21, 7):
            await world.run_episode(number, ticket, lambda: draw.choice([0.0, 0.001, 0.003]))
            world.weights.newest += 1

    async def run() -> None:
        world.plane.set_running([7])
        async with world.generating():
            await asyncio.gather(*map(shard, range(7)))

    asyncio.run(run())
    assert world.answered == 21 * DECISIONS
    versions = {int(version) for ticket in range(21) for version in world.plane.rollouts.rows(ticket, "version")[:DECISIONS]}
    assert len(versions) > 3
    if kind is LateActor:
        assert sum(gathered_beside) > world.answered / 4, "hardly anything was gathered beside the device"
    else:
        assert not sum(gathered_beside)


def test_a_batch_that_is_due_begins_before_the_last_one_is_answered():
    world, log = World(shards=2), list[str]()
    write, launch = world.engine._write, world.engine._launch
    world.engine._write = lambda batch: (log.append(f"write {batch.tickets.tolist()}"), write(batch))[1]  # type: ignore[func-returns-value,method-assign]
    world.engine._launch = lambda batch: (log.append(f"begin {batch.tickets.tolist()}"), launch(batch))[1]  # type: ignore[func-returns-value,method-assign]

    async def run() -> None:
        world.plane.set_running([2])
        world.takes(lambda: 0.02)
        async with world.generating():
            first = asyncio.create_task(world.shards[0].decide({0: world.begin(0, 0)}))
            await asyncio.sleep(0.005)
            await asyncio.gather(first, world.shards[1].decide({0: world.begin(1, 1)}))

    asyncio.run(run())
    assert log == ["begin [0]", "begin [1]", "write [0]", "write [1]"]


def test_a_shard_is_forgotten_when_its_batch_has_been_written_and_what_was_gathered_for_it_too():
    """Shard 0 is lost while its batch is computed, and shard 1 while its request waits. Both episodes run again, and show something else."""
    world, forgotten = World(shards=2), list[int]()

    async def run() -> None:
        world.plane.set_running([2])
        world.takes(lambda: 0.02)
        async with world.generating():
            lost = [asyncio.create_task(world.shards[0].decide({0: world.begin(0, 0)}))]
            await asyncio.sleep(0.005)
            lost.append(asyncio.create_task(world.shards[1].decide({0: world.begin(1, 1)})))
            await asyncio.sleep(0.005)
            assert world.engine._gathered == {(1, 0): 0} and world.engine._under_way
            for shard, task in enumerate(lost):
                task.cancel()
                world.port.forget(shard)
                world.engine.forget()
                world.engine.when_written(partial(forgotten.append, shard))
            await asyncio.gather(*lost, return_exceptions=True)
            assert not forgotten
            while len(forgotten) < 2:
                await asyncio.sleep(0.001)
            assert not world.engine._under_way
            for shard in (0, 1):
                world.shards[shard] = ShardPort(world.plane, shard, world.board.meter(f"shard {shard}"))  # its successor
            chunks = await asyncio.gather(*(world.shards[shard].decide({0: world.begin(shard, shard, attempt=1)}) for shard in (0, 1)))
            for ticket, chunk in enumerate(chunks):
                assert chunk[0] is not None
                np.testing.assert_allclose(chunk[0], world.expected(ticket, 0, version=0, attempt=1), atol=1e-5)

    asyncio.run(run())
    assert forgotten == [0, 1]


def test_nothing_is_waited_for_where_nothing_is_computed():
    world, forgotten = World(shards=1), list[int]()
    world.engine.when_written(lambda: forgotten.append(0))
    assert forgotten == [0]
