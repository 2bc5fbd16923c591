"""A policy of LIBERO that nobody trained: the hand follows a path in space, which belongs to the instruction.

It reads the state alone and remembers nothing. So it acts in the same way whoever asks it: an evaluation of ours, or a client of a server. What it was shown is
written down, so that two evaluations can be compared to the last bit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from rlvla3.policies.base import Decisions, Policy
from rlvla3.policies.options import PolicyOptions

VARIABLE = "LIBERO_SCRIPTED_LOG"
"""A folder: each process writes the instruction and the state of each of its decisions into a file there."""

PATHS: Mapping[str, Sequence[Sequence[float]]] = {}
"""{instruction: the points of a path in metres (3), and the gripper on the way to each (1)}."""

SPACING, AHEAD, METRES = 0.01, 5, 0.05
"""Points of a path are this far apart in metres; the hand aims at the point so many further; an action of 1 asks for a step of this length."""


class ScriptedLibero(Policy):
    """Follows PATHS. An instruction without a path keeps the hand still."""

    Options = PolicyOptions

    def __init__(self, spaces, chunk, options):
        super().__init__(spaces, chunk, options)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self._dense = {instruction: _dense(np.array(path)) for instruction, path in PATHS.items()}

    def act(self, observations, noise, explore):
        states, rows = observations.state.cpu().numpy(), len(observations)
        actions = np.zeros((rows, self.chunk, 7), np.float32)
        actions[..., 6] = -1
        for row, instruction in enumerate(observations.instructions):
            _note(instruction, states[row])
            if (path := self._dense.get(instruction)) is not None:
                nearest = int(np.argmin(np.linalg.norm(path[:, :3] - states[row, :3], axis=1)))
                goal = path[min(nearest + AHEAD, len(path) - 1)]
                actions[row, :, :3] = np.clip((goal[:3] - states[row, :3]) / METRES, -1, 1)
                actions[row, :, 6] = goal[3]
        zeros = torch.zeros(rows, self.chunk, 7)
        return Decisions(torch.from_numpy(actions), zeros, torch.zeros(rows))

    def evaluate(self, observations, actions, trace):
        raise NotImplementedError

    def value_of(self, features):
        raise NotImplementedError

    def critic_parameters(self):
        return []


def _dense(path: np.ndarray) -> np.ndarray:
    """The points of a path, SPACING apart. Each has the gripper of the corner that it leads to."""
    parts = [path[:1]]
    for before, after in pairwise(path):
        steps = max(int(np.ceil(np.linalg.norm(after[:3] - before[:3]) / SPACING)), 1)
        points = before + (after - before) * np.linspace(1 / steps, 1, steps)[:, None]
        points[:, 3] = after[3]
        parts.append(points)
    return np.concatenate(parts)


def _note(instruction: str, state: np.ndarray) -> None:
    if folder := os.environ.get(VARIABLE):
        with (Path(folder) / f"{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps([instruction, state.astype(np.float32).tobytes().hex()]) + "\n")
