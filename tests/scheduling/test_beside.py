"""An evaluation beside training, over random schedules of shards that work, die and come back.

Each schedule is played twice: with the evaluation, and without it. A shard is played as its loop is: it reads a grant late, and drops the evaluation when it
sees that its tickets are withdrawn.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from rlvla3.config import make_recipe
from rlvla3.parts import beside_ledger, is_due_beside
from rlvla3.scheduling.beside import BesideLedger
from rlvla3.scheduling.dispatcher import Dispatcher
from rlvla3.scheduling.ledger import Ledger, TicketBook
from rlvla3.scheduling.mix import Mix
from rlvla3.types import BESIDE, ActionSpace, Finished, Purpose, Spaces, Ticket
from tests.support.runs import countdown

BOOK = TicketBook(Mix.of("reach", "push"), seed=0)
EVALUATION = TicketBook(Mix.of("reach", "push"), seed=1, purpose=Purpose.EVALUATE)
PINNED = 7
Log = list[tuple[int, tuple[int, ...]]]


def ended(ticket: Ticket, version: int) -> Finished:
    return Finished(ticket, decisions=1, steps=2, success=True, return_=1.0, oldest=version, newest=version)


class Played:
    """One schedule. slots: of each shard. batch, staleness: of training."""

    def __init__(self, slots: Sequence[int], batch: int, staleness: int, updates: int, beside: BesideLedger | None) -> None:
        self.ledger = Ledger(BOOK, batch, staleness, total=batch * updates)
        self.dispatcher, self.beside, self.updates = Dispatcher(simulators=1), beside, updates
        self.dispatcher.serve(self.ledger)
        self.dispatcher.serve_beside(beside)
        self.slots = slots
        self.inbox: list[list[Ticket]] = [[] for _ in slots]
        self.running: list[dict[int, Ticket]] = [{} for _ in slots]
        self.away: set[int] = set()
        self.log: Log = []
        """Who got which tickets of training, in order."""
        for shard, count in enumerate(slots):
            self.dispatcher.join(shard, {0: count})
        self.grant()

    def grant(self) -> None:
        for given in self.dispatcher.dispatch():
            self.inbox[given.runner] += given.tickets
            if training := tuple(ticket.index for ticket in given.tickets if not ticket.beside):
                self.log.append((given.runner, training))

    def read(self, shard: int) -> None:
        """A shard looks at its messages, and begins what it got."""
        tickets, self.inbox[shard] = self.inbox[shard], []
        if self.dispatcher.withdraws(shard):
            self.running[shard] = {index: ticket for index, ticket in self.running[shard].items() if not ticket.beside}
            tickets = [ticket for ticket in tickets if not ticket.beside]
        for ticket in tickets:
            assert not any(ticket.index in running for running in self.running), f"ticket {ticket.index} is written by two shards at once"
            self.running[shard][ticket.index] = ticket
        kinds = {ticket.beside for ticket in self.running[shard].values()}
        assert len(kinds) <= 1, "a shard runs training and evaluation at once"
        assert len(self.running[shard]) <= self.slots[shard]

    def end(self, shard: int, index: int) -> None:
        ticket = self.running[shard].pop(index)
        version = PINNED if ticket.beside else self.ledger.version
        self.dispatcher.hand_in(self.dispatcher.end(shard, ended(ticket, version)))
        self.grant()

    def lose(self, shard: int) -> None:
        self.running[shard], self.inbox[shard] = {}, []
        self.dispatcher.lose(shard)
        self.away.add(shard)

    def come_back(self, shard: int) -> None:
        self.dispatcher.give_back(shard)
        self.dispatcher.join(shard, {0: self.slots[shard]})
        self.away.discard(shard)
        self.grant()

    def advance(self) -> None:
        while self.ledger.version < self.updates and len(self.ledger.finished(self.ledger.version)) == self.ledger.batch:
            self.ledger.advance(self.ledger.version + 1)
            self.grant()

    def of_training(self) -> list[tuple[int, int]]:
        return [(shard, index) for shard, running in enumerate(self.running) for index in running if index < BESIDE]

    def of_evaluation(self) -> list[tuple[int, int]]:
        return [(shard, index) for shard, running in enumerate(self.running) for index in running if index >= BESIDE]


@pytest.mark.parametrize("seed", range(150))
def test_training_is_dispatched_as_without_the_evaluation_and_no_episode_is_run_twice_at_once(seed: int) -> None:
    draw = random.Random(seed)
    slots = [draw.randint(1, 3) for _ in range(draw.randint(1, 4))]
    batch, staleness, updates = draw.randint(1, 6), draw.randint(0, 2), draw.randint(1, 6)
    room = draw.randint(1, 5)
    beside = BesideLedger(EVALUATION, episodes=draw.randint(1, 12), room=room, version=PINNED, late_at=99)
    both = [Played(slots, batch, staleness, updates, ledger) for ledger in (beside, None)]
    ours, twin = both
    for _ in range(300):
        match draw.choice(["read", "read", "end", "end", "beside", "beside", "advance", "lose", "come back"]):
            case "read":
                shard = draw.randrange(len(slots))
                for played in both:
                    played.read(shard)
            case "end" if able := ours.of_training():
                shard, index = draw.choice(able)
                for played in both:
                    played.end(shard, index)
            case "beside" if able := ours.of_evaluation():
                ours.end(*draw.choice(able))
            case "advance":
                for played in both:
                    played.advance()
            case "lose" if draw.random() < 0.1 and (there := sorted(set(range(len(slots))) - ours.away)):
                shard = draw.choice(there)
                for played in both:
                    played.lose(shard)
            case "come back" if ours.away:
                shard = draw.choice(sorted(ours.away))
                for played in both:
                    played.come_back(shard)
        assert ours.log == twin.log
    _finish(ours)
    assert ours.ledger.version == updates and beside.over
    assert sorted(episode.ticket.index for episode in beside.finished) == list(range(beside.episodes))
    assert [replace(episode.ticket) for episode in sorted(beside.finished, key=lambda one: one.ticket.index)] == [
        EVALUATION.ticket(index) for index in range(beside.episodes)
    ]


def _finish(played: Played) -> None:
    """From any moment on, training and evaluation come to their ends."""
    for shard in sorted(played.away):
        played.come_back(shard)
    for _ in range(10_000):
        played.advance()
        for shard in range(len(played.slots)):
            played.read(shard)
        if not (able := played.of_training() or played.of_evaluation()):
            if played.beside is None or played.beside.over:
                return
            played.dispatcher.hold_training(True)  # training has no more tickets
            played.grant()
            continue
        played.end(*able[0])
    raise AssertionError("it does not end")


@pytest.mark.parametrize("seed", range(50))
def test_a_late_evaluation_ends_though_no_slot_was_ever_idle(seed: int) -> None:
    """Training always has tickets. When they are held, those that run end, and the evaluation has all slots."""
    draw = random.Random(seed)
    slots = [draw.randint(1, 3) for _ in range(draw.randint(1, 4))]
    beside = BesideLedger(EVALUATION, episodes=draw.randint(1, 12), room=8, version=PINNED, late_at=99)
    played = Played(slots, batch=50, staleness=1, updates=4, beside=beside)
    for _ in range(draw.randint(0, 20)):
        for shard in range(len(slots)):
            played.read(shard)
        assert not played.of_evaluation()
        played.end(*draw.choice(played.of_training()))
    played.dispatcher.hold_training(True)
    begun = len(played.log)
    while not beside.over:
        for shard in range(len(slots)):
            played.read(shard)
        played.end(*draw.choice(played.of_training() + played.of_evaluation()))
    assert len(played.log) == begun
    played.dispatcher.hold_training(False)
    played.grant()
    _finish(played)
    assert played.ledger.version == 4


def test_where_slots_are_idle_too_briefly_a_shard_is_tried_twice_and_then_left_to_training_until_it_is_held() -> None:
    beside = BesideLedger(EVALUATION, episodes=3, room=3, version=PINNED, late_at=99)
    played = Played([1], batch=1, staleness=0, updates=6, beside=beside)

    def update(evaluates: bool) -> None:
        """An update: its one episode ends, and the next one begins before any of the evaluation has ended."""
        played.read(0)
        played.end(0, played.of_training()[0][1])
        played.read(0)
        assert bool(played.of_evaluation()) == evaluates
        played.advance()

    for evaluates in (True, True, False, False):
        update(evaluates)
    played.dispatcher.hold_training(True)
    update(True)
    _finish(played)
    assert beside.over


def test_a_shard_that_ends_episodes_of_the_evaluation_goes_on_with_it() -> None:
    beside = BesideLedger(EVALUATION, episodes=9, room=9, version=PINNED, late_at=99)
    played = Played([1], batch=1, staleness=0, updates=6, beside=beside)
    for _ in range(5):
        played.read(0)
        played.end(0, played.of_training()[0][1])
        played.read(0)
        played.end(0, played.of_evaluation()[0][1])
        played.read(0)
        assert played.of_evaluation(), "the next one is begun, and dropped when training goes on"
        played.advance()
    assert len(beside.finished) == 5


def test_an_episode_of_another_version_is_refused() -> None:
    ledger = BesideLedger(EVALUATION, episodes=2, room=2, version=3, late_at=4)
    ticket = ledger.take()
    assert ticket is not None and ticket.beside
    with pytest.raises(AssertionError, match="of version 3 was decided by versions 2 to 2"):
        ledger.hand_in(ended(ticket, 2))


SPACES = Spaces(cameras={}, state=1, action=ActionSpace("continuous", 1), max_steps=6)


@pytest.mark.parametrize(
    ("every", "after", "expected"),
    [(0, True, []), (3, True, [3]), (3, False, [3, 6]), (1, True, [1, 2, 3, 4, 5]), (1, False, [1, 2, 3, 4, 5, 6]), (7, False, [])],
)
def test_which_versions_are_evaluated(every: int, after: bool, expected: list[int]) -> None:
    recipe = make_recipe(countdown(training={"updates": 6}, evaluation={"every": every, "after": after}))
    assert [version for version in range(7) if is_due_beside(recipe, version)] == expected


@pytest.mark.parametrize(("every", "late"), [(1, 11), (2, 11), (3, 12), (10, 15)])
def test_it_is_late_after_half_of_the_way_to_the_next_one(every: int, late: int) -> None:
    ledger = beside_ledger(make_recipe(countdown(evaluation={"every": every})), SPACES, version=10)
    assert [ledger.is_late(version) for version in (10, late - 1, late)] == [False, False, True]


def test_with_offload_training_waits_at_once() -> None:
    recipe = make_recipe(countdown(engine={"mode": "sync", "offload": True}, evaluation={"every": 4}))
    assert beside_ledger(recipe, SPACES, version=4).is_late(4)
