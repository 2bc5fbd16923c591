"""Episodes whose states, or frames, have an unusual scale, acted by an actor-critic or a mini VLA."""

from __future__ import annotations

import numpy as np
import torch

from rlvla3.links.rollouts import Rollouts, RolloutSpec
from rlvla3.policies.actor_critic import ActorCritic
from rlvla3.policies.base import Policy
from rlvla3.policies.conversion import arrays_from, observations_from
from rlvla3.policies.mini_vla import MiniVLA
from rlvla3.policies.noise import decision_noise
from rlvla3.policies.options import ActorCriticOptions, MiniVLAOptions
from rlvla3.training.learner import Learner
from rlvla3.types import ActionSpace, Observation, Outcome, Spaces, Ticket
from tests.support.tiny import tiny_recipe

SIZE, STEPS = 4, 5

SCALES: dict[str, tuple[list[float], list[float]]] = {
    **{f"around {offset:g}": ([offset] * SIZE, [1.0] * SIZE) for offset in (0, 1, 10, 100, -100, 1e3, -1e4, 1e5)},
    **{f"of the size {scale:g}": ([0.0] * SIZE, [scale] * SIZE) for scale in (1e-9, 1e-6, 1e-4, 1e-2, 10, 1e3, 1e6, 1e12)},
    **{f"around {offset:g} by {scale:g}": ([offset] * SIZE, [scale] * SIZE) for offset in (100, -1e3) for scale in (0.1, 0.5, 20, 3e3)},
    "mixed": ([0, 100, -1e4, 1e-3], [1, 10, 1e3, 1e-4]),
    "in pixels": ([320, 240, 128, 0], [100, 80, 40, 1]),
    "in millimetres and degrees": ([450, -200, 90, 180], [50, 80, 30, 60]),
    "in pascals": ([101325, 101325, 0, 0], [300, 10, 1, 1]),
    "with a clock": ([1.7e9, 0, 0, 0], [1e5, 1, 1, 1]),
    "a tiny and a huge one": ([0, 0, 0, 0], [1e-8, 1e8, 1, 1]),
    "with a constant": ([100, 5, 0, 1], [1, 0, 1, 0]),
    "all constant": ([100, -5, 0, 1e6], [0, 0, 0, 0]),
}
"""{what a state is like: the mean and the deviation of each dimension}."""


def states(name: str, rows: int, seed: int = 0) -> np.ndarray:
    """float32 [rows, SIZE]"""
    offset, scale = (np.array(numbers, np.float64) for numbers in SCALES[name])
    return (offset + scale * np.random.default_rng(seed).standard_normal((rows, SIZE))).astype(np.float32)


def spaces(cameras: dict[str, tuple[int, int, int]] | None = None, discrete: bool = True) -> Spaces:
    action = ActionSpace("discrete", 1, choices=3) if discrete else ActionSpace("continuous", 2)
    return Spaces(cameras or {}, SIZE, action, max_steps=STEPS)


def actor_critic(cameras: dict[str, tuple[int, int, int]] | None = None, discrete: bool = True) -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic(spaces(cameras, discrete), 1, ActorCriticOptions())


def mini_vla() -> MiniVLA:
    torch.manual_seed(0)
    return MiniVLA(spaces({"front": (64, 64, 3)}, discrete=False), 1, MiniVLAOptions(instruction_bytes=8, layers=1, width=32, expert_width=32))


def rollouts_of(policy: Policy) -> Rollouts:
    trace = policy.options.trace(policy.spaces, policy.chunk)
    return Rollouts(RolloutSpec(policy.spaces, policy.chunk, trace, 8))


def act_episodes(rollouts: Rollouts, policy: Policy, tickets: range, name: str, version: int) -> None:
    """Write an episode for each ticket, as a generator with this policy does."""
    for ticket in tickets:
        shown = states(name, STEPS + 1, seed=ticket)
        rng = np.random.default_rng(ticket)
        frames = {camera: rng.integers(200, 204, (STEPS + 1, *shape), dtype=np.uint8) for camera, shape in policy.spaces.cameras.items()}
        looks = [Observation({camera: images[row] for camera, images in frames.items()}, shown[row], "push") for row in range(STEPS + 1)]
        episode = rollouts.begin(Ticket(ticket, "reach", ticket, ticket), looks[0])
        for row in range(STEPS):
            here = np.array([ticket]), np.array([row])
            observation = observations_from(rollouts.gather(*here, rollouts.observation_names), ["push"])
            noise = torch.from_numpy(decision_noise(0, [(1, ticket, row)], policy.options.noise_shape(policy.spaces, policy.chunk)))
            decided = policy.act(policy.tokenise(observation), noise, torch.ones(1, dtype=torch.bool))
            rollouts.scatter(*here, arrays_from(decided, version))
            ends = row == STEPS - 1
            episode.record(Outcome(decided.actions.numpy()[0], rng.standard_normal(policy.chunk).astype(np.float32), looks[row + 1], terminated=ends))


def learner_of(policy: Policy, **sections) -> Learner:
    """A learner whose generator is its own policy. sections: of the recipe."""
    return Learner(policy, tiny_recipe(policy={"name": "actor_critic", "chunk": policy.chunk}, **sections), rollouts_of(policy), "cpu")
