"""Delays on purpose: their distributions, and what is refused."""

from __future__ import annotations

import math
import random
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvla3.config import Delay, DelayConfig, load_recipe, make_recipe
from rlvla3.config.loading import write_recipe
from rlvla3.errors import RecipeError

seconds = st.floats(0.001, 100)
delays = st.builds(
    lambda distribution, mean, least, most, share: Delay(
        distribution=distribution,
        mean_s=mean,
        least_s=0.0 if distribution == "constant" else least * mean,
        most_s=None if most is None else most * mean,
        sigma=1.0 if distribution == "lognormal" else 0.5,
        share=share,
    ),
    st.sampled_from(["constant", "uniform", "exponential", "lognormal"]),
    seconds,
    st.floats(0, 1),
    st.none() | st.floats(1, 5),
    st.floats(0.001, 1),
)


@given(delays, st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_a_larger_share_is_a_longer_delay_within_the_limits(delay: Delay, one: float, other: float):
    low, high = sorted((one, other))
    assert 0 <= delay.quantile(low) <= delay.quantile(high)
    assert delay.quantile(high) <= (math.inf if delay.most_s is None else delay.most_s)
    if high >= 1 - delay.share:
        assert delay.quantile(high) >= delay.least_s
    else:
        assert delay.quantile(high) == 0


@settings(max_examples=8)  # each one draws tens of thousands
@given(delays)
def test_the_mean_is_that_of_the_quantiles(delay: Delay):
    points = 20_001
    by_hand = fmean(delay.quantile((number + 0.5) / points) for number in range(points))
    assert delay.mean() == pytest.approx(by_hand, rel=0.06)  # a rare delay has few points
    assert delay.mean() <= delay.share * delay.mean_s * (1 + 1e-3)
    assert delay.quantile(0) <= delay.rare() <= (math.inf if delay.most_s is None else delay.most_s)


@pytest.mark.parametrize(
    ("delay", "mean", "deviation"),
    [
        (Delay(mean_s=2), 2, 0),
        (Delay(distribution="uniform", mean_s=2, least_s=1), 2, 2 / math.sqrt(12)),
        (Delay(distribution="exponential", mean_s=3, least_s=1), 3, 2),
        (Delay(distribution="lognormal", mean_s=2, sigma=0.5), 2, 2 * math.sqrt(math.exp(0.25) - 1)),
        (Delay(mean_s=2, share=0.25), 0.5, 2 * math.sqrt(0.25 * 0.75)),
    ],
)
def test_what_is_drawn_has_the_mean_and_the_deviation_of_its_distribution(delay: Delay, mean: float, deviation: float):
    draws = random.Random(1)
    drawn = [delay.quantile(draws.random()) for _ in range(20_000)]
    assert fmean(drawn) == pytest.approx(mean, rel=0.03)
    assert stdev(drawn) == pytest.approx(deviation, rel=0.05)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["uniform", "exponential"]), st.integers(1, 64), st.sampled_from([1.0, 0.3]), st.integers(0, 2**31))
def test_the_longest_of_several_delays_has_the_mean_and_the_rare_value_of_draws(distribution: Any, count: int, share: float, seed: int):
    delay, draws = Delay(distribution=distribution, mean_s=1.5, share=share), random.Random(seed)
    longest = [max(delay.quantile(draws.random()) for _ in range(count)) for _ in range(400)]
    assert delay.mean(count) == pytest.approx(fmean(longest), abs=5 * max(stdev(longest), 0.01) / math.sqrt(400))
    assert sum(one > delay.rare(count) for one in longest) <= 4  # one in 10,000
    assert delay.mean(count) <= delay.mean(count + 1) * (1 + 1e-3) and delay.rare(count) <= delay.rare(count + 1)


def test_exponential_delays_of_slots_grow_with_the_harmonic_numbers():
    """The mean of the longest of n exponential delays is the mean times 1 + 1/2 + ... + 1/n."""
    for count in (2, 16, 256):
        harmonic = sum(1 / number for number in range(1, count + 1))
        assert Delay(distribution="exponential", mean_s=1.5).mean(count) == pytest.approx(1.5 * harmonic, rel=1e-3)


def test_a_chunk_of_many_slots_waits_for_the_slowest_one_in_each_step():
    def simulator(slots: int) -> dict[str, Any]:
        delay = {"step": {"distribution": "exponential", "mean_s": 1.5}}
        return {"simulator": {"name": "maniskill", "tasks": ["PickCube-v1"], "shards": 1, "slots": slots, "devices": ["cuda:0"], "delay": delay}}

    policy = {"policy": {"name": "actor_critic", "chunk": 10}}
    assert make_recipe(simulator(1) | policy).simulator.slots == 1
    with pytest.raises(RecipeError, match=r"a chunk of 10 steps in 256 slots, which wait for the slowest one, take 105 s.*set timeout_s=210"):
        make_recipe(simulator(256) | policy)


@given(delays, st.integers(0, 2**31))
def test_nothing_that_can_be_drawn_is_infinite(delay: Delay, seed: int):
    for share in (0.0, 2**-53, 1 - 2**-53, random.Random(seed).random()):
        assert math.isfinite(delay.quantile(share))


