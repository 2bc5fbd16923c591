"""A policy of LIBERO that nobody trained: the hand follows two paths in space, which belong to the instruction.

It reads the instruction and the state alone, and it remembers nothing. So it acts in the same way whoever asks it: an evaluation of ours, or a client of a
server. Its paths are always the same, and bowls and plates stand elsewhere in each initial state. So some episodes succeed and others do not.

    python -m tests.support.libero_scripted FOLDER    # writes FOLDER/recipe.yaml and the policy that it names
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from rlvla3.config import make_recipe
from rlvla3.policies.base import Decisions, Policy
from rlvla3.policies.options import PolicyOptions
from rlvla3.policies.registry import make_policy
from rlvla3.simulators.common_spaces import common_spaces

Point = tuple[float, float, float]
"""In metres, in the frame of the robot's base, as LIBERO's state has it."""

START = (-0.21, -0.005, 1.17)
"""About where the hand is at the beginning."""


@dataclass(frozen=True)
class Paths:
    """opened: the corners of the hand's path to where it grasps. closed: those of its path to where it lets go."""

    opened: Sequence[Point]
    closed: Sequence[Point]


def over(start: Point, end: Point, height: float = 1.0) -> Paths:
    """From START down to `start`, where the hand grasps; up to `height`, across and down to `end`, where it lets go."""
    above, beyond = (*start[:2], height), (*end[:2], height)
    return Paths([START, (*start[:2], height + 0.02), start], [start, above, beyond, end])


TASKS: Mapping[str, tuple[str, Paths]] = {
    "libero_goal/8": ("put the bowl on the plate", over((-0.09, 0.048, 0.918), (0.05, 0.03, 0.94))),
    "libero_spatial/0": (
        "pick up the black bowl between the plate and the ramekin and place it on the plate",
        over((-0.055, 0.25, 0.918), (0.065, 0.25, 0.94)),
    ),
}
"""{task: its instruction, and the paths}. The hand holds a bowl by its rim."""

SPACING, AHEAD, METRES = 0.01, 5, 0.05
"""Points of a path are this far apart in metres. The hand aims at the point so many further. An action of 1 asks for a step of METRES."""

GRASPED, ARRIVED = 0.03, 0.015
"""Fingers that are closer than this hold something, or nothing. A path has ended so near to its end. In metres."""

OPEN, CLOSE = -1.0, 1.0
CHUNK = 5


class ScriptedLibero(Policy):
    """Follows the paths of TASKS. Another instruction keeps the hand still."""

    Options = PolicyOptions

    def __init__(self, spaces, chunk, options):
        super().__init__(spaces, chunk, options)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self._paths = {instruction: (_dense(paths.opened), _dense(paths.closed)) for instruction, paths in TASKS.values()}

    def act(self, observations, noise, explore):
        actions = np.zeros((len(observations), self.chunk, 7), np.float32)
        for row, (instruction, state) in enumerate(zip(observations.instructions, observations.state.cpu().numpy(), strict=True)):
            if paths := self._paths.get(instruction):
                actions[row] = _action(state, *paths)
        return Decisions(torch.from_numpy(actions), torch.zeros(actions.shape), torch.zeros(len(actions)))

    def evaluate(self, observations, actions, trace):
        raise NotImplementedError

    def value_of(self, features):
        raise NotImplementedError

    def critic_parameters(self):
        return []


def _action(state: NDArray[np.float32], opened: NDArray[np.float64], closed: NDArray[np.float64]) -> NDArray[np.float64]:
    """[7] for a state [8]: along the path that the fingers are for. At its end they open or close."""
    grasped = state[6] - state[7] < GRASPED
    path = closed if grasped else opened
    goal = path[min(int(np.argmin(np.linalg.norm(path - state[:3], axis=1))) + AHEAD, len(path) - 1)]
    arrived = np.linalg.norm(path[-1] - state[:3]) < ARRIVED
    return np.array([*np.clip((goal - state[:3]) / METRES, -1, 1), 0, 0, 0, CLOSE if grasped != arrived else OPEN])


def _dense(corners: Sequence[Point]) -> NDArray[np.float64]:
    """The points of a path [points, 3], SPACING apart at most."""
    parts = [np.array(corners[:1])]
    for before, after in pairwise(np.array(corners)):
        steps = max(int(np.ceil(np.linalg.norm(after - before) / SPACING)), 1)
        parts.append(before + (after - before) * np.linspace(1 / steps, 1, steps)[:, None])
    return np.concatenate(parts)


def write_recipe(folder: Path) -> Path:
    """A recipe with the policy, both in `folder`. It gets small frames, and looks at none."""
    name = f"{ScriptedLibero.__module__}:{ScriptedLibero.__name__}"
    simulator = {"name": "libero", "tasks": list(TASKS), "shards": 1, "slots": 1}
    made = make_recipe({"simulator": simulator, "policy": {"name": name, "chunk": CHUNK}})
    make_policy(made.policy, common_spaces(made)).save(folder / "policy", name)
    recipe = folder / "recipe.yaml"
    policy = {"name": name, "chunk": CHUNK, "checkpoint": str((folder / "policy").absolute())}
    recipe.write_text(yaml.safe_dump({"simulator": simulator, "policy": policy}))
    return recipe


if __name__ == "__main__":
    from tests.support.libero_scripted import write_recipe as write  # under the name by which the policy is found again

    print(write(Path(sys.argv[1])))
