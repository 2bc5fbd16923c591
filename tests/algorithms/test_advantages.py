"""Advantages against formulas written out again, in plain loops, and against torchrl's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torchrl.objectives.value.functional import generalized_advantage_estimate, vtrace_advantage_estimate

from rlvla3.algorithms.advantages import Floats, RunningStatistics, decision_rewards, explained_variance, gae, grpo, returns_to_go, vtrace

numbers = st.floats(-5, 5)
shares = st.floats(0, 1)
caps = st.floats(0.1, 3)

decisions = st.lists(st.tuples(numbers, numbers, shares, st.floats(0, 4)), min_size=1, max_size=12)
"""(reward, value, discount, ratio) of each decision of an episode."""

chunks = st.lists(st.lists(numbers, min_size=1, max_size=4), min_size=1, max_size=6)
"""The rewards of the environment steps that were executed, by decision."""

groups = st.lists(st.lists(numbers, min_size=1, max_size=6), min_size=2, max_size=5)
"""The rewards of each episode of a group, ragged."""


def padded(executed_rewards, chunk=4, fill=math.nan) -> tuple[Floats, NDArray[np.int16]]:
    """(rewards [T, chunk], executed [T]). What was not executed holds `fill`."""
    rewards = [[*rewards, *[fill] * (chunk - len(rewards))] for rewards in executed_rewards]
    return np.array(rewards), np.array([len(rewards) for rewards in executed_rewards], np.int16)


def columns(*sequences):
    """torchrl's shape, [T, 1]."""
    return [torch.tensor(sequence, dtype=torch.float64)[:, None] for sequence in sequences]


def ends(count, terminated):
    """torchrl's `done` and `terminated`, [T, 1], of one whole episode."""
    done = torch.zeros(count, 1, dtype=torch.bool)
    done[-1] = True
    return {"done": done, "terminated": done & terminated}


@given(chunks, shares)
def test_the_reward_of_a_chunk_is_its_sum_and_gamma_counts_chunks(executed_rewards, gamma):
    rewards, discounts = decision_rewards(*padded(executed_rewards), gamma, "chunk")
    np.testing.assert_allclose(rewards, [sum(of_chunk) for of_chunk in executed_rewards], atol=1e-12)
    assert discounts.tolist() == [gamma] * len(executed_rewards)


@given(chunks, shares)
def test_by_step_a_chunk_is_discounted_within_and_what_follows_by_its_length(executed_rewards, gamma):
    rewards, discounts = decision_rewards(*padded(executed_rewards), gamma, "step")
    expected = [sum(gamma**k * reward for k, reward in enumerate(of_chunk)) for of_chunk in executed_rewards]
    np.testing.assert_allclose(rewards, expected, atol=1e-12)
    np.testing.assert_allclose(discounts, [gamma ** len(of_chunk) for of_chunk in executed_rewards], rtol=1e-12)


@given(chunks, numbers, shares, numbers)
def test_by_step_an_episode_is_worth_the_same_however_it_is_cut_into_chunks(executed_rewards, value, gamma, bootstrap):
    """With lambda 1, whatever the critic says: the return of every decision is that of its first environment step."""
    rewards, discounts = decision_rewards(*padded(executed_rewards), gamma, "step")
    _, returns = gae(rewards, np.full(len(rewards), value), bootstrap, discounts, lam=1.0)
    for t in range(len(executed_rewards)):
        steps = [reward for of_chunk in executed_rewards[t:] for reward in of_chunk]
        expected = sum(gamma**k * reward for k, reward in enumerate(steps)) + gamma ** len(steps) * bootstrap
        assert returns[t] == pytest.approx(expected, abs=1e-10)


@given(decisions)
def test_returns_to_go_are_discounted_by_all_decisions_between(episode):
    rewards, _, discounts, _ = zip(*episode, strict=True)
    expected = [sum(math.prod(discounts[t:k]) * rewards[k] for k in range(t, len(rewards))) for t in range(len(rewards))]
    np.testing.assert_allclose(returns_to_go(rewards, discounts), expected, atol=1e-10)


