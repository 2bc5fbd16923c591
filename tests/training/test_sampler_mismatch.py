"""Sampling is not training: what the metric measures, from which decisions, at what cost; and when it warns."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rlvla3.training.sampler_mismatch import MismatchWarning
from tests.support.learners import make_learner, run_update, snapshot, unchanged
from tests.support.tiny import CHUNK, TinyPolicy, pairs, tiny_recipe, tiny_rollouts, write_episode

DRIFT = 0.05


def tickets_of(update):
    return range(4 * update, 4 * update + 4)


def write_update(rollouts, policy, update, versions, drift=DRIFT, **shape):
    for ticket, version in zip(tickets_of(update), versions, strict=True):
        write_episode(rollouts, policy, ticket, version=version, drift=drift, **shape)


def distances(policy, rollouts, decisions):
    """|pi_trainer / pi_sampler - 1| of every executed action, one decision after another, in numpy."""
    found = []
    for ticket, row in decisions:
        state, actions, recorded = (np.asarray(rollouts.rows(ticket, name)[row], np.float64) for name in ("state", "actions", "logprob"))
        with torch.no_grad():
            mean = policy.mean(torch.from_numpy(state) * policy.scale).reshape(CHUNK, -1).numpy()
            std = policy.log_std.exp().numpy()
        logprob = -0.5 * ((actions - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
        ratio = np.exp((logprob - recorded).sum(1))[: int(rollouts.rows(ticket, "executed")[row])]
        found += np.abs(ratio - 1).tolist()
    return found


def expect(metrics, expected):
    assert metrics["sampler_mismatch_mean"] == pytest.approx(np.mean(expected), rel=1e-9)
    assert metrics["sampler_mismatch_p99"] == pytest.approx(np.quantile(expected, 0.99), rel=1e-9)
    assert metrics["sampler_mismatch_kl"] > 0


def evaluated(learner):
    """How many decisions each pass without gradient evaluates, from now on."""
    sizes, evaluate = [], learner.policy.evaluate

    def count(observations, actions, trace):
        if not torch.is_grad_enabled():
            sizes.append(len(actions))
        return evaluate(observations, actions, trace)

    learner.policy.evaluate = count
    return sizes


def one_by_one(decisions):
    return [[decision] for decision in reversed(decisions)]


@pytest.mark.parametrize("mode", ["sync", "full_async"])
@pytest.mark.parametrize("cut", [None, one_by_one])
@pytest.mark.parametrize("correction", ["none", "decoupled", "soft", "vtrace"])
def test_it_is_the_rounding_of_fresh_decisions_before_the_first_step(mode, cut, correction):
    """Stale decisions, unexecuted actions and later steps do not count, and nothing is evaluated for it."""
    recipe = tiny_recipe(engine={"mode": mode}, algorithm={"correction": correction}, training={"learning_rate": 0.1})
    rollouts = tiny_rollouts()
    write_update(rollouts, TinyPolicy(), 1, [1, 0, 1, 1], last=1)
    learner = make_learner(recipe, rollouts)
    start, passes = copy.deepcopy(learner.policy), evaluated(learner)
    metrics = run_update(learner, 1, tickets_of(1), epochs=2, cut=cut)
    expect(metrics, distances(start, rollouts, pairs(rollouts, range(4, 5))))
    assert sum(passes) == (4 if correction == "vtrace" else 0)  # the stale episode, for its value targets


@pytest.mark.parametrize("cut", [None, one_by_one])
@pytest.mark.parametrize("correction", ["none", "decoupled"])
def test_where_nothing_is_fresh_it_measures_the_version_before(cut, correction):
    """As in train_async: every decision is one update old. The weights that made it are kept until they have been measured."""
    recipe = tiny_recipe(engine={"mode": "train_async"}, algorithm={"correction": correction}, training={"learning_rate": 0.05, "epochs": 1})
    rollouts, learner = tiny_rollouts(), None
    versions = []
    for update in range(3):
        maker = TinyPolicy() if learner is None else versions[max(update - 1, 0)]
        write_update(rollouts, maker, update, [max(update - 1, 0)] * 4)
        learner = learner or make_learner(recipe, rollouts)
        versions.append(copy.deepcopy(learner.policy))
        metrics = run_update(learner, update, tickets_of(update), cut=cut)
        expect(metrics, distances(versions[max(update - 1, 0)], rollouts, pairs(rollouts, tickets_of(update)[:2])))


def test_only_a_few_decisions_are_evaluated_again(monkeypatch):
    monkeypatch.setattr("rlvla3.training.sampler_mismatch.EVALUATED_AGAIN", 3)
    learner = make_learner(tiny_recipe(algorithm={"correction": "none"}))
    run_update(learner, 0)
    maker = copy.deepcopy(learner.policy)
    write_update(learner.rollouts, TinyPolicy(), 1, [0] * 4)
    passes = evaluated(learner)
    metrics = run_update(learner, 1, tickets_of(1), epochs=2, cut=one_by_one)
    assert passes == [3]
    expect(metrics, distances(TinyPolicy(), learner.rollouts, pairs(learner.rollouts, range(4, 5))[:3]))
    assert not unchanged(maker.parameters(), snapshot(learner.policy.parameters()))


def test_measuring_an_earlier_version_changes_no_bit_of_the_weights():
    learners = [make_learner(tiny_recipe(engine={"mode": mode, "max_staleness": staleness})) for mode, staleness in (("sync", 0), ("train_async", 1))]
    for learner in learners:
        run_update(learner, 0)
        write_update(learner.rollouts, TinyPolicy(), 1, [0] * 4)
    found = [run_update(learner, 1, tickets_of(1), epochs=2) for learner in learners]
    assert "sampler_mismatch_mean" in found[1] and "sampler_mismatch_mean" not in found[0]
    assert unchanged(learners[0].policy.parameters(), snapshot(learners[1].policy.parameters()))


def test_weights_are_kept_until_decisions_of_their_version_come():
    """Every decision is two updates old: every other update can be measured, with one copy of weights."""
    recipe = tiny_recipe(engine={"mode": "train_async", "max_staleness": 2}, training={"learning_rate": 0.05})
    rollouts = tiny_rollouts()
    write_update(rollouts, TinyPolicy(), 0, [0] * 4)
    learner, versions, measured = make_learner(recipe, rollouts), [], []
    for update in range(6):
        versions.append(copy.deepcopy(learner.policy))
        if update:
            write_update(rollouts, versions[max(update - 2, 0)], update, [max(update - 2, 0)] * 4)
        metrics = run_update(learner, update, tickets_of(update))
        if "sampler_mismatch_mean" in metrics:
            measured.append(update)
            expect(metrics, distances(versions[max(update - 2, 0)], rollouts, pairs(rollouts, tickets_of(update)[:2])))
    assert measured == [0, 1, 3, 5]


def test_decisions_of_an_earlier_version_are_fresh_while_the_actor_has_not_changed():
    learner = make_learner(tiny_recipe(engine={"mode": "train_async"}, training={"critic": {"warmup": 1}}))
    run_update(learner, 0)
    write_update(learner.rollouts, TinyPolicy(), 1, [0] * 4)
    passes = evaluated(learner)
    expect(run_update(learner, 1, tickets_of(1)), distances(TinyPolicy(), learner.rollouts, pairs(learner.rollouts, range(4, 6))))
    assert passes == [8]  # stale decisions of the second step, for the correction


def test_without_rounding_it_is_zero():
    rollouts = tiny_rollouts()
    write_update(rollouts, TinyPolicy(), 0, [0] * 4, drift=0.0)
    metrics = run_update(make_learner(rollouts=rollouts))
    assert 0 <= metrics["sampler_mismatch_p99"] < 1e-6  # records are float32


@pytest.mark.parametrize(("level", "times"), [("action", 1), ("dimension", 1), ("chunk", CHUNK)])
def test_it_warns_once_and_says_what_to_do(level, times):
    policy = TinyPolicy()
    warning = MismatchWarning(tiny_recipe(algorithm={"ratio": level}), policy)
    assert warning.bound == policy.options.MismatchBounds["fp32"] * times
    assert warning.after(0, {}) is None and warning.after(1, {"sampler_mismatch_p99": warning.bound}) is None
    text = warning.after(2, {"sampler_mismatch_p99": 0.5})
    assert text is not None and all(word in text for word in ("0.5 in update 2", f"at most {warning.bound:.2g}", "sampler_correction=truncated"))
    assert warning.after(3, {"sampler_mismatch_p99": 0.6}) is None


def test_low_precision_may_round_more():
    policy, travels = TinyPolicy(), tiny_recipe(weights={"dtype": "bf16"})
    expected = policy.options.MismatchBounds["bf16"]
    assert MismatchWarning(travels, policy).bound == expected > MismatchWarning(tiny_recipe(), policy).bound
    policy.precision = "bf16"
    assert MismatchWarning(tiny_recipe(), policy).bound == expected
