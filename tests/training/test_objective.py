"""The policy's part of the loss: three policies meet, none is evaluated more often than it must be, and every decision has the anchor it should."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rlvla3.policies.base import Policy
from tests.support.learners import UPDATE, make_learner, recorded_gradients, run_update, second_step, snapshot, unchanged
from tests.support.tiny import CHUNK, TinyPolicy, micro_batch, pairs, tiny_recipe, tiny_rollouts, write_episode

STALE, FRESH = 0, 1
"""Versions of behaviour policies, in update 1."""


def rollouts_of(versions, **shape):
    rollouts = tiny_rollouts()
    for ticket, version in enumerate(versions):
        # A fresh decision's record is what the learner's own policy says of it, a stale one's is off.
        write_episode(rollouts, TinyPolicy(), ticket, version=version, drift=0.0 if version == FRESH else 0.3, **shape)
    return rollouts


def counted(policy: Policy) -> list[tuple[bool, int]]:
    """(with gradient?, decisions) of every evaluation from now on."""
    calls: list[tuple[bool, int]] = []
    evaluate = policy.evaluate

    def count(observations, actions, trace):
        calls.append((torch.is_grad_enabled(), len(actions)))
        return evaluate(observations, actions, trace)

    policy.evaluate = count  # type: ignore[method-assign]
    return calls


def extra(calls: list[tuple[bool, int]]) -> int:
    return sum(decisions for with_gradient, decisions in calls if not with_gradient)


@pytest.mark.parametrize(
    ("correction", "versions", "further"),
    [
        ("decoupled", [FRESH] * 4, 0),
        ("decoupled", [STALE] * 4, 8),  # the second step's tickets; the first step's were evaluated before anything moved
        ("truncated", [STALE, FRESH, FRESH, STALE], 4),
        ("vtrace", [STALE] * 4, 16),
        ("vtrace", [FRESH] * 4, 0),
        ("none", [STALE] * 4, 0),
        ("soft", [STALE] * 4, 0),
    ],
)
def test_the_proximal_policy_costs_at_most_one_forward_pass_and_none_for_fresh_decisions(correction, versions, further):
    learner = make_learner(tiny_recipe(algorithm={"correction": correction}), rollouts_of(versions))
    calls = counted(learner.policy)
    run_update(learner, update=1, epochs=3)
    assert extra(calls) == further
    assert sum(decisions for with_gradient, decisions in calls if with_gradient) == 3 * 16


def test_a_reference_policy_costs_one_forward_pass_an_update():
    learner = make_learner(tiny_recipe(algorithm={"reference": {"weight": 0.1}}), rollouts_of([FRESH] * 4))
    calls = counted(learner.policy)
    run_update(learner, update=1, epochs=3)
    assert extra(calls) == 16


@pytest.mark.parametrize("level", ["chunk", "action", "dimension"])
def test_decoupled_ppo_after_the_weights_have_moved(level):
    """The second step's gradient, against AReaL's objective for one decision at a time: stale tickets 2, fresh tickets 3."""
    learner = make_learner(
        tiny_recipe(algorithm={"ratio": level, "normalise": "none"}, training={"learning_rate": 0.05, "critic": {"weight": 0}}),
        rollouts_of([STALE, STALE, STALE, FRESH]),
    )
    gradient, proximal, present, decisions, advantages = second_step(learner)

    total = torch.zeros((), dtype=torch.float64)
    for (ticket, row), advantage in zip(decisions, advantages, strict=True):
        state, actions, behaviour = (torch.from_numpy(learner.rollouts.rows(ticket, name)[row]).double() for name in ("state", "actions", "logprob"))

        def logprob(policy, state=state, actions=actions):
            distribution = torch.distributions.Normal(policy.mean(state * policy.scale).reshape(CHUNK, -1), policy.log_std.exp())
            return distribution.log_prob(actions)

        anchor = behaviour if ticket == 3 else logprob(proximal).detach()
        terms = {"chunk": lambda x: x.sum().reshape(1), "action": lambda x: x.sum(1), "dimension": lambda x: x.flatten()}[level]
        ratio, weight = terms(logprob(present) - anchor).exp(), terms(anchor - behaviour).exp()
        objective = weight * torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        total = total - objective.mean()
    (total / len(decisions)).backward()

    expected = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in present.actor_parameters()])
    # Log-probs of the record are float32, and the moved ratios are near 1: nothing here is on a clip's edge.
    torch.testing.assert_close(gradient[: len(expected)], expected, rtol=1e-8, atol=1e-10)


def test_without_staleness_every_anchored_correction_is_plain_ppo_bit_for_bit():
    learners = [make_learner(tiny_recipe(algorithm={"correction": name}), rollouts_of([FRESH] * 4)) for name in ("none", "decoupled", "truncated")]
    for learner in learners:
        run_update(learner, update=1, epochs=3)
    plain, *corrected = (snapshot(learner.policy.parameters()) for learner in learners)
    for other in corrected:
        assert all(torch.equal(here, there) for here, there in zip(plain, other, strict=True))


def test_vtrace_takes_its_ratios_from_the_policy_that_the_update_began_with():
    learner = make_learner(tiny_recipe(algorithm={"correction": "vtrace"}, training={"learning_rate": 0.5}), rollouts_of([STALE] * 4))
    learner.begin_update(1, UPDATE)
    early = learner.objective.importance(3)
    learner.begin_update(1, UPDATE)
    learner.accumulate(micro_batch(pairs(learner.rollouts, range(2))))
    learner.step()
    np.testing.assert_allclose(learner.objective.importance(3), early, rtol=1e-12)
    assert np.abs(early - 1).max() > 0.1


def test_the_proximal_policy_is_another_one_in_every_update():
    learner = make_learner(tiny_recipe(training={"learning_rate": 0.5}), rollouts_of([STALE] * 4))
    found = []
    for update in (1, 2):
        learner.begin_update(update, UPDATE)
        found.append(learner.objective.importance(3))
        learner.accumulate(micro_batch(pairs(learner.rollouts, range(2))))
        learner.step()
        learner.finish_update()
    assert np.abs(found[1] - found[0]).max() > 0.01


def test_staleness_is_measured_and_is_nothing_where_all_is_fresh():
    fresh, stale = (run_update(make_learner(rollouts=rollouts_of(versions)), update=1, epochs=2) for versions in ([FRESH] * 4, [STALE] * 4))
    assert fresh["effective_sample_size"] == pytest.approx(1) and fresh["staleness_kl"] == pytest.approx(0, abs=1e-9)
    assert stale["effective_sample_size"] < 0.95 and stale["staleness_kl"] > 0.01
    assert {"ratio_mean", "ratio_p05", "ratio_p50", "ratio_p95", "ratio_max", "clip_share", "approx_kl"} <= stale.keys()


def test_staleness_does_not_use_up_what_the_kl_stop_allows():
    """Around the proximal policy nothing has moved in the first epoch's first step, however stale the data."""
    recipes = [tiny_recipe(algorithm={"correction": name, "kl_stop": 0.005}, training={"learning_rate": 1e-6}) for name in ("none", "decoupled")]
    epochs = [run_update(make_learner(recipe, rollouts_of([STALE] * 4)), update=1, epochs=3)["epochs"] for recipe in recipes]
    assert epochs == [1, 3]


