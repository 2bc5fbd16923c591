"""Dynamic batching against a list that is sorted and counted anew every time, and in a simulated loop of episodes that ask, wait and think."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlvla3.scheduling.batcher import DynamicBatcher
from rlvla3.scheduling.limits import FixedLimits

limits = st.tuples(st.none() | st.integers(1, 5), st.sampled_from([0.0, 1.0, 3.0, 8.0, math.inf]))
"""(B_max, T_max). Times are whole numbers, so that they add up exactly."""


@dataclass
class ByHand:
    """The rule as the paper writes it."""

    max_batch: int | None
    max_wait: float
    waiting: list[tuple[float, int]]

    def take(self, now: float, running: int) -> list[int]:
        self.waiting.sort(key=lambda request: request[0])
        if not self.waiting:
            return []
        full = self.max_batch is not None and len(self.waiting) >= self.max_batch
        overdue = now - self.waiting[0][0] >= self.max_wait
        everyone_waits = len({name % SHARDS for _, name in self.waiting}) >= running
        if not (full or overdue or everyone_waits):
            return []
        batch = self.waiting[: self.max_batch]
        self.waiting = self.waiting[len(batch) :]
        return [name for _, name in batch]


SHARDS = 4
"""Request n is of shard n mod SHARDS."""

asks = st.tuples(st.just("ask"), st.integers(0, 4), st.integers(0, 5))  # heard so much later than it was asked
takes = st.tuples(st.just("take"), st.integers(0, 6), st.sampled_from([1, 2, 3, 9]))  # after so long; shards that run
losses = st.tuples(st.just("forget"), st.integers(0, 3), st.integers(0, SHARDS - 1))  # a shard


@given(limits, st.lists(st.one_of(asks, asks, takes, losses), max_size=40))
def test_batches_are_those_of_the_rule_written_by_hand(limits: tuple[int | None, float], events: list[tuple[str, int, int]]):
    batcher: DynamicBatcher[int] = DynamicBatcher(FixedLimits(*limits))
    by_hand = ByHand(*limits, waiting=[])
    now = 100.0
    for name, (event, gap, number) in enumerate(events):
        now += gap
        if event == "ask":
            batcher.add(name, name % SHARDS, asked_at=now - number)
            by_hand.waiting.append((now - number, name))
        elif event == "take":
            assert batcher.take(now, running=number) == by_hand.take(now, running=number)
        else:
            batcher.forget(number)
            by_hand.waiting = [(at, request) for at, request in by_hand.waiting if request % SHARDS != number]
        assert sorted(batcher) == sorted(request for _, request in by_hand.waiting)
        assert batcher.deadline() == min((at for at, _ in by_hand.waiting), default=math.inf) + limits[1]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(0, 1e3))
@example([0.1], 0.2)
def test_a_timer_set_for_the_deadline_never_wakes_too_early(times: list[float], max_wait: float):
    batcher: DynamicBatcher[float] = DynamicBatcher(FixedLimits(100, max_wait))
    for time in times:
        batcher.add(time, 0, asked_at=time)
    assert batcher.deadline() == min(times) + max_wait
    assert batcher.take(batcher.deadline(), running=99) == sorted(times)


@dataclass(frozen=True)
class Served:
    """One request: when it was asked and inferred, how many older ones waited then, and the batch it was in."""

    asked_at: float
    inferred_at: float
    ahead: int
    batch: int
    running: int


def episodes_ask(max_batch: int | None, max_wait: float, inference: float, thinking: Sequence[Sequence[float]]) -> list[Served]:
    """A generator that sleeps until something can be due, and episodes that each ask, wait for the answer and think, so often and so long."""
    batcher: DynamicBatcher[int] = DynamicBatcher(FixedLimits(max_batch, max_wait))
    to_think = [list(times) for times in thinking]
    asks_at = {episode: times.pop(0) for episode, times in enumerate(to_think) if times}
    asked: dict[int, tuple[float, int]] = {}
    answering: list[int] = []
    served: list[Served] = []
    now = free_at = 0.0
    while asks_at or asked or answering:
        now = max(now, min([free_at if answering else batcher.deadline(), *asks_at.values()]))
        assert now < math.inf, "everybody waits for ever"
        if now >= free_at:
            asks_at |= {episode: now + to_think[episode].pop(0) for episode in answering if to_think[episode]}
            answering = []
        for episode in [episode for episode, at in asks_at.items() if at <= now]:
            asked[episode] = asks_at.pop(episode), len(asked)
            batcher.add(episode, episode, asked_at=now)
        if not answering:
            running = len(asks_at) + len(asked)
            answering = batcher.take(now, running=running)
            served += [Served(asked[episode][0], now, asked.pop(episode)[1], len(answering), running) for episode in answering]
            free_at = now + inference
    return served


thoughts = st.lists(st.lists(st.integers(0, 20).map(float), max_size=6), min_size=1, max_size=7)


@given(limits, st.integers(1, 6).map(float), thoughts)
def test_everybody_is_served_within_t_max_and_the_inferences_ahead(limits: tuple[int | None, float], inference: float, thinking: list[list[float]]):
    max_batch, max_wait = limits

    served = episodes_ask(max_batch, max_wait, inference, thinking)

    assert len(served) == sum(map(len, thinking))
    for request in served:
        assert max_batch is None or request.batch <= max_batch
        # One inference may be under way when the wait is over, and each full batch of older requests is one more.
        inferences = 1 + (request.ahead // max_batch if max_batch is not None else 0)
        assert request.inferred_at - request.asked_at <= max_wait + inferences * inference


@given(limits, thoughts)
def test_nobody_waits_past_t_max_for_a_generator_that_is_free(limits: tuple[int | None, float], thinking: list[list[float]]):
    served = episodes_ask(*limits, inference=0.0, thinking=thinking)
    assert all(request.inferred_at - request.asked_at <= limits[1] for request in served)


@given(st.integers(1, 6).map(float), thoughts)
def test_all_and_for_ever_is_the_synchronous_lock_step(inference: float, thinking: list[list[float]]):
    served = episodes_ask(None, math.inf, inference, thinking)
    assert all(request.batch == request.running for request in served)


def test_t_max_counts_from_the_oldest_request_and_anew_after_an_idle_spell():
    batcher: DynamicBatcher[str] = DynamicBatcher(FixedLimits(max_batch=8, max_wait=5))
    batcher.add("a", 0, asked_at=0)
    batcher.add("b", 1, asked_at=4)
    assert batcher.take(now=4.9, running=99) == []
    assert batcher.take(now=5, running=99) == ["a", "b"]

    assert batcher.deadline() == math.inf
    assert batcher.take(now=90, running=99) == []
    batcher.add("c", 2, asked_at=100)
    assert batcher.deadline() == 105
    assert batcher.take(now=104.9, running=99) == []
    assert batcher.take(now=105, running=99) == ["c"]


def test_a_request_that_was_heard_late_waits_since_it_was_asked():
    batcher: DynamicBatcher[str] = DynamicBatcher(FixedLimits(max_batch=2, max_wait=5))
    for name, asked_at in (("b", 10), ("c", 12), ("a", 3)):
        batcher.add(name, 0, asked_at)
    assert batcher.deadline() == 8
    assert batcher.take(now=12, running=99) == ["a", "b"]


def test_what_is_left_after_a_full_batch_waits_on_by_its_own_age():
    batcher: DynamicBatcher[int] = DynamicBatcher(FixedLimits(max_batch=2, max_wait=5))
    for time in range(3):
        batcher.add(time, 0, asked_at=time)
    assert batcher.take(now=2, running=99) == [0, 1]
    assert batcher.deadline() == 7
    assert batcher.take(now=6, running=99) == []


def test_when_everyone_waits_nobody_does_and_b_max_holds():
    batcher: DynamicBatcher[int] = DynamicBatcher(FixedLimits(max_batch=2, max_wait=math.inf))
    assert batcher.take(now=0, running=0) == []
    for slot in range(3):
        batcher.add(slot, slot, asked_at=0)
    assert batcher.take(now=0, running=0) == [0, 1]
    assert batcher.take(now=0, running=99) == []
    assert batcher.take(now=0, running=0) == [2]


def test_a_lost_simulator_no_longer_counts_as_the_oldest():
    batcher: DynamicBatcher[int] = DynamicBatcher(FixedLimits(max_batch=None, max_wait=5))
    batcher.add(0, 0, asked_at=0)
    batcher.add(1, 1, asked_at=3)
    batcher.forget(0)
    assert batcher.deadline() == 8
    assert batcher.take(now=8, running=99) == [1]


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="max_batch=0 would make empty batches"):
        DynamicBatcher(FixedLimits(max_batch=0, max_wait=5))