@given(decisions, numbers, shares)
def test_gae_is_the_discounted_sum_of_temporal_differences(episode, bootstrap, lam):
    rewards, values, discounts, _ = zip(*episode, strict=True)
    following = [*values[1:], bootstrap]
    deltas = [reward + gamma * after - value for reward, gamma, value, after in zip(rewards, discounts, values, following, strict=True)]
    expected = [sum(math.prod(gamma * lam for gamma in discounts[t:k]) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))]

    advantages, returns = gae(rewards, values, bootstrap, discounts, lam)

    np.testing.assert_allclose(advantages, expected, atol=1e-10)
    np.testing.assert_allclose(returns, np.add(expected, values), atol=1e-10)


@given(decisions, numbers, shares, st.none() | shares, st.booleans())
def test_gae_agrees_with_torchrl(episode, bootstrap, lam, gamma, terminated):
    """gamma: one for all decisions, or each its own (None). torchrl always has it as a tensor: it would round a plain number to float32."""
    rewards, values, discounts, _ = zip(*episode, strict=True)
    of_decisions = discounts if gamma is None else [gamma] * len(episode)
    value, after, reward, discount = columns(values, [*values[1:], bootstrap], rewards, of_decisions)
    theirs = generalized_advantage_estimate(discount, lam, value, after, reward, **ends(len(episode), terminated))

    ours = gae(rewards, values, 0.0 if terminated else bootstrap, discounts if gamma is None else gamma, lam)

    np.testing.assert_allclose(ours, torch.stack(theirs)[..., 0], rtol=0, atol=1e-10)


def test_gae_with_lambda_one_gives_the_discounted_return_whatever_the_critic_says():
    _, returns = gae([0.0, 0.0, 1.0], [9.0, -3.0, 5.0], 0.0, gamma=0.5, lam=1.0)
    np.testing.assert_allclose(returns, [0.25, 0.5, 1.0])


@given(decisions, numbers, shares, st.none() | caps, caps)
def test_vtrace_is_the_sum_of_its_definition(episode, bootstrap, lam, rho_cap, trace_cap):
    rewards, values, discounts, ratios = zip(*episode, strict=True)
    count, following = len(episode), [*values[1:], bootstrap]
    rho = [ratio if rho_cap is None else min(rho_cap, ratio) for ratio in ratios]
    deltas = [rho[t] * (rewards[t] + discounts[t] * following[t] - values[t]) for t in range(count)]
    steps = [discount * lam * min(trace_cap, ratio) for discount, ratio in zip(discounts, ratios, strict=True)]
    expected = [values[s] + sum(math.prod(steps[s:t]) * deltas[t] for t in range(s, count)) for s in range(count)]

    advantages, targets = vtrace(rewards, values, bootstrap, ratios, discounts, lam, rho_cap, trace_cap)

    np.testing.assert_allclose(targets, expected, rtol=1e-10, atol=1e-10)
    for t, after in enumerate([*expected[1:], bootstrap]):
        assert advantages[t] == pytest.approx(rewards[t] + discounts[t] * after - values[t], rel=1e-10, abs=1e-10)


