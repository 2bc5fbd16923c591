"""A learner on four tiny episodes, and what is asked of it in tests."""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rlvla3.policies.base import Policy
from rlvla3.training.learner import Learner
from tests.support.tiny import TinyPolicy, micro_batch, pairs, tiny_recipe, tiny_rollouts, write_episode

UPDATE = range(4)


def make_learner(recipe=None, rollouts=None, *, normalised: bool = True, policy: TinyPolicy | None = None, **shape) -> Learner:
    """A learner with the four episodes of update 0 in its data plane. normalised: running statistics are known, as after a first update."""
    if rollouts is None:
        rollouts = tiny_rollouts()
        for ticket in UPDATE:
            write_episode(rollouts, TinyPolicy(), ticket, **shape)
    learner = Learner(policy or TinyPolicy(), recipe or tiny_recipe(), rollouts, "cpu")
    if normalised:
        learner.credit.statistics.add_update([-1.0, 0.5, 2.0])
    return learner


def recorded_gradients(learner: Learner) -> list[torch.Tensor]:
    """The gradient of every optimizer step from now on, the critic's replay included."""
    gradients: list[torch.Tensor] = []

    def record(optimizer, args, kwargs):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients.append(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]))

    learner.optimizer.register_step_pre_hook(record)
    return gradients


def run_update(learner: Learner, update: int = 0, tickets: range = UPDATE, epochs: int = 1, cut=None) -> dict[str, float]:
    """One optimizer step for each half of the tickets, `epochs` times. cut: a step's (ticket, row) pairs to lists of them (None: all at once)."""
    learner.begin_update(update, tickets)
    halves = tickets[: len(tickets) // 2], tickets[len(tickets) // 2 :]
    for epoch in range(epochs):
        for step, half in enumerate(halves):
            decisions = pairs(learner.rollouts, half)
            for part in [decisions] if cut is None else cut(decisions):
                learner.accumulate(micro_batch(part, epoch=epoch, step=step))
            learner.step()
        if learner.enough:
            break
    return learner.finish_update()


def snapshot(parameters) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def unchanged(parameters, before) -> bool:
    return all(torch.equal(parameter, old) for parameter, old in zip(parameters, before, strict=True))


class SecondStep(NamedTuple):
    """What an independent formula needs of the second optimizer step of an update. gradient: what the learner found, flat. proximal, present: the policies at
    the start of the update and before this step."""

    gradient: torch.Tensor
    proximal: Policy
    present: Policy
    decisions: list[tuple[int, int]]
    advantages: NDArray[np.float64]


def second_step(learner: Learner) -> SecondStep:
    """Make two steps of update 1, from tickets 0 and 1 of UPDATE and from 2 and 3."""
    proximal, gradients = copy.deepcopy(learner.policy), recorded_gradients(learner)
    learner.begin_update(1, UPDATE)
    learner.accumulate(micro_batch(pairs(learner.rollouts, range(2))))
    learner.step()
    present, decisions = copy.deepcopy(learner.policy), pairs(learner.rollouts, range(2, 4))
    learner.accumulate(micro_batch(decisions))
    advantages, _ = learner.credit.compute(*np.array(decisions).T)
    learner.step()
    return SecondStep(gradients[1], proximal, present, decisions, advantages)
