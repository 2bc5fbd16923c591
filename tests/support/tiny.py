"""A policy and episodes small enough to check by hand, in float64."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from rlvla3.config import Recipe, make_recipe
from rlvla3.links.rollouts import Rollouts, RolloutSpec
from rlvla3.policies.base import Decisions, Evaluation, Observations, Policy
from rlvla3.policies.options import PolicyOptions
from rlvla3.types import ActionSpace, Finished, MicroBatch, Observation, Outcome, Spaces, Ticket

STATE, CHUNK, ACTION, MOST_DECISIONS = 3, 2, 2, 4
SPACES = Spaces(cameras={}, state=STATE, action=ActionSpace("continuous", ACTION), max_steps=CHUNK * MOST_DECISIONS)


class TinyPolicy(Policy):
    """A Gaussian with a linear mean and a critic of one hidden layer, on a shared scaling of the state that is the actor's: as networks on one trunk are."""

    Options = PolicyOptions

    def __init__(self, seed: int = 0, closed_form_entropy: bool = True) -> None:
        super().__init__(SPACES, CHUNK, PolicyOptions())
        torch.manual_seed(seed)
        self.closed_form_entropy = closed_form_entropy
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, STATE))
        self.mean = nn.Linear(STATE, CHUNK * ACTION)
        self.log_std = nn.Parameter(torch.full((ACTION,), -0.5))
        self.critic = nn.Sequential(nn.Linear(STATE, 8), nn.Tanh(), nn.Linear(8, 1))
        self.state_mean: torch.Tensor
        self.register_buffer("state_mean", torch.zeros(STATE))
        self.double()

    def act(self, observations, noise, explore):
        with torch.no_grad():
            seen = self._see(observations)
            mean = self._mean(seen)
            actions = mean + self.log_std.exp() * noise * explore[:, None, None]
            return Decisions(actions, self._logprob(mean, actions), self.value_of({"seen": seen}))

    def evaluate(self, observations, actions, trace):
        seen = self._see(observations)
        logprob = self._logprob(self._mean(seen), actions.double())
        entropy = (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).expand_as(logprob) if self.closed_form_entropy else None
        return Evaluation(logprob, entropy, self.value_of({"seen": seen}), {"seen": seen.detach()})

    def value_of(self, features):
        return self.critic(features["seen"])[:, 0]

    def critic_parameters(self):
        return list(self.critic.parameters())

    def clone_loss(self, observations, actions, generator):
        blur = torch.randn(actions.shape, generator=generator, dtype=torch.float64)
        return (self._mean(self._see(observations)) + 0.01 * blur - actions).square().mean()

    def fit_normalisation(self, states, actions):
        self.state_mean.copy_(states.mean(0))

    def _see(self, observations):
        return (observations.state.double() - self.state_mean) * self.scale

    def _mean(self, seen):
        return self.mean(seen).unflatten(1, (CHUNK, ACTION))

    def _logprob(self, mean, actions):
        return -0.5 * ((actions - mean) / self.log_std.exp()).square() - self.log_std - 0.5 * math.log(2 * math.pi)


def tiny_recipe(**sections) -> Recipe:
    """A recipe of 4 tickets an update in 2 steps, whose gradients are never clipped. Sections are merged over it."""
    training = {"batch": 4, "steps": 2, "epochs": 2, "gradient_clip": 1e9, "warmup_steps": 0} | sections.pop("training", {})
    return make_recipe({"policy": {"chunk": CHUNK}, "training": training, **sections})


def tiny_rollouts(capacity: int = 8) -> Rollouts:
    return Rollouts(RolloutSpec(SPACES, CHUNK, {}, capacity))


def write_episode(
    rollouts: Rollouts,
    policy: TinyPolicy,
    index: int,
    *,
    decisions: int = MOST_DECISIONS,
    last: int = CHUNK,
    terminated: bool = True,
    reward: float | None = None,
    drift: float = 0.3,
    task: str = "reach",
    success: bool = True,
    version: int = 0,
) -> Finished:
    """An episode of random states, acted by `policy`. last: actions executed of its last chunk. reward: of its last step alone (None: random ones).

    drift: deviation of the recorded log-probs from the policy's own, so that ratios differ from 1.
    """
    rng = np.random.default_rng([7, index, decisions])
    ticket = Ticket(index, task, seed=index, group=index)
    episode = rollouts.begin(ticket, _observation(rng, task))
    for row in range(decisions + 1):
        here = np.array([index]), np.array([row])
        state = torch.from_numpy(rollouts.gather(*here, ["state"])["state"])
        observations = Observations({}, state, torch.zeros(1), [task])
        decided = policy.act(observations, torch.from_numpy(rng.standard_normal((1, CHUNK, ACTION))), torch.ones(1, dtype=torch.bool))
        recorded = {"actions": decided.actions, "logprob": decided.logprob + drift * torch.from_numpy(rng.standard_normal((1, CHUNK, ACTION)))}
        values = {name: tensor.numpy().astype(np.float32) for name, tensor in recorded.items()}
        rollouts.scatter(*here, values | {"value": rng.standard_normal(1).astype(np.float32), "version": np.full(1, version, np.int32)})
        if row == decisions:  # the value of what a time limit cut off
            break
        ends = row == decisions - 1
        executed = last if ends else CHUNK
        rewards = rng.standard_normal(executed) if reward is None else np.eye(executed)[-1] * reward * ends
        after = None if ends and terminated else _observation(rng, task)
        how = {"success": ends and success, "terminated": ends and terminated, "truncated": ends and not terminated}
        episode.record(Outcome(values["actions"][0], rewards.astype(np.float32), after, **how))
    return Finished(ticket, decisions, episode.steps, success, episode.return_, version, version)


def pairs(rollouts: Rollouts, tickets: range) -> list[tuple[int, int]]:
    """Every (ticket, row) of some tickets, in order."""
    return [(ticket, row) for ticket in tickets for row in range(rollouts.decisions(ticket))]


def micro_batch(chosen: list[tuple[int, int]], *, epoch: int = 0, step: int = 0, closes_step: bool = True) -> MicroBatch:
    tickets, rows = np.array(chosen, np.int64).reshape(-1, 2).T
    return MicroBatch(tickets, rows, epoch, step, closes_step)


def _observation(rng: np.random.Generator, instruction: str) -> Observation:
    return Observation({}, rng.standard_normal(STATE).astype(np.float32), instruction)
