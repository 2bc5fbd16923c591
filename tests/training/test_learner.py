"""The learner: law 3, and what it may and may not touch."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvla3.config import make_recipe
from rlvla3.scheduling.streamer import Streamer
from rlvla3.training.learner import learning_rate
from rlvla3.training.objective import LearnerError
from rlvla3.types import Ticket
from tests.support.learners import UPDATE, make_learner, recorded_gradients, run_update, snapshot, unchanged
from tests.support.tiny import CHUNK, MOST_DECISIONS, TinyPolicy, micro_batch, pairs, tiny_recipe, tiny_rollouts, write_episode

episodes = st.fixed_dictionaries(
    {
        "decisions": st.integers(1, MOST_DECISIONS),
        "last": st.integers(1, CHUNK),
        "terminated": st.booleans(),
        "reward": st.sampled_from([None, 0.0, 1.0]),
        "success": st.booleans(),
        "version": st.integers(0, 1),
    }
)
comparing = {"group_size": st.just(2), "filter_groups": st.booleans()}
algorithms = st.one_of(
    st.fixed_dictionaries(
        {
            "advantage": st.just("gae"),
            "normalise": st.sampled_from(["running", "none"]),
            "bootstrap": st.booleans(),
            "correction": st.sampled_from(["none", "decoupled", "truncated", "vtrace", "soft"]),
        }
    ),
    st.fixed_dictionaries(
        comparing
        | {
            "advantage": st.just("grpo"),
            "normalise": st.sampled_from(["group", "running", "none"]),
            "supervision": st.sampled_from(["outcome", "process"]),
            "leave_one_out": st.booleans(),
            "correction": st.sampled_from(["none", "decoupled", "truncated", "soft"]),
        }
    ),
    st.fixed_dictionaries(comparing | {"advantage": st.sampled_from(["rloo", "reinforce++"])}),
)
losses = st.fixed_dictionaries(
    {
        "rewards": st.sampled_from(["chunk", "step"]),
        "ratio": st.sampled_from(["chunk", "action", "dimension"]),
        "dual_clip": st.sampled_from([None, 1.2]),
        "entropy": st.sampled_from([0.0, 0.1]),
        "sampler_correction": st.sampled_from(["none", "truncated"]),
        "reference": st.fixed_dictionaries({"weight": st.sampled_from([0.0, 0.3]), "estimator": st.sampled_from(["k1", "k2", "k3"])}),
    }
)


any_update = given(
    st.lists(episodes, min_size=4, max_size=4), algorithms, losses, st.integers(1, 3), st.sampled_from([None, 0.1]), st.randoms(use_true_random=False)
)


@settings(max_examples=40)
@any_update
def test_the_streamed_gradient_is_the_batch_gradient_in_a_few_updates(shapes, algorithm, loss, epochs, value_clip, random):
    assert_streaming_changes_nothing(shapes, algorithm, loss, epochs, value_clip, random)


@pytest.mark.slow
@settings(max_examples=400)
@any_update
def test_the_streamed_gradient_is_the_batch_gradient(shapes, algorithm, loss, epochs, value_clip, random):
    assert_streaming_changes_nothing(shapes, algorithm, loss, epochs, value_clip, random)


def assert_streaming_changes_nothing(shapes, algorithm, loss, epochs, value_clip, random):
    """Law 3: any cut into micro-batches, any order of arrival, ragged episodes, masks, groups and versions, every algorithm and correction; every step of every
    epoch, and the critic's replay."""
    rollouts = tiny_rollouts()
    for ticket, episode in enumerate(shapes):
        write_episode(rollouts, TinyPolicy(), ticket, **episode)
    recipe = tiny_recipe(algorithm=algorithm | loss, training={"critic": {"clip": value_clip, "epochs": 1, "batch": 5}, "learning_rate": 1e-2})

    def cut_at_random(decisions):
        random.shuffle(decisions)
        cuts = sorted({0, len(decisions), *random.sample(range(len(decisions)), random.randint(0, len(decisions) - 1))})
        return [decisions[start:end] for start, end in itertools.pairwise(cuts)]

    learners = [make_learner(recipe, rollouts) for _ in range(2)]
    batch, streamed = (recorded_gradients(learner) for learner in learners)
    run_update(learners[0], update=1, epochs=epochs)
    run_update(learners[1], update=1, epochs=epochs, cut=cut_at_random)

    assert len(batch) == len(streamed) >= 2 * epochs
    for whole, pieces in zip(batch, streamed, strict=True):
        assert (whole - pieces).abs().max() <= 1e-10 * whole.abs().max() + 1e-15
    for whole, pieces in zip(learners[0].policy.parameters(), learners[1].policy.parameters(), strict=True):
        torch.testing.assert_close(whole, pieces, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("aside", [(), (1,), (0, 3)], ids=["all tickets", "one set aside", "two set aside"])
@pytest.mark.parametrize("level", ["chunk", "action"])
def test_the_gradient_is_that_of_the_mean_loss_over_decisions(level, aside):
    """Against the loss written out for one decision at a time."""
    recipe = tiny_recipe(algorithm={"ratio": level, "entropy": 0.1, "advantage_clip": 1.0}, training={"critic": {"weight": 0.25}})
    learner = make_learner(recipe, last=1)
    rollouts, policy = learner.rollouts, TinyPolicy()
    for ticket in aside:
        rollouts.set_aside(Ticket(ticket, "reach", seed=0, group=ticket))
    gradients = recorded_gradients(learner)
    learner.begin_update(0, UPDATE)
    decisions = pairs(rollouts, UPDATE)
    learner.accumulate(micro_batch(decisions))
    advantages, targets = learner.credit.compute(*np.array(decisions).T)
    learner.step()

    total = torch.zeros((), dtype=torch.float64)
    for (ticket, row), advantage, target in zip(decisions, advantages, targets, strict=True):
        state, actions, old = (torch.from_numpy(rollouts.rows(ticket, name)[row]).double() for name in ("state", "actions", "logprob"))
        executed = int(rollouts.rows(ticket, "executed")[row])
        distribution = torch.distributions.Normal(policy.mean(state * policy.scale).reshape(CHUNK, -1), policy.log_std.exp())
        logs = (distribution.log_prob(actions) - old).sum(-1)[:executed]
        ratio = (logs.sum(0, keepdim=True) if level == "chunk" else logs).exp()
        objective = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).sum() / (1 if level == "chunk" else CHUNK)
        bonus = 0.1 * distribution.entropy()[:executed].sum() / CHUNK
        total = total - objective - bonus + 0.25 * (policy.critic(state * policy.scale)[0] - target) ** 2
    (total / len(decisions)).backward()

    parameters = [*policy.actor_parameters(), *policy.critic_parameters()]
    expected = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    torch.testing.assert_close(gradients[0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("normalised", [True, False], ids=["training", "warming up"])
def test_an_update_whose_tickets_were_all_set_aside_changes_no_weight(normalised):
    learner = make_learner(tiny_recipe(training={"critic": {"epochs": 1}}), normalised=normalised)
    for ticket in UPDATE:
        learner.rollouts.set_aside(Ticket(ticket, "reach", seed=0, group=ticket))
    before = snapshot(learner.policy.parameters())
    streamer = Streamer(batch=4, group_size=1, steps=2, epochs=3, micro_batch=2, streaming=True, seed=0)
    for ticket in UPDATE:
        streamer.arrived(ticket, decisions=0)
    learner.begin_update(0, UPDATE)
    for micro_batch_ in streamer.update(0):
        assert micro_batch_ is not None
        learner.accumulate(micro_batch_)
        assert not micro_batch_.closes_step
        if micro_batch_.closes_epoch and learner.enough:
            break
    metrics = learner.finish_update()
    assert unchanged(learner.policy.parameters(), before)
    assert all(math.isfinite(value) for value in metrics.values())


def test_statistics_are_frozen_during_an_update():
    learner = make_learner()
    before = learner.credit.state_dict()
    learner.begin_update(0, UPDATE)
    first = np.array(pairs(learner.rollouts, range(1))).T
    early, _ = learner.credit.compute(*first)
    for ticket in reversed(UPDATE):
        learner.accumulate(micro_batch(pairs(learner.rollouts, range(ticket, ticket + 1))))
    late, _ = learner.credit.compute(*first)
    assert learner.credit.state_dict() == before
    np.testing.assert_array_equal(early, late)

    learner.step()
    learner.finish_update()
    assert learner.credit.state_dict() != before


def test_statistics_do_not_depend_on_the_order_of_arrival():
    states = []
    for order in (1, -1):
        learner = make_learner()
        run_update(learner, cut=lambda decisions, order=order: [[pair] for pair in decisions[::order]])
        states.append(learner.credit.state_dict())
    assert states[0] == states[1]


@pytest.mark.parametrize(("terminated", "bootstrap", "continues"), [(False, True, 1.0), (True, True, 0.0), (False, False, 0.0)])
def test_a_time_limit_is_not_the_end_of_the_world(terminated, bootstrap, continues):
    learner = make_learner(tiny_recipe(algorithm={"gamma": 0.9, "bootstrap": bootstrap}), decisions=2, terminated=terminated)
    learner.begin_update(0, UPDATE)
    _, targets = learner.credit.compute(np.array([0]), np.array([1]))
    after = float(learner.rollouts.rows(0, "value")[2])
    assert targets[0] == pytest.approx(float(learner.rollouts.rows(0, "rewards")[1].sum()) + 0.9 * continues * after)


def test_grpo_compares_the_episodes_of_a_group():
    rollouts = tiny_rollouts()
    for ticket, reward in enumerate([1.0, 0.0, 1.0, 1.0]):
        write_episode(rollouts, TinyPolicy(), ticket, decisions=1 + ticket, reward=reward)
    learner = make_learner(tiny_recipe(algorithm={"advantage": "grpo", "group_size": 2}), rollouts)
    learner.begin_update(0, UPDATE)
    advantages, _ = learner.credit.compute(*np.array(pairs(rollouts, UPDATE)).T)
    np.testing.assert_allclose(advantages, [1, -1, -1, *[0] * 7], atol=1e-5)


def test_grpo_leaves_the_critic_alone():
    learner = make_learner(tiny_recipe(algorithm={"advantage": "grpo", "group_size": 2}, training={"critic": {"epochs": 2, "warmup": 2}}))
    critic, actor = snapshot(learner.policy.critic_parameters()), snapshot(learner.policy.actor_parameters())
    metrics = run_update(learner)
    assert unchanged(learner.policy.critic_parameters(), critic)
    assert not unchanged(learner.policy.actor_parameters(), actor)
    assert "explained_variance" not in metrics


def test_advantages_are_clipped():
    learner = make_learner(tiny_recipe(algorithm={"advantage_clip": 0.01}))
    learner.begin_update(0, UPDATE)
    advantages, _ = learner.credit.compute(*np.array(pairs(learner.rollouts, UPDATE)).T)
    assert np.abs(advantages).max() == 0.01


@pytest.mark.parametrize(("kl_stop", "epochs"), [(1e-6, 1), (1e6, 3), (None, 3)])
def test_a_large_kl_ends_the_update_when_its_epoch_has_closed(kl_stop, epochs):
    learner = make_learner(tiny_recipe(algorithm={"kl_stop": kl_stop}))
    metrics = run_update(learner, epochs=3)
    assert (metrics["epochs"], metrics["optimizer_steps"]) == (epochs, 2 * epochs)


def test_a_warmup_update_trains_the_critic_alone():
    learner = make_learner(tiny_recipe(training={"critic": {"warmup": 1, "epochs": 2}}))
    actor, critic = snapshot(learner.policy.actor_parameters()), snapshot(learner.policy.critic_parameters())
    metrics = run_update(learner, epochs=3)
    assert unchanged(learner.policy.actor_parameters(), actor)
    assert not unchanged(learner.policy.critic_parameters(), critic)
    assert (metrics["epochs"], metrics["optimizer_steps"]) == (1, 0)
    assert all(parameter not in learner.optimizer.state for parameter in learner.policy.actor_parameters())

    run_update(learner, update=1)
    assert not unchanged(learner.policy.actor_parameters(), actor)


def test_the_first_update_only_measures_where_nothing_is_known_to_normalise_by():
    learner = make_learner(normalised=False)
    actor = snapshot(learner.policy.actor_parameters())
    run_update(learner)
    assert unchanged(learner.policy.actor_parameters(), actor)
    run_update(learner, update=1)
    assert not unchanged(learner.policy.actor_parameters(), actor)


def test_replay_lowers_the_value_error_and_touches_the_critic_alone():
    learner = make_learner(tiny_recipe(training={"critic": {"weight": 0, "warmup": 1, "epochs": 60, "batch": 8, "learning_rate": 1e-2}}))
    actor = snapshot(learner.policy.actor_parameters())
    before, after = (run_update(learner)["value_loss"] for _ in range(2))
    assert after < 0.5 * before
    assert unchanged(learner.policy.actor_parameters(), actor)


def test_replay_keeps_the_last_updates():
    learner = make_learner(tiny_recipe(training={"critic": {"epochs": 1, "replay": 2}}))
    for update in range(4):
        run_update(learner, update)
    assert len(learner.critic_features.state_dict()["past"]) == 2


def test_a_state_that_was_taken_does_not_change_with_the_next_update():
    learner = make_learner(tiny_recipe(training={"critic": {"epochs": 1}}))
    run_update(learner)
    state = learner.state_dict()
    before = copy.deepcopy(state)
    run_update(learner, 1)
    assert str(state) == str(before)


def test_learning_rate_rises_over_the_warmup_steps():
    learner = make_learner(tiny_recipe(training={"warmup_steps": 4, "learning_rate": 0.4}))
    rates = [run_update(learner, update)["learning_rate"] for update in range(3)]
    assert rates == pytest.approx([0.2, 0.4, 0.4])


def test_gradients_are_clipped_after_the_division():
    learner = make_learner(tiny_recipe(training={"gradient_clip": 1e-3}))
    gradients = recorded_gradients(learner)
    metrics = run_update(learner)
    actor = sum(parameter.numel() for parameter in learner.policy.actor_parameters())
    assert gradients[0][:actor].norm().item() == pytest.approx(1e-3, rel=1e-2)
    assert metrics["gradient_norm"] > 1e-2


def test_a_gradient_that_is_not_finite_is_refused_with_the_weights_untouched():
    learner = make_learner()
    learner.rollouts.scatter(np.array([0]), np.array([0]), {"logprob": np.full((1, CHUNK, 2), np.nan, np.float32)})
    before = snapshot(learner.policy.parameters())
    with pytest.raises(LearnerError, match="update 0 has a loss of nan"):
        run_update(learner)
    assert unchanged(learner.policy.parameters(), before)


def test_entropy_is_refused_for_a_head_without_one():
    learner = make_learner(tiny_recipe(algorithm={"entropy": 0.1}), policy=TinyPolicy(closed_form_entropy=False))
    with pytest.raises(LearnerError, match=r"set algorithm\.entropy=0"):
        run_update(learner)


def test_metrics_are_finite_numbers_and_leave_out_what_has_none():
    metrics = run_update(make_learner(policy=TinyPolicy(closed_form_entropy=False)))
    assert all(math.isfinite(value) for value in metrics.values())
    assert "entropy" not in metrics and "critic_replay_loss" not in metrics
    assert {"policy_loss", "value_loss", "approx_kl", "approx_kl_last", "clip_share", "ratio_max", "gradient_norm", "explained_variance"} <= metrics.keys()
    assert {"epochs", "optimizer_steps", "learning_rate", "advantage_std"} <= metrics.keys()


def test_an_update_that_was_left_early_leaves_no_gradient_behind():
    recipe = tiny_recipe(training={"critic": {"epochs": 1}})
    learner, fresh = make_learner(recipe), make_learner(recipe)
    learner.begin_update(0, UPDATE)
    learner.accumulate(micro_batch(pairs(learner.rollouts, UPDATE)))
    for each in (learner, fresh):
        run_update(each)
    assert unchanged(learner.policy.parameters(), snapshot(fresh.policy.parameters()))


def test_a_resumed_learner_goes_on_bit_for_bit():
    recipe = tiny_recipe(training={"critic": {"epochs": 2, "batch": 4, "replay": 3}, "warmup_steps": 9})
    learner = make_learner(recipe, normalised=False)
    for update in range(3):
        run_update(learner, update, epochs=2)
    resumed = make_learner(recipe, learner.rollouts, normalised=False, policy=TinyPolicy(seed=5))
    resumed.policy.load_state_dict(copy.deepcopy(learner.policy.state_dict()))
    resumed.load_state_dict(copy.deepcopy(learner.state_dict()))
    resumed.load_parameter_state(copy.deepcopy(learner.parameter_state()))

    metrics = [[run_update(each, update, epochs=2) for update in range(3, 5)] for each in (learner, resumed)]

    assert metrics[0] == metrics[1]
    assert unchanged(resumed.policy.parameters(), snapshot(learner.policy.parameters()))


COSINE_END = 0.5 * (1 + math.cos(0.9 * math.pi))


@pytest.mark.parametrize(("schedule", "at_the_middle", "at_the_end"), [("constant", 1.0, 1.0), ("linear", 0.5, 0.1), ("cosine", 0.5, COSINE_END)])
def test_the_learning_rate_rises_over_steps_and_falls_over_updates(schedule: str, at_the_middle: float, at_the_end: float) -> None:
    config = make_recipe({"training": {"updates": 10, "learning_rate": 2.0, "warmup_steps": 4, "schedule": schedule}}).training
    assert [learning_rate(config, step, 0) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert learning_rate(config, 100, 5) == pytest.approx(2.0 * at_the_middle)
    assert learning_rate(config, 100, 9) == pytest.approx(2.0 * at_the_end)
