"""The streamer, for any update, cut, order of arrival and setting: what it emits, when, and that both depend on nothing they should not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.scheduling.streamer import Streamer
from rlvla3.types import MicroBatch

Pair = tuple[int, int]
"""A decision: (ticket, row)."""

UPDATES = 2


@dataclass(frozen=True)
class Scenario:
    """Trajectories of two updates, and when they arrive: at each point where the streamer may be told, `bursts` says how many are there."""

    group_size: int
    groups: int  # in a step
    steps: int
    epochs: int
    micro_batch: int
    streaming: bool
    in_order: bool
    decisions: tuple[int, ...]  # 0: the ticket was set aside
    order: tuple[int, ...]
    bursts: tuple[int, ...]

    @property
    def batch(self) -> int:
        return self.group_size * self.groups * self.steps

    def tickets(self, update: int) -> range:
        return range(update * self.batch, (update + 1) * self.batch)

    def pairs(self, update: int) -> list[Pair]:
        """Every decision of an update, in ticket order."""
        return [(ticket, row) for ticket in self.tickets(update) for row in range(self.decisions[ticket])]

    def step_of(self, ticket: int) -> int:
        return ticket % self.batch // (self.batch // self.steps)

    def group_of(self, ticket: int) -> range:
        start = ticket - ticket % self.group_size
        return range(start, start + self.group_size)

    def streamer(self, seed: int = 5) -> Streamer:
        return Streamer(
            batch=self.batch,
            group_size=self.group_size,
            steps=self.steps,
            epochs=self.epochs,
            micro_batch=self.micro_batch,
            streaming=self.streaming,
            seed=seed,
            order=self.tickets if self.in_order else None,
        )


@st.composite
def scenarios(draw: st.DrawFn, streaming: bool | None = None, in_order: bool | None = None, least: int = 0) -> Scenario:
    """least: decisions of a ticket."""
    group_size, groups, steps = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    tickets = UPDATES * group_size * groups * steps
    return Scenario(
        group_size,
        groups,
        steps,
        epochs=draw(st.integers(1, 3)),
        micro_batch=draw(st.integers(1, 9)),
        streaming=draw(st.booleans()) if streaming is None else streaming,
        in_order=draw(st.booleans()) if in_order is None else in_order,
        decisions=tuple(draw(st.lists(st.integers(least, 6), min_size=tickets, max_size=tickets))),
        order=tuple(draw(st.permutations(range(tickets)))),
        bursts=tuple(draw(st.lists(st.integers(0, 4), max_size=20))),
    )


@dataclass(frozen=True)
class Emission:
    """A micro-batch, or None, and the tickets that had arrived by then."""

    micro_batch: MicroBatch | None
    arrived: frozenset[int]

    @property
    def pairs(self) -> list[Pair]:
        return [] if self.micro_batch is None else list(zip(self.micro_batch.tickets.tolist(), self.micro_batch.rows.tolist(), strict=True))


def emissions(scenario: Scenario) -> list[list[Emission]]:
    """All that comes out of each update, while trajectories of both arrive in bursts."""
    streamer, arrivals, bursts = scenario.streamer(), iter(scenario.order), iter(scenario.bursts)
    arrived: set[int] = set()

    def arrive(count: int) -> None:
        for ticket in islice(arrivals, count):
            arrived.add(ticket)
            streamer.arrived(ticket, scenario.decisions[ticket])

    def listen(update: int) -> Iterator[Emission]:
        arrive(next(bursts, 0))
        for micro_batch in streamer.update(update):
            yield Emission(micro_batch, frozenset(arrived))
            assert micro_batch is not None or len(arrived) < len(scenario.order), "waits for ever"
            arrive(next(bursts, 0) if micro_batch is not None else max(next(bursts, 1), 1))

    return [list(listen(update)) for update in range(UPDATES)]


def micro_batches(scenario: Scenario, update: int = 0) -> list[MicroBatch]:
    return [emission.micro_batch for emission in emissions(scenario)[update] if emission.micro_batch is not None]


def pairs_of(batches: list[MicroBatch]) -> list[Pair]:
    return [pair for batch in batches for pair in Emission(batch, frozenset()).pairs]


def by_step(batches: list[MicroBatch]) -> list[tuple[tuple[int, int], list[MicroBatch]]]:
    """Micro-batches of each (epoch, step), in the order of emission."""
    return [(key, list(part)) for key, part in groupby(batches, lambda batch: (batch.epoch, batch.step))]


@given(scenarios())
def test_every_decision_is_emitted_once_an_epoch(scenario: Scenario):
    for update in range(UPDATES):
        emitted = Counter((batch.epoch, pair) for batch in micro_batches(scenario, update) for pair in pairs_of([batch]))
        assert emitted == Counter((epoch, pair) for epoch in range(scenario.epochs) for pair in scenario.pairs(update))


@given(scenarios())
def test_a_step_of_the_first_epoch_is_made_of_the_tickets_its_numbers_say(scenario: Scenario):
    for batch in micro_batches(scenario):
        assert batch.epoch > 0 or all(scenario.step_of(ticket) == batch.step for ticket in batch.tickets.tolist())


@given(scenarios())
def test_epochs_and_steps_come_in_order_and_each_closes_once_at_its_last_micro_batch(scenario: Scenario):
    """A step without decisions is not made. Where it is the last one of the first epoch, an empty micro-batch says that the epoch ends."""
    parts = by_step(micro_batches(scenario))
    with_decisions = sorted({scenario.step_of(ticket) for ticket, _ in scenario.pairs(0)})
    first = [(0, step) for step in sorted({*with_decisions, scenario.steps - 1})]
    steps = min(scenario.steps, len(scenario.pairs(0)))
    assert [key for key, _ in parts] == first + [(epoch, step) for epoch in range(1, scenario.epochs) for step in range(steps)]
    for (epoch, step), (*earlier, last) in parts:
        assert not any(batch.closes_step or batch.closes_epoch for batch in earlier)
        assert last.closes_step == (epoch > 0 or step in with_decisions)
        assert last.closes_epoch == (step == (steps if epoch else scenario.steps) - 1)


@given(scenarios())
def test_every_micro_batch_is_full_but_the_last_of_a_step(scenario: Scenario):
    for _, (*earlier, last) in by_step(micro_batches(scenario)):
        assert all(len(batch) == scenario.micro_batch for batch in earlier)
        assert len(last) <= scenario.micro_batch
        assert len(last) or 0 in scenario.decisions


@given(scenarios())
def test_a_group_is_emitted_only_when_all_of_it_has_arrived(scenario: Scenario):
    for emission in emissions(scenario)[0]:
        assert all(emission.arrived.issuperset(scenario.group_of(ticket)) for ticket, _ in emission.pairs)


@given(scenarios(streaming=True, least=1))
def test_the_streamer_waits_only_while_less_than_a_micro_batch_is_there(scenario: Scenario):
    """At every wait, whole groups of the present step, not all of them, hold less than a micro-batch that has not gone out yet."""
    gone: Counter[int] = Counter()
    present = 0
    for emission in emissions(scenario)[0]:
        if emission.micro_batch is not None:
            gone.update(ticket for ticket, _ in emission.pairs)
            present = emission.micro_batch.step + emission.micro_batch.closes_step
            continue
        of_step = [ticket for ticket in scenario.tickets(0) if scenario.step_of(ticket) == present]
        whole = [emission.arrived.issuperset(scenario.group_of(ticket)) for ticket in of_step]
        assert not all(whole)
        ready = of_step[: whole.index(False)] if scenario.in_order else [ticket for ticket, is_whole in zip(of_step, whole, strict=True) if is_whole]
        assert sum(scenario.decisions[ticket] - gone[ticket] for ticket in ready) < scenario.micro_batch


@given(scenarios(streaming=False))
def test_without_streaming_nothing_comes_before_everything_and_then_in_ticket_order(scenario: Scenario):
    for emission in emissions(scenario)[0]:
        assert (emission.micro_batch is not None) == emission.arrived.issuperset(scenario.tickets(0))
    assert pairs_of([batch for batch in micro_batches(scenario) if batch.epoch == 0]) == scenario.pairs(0)


@given(scenarios(in_order=True))
def test_in_order_is_ticket_order_whatever_arrives_first(scenario: Scenario):
    assert pairs_of([batch for batch in micro_batches(scenario) if batch.epoch == 0]) == scenario.pairs(0)


@given(scenarios(in_order=True), st.randoms(use_true_random=False))
def test_deterministic_mode_makes_the_same_micro_batches_for_any_order_of_arrival_streaming_or_not(scenario: Scenario, random):
    shuffled = replace(scenario, order=tuple(random.sample(scenario.order, len(scenario.order))), bursts=(), streaming=not scenario.streaming)
    assert [str(contents(batch)) for batch in micro_batches(scenario, 1)] == [str(contents(batch)) for batch in micro_batches(shuffled, 1)]


def contents(batch: MicroBatch) -> tuple[list[Pair], int, int, bool, bool]:
    return pairs_of([batch]), batch.epoch, batch.step, batch.closes_step, batch.closes_epoch


@given(scenarios())
def test_later_epochs_do_not_depend_on_arrival_cut_or_streaming(scenario: Scenario):
    other = replace(scenario, order=scenario.order[::-1], bursts=(), micro_batch=scenario.micro_batch + 1, streaming=not scenario.streaming)
    for epoch in range(1, scenario.epochs):
        one, another = ({key: pairs_of(part) for key, part in by_step(micro_batches(s)) if key[0] == epoch} for s in (scenario, other))
        assert one == another


@given(scenarios())
def test_later_epochs_have_steps_of_equal_size(scenario: Scenario):
    sizes = [sum(map(len, part)) for (epoch, _), part in by_step(micro_batches(scenario)) if epoch > 0]
    assert not sizes or max(sizes) - min(sizes) <= 1


def epoch_order(seed: int, update: int, epoch: int) -> list[int]:
    """The order in which a later epoch visits the 64 decisions of an update, counted within it."""
    streamer = Streamer(batch=8, group_size=1, steps=2, epochs=3, micro_batch=64, streaming=False, seed=seed)
    for ticket in streamer.tickets(update):
        streamer.arrived(ticket, decisions=8)
    batches = [batch for batch in streamer.update(update) if batch is not None and batch.epoch == epoch]
    return [(ticket - 8 * update) * 8 + row for ticket, row in pairs_of(batches)]


def test_later_epochs_are_shuffled_anew_for_every_seed_update_and_epoch():
    orders = [epoch_order(seed, update, epoch) for seed in (0, 1) for update in (0, 1) for epoch in (1, 2)]
    assert all(sorted(order) == list(range(64)) for order in orders)
    assert len(np.unique(orders, axis=0)) == len(orders)
    assert epoch_order(1, 1, 2) == orders[-1]


@pytest.fixture
def streamer() -> Streamer:
    """Two tickets an update, of three decisions each; a micro-batch is a ticket."""
    return Streamer(batch=2, group_size=1, steps=1, epochs=2, micro_batch=3, streaming=True, seed=0)


def test_trajectories_of_later_updates_are_kept_until_their_turn(streamer: Streamer):
    for ticket in (3, 1, 2, 0):
        streamer.arrived(ticket, decisions=3)
    for update in range(2):
        assert None not in list(streamer.update(update))


def test_an_update_left_early_is_forgotten_and_the_next_one_is_not(streamer: Streamer):
    for ticket in range(4):
        streamer.arrived(ticket, decisions=3)
    for micro_batch in streamer.update(0):
        assert micro_batch is not None
        if micro_batch.closes_epoch:
            break
    assert next(iter(streamer.update(0))) is None
    assert None not in list(streamer.update(1))


def test_an_update_that_is_done_is_forgotten(streamer: Streamer):
    for ticket in range(2):
        streamer.arrived(ticket, decisions=3)
    assert len(list(streamer.update(0))) == 4
    assert next(iter(streamer.update(0))) is None
