"""What a replay makes of a record, over random asynchronous runs: every decision that counted, once, in its place, in an order that never waits for ever."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rlvla3.scheduling.ledger import Ledger, TicketBook
from rlvla3.scheduling.mix import Mix
from rlvla3.scheduling.recorded_run import DECISION, EMITTED, RecordedRun, ReplayError, recorded_run
from rlvla3.scheduling.streamer import Streamer
from rlvla3.types import Finished

Decision = tuple[int, int]


@dataclass
class Recorded:
    """What a run left: its record, and what really was learned from."""

    generators: list[list[tuple[int, int, int, int]]]
    emitted: list[tuple[int, int, int]]
    batch: int
    max_staleness: int
    slots: int
    end: int
    made: dict[Decision, int] = field(default_factory=dict)
    """The version that made each decision that counted."""

    def replay(self, end: int | None = None) -> RecordedRun:
        return recorded_run(self.arrays(), np.array(self.emitted, EMITTED), self.batch, self.end if end is None else end)

    def arrays(self) -> list[NDArray[Any]]:
        return [np.array(decisions, DECISION) for decisions in self.generators]

    def batches(self) -> list[list[Decision]]:
        """Every inference that was recorded, in any order."""
        whole: dict[tuple[int, int, int], list[Decision]] = {}
        for generator, decisions in enumerate(self.generators):
            for at, version, row, ticket in decisions:
                whole.setdefault((generator, version, at), []).append((ticket, row))
        return list(whole.values())


class Simulation:
    """An asynchronous run in which chance decides who goes next: simulators that ask and are lost, generators that look for the newest version, infer a
    good while later and are lost, a trainer, and stops after which the run goes on from its newest version."""

    def __init__(self, chance: random.Random, updates: int) -> None:
        self.chance, self.updates = chance, updates
        self.batch, self.max_staleness, self.slots = chance.randint(1, 4), chance.randint(0, 2), chance.randint(1, 5)
        self.decisions = [chance.randint(1, 4) for _ in range(self.batch * updates)]
        self.cut = [chance.random() < 0.3 for _ in self.decisions]  # by a time limit: the last observation is valued as well
        generators = chance.randint(1, 3)
        self.record = Recorded([[] for _ in range(generators)], [], self.batch, self.max_staleness, self.slots, updates)
        self.now = 0
        self.start(0)

    def start(self, version: int) -> None:
        self.ledger = Ledger(TicketBook(Mix.of("reach"), seed=0), self.batch, self.max_staleness, total=self.batch * self.updates, version=version)
        self.running: list[list[int] | None] = [None] * self.slots  # ticket, row asked for
        self.inferring: dict[int, tuple[int, list[int]]] = {}  # by generator: the version it found, and the slots

    def run(self) -> Recorded:
        while self.ledger.version < self.updates:
            self.now += 1
            self.chance.choices([self.take, self.look, self.infer, self.train, self.lose, self.lose_generator, self.stop], [4, 6, 4, 2, 0.3, 0.5, 0.1])[0]()
        return self.record

    def take(self) -> None:
        slot = self.chance.randrange(self.slots)
        if self.running[slot] is None and (ticket := self.ledger.take()) is not None:
            self.running[slot] = [ticket.index, 0]

    def look(self) -> None:
        generator = self.chance.randrange(len(self.record.generators))
        waiting = [slot for slot, running in enumerate(self.running) if running is not None and slot % len(self.record.generators) == generator]
        if generator not in self.inferring and waiting:
            self.inferring[generator] = (self.ledger.version, self.chance.sample(waiting, self.chance.randint(1, len(waiting))))

    def infer(self) -> None:
        if not self.inferring:
            return
        generator = self.chance.choice(list(self.inferring))
        version, slots = self.inferring.pop(generator)
        for slot in slots:
            ticket, row = self.running[slot] or (0, 0)
            self.record.generators[generator].append((self.now, version, row, ticket))
            self.record.made[ticket, row] = version
            self.running[slot] = [ticket, row + 1]
            if row + 1 == self.decisions[ticket] + self.cut[ticket]:
                self.running[slot] = None
                self.ledger.hand_in(Finished(self.ledger.book.ticket(ticket), row, 1, True, 1.0, oldest=self.record.made[ticket, 0]))

    def train(self) -> None:
        version = self.ledger.version
        tickets = [episode.ticket.index for episode in self.ledger.finished(version)]
        if len(tickets) == self.batch:
            self.ledger.advance(version + 1)
            self.record.emitted += [(version, self.decisions[ticket], ticket) for ticket in self.chance.sample(tickets, self.batch)]

    def lose(self) -> None:
        slot = self.chance.randrange(self.slots)
        if (running := self.running[slot]) is not None and not any(slot in slots for _, slots in self.inferring.values()):
            self.running[slot] = None
            self.ledger.lost(running[0])

    def lose_generator(self) -> None:
        """It is killed after it has recorded some of its batch or all, and before it has answered any of it. Its successor is asked again."""
        if not self.inferring:
            return
        generator = self.chance.choice(list(self.inferring))
        version, slots = self.inferring.pop(generator)
        for slot in slots[: self.chance.randint(0, len(slots))]:
            ticket, row = self.running[slot] or (0, 0)
            self.record.generators[generator].append((self.now, version, row, ticket))

    def stop(self) -> None:
        """And go on: the record is cut back as RunRecord.go_on does, on a clock that has begun anew."""
        version = self.ledger.version
        self.record.generators = [[entry for entry in entries if entry[1] < version] for entries in self.record.generators]
        self.now = 0
        self.start(version)


recorded_runs = st.builds(lambda seed, updates: Simulation(random.Random(seed), updates).run(), st.integers(0, 2**32), st.integers(1, 5))


def live_batches(replay: RecordedRun) -> list[tuple[int, list[Decision]]]:
    """(version, decisions that are made) of each batch."""
    batches = (replay.batch(number) for number in range(replay.batches))
    return [(batch.version, list(zip(batch.tickets[batch.kept].tolist(), batch.rows[batch.kept].tolist(), strict=True))) for batch in batches]


@given(recorded_runs, st.data())
def test_what_was_learned_from_is_replayed_once_and_by_the_version_that_made_it(recorded: Recorded, data: st.DataObject):
    end = data.draw(st.integers(0, recorded.end))
    replayed = [(decision, version) for version, decisions in live_batches(recorded.replay(end)) for decision in decisions]
    wanted = {decision: version for decision, version in recorded.made.items() if decision[0] < end * recorded.batch}
    assert sorted(replayed) == sorted(wanted.items())


@given(recorded_runs)
def test_a_batch_keeps_its_size_and_its_places(recorded: Recorded):
    """Where a void decision stood, another one of the batch stands in."""
    replay, shapes = recorded.replay(), recorded.batches()
    for number in range(replay.batches):
        batch = replay.batch(number)
        pairs = list(zip(batch.tickets.tolist(), batch.rows.tolist(), strict=True))
        made = {place: pairs[place] for place in batch.kept.tolist()}
        assert set(pairs) == set(made.values())
        assert any(len(shape) == len(pairs) and all(shape[place] == decision for place, decision in made.items()) for shape in shapes)


@given(recorded_runs)
def test_a_replay_never_waits_for_ever(recorded: Recorded):
    """The proof in scheduling/recorded_run.py, carried out: with one process a slot there always is a batch or an update that can be made."""
    replay, lengths = recorded.replay(), recorded.replay().lengths()
    ledger = Ledger(TicketBook(Mix.of("reach"), seed=0), recorded.batch, recorded.max_staleness, total=recorded.end * recorded.batch, order=replay.order)
    asked: dict[int, int] = {}  # ticket: row

    def grant() -> None:
        while len(asked) < recorded.slots and (ticket := ledger.take()) is not None:
            asked[ticket.index] = 0

    for version, decisions in [*live_batches(replay), (recorded.end, [])]:
        while ledger.version < version:
            ledger.advance(ledger.version + 1)
        grant()
        assert all(asked.get(ticket) == row for ticket, row in decisions)
        for ticket, row in decisions:
            asked[ticket] = row + 1
            if row + 1 == lengths[ticket]:
                del asked[ticket]
                ledger.hand_in(Finished(ledger.book.ticket(ticket), row, 1, True, 1.0, oldest=recorded.made[ticket, 0]))
    assert ledger.trained == recorded.end * recorded.batch


@given(recorded_runs, st.data())
def test_a_record_with_a_hole_is_refused(recorded: Recorded, data: st.DataObject):
    (ticket, row), version = data.draw(st.sampled_from(sorted(recorded.made.items())))
    assume((ticket // recorded.batch, row, ticket) not in recorded.emitted)  # the value of a last observation, which not every episode has
    recorded_twice = [decision for batch in recorded.batches() for decision in batch if decision in ((ticket, 0), (ticket, row))]
    assume(len(recorded_twice) == len(set(recorded_twice)))  # an earlier one that was void could pass for it
    recorded.generators = [[entry for entry in entries if entry[1:] != (version, row, ticket)] for entries in recorded.generators]
    with pytest.raises(ReplayError, match=rf"decision \d+ of ticket {ticket} "):
        recorded.replay()


@given(recorded_runs, st.data())
def test_an_update_that_lacks_a_ticket_is_refused(recorded: Recorded, data: st.DataObject):
    entry = data.draw(st.sampled_from(recorded.emitted))
    recorded.emitted.remove(entry)
    with pytest.raises(ReplayError, match=f"tickets of update {entry[0]}"):
        recorded.replay()


def test_a_decision_by_a_version_that_came_later_is_refused():
    with pytest.raises(ReplayError, match="decision 0 of ticket 0 was made by version 1, after update 0 was over"):
        recorded_run([np.array([(5, 1, 0, 0)], DECISION)], np.array([(0, 1, 0)], EMITTED), batch=1, end=1)


@given(st.data(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 9))
def test_micro_batches_are_those_of_the_recorded_order_whenever_trajectories_arrive(data, group_size, groups, steps, micro_batch):
    batch = group_size * groups * steps
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=batch, max_size=batch))

    def micro_batches(streaming: bool, order: Callable[[int], list[int]] | None) -> tuple[list[Any], list[int]]:
        streamer = Streamer(batch=batch, group_size=group_size, steps=steps, epochs=2, micro_batch=micro_batch, streaming=streaming, seed=0, order=order)
        arrivals, emitted = iter(data.draw(st.permutations(range(batch)))), []
        for emission in streamer.update(0):
            if emission is None:
                ticket = next(arrivals)
                streamer.arrived(ticket, lengths[ticket])
            else:
                emitted.append((emission.tickets.tolist(), emission.rows.tolist(), emission.epoch, emission.closes_step))
        return emitted, list(streamer.emitted)

    recorded, order = micro_batches(streaming=True, order=None)
    assert micro_batches(data.draw(st.booleans()), lambda _: order) == (recorded, order)
