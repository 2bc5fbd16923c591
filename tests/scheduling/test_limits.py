"""Limits that a generator learns: the model of its queue against the batcher itself, and what is chosen where the best choice is known."""

from __future__ import annotations

import heapq
import math
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvla3.scheduling.batcher import DynamicBatcher
from rlvla3.scheduling.inference_cost import CostCurve, InferenceCost
from rlvla3.scheduling.limits import AT_ONCE, FixedLimits, LearnedLimits
from rlvla3.scheduling.queue_model import Limits, Prediction, predict
from rlvla3.scheduling.shared_device import SharedDevice


def play(limits: FixedLimits, cost: InferenceCost, thinking: list[float], shards: int, rounds: int, seed: int = 1) -> tuple[DynamicBatcher[int], float]:
    """Shards that think and ask, a generator that infers, and the batcher between them. Returns the batcher and the decisions per second of the second half."""
    random = Random(seed)
    batcher: DynamicBatcher[int] = DynamicBatcher(limits)
    asks = [(random.random() * (cost.of(shards) + random.choice(thinking)), shard) for shard in range(shards)]
    heapq.heapify(asks)
    now, answered, half, batch = 0.0, 0, (0.0, 0), [0]
    while answered < rounds * shards:
        if not batch:
            now = max(now, min(batcher.deadline(), asks[0][0]))
        while asks and asks[0][0] <= now:
            at, shard = heapq.heappop(asks)
            batcher.add(shard, shard, at)
        batch = batcher.take(now, running=shards)
        if batch:
            now += cost.of(len(batch))
            batcher.answered(now)
            answered += len(batch)
            for shard in batch:
                heapq.heappush(asks, (now + random.choice(thinking), shard))
            if not half[1] and answered >= rounds * shards / 2:
                half = (now, answered)
    return batcher, (answered - half[1]) / (now - half[0])


costs = st.builds(InferenceCost, st.floats(0.001, 0.2), st.floats(0, 0.005))
thoughts = st.lists(st.floats(0.005, 1.0), min_size=2, max_size=8, unique=True)
any_limits = st.builds(Limits, st.sampled_from([1, 3, 8, math.inf]), st.sampled_from([0.0, 0.01, 0.1, math.inf]))


@given(any_limits, costs, thoughts, st.integers(1, 24))
@settings(max_examples=60)
def test_the_model_predicts_what_the_batcher_does(limits: Limits, cost: InferenceCost, thinking: list[float], shards: int):
    fixed = FixedLimits(None if limits.max_batch == math.inf else int(limits.max_batch), limits.max_wait)
    rates = [play(fixed, cost, thinking, shards, rounds=60, seed=seed)[1] for seed in range(8)]  # shards that have met may stay together: starts differ
    assert 0.75 * min(rates) <= predict(limits, cost, thinking, shards).rate <= 1.25 * max(rates)


def test_shards_that_ask_for_several_decisions_fill_a_batch_sooner():
    cost = InferenceCost(0.1, 0.0)
    assert predict(Limits(8, math.inf), cost, [0.01], shards=8, slots=4).batch == 8
    assert predict(Limits(math.inf, math.inf), cost, [0.01], shards=8, slots=4).batch == 32


@given(st.lists(st.tuples(st.integers(1, 64), st.just(0.0)), min_size=30, max_size=60), costs)
def test_the_cost_of_inference_is_found_exactly_where_it_is_a_line(sizes: list[tuple[int, float]], cost: InferenceCost):
    curve = CostCurve()
    for size, _ in sizes:
        curve.add(size, cost.of(size))
    found = curve.line()
    assert found.of(sizes[-1][0]) == pytest.approx(cost.of(sizes[-1][0]), rel=0.1)
    assert found.fixed >= 0 and found.each >= 0


def test_the_cost_follows_another_policy():
    curve = CostCurve()
    for cost in (InferenceCost(0.01, 0.001), InferenceCost(0.1, 0.002)):
        for number in range(1000):
            size = 1 + number % 16
            curve.add(size, cost.of(size))
        assert curve.line() == pytest.approx(cost, rel=0.05)


def test_the_cost_follows_a_neighbour_on_the_device_within_moments():
    curve, cost = CostCurve(), InferenceCost(0.01, 0.001)
    for slower in (1, 3):
        for number in range(60):
            curve.add(1 + number % 16, slower * cost.of(1 + number % 16))
    assert curve.line() == pytest.approx((0.03, 0.003), rel=0.25)


def test_inferences_of_one_size_keep_the_shape_that_was_seen():
    curve, cost = CostCurve(), InferenceCost(0.1, 0.01)
    for size in (1, 10) * 10 + (10,) * 200:
        curve.add(size, 2 * cost.of(size))
    assert curve.line() == pytest.approx((0.2, 0.02), rel=0.01)


def learned(cost: InferenceCost, thinking: list[float], shards: int, max_wait: float = math.inf) -> LearnedLimits:
    limits = LearnedLimits(max_wait)
    play(limits, cost, thinking, shards, rounds=40)
    return limits


def test_slow_inference_and_quick_simulators_wait_for_each_other():
    """Two groups that take turns would each wait for the inference of the other."""
    limits = learned(InferenceCost(0.2, 0.0), [0.004, 0.005, 0.006], shards=16)
    assert limits.present.max_batch == math.inf and limits.present.max_wait > 0.005
    _, together = play(FixedLimits(None, limits.present.max_wait), InferenceCost(0.2, 0.0), [0.004, 0.005, 0.006], 16, 40)
    _, at_once = play(FixedLimits(None, 0.0), InferenceCost(0.2, 0.0), [0.004, 0.005, 0.006], 16, 40)
    assert together > 1.5 * at_once


