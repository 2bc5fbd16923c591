"""The running statistics of a policy change with its versions, and with nothing else."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rlvla3.policies.running_normalisation import Moments
from rlvla3.training.checkpoint import load_checkpoint, save_checkpoint
from rlvla3.training.seen_inputs import fit_to_demonstrations
from tests.support.learners import run_update
from tests.support.scaled_states import SCALES, SIZE, STEPS, act_episodes, actor_critic, learner_of, mini_vla, rollouts_of, states
from tests.support.tiny import micro_batch, pairs

FRAMES = {"front": (36, 36, 3)}


POLICIES = {
    "discrete": actor_critic,
    "continuous": lambda: actor_critic(discrete=False),
    "frames": lambda: actor_critic(FRAMES),
    "mini VLA": mini_vla,
}


def updates(learner, name: str, first: int, end: int) -> None:
    for update in range(first, end):
        tickets = range(4 * update, 4 * update + 4)
        act_episodes(learner.rollouts, learner.policy, tickets, name, update)
        run_update(learner, update, tickets)


def buffers(policy) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in policy.named_buffers()}


def same(ours, theirs) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("name", ["around 100", "of the size 1e+06", "mixed"])
def test_recorded_log_probs_are_evaluated_again_exactly_until_the_update_ends(kind, name):
    learner = learner_of(POLICIES[kind](), training={"learning_rate": 1e-30, "critic": {"learning_rate": 1e-30}})
    updates(learner, name, 0, 1)
    learner.policy.eval()
    tickets, before = range(4, 8), buffers(learner.policy)
    act_episodes(learner.rollouts, learner.policy, tickets, name, version=1)
    learner.begin_update(1, tickets)
    for step, half in enumerate((tickets[:2], tickets[2:])):
        decisions = pairs(learner.rollouts, half)
        for ticket, row in decisions:  # one at a time, as they were decided: other sizes of a batch round otherwise
            at = np.array([ticket]), np.array([row])
            recorded = learner.rollouts.gather(*at, ("logprob",))["logprob"]
            with torch.no_grad():
                assert np.array_equal(learner._logprob(*at).numpy(), recorded)
        learner.accumulate(micro_batch(decisions, step=step))
        learner.step()
        assert same(buffers(learner.policy), before)
    learner.finish_update()
    assert not same(buffers(learner.policy), before)


@pytest.mark.parametrize("name", SCALES)
def test_an_update_scales_what_it_saw(name):
    learner = learner_of(actor_critic())
    updates(learner, name, 0, 2)
    seen = np.concatenate([states(name, STEPS + 1, seed=ticket)[:STEPS] for ticket in range(8)])
    whole = Moments.of(seen)
    scale = learner.policy.running_normalisations()["state"]
    assert scale.count == 8 * STEPS
    np.testing.assert_allclose(scale.mean.numpy(), whole.mean.astype(np.float32), rtol=1e-5, atol=1e-6 * np.abs(seen).max())
    assert scale(torch.from_numpy(seen)).abs().max() < 6
    learner.check_weights("an update", "")


def test_frames_are_scaled_colour_by_colour():
    learner = learner_of(actor_critic(FRAMES))
    updates(learner, "mixed", 0, 1)
    scale = learner.policy.running_normalisations()["image.front"]
    assert scale.mean.tolist() == pytest.approx([201.5] * 3, abs=0.1) and scale.deviation.tolist() == pytest.approx([2.1] * 3, abs=0.1)


@pytest.mark.parametrize("kind", POLICIES)
def test_a_resumed_learner_goes_on_counting_bit_for_bit(tmp_path, kind):
    sections = {"algorithm": {"reference": {"weight": 0.1}}, "training": {"critic": {"epochs": 2}}}
    learner = learner_of(POLICIES[kind](), **sections)
    updates(learner, "around 100", 0, 2)
    save_checkpoint(tmp_path, "a policy", learner, 2)
    again = learner_of(POLICIES[kind](), **sections)
    assert load_checkpoint(tmp_path, again.policy, again) == 2
    for each in (learner, again):
        updates(each, "around 100", 2, 4)
    assert same(learner.policy.state_dict(), again.policy.state_dict())


def test_the_order_of_arrival_does_not_change_the_statistics():
    ends = []
    for order in (range(4), (2, 0, 3, 1)):
        learner = learner_of(actor_critic())
        act_episodes(learner.rollouts, learner.policy, range(4), "mixed", 0)
        learner.begin_update(0, range(4))
        for place, ticket in enumerate(order):
            learner.accumulate(micro_batch(pairs(learner.rollouts, range(ticket, ticket + 1)), closes_step=place == 3))
        learner.step()
        learner.finish_update()
        ends.append(buffers(learner.policy))
    assert same(*ends)


def test_a_reference_policy_sees_as_it_did():
    learner = learner_of(actor_critic(), algorithm={"reference": {"weight": 0.1}})
    first = copy.deepcopy(learner.policy)
    updates(learner, "around 100", 0, 3)
    act_episodes(learner.rollouts, learner.policy, range(12, 16), "around 100", 3)
    learner.begin_update(3, range(12, 16))
    tickets, rows = (np.array(numbers) for numbers in zip(*pairs(learner.rollouts, range(12, 16)), strict=True))
    assert learner.objective._reference is not None
    found = learner.objective._reference.logprob(tickets, rows)
    recorded = learner._loader.load(tickets, rows, learner._fields)
    assert recorded.observations is not None
    expected = first.evaluate(recorded.observations, recorded["actions"], recorded.trace).logprob
    assert torch.equal(found, expected.detach())


@pytest.mark.parametrize("kind", POLICIES)
def test_cloning_sets_the_statistics_and_they_stay(kind):
    learner = learner_of(POLICIES[kind]())
    policy, rollouts = learner.policy, learner.rollouts
    act_episodes(rollouts, policy, range(4), "around 100", 0)
    tickets, rows = (np.array(numbers) for numbers in zip(*pairs(rollouts, range(4)), strict=True))
    shown = learner._loader.load(tickets, rows, learner._fields).observations
    assert shown is not None
    fit_to_demonstrations(policy, shown, torch.zeros(len(shown), 1, policy.spaces.action.size))
    for scale in policy.running_normalisations().values():
        assert not scale.counts and (scale.mean.abs() > 50).all()
    before = buffers(policy)
    updates(learner, "of the size 1e+06", 0, 1)
    assert same(buffers(policy), before)


def test_a_policy_without_running_statistics_reads_nothing():
    learner = learner_of(actor_critic())
    learner.policy.running_normalisations()["state"].fit(torch.zeros(3, SIZE))
    learner.seen_inputs.see(np.array([5]))  # a ticket that is not there
    learner.seen_inputs.finish()


def test_kept_states_are_scaled_by_the_present_statistics():
    learner = learner_of(actor_critic(), training={"critic": {"epochs": 1, "replay": 8}})
    updates(learner, "around 100", 0, 2)
    for features, _ in learner.critic_features.state_dict()["past"]:
        assert (features["seen"] > 90).all()


def test_rollouts_of_a_policy_hold_its_trace():
    assert rollouts_of(actor_critic()).trace_names == ("trace.sample",)


@pytest.mark.parametrize("counts", [True, False])
def test_a_version_of_other_statistics_is_another_version(counts):
    """While the critic warms up, the actor makes no step. Its statistics change all the same, and so do its log-probs."""
    learner = learner_of(actor_critic(), training={"critic": {"warmup": 2}})
    if not counts:
        learner.policy.running_normalisations()["state"].fit(torch.zeros(3, SIZE))
    updates(learner, "around 100", 0, 1)
    learner.begin_update(1, range(4, 8))
    assert list(learner.objective.mismatch.fresh(np.array([0, 1]))) == [not counts, True]