def test_the_pull_towards_the_reference_is_felt_once_the_policy_has_left_it():
    recipe = tiny_recipe(algorithm={"reference": {"weight": 5.0}}, training={"learning_rate": 0.02})
    near, free = make_learner(recipe, rollouts_of([FRESH] * 4)), make_learner(tiny_recipe(training={"learning_rate": 0.02}), rollouts_of([FRESH] * 4))
    start = torch.cat([p.flatten() for p in snapshot(near.policy.actor_parameters())])
    gone = []
    for learner in (near, free):
        for update in range(1, 9):
            metrics = run_update(learner, update=update, epochs=3)
        gone.append((torch.cat([p.flatten() for p in snapshot(learner.policy.actor_parameters())]) - start).norm().item())
    assert gone[0] < 0.8 * gone[1]
    assert "reference_kl" not in metrics


def test_the_reference_is_version_0_for_good():
    learner = make_learner(tiny_recipe(algorithm={"reference": {"weight": 1.0}}, training={"learning_rate": 0.05}), rollouts_of([FRESH] * 4))
    run_update(learner, update=1, epochs=3)
    learner.begin_update(2, UPDATE)
    learner.accumulate(micro_batch(pairs(learner.rollouts, UPDATE)))
    assert learner.finish_update()["reference_kl"] > 1e-4  # and no step has been made in this update


