"""Cloning: which demonstrations are used, and that the same ones give the same policy."""

from __future__ import annotations

import random

import pytest
import torch

from rlvla3.config import CloneConfig
from rlvla3.demonstrations.demonstration_file import DemonstrationError
from rlvla3.training.cloning import DemonstrationSelection, ExpertEpisode, clone
from tests.support.tiny import CHUNK, MOST_DECISIONS, SPACES, TinyPolicy, tiny_rollouts, write_episode

TASKS = ("reach", "push")
FAILURES = {0, 3, 6}


def show(order, wanted: int = 2) -> DemonstrationSelection:
    """Tickets go to the two tasks in turn; each ends in `order`, in a data plane that holds three episodes, until the demonstrations are complete."""
    rollouts, expert = tiny_rollouts(capacity=3), TinyPolicy(seed=1)
    demonstrations = DemonstrationSelection(SPACES, CHUNK, TASKS, wanted)
    for ticket in order:
        finished = write_episode(rollouts, expert, ticket, decisions=1 + ticket % MOST_DECISIONS, task=TASKS[ticket % 2], success=ticket not in FAILURES)
        demonstrations.add(ticket, ExpertEpisode.copy_of(rollouts, finished) if finished.success else None)
    return demonstrations


def test_the_first_successes_of_each_task_are_used_whatever_the_order():
    # reach: 0 and 6 fail, so 2 and 4; push: 3 fails, so 1 and 5.
    for seed in range(5):
        order = list(range(10))
        random.Random(seed).shuffle(order)
        assert show(order).selected() == [1, 2, 4, 5]


def test_it_is_complete_only_when_no_earlier_ticket_can_bring_another():
    assert not show([0, 1, 2, 3, 4]).complete
    assert show([0, 1, 2, 3, 4, 5]).complete
    assert not show([0, 1, 3, 4, 5, 7, 8, 9]).complete
    assert show([0, 1, 3, 4, 5, 7, 8, 9, 2]).complete


def test_demonstrations_outlive_their_place_in_the_data_plane():
    observations, actions = show(range(10)).tensors()
    assert len(observations) == len(actions) == sum(1 + ticket % MOST_DECISIONS for ticket in (1, 2, 4, 5))
    assert observations.instructions[:3] == ["push", "push", "reach"]
    rollouts = tiny_rollouts()
    write_episode(rollouts, TinyPolicy(seed=1), 1, decisions=2, task="push")
    torch.testing.assert_close(actions[:2], torch.from_numpy(rollouts.episode(1, "actions").copy()))


def test_too_few_successes_are_refused_with_their_numbers():
    with pytest.raises(DemonstrationError, match="1 of 2 demonstrations of push"):
        show([2, 4, 1]).tensors()


def cloned(seed: int, steps: int = 200) -> tuple[TinyPolicy, list[float]]:
    policy = TinyPolicy()
    losses = [loss for _, loss in clone(policy, show(range(10)), CloneConfig(steps=steps, batch=8, learning_rate=0.05), seed)]
    return policy, losses


def test_cloning_is_a_function_of_demonstrations_and_seed():
    (first, losses), (second, again), (other, _) = cloned(0), cloned(0), cloned(1)
    assert losses == again
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.mean.weight, other.mean.weight)


def test_cloning_learns_fits_the_normalisation_and_leaves_the_critic_alone():
    policy, losses = cloned(0)
    assert losses[-1] < 0.7 * losses[0]
    torch.testing.assert_close(policy.state_mean, show(range(10)).tensors()[0].state.mean(0).double())
    assert all(torch.equal(a, b) for a, b in zip(policy.critic_parameters(), TinyPolicy().critic_parameters(), strict=True))


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_cloning_may_be_short_or_left_between_two_steps(steps):
    assert len(cloned(0, steps)[1]) == steps
    stepwise = clone(TinyPolicy(), show(range(10)), CloneConfig(steps=50), 0)
    assert next(stepwise)[0] == 1
    stepwise.close()