def test_quick_inference_waits_for_nobody():
    assert learned(InferenceCost(0.0005, 0.0), [0.01, 0.1, 1.0], shards=32).present == AT_ONCE


def test_a_wait_is_never_longer_than_t_max():
    assert learned(InferenceCost(0.2, 0.0), [0.01, 0.05], shards=16, max_wait=0.02).present.max_wait <= 0.02


def test_a_wait_ends_though_a_simulator_hangs():
    limits = learned(InferenceCost(0.2, 0.0), [0.005], shards=16)
    assert limits.present.max_wait < math.inf


def test_shards_that_take_turns_fall_into_step():
    """A group that waits less than the inference of the other and its thinking would never meet it."""
    cost, thinking = InferenceCost(0.2, 0.0), [0.005]
    limits = learned(cost, thinking, shards=8)
    assert limits.present.max_wait > 0.205
    _, rate = play(FixedLimits(None, limits.present.max_wait), cost, thinking, shards=8, rounds=40)
    assert rate == pytest.approx(8 / 0.205, rel=0.02)


def test_limits_of_a_few_shards_are_forgotten_when_many_run():
    cost = InferenceCost(0.05, 0.005)
    limits = learned(cost, [0.05], shards=8)
    limits.present = Limits(4, 0.0)
    limits.asked(0, 100.0, running=9)
    assert limits.present == Limits(4, 0.0)
    limits.asked(0, 100.0, running=20)
    assert limits.present == AT_ONCE


def test_a_neighbour_on_the_device_is_no_growth():
    """All inferences are of 8, but for a few of 16 while the neighbour was away. That says little of the growth, and soon nothing."""
    curve, cost = CostCurve(), InferenceCost(0.25, 0.07)
    for number in range(400):
        slower, size = (1.0, 16) if number % 50 == 0 else (1 + number // 20 % 2, 8)
        curve.add(size, slower * cost.of(size))
    assert curve.line().of(16) > 1.05 * curve.line().of(8)


def test_limits_are_chosen_once_where_an_inference_of_any_size_costs_the_same(monkeypatch: pytest.MonkeyPatch):
    """The slope is then 0 but for rounding, and a rounding that changes is no other cost."""
    tried: list[Limits] = []

    def count(limits: Limits, *measured: Any) -> Prediction:
        tried.append(limits)
        return predict(limits, *measured)

    monkeypatch.setattr("rlvla3.scheduling.limits.predict", count)
    learned(InferenceCost(0.03, 0.0), [Random(number).uniform(0.03, 0.07) for number in range(50)], shards=32)
    assert 1 <= tried.count(AT_ONCE) <= 2


def test_the_same_requests_at_the_same_times_give_the_same_limits():
    drawn = [Random(5).lognormvariate(-3, 1) for _ in range(50)]
    first, second = (learned(InferenceCost(0.05, 0.001), drawn, shards=24) for _ in range(2))
    assert first.choice == second.choice is not None


def test_a_first_request_is_no_thinking_time():
    limits = LearnedLimits(math.inf)
    batcher: DynamicBatcher[int] = DynamicBatcher(limits)
    for number in range(100):
        now = 1000.0 * number
        batcher.add(0, 0, now, first=True)
        assert batcher.take(now, running=1) == [0]
        batcher.answered(now + 1)
    assert limits.choice is None


def test_training_on_the_same_device_makes_batches_larger_only_where_it_is_the_bottleneck():
    cost, small, large = InferenceCost(0.01, 0.0), Prediction(1000, 10), Prediction(900, 100)

    def prefers_large(busy: float) -> bool:
        used = [0.0]
        device = SharedDevice(lambda: used[0])
        for second in range(1, 20):
            used[0] = busy * second
            device.add(float(second), inferring=0.5, decisions=1000)
        return device.seconds_each(large, cost) < device.seconds_each(small, cost)

    assert not prefers_large(0.3)
    assert prefers_large(1.0)


def test_what_was_before_the_first_look_is_no_idle_time_of_training():
    """The clock of a real run does not begin at 0, but when the machine was started."""
    used = [0.0]
    device = SharedDevice(lambda: used[0])
    for second in range(3):
        used[0] = float(second)
        device.add(1e6 + second, inferring=0.1, decisions=10)
    assert device.training_share == pytest.approx(1)


def test_without_training_on_the_device_only_the_queue_counts():
    device = SharedDevice(None)
    device.add(1.0, 0.5, 100)
    assert device.seconds_each(Prediction(100, 4), InferenceCost(1.0, 0.0)) == pytest.approx(0.01)


@pytest.mark.parametrize("shards", [1, 2000, 5000])
@pytest.mark.parametrize(("seconds", "thinking"), [(0.0, 0.0), (1e-17, 1e-17), (0.01, 0.02)])
def test_any_number_of_shards_and_times_of_nothing_have_a_prediction(shards: int, seconds: float, thinking: float) -> None:
    found = predict(Limits(math.inf, math.inf), InferenceCost(seconds, seconds), [thinking], shards)
    assert math.isfinite(found.rate) and found.rate > 0 and 1 <= found.batch <= shards