def test_the_reference_outlives_a_resume():
    recipe = tiny_recipe(algorithm={"reference": {"weight": 1.0}}, training={"learning_rate": 0.05})
    learner = make_learner(recipe)
    run_update(learner, 0)
    resumed = make_learner(recipe, learner.rollouts, policy=TinyPolicy(seed=5))
    resumed.policy.load_state_dict(copy.deepcopy(learner.policy.state_dict()))
    resumed.load_state_dict(copy.deepcopy(learner.state_dict()))
    resumed.load_parameter_state(copy.deepcopy(learner.parameter_state()))
    for each in (learner, resumed):
        run_update(each, 1, epochs=2)
    assert unchanged(resumed.policy.parameters(), snapshot(learner.policy.parameters()))


def test_filtered_groups_count_for_nothing_and_the_rest_for_all():
    """The gradient over groups of which one is filtered is that over the other alone."""
    settings = {"advantage": "grpo", "group_size": 2, "normalise": "none"}
    filtered, rest = tiny_rollouts(), tiny_rollouts()
    for ticket, success in enumerate([True, True, True, False]):
        for rollouts in (filtered, rest):
            write_episode(rollouts, TinyPolicy(), ticket, success=success, drift=0.1)
    learners = [make_learner(tiny_recipe(algorithm=settings | {"filter_groups": on}, training={"steps": 1}), filtered) for on in (True, False)]
    gradients = [recorded_gradients(learner) for learner in learners]
    for learner, tickets in zip(learners, (range(4), range(2, 4)), strict=True):
        learner.begin_update(0, UPDATE)
        learner.accumulate(micro_batch(pairs(filtered, tickets)))
        learner.step()
    metrics = learners[0].finish_update()
    torch.testing.assert_close(gradients[0][0], gradients[1][0], rtol=1e-12, atol=1e-15)
    assert metrics["filtered_share"] == 0.5


def test_an_update_that_is_filtered_whole_moves_nothing():
    rollouts = tiny_rollouts()
    for ticket in UPDATE:
        write_episode(rollouts, TinyPolicy(), ticket, success=False)
    learner = make_learner(tiny_recipe(algorithm={"advantage": "grpo", "group_size": 2, "filter_groups": True, "kl_stop": 0.1}), rollouts)
    before = snapshot(learner.policy.parameters())
    metrics = run_update(learner, epochs=2)
    assert unchanged(learner.policy.parameters(), before)
    assert metrics["filtered_share"] == 1 and "approx_kl" not in metrics


def test_the_policy_has_its_own_weights_again_when_an_earlier_one_fails():
    learner = make_learner(rollouts=rollouts_of([STALE] * 4))
    learner.begin_update(1, UPDATE)
    learner.accumulate(micro_batch(pairs(learner.rollouts, range(2))))
    learner.step()
    moved = snapshot(learner.policy.parameters())
    evaluate = learner.policy.evaluate

    def fail(observations, actions, trace):
        if not torch.is_grad_enabled():
            raise RuntimeError("no room")
        return evaluate(observations, actions, trace)

    learner.policy.evaluate = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="no room"):
        learner.accumulate(micro_batch(pairs(learner.rollouts, range(2, 4))))
    assert unchanged(learner.policy.parameters(), moved)
