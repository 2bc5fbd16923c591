"""algorithm.sampler_correction: the sampler's rounding as an importance weight. Each decision is weighted once. Without rounding nothing changes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rlvla3.policies.base import Evaluation
from rlvla3.training.recorded import Recorded
from tests.support.learners import UPDATE, make_learner, run_update, second_step, snapshot
from tests.support.tiny import CHUNK, TinyPolicy, pairs, tiny_recipe, tiny_rollouts, write_episode

STALE, FRESH = 0, 1
"""Versions of behaviour policies, in update 1."""

CORRECTED = {"sampler_correction": "truncated"}
CAP = 1.5


def rollouts_of(versions, drift=0.6):
    rollouts = tiny_rollouts()
    for ticket, version in enumerate(versions):
        write_episode(rollouts, TinyPolicy(), ticket, version=version, drift=drift)
    return rollouts


def truncated_sum(weight, ratio, advantage):
    return weight * torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)


@pytest.mark.parametrize("level", ["chunk", "action", "dimension"])
@pytest.mark.parametrize("correction", ["decoupled", "truncated", "none"])
def test_the_objective_after_the_weights_have_moved(level, correction):
    """The second step's gradient, one decision at a time. Ticket 2 is stale, ticket 3 is fresh.

    fresh: min(pi_proximal / pi_sampler, cap) times the clip around pi_proximal. stale: as without the correction.
    """
    learner = make_learner(
        tiny_recipe(
            algorithm={"ratio": level, "normalise": "none", "correction": correction, "sampler_cap": CAP} | CORRECTED,
            training={"learning_rate": 0.05, "critic": {"weight": 0}},
        ),
        rollouts_of([STALE, FRESH, STALE, FRESH]),
    )
    gradient, proximal, present, decisions, advantages = second_step(learner)

    total, truncated = torch.zeros((), dtype=torch.float64), 0
    for (ticket, row), advantage in zip(decisions, advantages, strict=True):
        state, actions, behaviour = (torch.from_numpy(learner.rollouts.rows(ticket, name)[row]).double() for name in ("state", "actions", "logprob"))

        def logprob(policy, state=state, actions=actions):
            distribution = torch.distributions.Normal(policy.mean(state * policy.scale).reshape(CHUNK, -1), policy.log_std.exp())
            return distribution.log_prob(actions)

        terms = {"chunk": lambda x: x.sum().reshape(1), "action": lambda x: x.sum(1), "dimension": lambda x: x.flatten()}[level]
        before, now = logprob(proximal).detach(), logprob(present)
        w = terms(before - behaviour).exp()
        if ticket == 3:
            truncated += int((w > CAP).sum())
            w = w.clamp(max=CAP)
        if correction == "truncated":
            w = w.clamp(max=2.0)
        if correction == "none" and ticket == 2:
            before, w = behaviour, torch.ones_like(w)
        total = total - truncated_sum(w, terms(now - before).exp(), advantage).mean()
    (total / len(decisions)).backward()

    assert truncated > 0  # the cap was at work
    expected = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in present.actor_parameters()])
    torch.testing.assert_close(gradient[: len(expected)], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("correction", ["none", "decoupled", "truncated", "vtrace", "soft"])
def test_without_rounding_it_changes_no_bit(correction):
    """In float32, records that are the trainer's own to the last bit: fresh decisions weigh exactly 1."""
    rollouts = tiny_rollouts()
    for ticket in UPDATE:
        write_episode(rollouts, TinyPolicy(), ticket, version=FRESH, drift=0.0)
    policy = TinyPolicy32()
    learners = [make_learner(tiny_recipe(algorithm={"correction": correction} | extra), rollouts, policy=copy.deepcopy(policy)) for extra in ({}, CORRECTED)]
    for half in (UPDATE[:2], UPDATE[2:]):  # as in run_update's steps
        tickets, rows = np.array(pairs(rollouts, half)).T
        with torch.no_grad():
            rollouts.scatter(tickets, rows, {"logprob": learners[0].objective._proximal._evaluate(tickets, rows).numpy()})
    before = snapshot(policy.parameters())
    metrics = [run_update(learner, 1, epochs=3) for learner in learners]
    assert metrics[1] == metrics[0] and metrics[0]["sampler_mismatch_p99"] == 0
    plain, corrected = (snapshot(learner.policy.parameters()) for learner in learners)
    assert all(torch.equal(here, there) for here, there in zip(plain, corrected, strict=True))
    assert not all(torch.equal(here, there) for here, there in zip(plain, before, strict=True))