@given(decisions, numbers, caps, caps, st.booleans())
def test_vtrace_agrees_with_torchrl(episode, bootstrap, rho_cap, trace_cap, terminated):
    """torchrl has no lambda, and its advantages are multiplied by rho already."""
    rewards, values, discounts, ratios = zip(*[(*others, 0.01 + ratio) for *others, ratio in episode], strict=True)
    value, after, reward, discount, ratio = columns(values, [*values[1:], bootstrap], rewards, discounts, ratios)
    limits = {"rho_thresh": torch.tensor(rho_cap, dtype=torch.float64), "c_thresh": torch.tensor(trace_cap, dtype=torch.float64)}
    weighed, expected = vtrace_advantage_estimate(discount, ratio.log(), ratio.log() * 0, value, after, reward, **ends(len(episode), terminated), **limits)

    advantages, targets = vtrace(rewards, values, 0.0 if terminated else bootstrap, ratios, discounts, 1.0, rho_cap, trace_cap)

    np.testing.assert_allclose(targets, expected[:, 0], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(np.minimum(ratios, rho_cap) * advantages, weighed[:, 0], rtol=1e-10, atol=1e-10)


@given(decisions, numbers, shares)
def test_on_policy_the_targets_of_vtrace_are_the_returns_of_gae(episode, bootstrap, lam):
    rewards, values, discounts, _ = zip(*episode, strict=True)
    _, targets = vtrace(rewards, values, bootstrap, np.ones(len(episode)), discounts, lam, 1.0, 1.0)
    _, returns = gae(rewards, values, bootstrap, discounts, lam)
    np.testing.assert_allclose(targets, returns, rtol=0, atol=1e-12)


@given(decisions, numbers)
def test_on_policy_with_lambda_one_the_advantages_of_vtrace_are_those_of_gae(episode, bootstrap):
    rewards, values, discounts, _ = zip(*episode, strict=True)
    corrected, _ = vtrace(rewards, values, bootstrap, np.ones(len(episode)), discounts, 1.0, 1.0, 1.0)
    advantages, _ = gae(rewards, values, bootstrap, discounts, 1.0)
    np.testing.assert_allclose(corrected, advantages, rtol=0, atol=1e-10)


@given(groups, st.booleans(), st.booleans())
def test_grpo_sums_the_normalised_rewards_from_each_on(rewards, scale, leave_one_out):
    """Process supervision; where every episode has a single reward, outcome supervision."""
    everything = [reward for episode in rewards for reward in episode]
    mean = sum(everything) / len(everything)
    deviation = math.sqrt(sum((reward - mean) ** 2 for reward in everything) / len(everything)) + 1e-6 if scale else 1.0

    advantages = grpo(rewards, scale=scale, leave_one_out=leave_one_out)

    for i, episode in enumerate(rewards):
        others = [reward for j, other in enumerate(rewards) for reward in other if j != i]
        baseline = sum(others) / len(others) if leave_one_out else mean
        normalised = [0.0 if len(set(everything)) == 1 else (reward - baseline) / deviation for reward in episode]
        np.testing.assert_allclose(advantages[i], [sum(normalised[k:]) for k in range(len(episode))], atol=1e-7)


@given(st.lists(numbers, min_size=2, max_size=9))
def test_rloo_is_the_distance_from_the_mean_of_the_others(returns):
    advantages = grpo([[return_] for return_ in returns], scale=False, leave_one_out=True)
    centred = np.array(returns) - sum(returns) / len(returns)
    np.testing.assert_allclose(np.concatenate(advantages), centred * len(returns) / (len(returns) - 1), atol=1e-12)


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("lengths", [[1] * 7, [3, 1, 2]])
def test_a_group_whose_rewards_are_all_equal_says_exactly_nothing(lengths, scale, leave_one_out):
    advantages = grpo([[0.1 + 0.2] * length for length in lengths], scale=scale, leave_one_out=leave_one_out)
    assert [advantage.tolist() for advantage in advantages] == [[0.0] * length for length in lengths]


def test_grpo_without_scale_only_subtracts_the_mean():
    np.testing.assert_allclose(grpo([[1.0], [0.0], [0.0], [0.0]], scale=False), [[0.75], [-0.25], [-0.25], [-0.25]])


def test_explained_variance_is_one_for_a_perfect_critic_zero_for_a_constant_one_and_undefined_without_variation():
    assert explained_variance([1, 2, 3], [1, 2, 3]) == 1
    assert explained_variance([5, 5, 5], [1, 2, 3]) == 0
    assert math.isnan(explained_variance([1, 2, 3], [2, 2, 2]))


def test_running_statistics_fade_by_half_an_update():
    statistics = RunningStatistics(decay=0.5)
    statistics.add_update([8.0, 8.0])
    statistics.add_update([0.0, 2.0])
    # The older pair counts half: mean (0.5 * 16 + 2) / 3, second moment (0.5 * 128 + 4) / 3.
    assert statistics.mean == pytest.approx(10 / 3)
    assert statistics.deviation == pytest.approx(math.sqrt(68 / 3 - (10 / 3) ** 2))


@given(arrays(np.float64, st.integers(2, 30), elements=numbers))
def test_running_statistics_of_one_update_are_its_mean_and_deviation(values):
    statistics = RunningStatistics()
    statistics.add_update(values)
    np.testing.assert_allclose(statistics.normalise(values), (values - values.mean()) / (values.std() + 1e-6), atol=1e-4)


def test_running_statistics_go_on_where_they_were_saved():
    statistics, restored = RunningStatistics(), RunningStatistics()
    statistics.add_update([1.0, 2.0, 4.0])
    restored.load_state_dict(statistics.state_dict())
    for each in (statistics, restored):
        each.add_update([0.5, -3.0])
    assert restored.has_values
    assert restored.state_dict() == statistics.state_dict()
