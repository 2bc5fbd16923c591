"""Made-up observations and episodes. Pixels and states are random, and decisions are the policy's own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rlvla3.links.rollouts import Rollouts, RolloutSpec
from rlvla3.policies.base import Observations, Policy
from rlvla3.policies.conversion import arrays_from, observations_from
from rlvla3.policies.noise import decision_noise
from rlvla3.types import Observation, Outcome, Ticket

DECISIONS = 8
"""The most decisions of a made-up episode."""


def observations_for(policy: Policy, rows: int, device: str) -> Observations:
    """Random pixels and states on the device, [rows, ...]."""
    spaces = policy.spaces
    images = {camera: torch.randint(0, 256, (rows, *shape), dtype=torch.uint8, device=device) for camera, shape in spaces.cameras.items()}
    instructions = [_instruction(policy)] * rows
    return Observations(images, torch.randn(rows, spaces.state, device=device), torch.rand(rows, device=device), instructions)


def noise_for(policy: Policy, rows: int, device: str) -> Tensor:
    """Standard normal noise on the device, [rows, *noise_shape]."""
    return torch.randn(rows, *policy.options.noise_shape(policy.spaces, policy.chunk), device=device)


def episodes_of(policy: Policy, count: int, device: str) -> Rollouts:
    """A data plane with `count` episodes of DECISIONS decisions each, or fewer where none may be so long: tickets 0 to count - 1.

    The policy's weights are version 0.
    """
    spaces, chunk = policy.spaces, policy.chunk
    decisions_each = min(DECISIONS, spaces.decisions(chunk))
    rollouts = Rollouts(RolloutSpec(spaces, chunk, policy.options.trace(spaces, chunk), count))
    random, shape = np.random.default_rng(0), policy.options.noise_shape(spaces, chunk)

    def observe() -> Observation:
        images = {camera: random.integers(0, 256, size, np.uint8) for camera, size in spaces.cameras.items()}
        return Observation(images, random.standard_normal(spaces.state).astype(np.float32), _instruction(policy))

    episodes = [rollouts.begin(Ticket(number, "made up", seed=number, group=number), observe()) for number in range(count)]
    tickets = np.arange(count)
    for row in range(decisions_each):
        rows = np.full(count, row)
        arrays = rollouts.gather(tickets, rows, rollouts.observation_names)
        observations = observations_from(arrays, [_instruction(policy)] * count).to(device)
        noise = torch.from_numpy(decision_noise(0, [(1, number, row) for number in range(count)], shape)).to(device)
        decisions = policy.act(observations, noise, torch.ones(count, dtype=torch.bool, device=device))
        rollouts.scatter(tickets, rows, arrays_from(decisions, version=0))
        for episode in episodes:
            rewards = random.standard_normal(chunk).astype(np.float32)
            last = row == decisions_each - 1
            episode.record(Outcome(episode.actions, rewards, None if last else observe(), terminated=last))
    return rollouts


def _instruction(policy: Policy) -> str:
    return next(iter(policy.spaces.instructions), "")