class TinyPolicy32(TinyPolicy):
    """In float32. Each decision is computed by itself, so it does not depend on its batch."""

    def __init__(self):
        super().__init__()
        self.float()

    def evaluate(self, observations, actions, trace):
        rows = range(len(actions))
        seen = observations.state * self.scale
        mean = torch.cat([self.mean(seen[row : row + 1]) for row in rows]).unflatten(1, actions.shape[1:])
        logprob = self._logprob(mean, actions)
        return Evaluation(logprob, None, self.value_of({"seen": seen}), {"seen": seen.detach()})


@pytest.mark.parametrize(
    ("correction", "versions", "further"),
    [
        ("decoupled", [FRESH] * 4, 8),  # the second step's tickets; the first step's were evaluated before anything moved
        ("truncated", [STALE, FRESH, FRESH, STALE], 8),
        ("none", [STALE, FRESH, FRESH, STALE], 4),  # the clip around a stale decision's policy needs its record alone
        ("soft", [STALE] * 4, 0),
        ("vtrace", [FRESH] * 4, 16),
    ],
)
def test_it_costs_at_most_one_forward_pass(correction, versions, further):
    learner = make_learner(tiny_recipe(algorithm={"correction": correction} | CORRECTED), rollouts_of(versions))
    evaluate, sizes = learner.policy.evaluate, []

    def count(observations, actions, trace):
        sizes.append(0 if torch.is_grad_enabled() else len(actions))
        return evaluate(observations, actions, trace)

    learner.policy.evaluate = count  # type: ignore[method-assign]
    run_update(learner, 1, epochs=3)
    assert sum(sizes) == further


def test_vtrace_compares_fresh_decisions_with_the_trainers_own_policy():
    plain, corrected = (
        make_learner(tiny_recipe(algorithm={"correction": "vtrace", "sampler_cap": CAP} | extra), rollouts_of([STALE, STALE, FRESH, FRESH]))
        for extra in ({}, CORRECTED)
    )
    for learner in (plain, corrected):
        learner.begin_update(1, UPDATE)
    np.testing.assert_array_equal(plain.objective.importance(3), 1.0)
    np.testing.assert_array_equal(plain.objective.importance(0), corrected.objective.importance(0))
    found = np.concatenate([corrected.objective.importance(ticket) for ticket in (2, 3)])
    assert found.max() == CAP and 0 < found.min() < 0.9


def test_the_rounding_does_not_use_up_what_the_kl_stop_allows():
    recipes = [tiny_recipe(algorithm={"kl_stop": 0.005} | extra, training={"learning_rate": 1e-6}) for extra in ({}, CORRECTED)]
    assert [run_update(make_learner(recipe, rollouts_of([FRESH] * 4)), 1, epochs=3)["epochs"] for recipe in recipes] == [1, 3]


@pytest.mark.parametrize("correction", ["none", "decoupled", "truncated"])
def test_the_gradient_comes_nearer_to_that_of_the_policy_itself(correction):
    """Twenty actions of a softmax, drawn by a sampler whose logits are off. Expected gradients are exact: each action counts as often as it is drawn.

    (An advantage that is scaled by a probability scales the objective by it.)
    """
    random = np.random.default_rng(3)
    decisions = [(ticket, row) for ticket in UPDATE for row in range(5)]
    count = len(decisions)
    errors = {"none": 0.0, "truncated": 0.0}
    for _ in range(20):
        logits, advantage = torch.from_numpy(random.standard_normal(count)), torch.from_numpy(random.standard_normal(count))
        sampler = (logits + 0.4 * torch.from_numpy(random.standard_normal(count))).log_softmax(0)
        arrays = {
            "logprob": sampler.numpy().reshape(-1, 1, 1),
            "version": np.full(count, FRESH, np.int32),
            "executed": np.ones(count, np.int32),
            "dimensions": np.ones(count, np.int32),
        }
        tickets, rows = np.array(decisions).T
        recorded = Recorded(tickets, rows, arrays, {name: torch.from_numpy(array) for name, array in arrays.items()}, None)

        def gradient(loss_of, logits=logits):
            theta = logits.clone().requires_grad_()
            loss_of(theta.log_softmax(0)).backward()
            return theta.grad

        exact = gradient(lambda logprob, advantage=advantage: -(logprob.exp() * advantage).sum())
        drawn = sampler.exp() * advantage
        for name in errors:
            objective = make_learner(tiny_recipe(algorithm={"correction": correction, "sampler_correction": name})).objective
            objective.begin(1, UPDATE)

            def loss(logprob, objective=objective, recorded=recorded, drawn=drawn):
                evaluation = Evaluation(logprob.reshape(-1, 1, 1), None, logprob, {})
                return objective.loss(0, recorded, evaluation, drawn).total

            errors[name] += float((gradient(loss) - exact).norm() / exact.norm()) / 20
    assert errors["truncated"] < 0.2 * errors["none"] and errors["none"] > 0.2
