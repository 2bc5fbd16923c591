"""The three loops of asynchronous RL, written once: simulate, generate, train.

They know nothing of processes, pipes, devices or the clock. The local, the Ray or the virtual runtime hands them what they call. No loop polls, and no loop but
`train` ends by itself: a runtime cancels a loop that waits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Protocol

from rlvla3.types import Finished, MicroBatch, Observation, Outcome, Purpose, Ticket, Version

Chunk = Any
"""float32 [C, A], or None if the simulator's expert is to act."""


class EpisodeWriter(Protocol):
    """An episode that is being written into the data plane."""

    ticket: Ticket
    done: bool
    truncated: bool

    def record(self, outcome: Outcome) -> None: ...

    def finish(self) -> Finished: ...


class TicketExchange(Protocol):
    async def exchange(self, finished: Sequence[Finished], running: Mapping[int, EpisodeWriter]) -> tuple[Sequence[Ticket], dict[int, EpisodeWriter]]:
        """Hand in what has ended. Returns tickets for free slots, and which of the running episodes go on: all but those whose ticket is withdrawn."""


class ShardPlane(Protocol):
    def begin(self, ticket: Ticket, observation: Observation) -> EpisodeWriter: ...

    async def decide(self, episodes: Mapping[int, Any]) -> Mapping[int, Chunk]:
        """A chunk for each episode whose ticket is not withdrawn meanwhile."""


class AsyncSimulator(Protocol):
    slots: int

    async def reset(self, slot: int, ticket: Ticket) -> Observation: ...

    async def step(self, chunks: Mapping[int, Chunk]) -> Mapping[int, Outcome]: ...


async def simulate(simulator: AsyncSimulator, ledger: TicketExchange, plane: ShardPlane, bootstrap: bool) -> None:
    """Run tickets on every slot of one shard, each slot on its own ticket.

    Waits for: a ticket, when no slot has one (unblocked by the ledger: a new version, a rerun); decisions (unblocked by the generator).
    bootstrap: also ask for the value of the last observation of a training episode that a time limit cut.

    Training does not wait for an evaluation beside it: its tickets are withdrawn from a shard that training needs. Such an episode gets no chunk any more, and
    is dropped as it is. It is run again later, perhaps elsewhere.
    """
    episodes: dict[int, EpisodeWriter] = {}
    finished: list[Finished] = []
    while True:
        tickets, episodes = await ledger.exchange(finished, episodes)
        for slot, ticket in zip(_free(simulator.slots, episodes), tickets, strict=False):
            episodes[slot] = plane.begin(ticket, await simulator.reset(slot, ticket))

        chunks = await plane.decide(episodes)
        for slot, outcome in (await simulator.step(chunks)).items():
            episodes[slot].record(outcome)

        ended = {slot: episode for slot, episode in episodes.items() if episode.done}
        if bootstrap:
            await plane.decide({slot: episode for slot, episode in ended.items() if episode.truncated and episode.ticket.purpose is Purpose.TRAIN})
        finished = [episodes.pop(slot).finish() for slot in ended]


def _free(slots: int, taken: Iterable[int]) -> list[int]:
    return sorted(set(range(slots)) - set(taken))


class Requests(Protocol):
    async def batch(self) -> Any: ...

    def due(self, like: Any) -> Any | None: ...

    def answer(self, batch: Any) -> None: ...


class Weights(Protocol):
    def wanted(self, batch: Any) -> Version: ...


class PolicyEngine(Protocol):
    version: Version

    @property
    def beside_host(self) -> bool: ...

    async def load_weights(self, batch: Any) -> None: ...

    async def begin(self, batch: Any) -> None: ...

    async def end(self, batch: Any) -> None: ...

    def write(self, batch: Any) -> None: ...


async def generate(requests: Requests, weights: Weights, engine: PolicyEngine) -> None:
    """Make the decisions that shards ask for, in batches, each with the weights that it wants: the newest, or those of an evaluation beside training.

    Where a device computes beside the host, a batch that is due when another one ends is begun first. The other one's decisions are written and answered then.

    Waits for: a batch that is due by B_max, by T_max, or because every running episode waits (unblocked by simulators and by time); the device.
    """
    begun = None
    while True:
        if begun is None:
            begun = await requests.batch()
            if weights.wanted(begun) != engine.version:
                await engine.load_weights(begun)
            await engine.begin(begun)

        batch, begun = begun, None
        await engine.end(batch)
        if engine.beside_host and weights.wanted(batch) == engine.version:
            begun = requests.due(batch)
            if begun is not None:
                await engine.begin(begun)

        engine.write(batch)
        requests.answer(batch)


class Trajectories(Protocol):
    def of(self, update: int) -> AsyncIterator[MicroBatch]: ...


class AsyncLearner(Protocol):
    @property
    def enough(self) -> bool: ...

    def begin_update(self, update: int) -> None: ...

    async def accumulate(self, micro_batch: MicroBatch) -> None: ...

    async def step(self) -> None: ...

    async def finish_update(self) -> Mapping[str, float]: ...


class Publisher(Protocol):
    async def publish(self, version: Version, metrics: Mapping[str, float]) -> None: ...


async def train(updates: Iterable[int], trajectories: Trajectories, learner: AsyncLearner, publisher: Publisher) -> None:
    """Make one update after another, each from exactly the trajectories of its own tickets.

    Waits for: only the next micro-batch of the present update (unblocked by trajectories that are handed in).
    """
    for update in updates:
        learner.begin_update(update)
        async for micro_batch in trajectories.of(update):
            await learner.accumulate(micro_batch)
            if micro_batch.closes_step:
                await learner.step()
            if micro_batch.closes_epoch and learner.enough:
                break
        await publisher.publish(update + 1, await learner.finish_update())