def test_a_number_is_a_constant_delay(tmp_path):
    recipe = make_recipe({"simulator": {"delay": {"step": 0.05, "reset": 3}}})
    assert recipe.simulator.delay == DelayConfig(step=Delay(mean_s=0.05), reset=Delay(mean_s=3))
    write_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    shorter = load_recipe(tmp_path / "recipe.yaml", ["simulator.delay.step=0.01", "simulator.delay.reset.mean_s=0"])
    assert shorter.simulator.delay == DelayConfig(step=Delay(mean_s=0.01))
    assert make_recipe({}).simulator.delay.is_none and not recipe.simulator.delay.is_none


@pytest.mark.parametrize(
    ("delay", "message"),
    [
        (0.5, "simulator.delay: is a section.*simulator.delay.step"),
        ({"step": "fast"}, "simulator.delay.step: is a section"),
        ({"step": True}, "simulator.delay.step.mean_s: Input should be a number"),
        ({"step": -1}, "simulator.delay.step.mean_s: .*greater than or equal to 0"),
        ({"step": float("inf")}, "simulator.delay.step.mean_s"),
        ({"step": float("nan")}, "simulator.delay.step.mean_s"),
        ({"step": {"mean": 1}}, "simulator.delay.step.mean: unknown key, did you mean mean_s"),
        ({"step": {"distribution": "normal", "mean_s": 1}}, "'constant', 'uniform', 'exponential' or 'lognormal'"),
        ({"step": {"distribution": "exponential"}}, "distribution is set and mean_s is not"),
        ({"step": {"distribution": "uniform", "mean_s": 1, "least_s": 2}}, "least_s=2 is more than mean_s=1"),
        ({"step": {"distribution": "uniform", "mean_s": 2, "least_s": 1, "most_s": 0.5}}, "most_s=0.5 is less than least_s=1"),
        ({"step": {"distribution": "uniform", "mean_s": 1, "sigma": 1}}, "sigma=1 says nothing of a uniform delay"),
        ({"step": {"mean_s": 1, "least_s": 0.5}}, "least_s=0.5 says nothing of a constant delay"),
        ({"step": {"distribution": "lognormal", "mean_s": 1, "sigma": 0}}, "sigma"),
        ({"step": {"mean_s": 1, "share": 0}}, "share"),
        ({"step": {"mean_s": 1, "share": 1.5}}, "share"),
        ({"reset": 60}, "delay may make a reset take 60 s, and a shard counts as hung after timeout_s=60: set timeout_s=120"),
        ({"step": 12}, "delay may make a chunk of 5 steps take 60 s"),
        ({"shard": {"distribution": "exponential", "mean_s": 11}}, "delay may make a chunk of 5 steps take"),
        ({"reset": {"distribution": "lognormal", "mean_s": 10, "sigma": 1}}, "make the delays smaller, for example with most_s"),
        ({"reset": {"mean_s": 100, "share": 1e-6}}, "delay may make a reset take 100 s"),
        ({"reset": 1e6}, "after timeout_s=60: make the delays smaller"),
    ],
)
@pytest.mark.parametrize("mixed", [False, True])
def test_what_cannot_be_is_refused(delay, message: str, mixed: bool):
    simulator = {"name": "metaworld", "delay": delay}
    tree = {"simulators": {"one": simulator}} if mixed else {"simulator": simulator}
    with pytest.raises(RecipeError, match=message.replace("simulator.delay", "simulators.one.delay") if mixed else message):
        make_recipe(tree | {"policy": {"chunk": 5}})


def test_long_delays_are_accepted_where_the_limit_is_longer():
    recipe = make_recipe({"simulator": {"delay": {"reset": {"distribution": "lognormal", "mean_s": 10, "sigma": 1, "most_s": 50}}}})
    assert recipe.simulator.delay.reset.rare() == 50
    assert make_recipe({"simulator": {"timeout_s": 100, "delay": {"reset": 60}}}).simulator.delay.reset.mean_s == 60


@given(st.integers(1, 300), st.floats(0.001, 1), st.integers(0, 2**63 - 1))
def test_the_share_of_shards_that_are_slow_is_met_as_well_as_it_can_be(count: int, share: float, seed: int):
    drawn = DelayConfig(shard=Delay(mean_s=2, share=share), seed=seed).of_shards(count)
    assert len(drawn) == count and set(drawn) <= {0.0, 2.0}
    assert abs(drawn.count(2.0) - share * count) <= 0.5 + 1e-6


def test_the_shards_have_the_distribution_in_an_order_that_the_seed_decides():
    delay = DelayConfig(shard=Delay(distribution="exponential", mean_s=1))
    drawn = delay.of_shards(500)
    assert len(set(drawn)) == 500 and fmean(drawn) == pytest.approx(1, rel=0.02)
    assert drawn == delay.of_shards(500) != sorted(drawn)
    other = delay.model_copy(update={"seed": 1}).of_shards(500)
    assert other != drawn and sorted(other) == sorted(drawn)
