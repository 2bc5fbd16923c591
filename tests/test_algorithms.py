"""Advantages and losses against formulas written out again, in plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlvla3.algorithms.advantages import RunningStatistics, explained_variance, gae, grpo
from rlvla3.algorithms.losses import LossSums, entropy_sum, executed_actions, loss_sums, ppo_loss, ratios, value_loss

numbers = st.floats(-5, 5)
shares = st.floats(0, 1)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12), numbers, shares, shares)
def test_gae_is_the_discounted_sum_of_temporal_differences(decisions, bootstrap, gamma, lam):
    rewards, values = zip(*decisions, strict=True)
    following = [*values[1:], bootstrap]
    deltas = [reward + gamma * after - value for reward, value, after in zip(rewards, values, following, strict=True)]
    expected = [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))]

    advantages, returns = gae(rewards, values, bootstrap, gamma, lam)

    np.testing.assert_allclose(advantages, expected, atol=1e-10)
    np.testing.assert_allclose(returns, np.add(expected, values), atol=1e-10)


def test_gae_with_lambda_one_gives_the_discounted_return_whatever_the_critic_says():
    _, returns = gae([0.0, 0.0, 1.0], [9.0, -3.0, 5.0], 0.0, gamma=0.5, lam=1.0)
    np.testing.assert_allclose(returns, [0.25, 0.5, 1.0])


@given(st.lists(numbers, min_size=2, max_size=9))
def test_grpo_is_the_distance_from_the_group_in_deviations(returns):
    mean = sum(returns) / len(returns)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in returns) / len(returns))
    expected = [0.0 if len(set(returns)) == 1 else (value - mean) / (deviation + 1e-6) for value in returns]

    np.testing.assert_allclose(grpo(returns), expected, atol=1e-7)


def test_a_group_that_all_succeeded_says_exactly_nothing():
    assert (grpo([0.1 + 0.2] * 7) == 0).all()


def test_grpo_without_scale_only_subtracts_the_mean():
    np.testing.assert_allclose(grpo([1.0, 0.0, 0.0, 0.0], scale=False), [0.75, -0.25, -0.25, -0.25])


def test_explained_variance_is_one_for_a_perfect_critic_zero_for_a_constant_one_and_undefined_without_variation():
    assert explained_variance([1, 2, 3], [1, 2, 3]) == 1
    assert explained_variance([5, 5, 5], [1, 2, 3]) == 0
    assert math.isnan(explained_variance([1, 2, 3], [2, 2, 2]))


def test_running_statistics_fade_by_half_an_update():
    statistics = RunningStatistics(fading=0.5)
    statistics.absorb([8.0, 8.0])
    statistics.absorb([0.0, 2.0])
    # The older pair counts half: mean (0.5 * 16 + 2) / 3, second moment (0.5 * 128 + 4) / 3.
    assert statistics.mean == pytest.approx(10 / 3)
    assert statistics.deviation == pytest.approx(math.sqrt(68 / 3 - (10 / 3) ** 2))


@given(arrays(np.float64, st.integers(2, 30), elements=numbers))
def test_running_statistics_of_one_update_are_its_mean_and_deviation(values):
    statistics = RunningStatistics()
    statistics.absorb(values)
    np.testing.assert_allclose(statistics.normalise(values), (values - values.mean()) / (values.std() + 1e-6), atol=1e-4)


DECISIONS, CHUNK, ACTION = 6, 3, 2


def decisions_of(seed: int):
    """(new, old log-probs [B, C, A], executed counts [B], advantages [B]), with ratios on both sides of the clip."""
    rng = torch.Generator().manual_seed(seed)
    old = torch.randn(DECISIONS, CHUNK, ACTION, generator=rng, dtype=torch.float64)
    new = old + 0.3 * torch.randn(DECISIONS, CHUNK, ACTION, generator=rng, dtype=torch.float64)
    executed = torch.randint(1, CHUNK + 1, (DECISIONS,), generator=rng)
    return new, old, executed, torch.randn(DECISIONS, generator=rng, dtype=torch.float64)


def scalar_ratios(new, old, executed, level):
    """(log-ratio, weight) of every decision's terms, one number at a time."""
    for new_chunk, old_chunk, count in zip(new.tolist(), old.tolist(), executed.tolist(), strict=True):
        logs = [sum(new_chunk[c][a] - old_chunk[c][a] for a in range(ACTION)) for c in range(count)]
        yield [(sum(logs), 1.0)] if level == "chunk" else [(log, 1 / CHUNK) for log in logs]


