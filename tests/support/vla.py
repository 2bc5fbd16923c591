"""Tiny pretrained policies, and what they see."""

from __future__ import annotations

from typing import Any

import torch

from rlvla3.config import PolicyConfig
from rlvla3.policies.base import Observations
from rlvla3.policies.noise import decision_noise
from rlvla3.policies.registry import make_policy
from rlvla3.types import ActionSpace, Spaces

FAMILIES = ("pi0", "pi05", "smolvla", "openvla_oft", "groot")
FLOW_FAMILIES = ("pi0", "pi05", "smolvla", "groot")

ROBOT = Spaces({"front": (64, 64, 3), "wrist": (48, 64, 3)}, 8, ActionSpace("continuous", 7), 100, ("press the button", "open the drawer now"))


def config_of(family: str, chunk: int = 4, **options: Any) -> PolicyConfig:
    return PolicyConfig(name=family, chunk=chunk, size="tiny", options=options)


def make(family: str, spaces: Spaces = ROBOT, seed: int = 0, chunk: int = 4, **options: Any) -> Any:
    """A tiny policy with random weights. What begins at zero is random too, because zeros would hide mistakes."""
    torch.manual_seed(seed)
    policy = make_policy(config_of(family, chunk, **options), spaces)
    with torch.no_grad():
        for parameter in policy.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return policy.eval()


def observe(spaces: Spaces, rows: int, seed: int = 0) -> Observations:
    generator = torch.Generator().manual_seed(seed)
    images = {camera: torch.randint(0, 256, (rows, *shape), dtype=torch.uint8, generator=generator) for camera, shape in spaces.cameras.items()}
    instructions = [spaces.instructions[row % len(spaces.instructions)] for row in range(rows)]
    return Observations(images, torch.randn(rows, spaces.state, generator=generator), torch.rand(rows, generator=generator), instructions)


def rows_of(observations: Observations, rows: list[int]) -> Observations:
    images = {camera: image[rows] for camera, image in observations.images.items()}
    return Observations(images, observations.state[rows], observations.elapsed[rows], [observations.instructions[row] for row in rows])


def noise_of(policy: Any, rows: int, seed: int = 0) -> torch.Tensor:
    shape = policy.options.noise_shape(policy.spaces, policy.chunk)
    return torch.from_numpy(decision_noise(seed, [(1, ticket, 0) for ticket in range(rows)], shape))
