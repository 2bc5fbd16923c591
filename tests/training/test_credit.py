"""What the decisions of an update earned, against loops over the record."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.algorithms.advantages import vtrace
from rlvla3.training.credit import Credit
from rlvla3.types import Ticket
from tests.support.tiny import CHUNK, MOST_DECISIONS, TinyPolicy, pairs, tiny_recipe, tiny_rollouts, write_episode

UPDATE = range(4, 8)
"""Tickets of update 1: what is addressed by ticket and what by its place in the update differ."""

SHAPES = [{"decisions": 1, "last": 1}, {"decisions": 4, "last": 2}, {"decisions": 3, "last": 1}, {"decisions": 2, "last": 2}]
"""Ragged episodes, the last chunk executed in part or as a whole."""

GROUPS = {"group_size": 2, "normalise": "none"}

shapes = st.fixed_dictionaries(
    {"decisions": st.integers(1, MOST_DECISIONS), "last": st.integers(1, CHUNK), "terminated": st.booleans(), "reward": st.sampled_from([None, 0.0, 1.0])}
)
updates = st.lists(shapes, min_size=4, max_size=4)
units = st.sampled_from(["chunk", "step"])


def written(episodes=SHAPES):
    rollouts = tiny_rollouts()
    for ticket, shape in zip(UPDATE, episodes, strict=True):
        write_episode(rollouts, TinyPolicy(), ticket, **shape)
    return rollouts


def credit_of(rollouts, importance=None, **algorithm) -> Credit:
    recipe = tiny_recipe(algorithm={"advantage_clip": 1e9, **algorithm}, training={"steps": 1})
    credit = Credit(recipe.algorithm, rollouts, importance)
    credit.begin(UPDATE)
    return credit


def found(credit):
    """(advantages, targets) of every decision, in ticket order."""
    return credit.compute(*np.array(pairs(credit.rollouts, UPDATE)).T)


def executed_rewards(rollouts, ticket) -> list[list[float]]:
    """The rewards of the environment steps that were executed, by decision."""
    rewards, executed = rollouts.episode(ticket, "rewards").tolist(), rollouts.episode(ticket, "executed").tolist()
    return [of_chunk[:count] for of_chunk, count in zip(rewards, executed, strict=True)]


def decision_rewards(rollouts, ticket, gamma, unit) -> list[tuple[float, float]]:
    """(reward, discount of what follows) of each decision."""
    chunks = executed_rewards(rollouts, ticket)
    if unit == "chunk":
        return [(sum(chunk), gamma) for chunk in chunks]
    return [(sum(gamma**k * reward for k, reward in enumerate(chunk)), gamma ** len(chunk)) for chunk in chunks]


@given(updates, units, st.booleans())
def test_gae_in_chunks_and_in_steps(episodes, unit, bootstrap):
    """Also that truncated is not terminated: what a time limit cut off has a value, unless the recipe says no."""
    rollouts = written(episodes)
    advantages, targets = [], []
    for ticket, shape in zip(UPDATE, episodes, strict=True):
        values = rollouts.rows(ticket, "value").tolist()[: shape["decisions"] + 1]
        if shape["terminated"] or not bootstrap:
            values[-1] = 0.0
        of_episode: list[float] = []
        for t, (reward, discount) in reversed(list(enumerate(decision_rewards(rollouts, ticket, 0.9, unit)))):
            after = of_episode[0] if of_episode else 0.0
            of_episode.insert(0, reward + discount * values[t + 1] - values[t] + discount * 0.8 * after)
        advantages += of_episode
        targets += [advantage + value for advantage, value in zip(of_episode, values, strict=False)]

    given = found(credit_of(rollouts, normalise="none", rewards=unit, gamma=0.9, lam=0.8, bootstrap=bootstrap))

    np.testing.assert_allclose(given, [advantages, targets], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("terminated", "bootstrap", "continues"), [(False, True, 1.0), (True, True, 0.0), (False, False, 0.0)])
def test_what_a_time_limit_cut_off_is_discounted_by_the_steps_that_led_there(terminated, bootstrap, continues):
    rollouts = written([{"decisions": 2, "last": 1, "terminated": terminated, "reward": 0.5}] * 4)
    _, targets = credit_of(rollouts, rewards="step", gamma=0.9, lam=1.0, bootstrap=bootstrap).compute(np.array([4, 4]), np.array([0, 1]))
    after = continues * float(rollouts.rows(4, "value")[2])
    np.testing.assert_allclose(targets, [0.9**2 * (0.5 + 0.9 * after), 0.5 + 0.9 * after], rtol=1e-12)


@given(updates, units)
def test_vtrace_on_policy_targets_what_gae_does(episodes, unit):
    rollouts, settings = written(episodes), {"rewards": unit, "gamma": 0.9, "lam": 0.8, "normalise": "none"}
    _, targets = found(credit_of(rollouts, lambda ticket: np.ones(rollouts.decisions(ticket)), correction="vtrace", **settings))
    _, returns = found(credit_of(rollouts, **settings))
    np.testing.assert_allclose(targets, returns, rtol=0, atol=1e-12)


@pytest.mark.parametrize("unit", ["chunk", "step"])
@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("cap", [None, 0.9])
def test_vtrace_has_its_ratios_asked_once_an_episode_and_its_caps_from_the_recipe(unit, terminated, cap):
    rollouts, asked = written([shape | {"terminated": terminated} for shape in SHAPES]), Counter[int]()

    def importance(ticket):
        asked[ticket] += 1
        return np.linspace(0.5, 1.5, rollouts.decisions(ticket)) + ticket / 10

    correction = {"name": "vtrace", "cap": cap, "trace_cap": 1.2}
    credit = credit_of(rollouts, importance, correction=correction, rewards=unit, gamma=0.9, lam=0.8, normalise="none")
    for _ in range(2):
        advantages, targets = found(credit)

    assert asked == dict.fromkeys(UPDATE, 1)
    expected = []
    for ticket in UPDATE:
        rewards, discounts = zip(*decision_rewards(rollouts, ticket, 0.9, unit), strict=True)
        *values, after = rollouts.rows(ticket, "value").tolist()[: len(rewards) + 1]
        ratios = np.linspace(0.5, 1.5, len(rewards)) + ticket / 10
        expected += list(zip(*vtrace(rewards, values, 0.0 if terminated else after, ratios, discounts, 0.8, cap, 1.2), strict=True))
    np.testing.assert_allclose(list(zip(advantages, targets, strict=True)), expected, rtol=0, atol=1e-12)


def test_explained_variance_is_that_of_the_recorded_values():
    rollouts = written()
    for correction in ("none", "vtrace"):
        credit = credit_of(rollouts, lambda ticket: np.full(rollouts.decisions(ticket), 0.3), correction=correction)
        _, targets = found(credit)
        values = np.concatenate([rollouts.episode(ticket, "value") for ticket in UPDATE])
        expected = 1 - np.var(targets - values) / np.var(targets)
        assert credit.finish()["explained_variance"] == pytest.approx(expected, rel=1e-9)


@given(updates, units)
def test_reinforce_credits_the_discounted_return_to_go_and_ends_where_the_episode_does(episodes, unit):
    rollouts = written(episodes)
    expected = []
    for ticket in UPDATE:
        rewards = decision_rewards(rollouts, ticket, 0.9, unit)
        for t in range(len(rewards)):
            expected.append(sum(math.prod(discount for _, discount in rewards[t:k]) * rewards[k][0] for k in range(t, len(rewards))))

    advantages, targets = found(credit_of(rollouts, advantage="reinforce++", rewards=unit, gamma=0.9, normalise="none"))

    np.testing.assert_allclose(advantages, expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(targets, advantages)


def test_reinforce_is_normalised_by_the_updates_before():
    credit = credit_of(written(), advantage="reinforce++")
    ready = [credit.ready]
    raw, _ = found(credit)
    credit.finish()
    credit.begin(UPDATE)
    ready.append(credit.ready)
    assert ready == [False, True]
    np.testing.assert_allclose(found(credit)[0], (raw - raw.mean()) / (raw.std() + 1e-6), rtol=1e-9)


@given(updates, st.sampled_from(["grpo", "rloo"]), st.sampled_from(["group", "none"]), st.booleans())
def test_outcomes_are_compared_within_the_group(episodes, name, normalise, leave_one_out):
    settings = {"normalise": normalise, "leave_one_out": leave_one_out} if name == "grpo" else {}
    alone, scaled = leave_one_out or name == "rloo", normalise == "group" and name == "grpo"
    rollouts = written(episodes)
    expected = []
    for group in (range(4, 6), range(6, 8)):
        returns = {ticket: sum(map(sum, executed_rewards(rollouts, ticket))) for ticket in group}
        mean = sum(returns.values()) / 2
        deviation = math.sqrt(sum((return_ - mean) ** 2 for return_ in returns.values()) / 2) + 1e-6
        for ticket in group:
            others = [return_ for other, return_ in returns.items() if other != ticket]
            advantage = (returns[ticket] - (sum(others) / len(others) if alone else mean)) / (deviation if scaled else 1.0)
            expected += [advantage] * rollouts.decisions(ticket)

    advantages, _ = found(credit_of(rollouts, advantage=name, group_size=2, **settings))

    np.testing.assert_allclose(advantages, expected, rtol=0, atol=1e-9)


@given(updates, st.sets(st.sampled_from(UPDATE)), st.sampled_from(["outcome", "process"]), st.sampled_from(["group", "none"]), st.booleans())
def test_a_group_is_compared_without_the_tickets_that_were_set_aside(episodes, aside, supervision, normalise, leave_one_out):
    """As if the group had only the others. An episode that is left alone has nothing to be compared with."""
    rollouts = written(episodes)
    for ticket in aside:
        rollouts.set_aside(Ticket(ticket, "reach", seed=0, group=1))
    ran = [ticket for ticket in UPDATE if ticket not in aside]
    flat = {ticket: [sum(chunk) for chunk in executed_rewards(rollouts, ticket)] for ticket in ran}
    flat = {ticket: [sum(rewards)] if supervision == "outcome" else rewards for ticket, rewards in flat.items()}
    expected = []
    for ticket in ran:
        own, others = flat[ticket], list(itertools.chain(*(rewards for other, rewards in flat.items() if other != ticket)))
        everything = own + others
        mean = sum(everything) / len(everything)
        deviation = math.sqrt(sum((reward - mean) ** 2 for reward in everything) / len(everything)) + 1e-6 if normalise == "group" else 1.0
        baseline = sum(others) / len(others) if leave_one_out and others else mean
        compared = bool(others) and len(set(everything)) > 1
        for t in range(rollouts.decisions(ticket)):
            to_come = own if supervision == "outcome" else own[t:]
            expected.append(sum((reward - baseline) / deviation for reward in to_come) if compared else 0.0)

    settings = {"supervision": supervision, "normalise": normalise, "leave_one_out": leave_one_out, "group_size": 4}
    credit = credit_of(rollouts, advantage="grpo", **settings)
    if ran:
        np.testing.assert_allclose(found(credit)[0], expected, rtol=0, atol=1e-9)
    metrics = credit.finish()
    assert metrics == ({} if not ran else {"advantage_mean": pytest.approx(np.mean(expected)), "advantage_std": pytest.approx(np.std(expected))})


@given(updates, units, st.sampled_from(["group", "none"]), st.booleans())
def test_the_process_is_compared_from_the_first_step_of_a_chunk_on(episodes, unit, normalise, leave_one_out):
    rollouts = written(episodes)
    expected = []
    for group in (range(4, 6), range(6, 8)):
        chunks = {ticket: executed_rewards(rollouts, ticket) for ticket in group}
        if unit == "chunk":
            chunks = {ticket: [[sum(chunk)] for chunk in of_episode] for ticket, of_episode in chunks.items()}
        flat = {ticket: [reward for chunk in of_episode for reward in chunk] for ticket, of_episode in chunks.items()}
        everything = list(itertools.chain(*flat.values()))
        mean = sum(everything) / len(everything)
        deviation = math.sqrt(sum((reward - mean) ** 2 for reward in everything) / len(everything)) + 1e-6 if normalise == "group" else 1.0
        for ticket in group:
            others = list(itertools.chain(*(rewards for other, rewards in flat.items() if other != ticket)))
            baseline = sum(others) / len(others) if leave_one_out else mean
            for t in range(len(chunks[ticket])):
                to_come = [reward for chunk in chunks[ticket][t:] for reward in chunk]
                expected.append(sum((reward - baseline) / deviation for reward in to_come) if len(set(everything)) > 1 else 0.0)

    settings = {"supervision": "process", "rewards": unit, "normalise": normalise, "leave_one_out": leave_one_out, "group_size": 2}
    advantages, targets = found(credit_of(rollouts, advantage="grpo", **settings))

    np.testing.assert_allclose(advantages, expected, rtol=0, atol=1e-9)
    assert np.isfinite(targets).all()


def test_what_a_group_brings_does_not_depend_on_which_member_is_asked_first():
    rollouts, answers = written(), []
    for order in (1, -1):
        credit = credit_of(rollouts, advantage="grpo", supervision="process", **GROUPS)
        for pair in pairs(rollouts, UPDATE)[::order]:
            credit.compute(*np.array([pair]).T)
        answers.append(found(credit))
    np.testing.assert_array_equal(answers[0], answers[1])


def test_a_group_is_compared_and_then_normalised_by_the_updates_before():
    """REINFORCE++-baseline."""
    rollouts = written()
    centred, _ = found(credit_of(rollouts, advantage="grpo", **GROUPS))
    credit = credit_of(rollouts, advantage="grpo", group_size=2, normalise="running", advantage_clip=1.0)
    np.testing.assert_array_equal(found(credit)[0], centred.clip(-1, 1))
    credit.statistics.add_update([-1.0, 0.5, 2.0])
    np.testing.assert_array_equal(found(credit)[0], credit.statistics.normalise(centred).clip(-1, 1))


ALL_SUCCEED, ALL_FAIL, MIXED = [True, True], [False, False], [False, True]


def of_success(successes):
    return written([shape | {"success": success} for shape, success in zip(SHAPES, successes, strict=True)])


@pytest.mark.parametrize("advantage", ["gae", "grpo", "rloo"])
@pytest.mark.parametrize("alike", [ALL_SUCCEED, ALL_FAIL])
def test_groups_that_all_succeed_or_all_fail_are_left_out(advantage, alike):
    rollouts = of_success([*alike, *MIXED])
    credit = credit_of(rollouts, advantage=advantage, filter_groups=True, **GROUPS)

    tickets = np.array([7, 4, 6, 5, 7])
    assert credit.learns_from(tickets).tolist() == [True, False, True, False, True]
    assert credit.learns_from(tickets[:0]).tolist() == []

    advantages, _ = found(credit)
    metrics = credit.finish()
    learned = advantages[sum(shape["decisions"] for shape in SHAPES[:2]) :]
    assert metrics["filtered_share"] == 0.5
    assert metrics["advantage_mean"] == pytest.approx(learned.mean())
    assert metrics["advantage_std"] == pytest.approx(learned.std())
    assert (credit.statistics.mean, credit.statistics.deviation) == pytest.approx((learned.mean(), learned.std()))


def test_without_the_filter_every_group_is_learned_from():
    credit = credit_of(of_success([*ALL_FAIL, *MIXED]), advantage="grpo", **GROUPS)
    assert credit.learns_from(np.array(UPDATE)).all()
    advantages, _ = found(credit)
    assert credit.finish() == {"advantage_mean": pytest.approx(advantages.mean()), "advantage_std": pytest.approx(advantages.std())}


@pytest.mark.parametrize("asked", [True, False])
def test_an_update_of_which_nothing_is_left_changes_no_statistics(asked):
    """asked: whether advantages were looked at all the same."""
    credit = credit_of(of_success([*ALL_FAIL, *ALL_SUCCEED]), advantage="grpo", filter_groups=True, **GROUPS)
    if asked:
        found(credit)
    assert credit.finish() == {"filtered_share": 1.0}
    assert not credit.statistics.has_values


def test_an_update_of_which_nothing_was_seen_has_no_metrics():
    credit = credit_of(written())
    assert credit.finish() == {}
    assert not credit.statistics.has_values