def scalar_ppo(log, advantage, low, high, dual):
    ratio = math.exp(log)
    clipped = min(max(ratio, 1 - low), 1 + high)
    objective = min(ratio * advantage, clipped * advantage)
    return -(max(objective, dual * advantage) if dual is not None and advantage < 0 else objective)


@pytest.mark.parametrize("level", ["chunk", "action"])
@pytest.mark.parametrize("dual", [None, 1.5])
@pytest.mark.parametrize("seed", range(5))
def test_ppo_loss_is_the_clipped_surrogate_summed_over_decisions(level, dual, seed):
    new, old, executed, advantage = decisions_of(seed)
    terms = zip(scalar_ratios(new, old, executed, level), advantage.tolist(), strict=True)
    expected = sum(weight * scalar_ppo(log, of_decision, 0.1, 0.3, dual) for logs, of_decision in terms for log, weight in logs)

    loss = ppo_loss(ratios(new, old, executed_actions(executed, CHUNK), level), advantage, 0.1, 0.3, dual)

    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("level", ["chunk", "action"])
def test_what_was_not_executed_has_no_influence(level):
    new, old, executed, advantage = decisions_of(0)
    mask = executed_actions(executed, CHUNK)
    garbage = torch.where(mask[..., None], old, 1e6)
    expected, loss = (ppo_loss(ratios(new, behaviour, mask, level), advantage, 0.2, 0.2) for behaviour in (old, garbage))
    assert loss == expected


def test_gradient_stays_finite_where_a_ratio_overflows():
    new = torch.full((1, 1, 1), 1000.0, requires_grad=True)
    ppo_loss(ratios(new, torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool), "action"), torch.ones(1), 0.2, 0.2).backward()
    assert new.grad is not None and torch.isfinite(new.grad).all()


@pytest.mark.parametrize("clip", [None, 0.2])
def test_value_loss_is_the_worse_of_the_plain_and_the_clipped_error(clip):
    value, target, behaviour = (torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    expected = 0.0
    for v, t, b in zip(value.tolist(), target.tolist(), behaviour.tolist(), strict=True):
        near = v if clip is None else b + min(max(v - b, -clip), clip)
        expected += max((v - t) ** 2, (near - t) ** 2)
    assert value_loss(value, target, behaviour, clip).item() == pytest.approx(expected, rel=1e-12)


def test_entropy_counts_executed_actions_per_action_of_the_chunk():
    entropy = torch.arange(12.0).reshape(2, 3, 2)
    executed = executed_actions(torch.tensor([1, 3]), 3)
    assert entropy_sum(entropy, executed).item() == pytest.approx((0 + 1 + 6 + 7 + 8 + 9 + 10 + 11) / 3)


def sums_of(part, level) -> LossSums:
    new, old, executed, advantage = part
    formed = ratios(new, old, executed_actions(executed, CHUNK), level)
    return loss_sums(formed, ppo_loss(formed, advantage, 0.2, 0.2), torch.tensor(3.0), torch.tensor(1.0), 0.2, 0.2)


@pytest.mark.parametrize("level", ["chunk", "action"])
def test_metrics_are_those_of_brute_force(level):
    new, old, executed, advantage = decisions_of(3)
    logs = [log for terms in scalar_ratios(new, old, executed, level) for log, _ in terms]

    metrics = sums_of((new, old, executed, advantage), level).metrics()

    assert metrics["approx_kl"] == pytest.approx(sum(math.exp(log) - 1 - log for log in logs) / len(logs))
    assert metrics["clip_share"] == pytest.approx(sum(not 0.8 <= math.exp(log) <= 1.2 for log in logs) / len(logs))
    assert metrics["ratio_mean"] == pytest.approx(sum(map(math.exp, logs)) / len(logs))
    assert metrics["ratio_max"] == pytest.approx(math.exp(max(logs)))
    assert metrics["value_loss"] == pytest.approx(3 / DECISIONS)


@pytest.mark.parametrize("level", ["chunk", "action"])
@pytest.mark.parametrize("cut", range(1, DECISIONS))
def test_metrics_do_not_depend_on_the_cut(level, cut):
    whole = decisions_of(4)
    parts = sums_of([tensor[:cut] for tensor in whole], level) + sums_of([tensor[cut:] for tensor in whole], level)
    for name in ("policy_loss", "approx_kl", "clip_share", "ratio_mean", "ratio_max"):
        assert parts.metrics()[name] == pytest.approx(sums_of(whole, level).metrics()[name], rel=1e-12)
