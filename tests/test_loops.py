"""The three loops, with everything that they call played by hand."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.loops import generate, simulate, train
from rlvla3.types import BESIDE, Finished, MicroBatch, Observation, Outcome, Purpose, Ticket, Version

PATIENCE_S = 20.0
"""How long any of this may take at most: a hang fails instead of lasting."""


class Over(Exception):
    """There is nothing more to do; a loop does not end by itself."""


def until_over(loop: Coroutine[Any, Any, None]) -> None:
    with pytest.raises(Over):
        asyncio.run(asyncio.wait_for(loop, PATIENCE_S))


def ticket(index: int, purpose: Purpose = Purpose.TRAIN) -> Ticket:
    return Ticket(index, "reach", seed=index, group=index, purpose=purpose)


# Simulate


class Writer:
    """An episode of which only the count of its decisions is kept."""

    def __init__(self, ticket: Ticket) -> None:
        self.ticket, self.decisions = ticket, 0
        self.done = self.truncated = False

    def record(self, outcome: Outcome) -> None:
        self.decisions += 1
        self.done, self.truncated = outcome.done, outcome.truncated

    def finish(self) -> Finished:
        return Finished(self.ticket, self.decisions, steps=self.decisions, success=True, return_=1.0)


class Shard:
    """Ledger, plane and simulator of one shard. Ticket i takes lengths[i] decisions; it ends at a time limit where `cut` says so.

    admitted: how many tickets may be given at each exchange, while any are running.
    """

    def __init__(self, lengths: Sequence[int], slots: int, cut: Callable[[Ticket], bool] = lambda _: False, admitted: Sequence[int] = ()) -> None:
        self.slots, self._lengths, self._cut, self._admitted = slots, lengths, cut, iter(admitted)
        self._tickets = iter([ticket(index) for index in range(len(lengths))])
        self._in_slot: dict[int, Ticket] = {}
        self.stepped: list[dict[int, int]] = []
        self.asked: list[list[int]] = []
        self.finished: list[Finished] = []
        self._made: Counter[int] = Counter()

    def run(self, bootstrap: bool = False, tickets: Sequence[Ticket] | None = None) -> None:
        if tickets is not None:
            self._tickets = iter(tickets)
        until_over(simulate(self, self, self, bootstrap))

    async def exchange(self, finished: Sequence[Finished], running: Mapping[int, Any]) -> tuple[list[Ticket], dict[int, Any]]:
        self.finished += finished
        admitted = next(self._admitted, self.slots) if running else self.slots
        tickets = list(islice(self._tickets, min(admitted, self.slots - len(running))))
        if not tickets and not running:
            raise Over
        return tickets, {**running}

    def begin(self, ticket: Ticket, observation: Observation) -> Writer:
        assert observation.instruction == str(ticket.index)
        return Writer(ticket)

    async def decide(self, episodes: Mapping[int, Writer]) -> dict[int, str]:
        if episodes:
            self.asked.append([episode.ticket.index for episode in episodes.values()])
        return {slot: f"ticket {episode.ticket.index} decision {episode.decisions}" for slot, episode in episodes.items()}

    async def reset(self, slot: int, ticket: Ticket) -> Observation:
        assert slot not in self._in_slot
        self._in_slot[slot] = ticket
        return Observation({}, np.zeros(0, np.float32), instruction=str(ticket.index))

    async def step(self, chunks: Mapping[int, str]) -> dict[int, Outcome]:
        assert chunks.keys() == self._in_slot.keys()
        self.stepped.append({slot: ticket.index for slot, ticket in self._in_slot.items()})
        return {slot: self._outcome(slot, chunk) for slot, chunk in chunks.items()}

    def _outcome(self, slot: int, chunk: str) -> Outcome:
        ticket = self._in_slot[slot]
        assert chunk == f"ticket {ticket.index} decision {self._made[ticket.index]}"
        self._made[ticket.index] += 1
        done = self._made[ticket.index] == self._lengths[ticket.index]
        if done:
            del self._in_slot[slot]
        cut = self._cut(ticket)
        return Outcome(np.zeros((1, 1), np.float32), np.zeros(1, np.float32), None, terminated=done and not cut, truncated=done and cut)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=12), st.integers(1, 4))
def test_every_slot_runs_its_own_ticket_and_takes_the_next_as_soon_as_it_has_ended(lengths: list[int], slots: int):
    shard = Shard(lengths, slots)
    shard.run()
    assert sorted((finished.ticket.index, finished.decisions) for finished in shard.finished) == list(enumerate(lengths))
    left = Counter(dict(enumerate(lengths)))
    for stepped in shard.stepped:
        assert len(stepped) == min(slots, len(+left)), "a slot was idle while there was a ticket for it"
        left.subtract(stepped.values())
    for index in range(len(lengths)):
        assert len({slot for stepped in shard.stepped for slot, of_slot in stepped.items() if of_slot == index}) == 1


def test_an_early_success_leaves_the_other_slots_in_mid_episode():
    shard = Shard(lengths=[1, 3, 1, 2], slots=2)
    shard.run()
    assert shard.stepped == [{0: 0, 1: 1}, {0: 2, 1: 1}, {0: 3, 1: 1}, {0: 3}]


def test_where_no_ticket_is_admissible_the_running_episodes_go_on():
    shard = Shard(lengths=[1, 4, 2], slots=2, admitted=[0, 0, 1])
    shard.run()
    assert shard.stepped == [{0: 0, 1: 1}, {1: 1}, {1: 1}, {0: 2, 1: 1}, {0: 2}]


@pytest.mark.parametrize("bootstrap", [True, False])
def test_the_last_value_is_asked_for_only_where_a_time_limit_cut_a_training_episode(bootstrap: bool):
    tickets = [ticket(0), ticket(1), ticket(2, Purpose.EVALUATE), ticket(3, Purpose.DEMONSTRATE), ticket(4)]
    shard = Shard([1, 1, 1, 1, 2], slots=5, cut=lambda ticket: ticket.index != 1)
    shard.run(bootstrap, tickets)
    assert shard.asked == ([[0, 1, 2, 3, 4], [0], [4], [4]] if bootstrap else [[0, 1, 2, 3, 4], [4]])


class LeavingShard(Shard):
    """A shard of one slot. After `after` looks at its messages and its answers, it must leave the evaluation; the ticket of training comes `late` exchanges
    later."""

    def __init__(self, after: int, late: int) -> None:
        super().__init__([3], slots=1)
        self._looks, self._late, self._evaluation = after, late, ticket(BESIDE, Purpose.EVALUATE)
        self.log: list[str] = []

    def _withdraws(self) -> bool:
        self._looks -= 1
        return self._looks < 0

    async def exchange(self, finished: Sequence[Finished], running: Mapping[int, Any]) -> tuple[list[Ticket], dict[int, Any]]:
        if not self._withdraws():
            self.finished += finished
            return [] if running else [self._evaluation], {**running}
        going_on = {slot: episode for slot, episode in running.items() if not episode.ticket.beside}
        if self._late:
            self._late -= 1
            return [], going_on
        return await super().exchange(finished, going_on)

    async def decide(self, episodes: Mapping[int, Writer]) -> dict[int, str]:
        chunks = await super().decide(episodes)
        return {} if self._withdraws() and any(episode.ticket.beside for episode in episodes.values()) else chunks

    async def reset(self, slot: int, ticket: Ticket) -> Observation:
        self._in_slot.pop(slot, None)  # an episode that was dropped
        self.log.append(f"reset {'evaluation' if ticket.beside else 'training'}")
        return await super().reset(slot, ticket)

    async def step(self, chunks: Mapping[int, str]) -> dict[int, Outcome]:
        if not chunks:
            return {}
        self.log.append(f"step {'evaluation' if self._in_slot[0].beside else 'training'}")
        if self._in_slot[0].beside:
            return {0: Outcome(np.zeros((1, 1), np.float32), np.zeros(1, np.float32), None)}
        return await super().step(chunks)


@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])
def test_a_shard_drops_an_evaluation_wherever_it_is_and_hands_in_nothing_of_it(after: int, late: int) -> None:
    shard = LeavingShard(after, late)
    shard.run()
    assert shard.log[-4:] == ["reset training", "step training", "step training", "step training"]
    assert set(shard.log[:-4]) <= {"reset evaluation", "step evaluation"} and shard.log.count("step evaluation") <= after // 2
    assert [finished.ticket.index for finished in shard.finished] == [0]


# Generate


class Generator:
    """Requests, weights and engine: batches "a", "b", ...; before each, `newest` says which version is the newest by then.

    due: the batches that are due when the batch before them has ended.
    """

    def __init__(self, newest: Sequence[Version], beside_host: bool = False, due: str = "") -> None:
        self._newest, self.newest, self.version, self.log = iter(newest), -1, -1, ""
        self._names, self._due, self.beside_host = iter("abcdefgh"), set(due), beside_host

    async def batch(self) -> str:
        try:
            self.newest = next(self._newest)
        except StopIteration:
            raise Over from None
        return next(self._names)

    def wanted(self, batch: str) -> Version:
        return self.newest

    def due(self, like: str) -> str | None:
        assert self.beside_host
        follows = next(self._names)
        if follows in self._due:
            return follows
        self._names = chain([follows], self._names)
        return None

    async def load_weights(self, batch: str) -> None:
        self.version = self.newest
        self.log += f"load {self.version}, "

    async def begin(self, batch: str) -> None:
        self.log += f"begin {batch} with {self.version}, "

    async def end(self, batch: str) -> None:
        self.log += f"end {batch}, "
        if self.beside_host and batch == "c":
            self.newest = 9

    def write(self, batch: str) -> None:
        self.log += f"write {batch}, "

    def answer(self, batch: str) -> None:
        self.log += f"answer {batch}; "


def test_the_newest_weights_are_taken_between_a_batch_and_its_inference_and_only_where_they_are_new():
    generator = Generator(newest=[-1, 0, 0, 3])
    until_over(generate(generator, generator, generator))
    assert generator.log == (  # whoever waits gets the newest
        "begin a with -1, end a, write a, answer a; load 0, begin b with 0, end b, write b, answer b; begin c with 0, end c, write c, answer c; "
        "load 3, begin d with 3, end d, write d, answer d; "
    )


def test_beside_the_host_a_batch_that_is_due_begins_before_the_last_one_is_answered_unless_weights_are_new():
    generator = Generator(newest=[0, 9], beside_host=True, due="bcd")
    until_over(generate(generator, generator, generator))
    assert generator.log == (  # version 9 came while c was computed: c is answered before the weights are loaded
        "load 0, begin a with 0, end a, begin b with 0, write a, answer a; end b, begin c with 0, write b, answer b; end c, write c, answer c; "
        "load 9, begin d with 9, end d, write d, answer d; "
    )


# Train


class Trainer:
    """Trajectories, learner and ledger. Each update has two epochs of two steps of two micro-batches; it is enough after `epochs` of them."""

    def __init__(self, epochs: int) -> None:
        self._epochs, self._seen, self.log = epochs, 0, list[str]()

    async def of(self, update: int) -> AsyncIterator[MicroBatch]:
        for epoch, step, last in np.ndindex(2, 2, 2):
            yield MicroBatch(np.array([update]), np.array([last]), epoch, step, closes_step=bool(last), closes_epoch=bool(step and last))

    @property
    def enough(self) -> bool:
        return self._seen >= self._epochs

    def begin_update(self, update: int) -> None:
        self._seen = 0
        self.log.append(f"begin {update}")

    async def accumulate(self, micro_batch: MicroBatch) -> None:
        self._seen += micro_batch.closes_epoch
        self.log.append(f"{micro_batch.epoch}.{micro_batch.step}")

    async def step(self) -> None:
        self.log.append("step")

    async def finish_update(self) -> Mapping[str, float]:
        self.log.append("finish")
        return {"loss": float(len(self.log))}

    async def publish(self, version: Version, metrics: Mapping[str, float]) -> None:
        assert metrics == {"loss": float(len(self.log))}, "what the update has just measured"
        self.log.append(f"publish {version}")


EPOCH_0, EPOCH_1 = ([f"{epoch}.0", f"{epoch}.0", "step", f"{epoch}.1", f"{epoch}.1", "step"] for epoch in (0, 1))


@pytest.mark.parametrize(("epochs", "expected"), [(1, EPOCH_0), (2, EPOCH_0 + EPOCH_1), (9, EPOCH_0 + EPOCH_1)])
def test_steps_close_steps_and_epochs_end_when_it_is_enough(epochs: int, expected: list[str]):
    trainer = Trainer(epochs)
    asyncio.run(train([4], trainer, trainer, trainer))
    assert trainer.log == ["begin 4", *expected, "finish", "publish 5"]


def test_versions_are_published_one_after_another_each_before_the_next_update_begins():
    trainer = Trainer(epochs=1)
    asyncio.run(train(range(3), trainer, trainer, trainer))
    assert [entry for entry in trainer.log if entry[0] in "bp"] == ["begin 0", "publish 1", "begin 1", "publish 2", "begin 2", "publish 3"]
