"""Behaviour cloning: a policy learns to imitate demonstrations, before reinforcement learning improves it.

Demonstrations come from a simulator's scripted expert, as episodes in the data plane, or from files (demonstrations/).

Invariant: the first successes of each task are used, in the order of tickets or files. The choice does not depend on how fast a simulator was.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvla3.config import CloneConfig
from rlvla3.demonstrations.demonstration_file import DemonstrationError
from rlvla3.demonstrations.room import bytes_needed, demonstration_layout, room, zeros
from rlvla3.links.rollouts import Rollouts
from rlvla3.policies.base import Observations, Policy
from rlvla3.policies.conversion import observations_from
from rlvla3.training.adamw import make_adamw
from rlvla3.training.objective import LearnerError
from rlvla3.training.seen_inputs import fit_to_demonstrations
from rlvla3.types import Finished, Spaces

GRADIENT_CLIP = 1.0
WARMUP_SHARE = 0.1
"""The share of the steps over which the learning rate rises. Over the other steps it falls to almost 0."""

MIN_CYCLE_STEPS = 20
"""Steps of the shortest learning-rate cycle. In a shorter cycle the learning rate would have less than one step to rise in."""

LOWER_CLONING_RATE = "Set a lower clone.learning_rate, and look for demonstrations whose states or actions are not finite or very large"


class Demonstration(Protocol):
    """A successful episode to learn from, from an expert or a file."""

    @property
    def task(self) -> str: ...

    @property
    def decisions(self) -> int: ...

    @property
    def instructions(self) -> Sequence[str]:
        """The instruction of each decision, [decisions]."""

    def fill(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Write the observations, and the actions that follow each, "actions" [decisions, H, A], into `rows`, which are zeros."""


@dataclass(frozen=True, slots=True)
class ExpertEpisode:
    """An episode of a scripted expert, copied out of the data plane."""

    task: str
    instructions: Sequence[str]
    arrays: Mapping[str, NDArray[Any]]

    @classmethod
    def copy_of(cls, rollouts: Rollouts, finished: Finished) -> ExpertEpisode:
        """Copy an episode that has just ended. Another episode will soon use its place in the data plane."""
        ticket = finished.ticket
        arrays = {name: rollouts.episode(ticket.index, name).copy() for name in (*rollouts.observation_names, "actions")}
        rows = np.arange(finished.decisions)
        return cls(ticket.task, rollouts.instructions(np.full_like(rows, ticket.index), rows), arrays)

    @property
    def decisions(self) -> int:
        return len(self.arrays["actions"])

    def fill(self, rows: Mapping[str, NDArray[Any]]) -> None:
        for name, array in self.arrays.items():
            rows[name][:] = _following(array, rows[name].shape[1]) if name == "actions" else array


class DemonstrationSelection:
    """Selects the first `wanted` successes of each task, in whatever order they come.

    spaces, horizon: those of the policy that will learn from them. H, its horizon, is how many actions it learns for each observation.

    demonstrations = DemonstrationSelection(spaces, horizon, tasks, wanted=10)
    while not demonstrations.complete:
        demonstrations.add(number, demonstration)        # the numbers are 0, 1, 2, ..., in any order; None for a failure
    """

    def __init__(self, spaces: Spaces, horizon: int, tasks: Sequence[str], wanted: int) -> None:
        self.tasks, self.wanted = tuple(tasks), wanted
        self._layout = demonstration_layout(spaces, horizon)
        self._ended: set[int] = set()
        self._successes: dict[int, Demonstration] = {}

    def add(self, number: int, demonstration: Demonstration | None) -> None:
        """Add the episode with this number. None means that it failed."""
        self._ended.add(number)
        if demonstration is not None:
            self._successes[number] = demonstration

    @property
    def complete(self) -> bool:
        """Whether the first `wanted` successes of every task are known. Then no episode with a lower number can add one."""
        frontier = next(number for number in range(len(self._ended) + 1) if number not in self._ended)
        return all(len(self._successes_of(task, before=frontier)) >= self.wanted for task in self.tasks)

    @property
    def found(self) -> dict[str, int]:
        """The number of successes of each task so far, at most `wanted`."""
        return {task: min(self.wanted, len(self._successes_of(task))) for task in self.tasks}

    def selected(self) -> list[int]:
        """The numbers of the selected demonstrations, sorted: the first `wanted` successes of each task. Raises DemonstrationError where a task has fewer."""
        for task, found in self.found.items():
            if found < self.wanted:
                raise DemonstrationError(
                    f"{found} of {self.wanted} demonstrations of {task} succeeded: the expert is not reliable enough. "
                    f"Set clone.demonstrations={max(found, 1)}, disturb the expert less, or set a larger simulator.max_steps"
                )
        return sorted(number for task in self.tasks for number in self._successes_of(task)[: self.wanted])

    @property
    def bytes(self) -> int:
        """The bytes of the selected demonstrations."""
        return bytes_needed(self._layout, sum(self._successes[number].decisions for number in self.selected()))

    def room(self) -> AbstractContextManager[Path | None]:
        """A temporary folder for frames that are too large for memory, or None where memory holds them. Raises DemonstrationError."""
        return room(self.bytes)

    def tensors(self, folder: Path | None = None) -> tuple[Observations, Tensor]:
        """The selected demonstrations: N observations and the actions that follow each, [N, H, A]. Each is read directly into its place.

        folder: where frames are kept. None means memory.
        """
        selected = [self._successes[number] for number in self.selected()]
        ends = list(accumulate(demonstration.decisions for demonstration in selected))
        arrays = {name: zeros(folder if name.startswith("image.") else None, name, (ends[-1], *field.shape), field) for name, field in self._layout.items()}
        for demonstration, end in zip(selected, ends, strict=True):
            demonstration.fill({name: array[end - demonstration.decisions : end] for name, array in arrays.items()})
        instructions = [instruction for demonstration in selected for instruction in demonstration.instructions]
        actions = torch.from_numpy(arrays.pop("actions"))
        return observations_from(arrays, instructions), actions

    def _successes_of(self, task: str, before: float = float("inf")) -> list[int]:
        return sorted(number for number, demonstration in self._successes.items() if demonstration.task == task and number < before)


def clone(policy: Policy, demonstrations: DemonstrationSelection, config: CloneConfig, seed: int) -> Generator[tuple[int, float], None, None]:
    """Train `policy`, on its device, to act like the demonstrations. Yields (steps done, loss) after each step. The caller may stop between two steps.

    The normalisation is fitted first. Then AdamW trains with a one-cycle learning rate (Smith and Topin, "Super-convergence", arXiv 1708.07120). The
    critic's own parameters do not change. The same demonstrations and seed give the same weights. Raises DemonstrationError.
    """
    with demonstrations.room() as folder:
        yield from _train(policy, demonstrations.tensors(folder), config, seed)


def _train(policy: Policy, learned_from: tuple[Observations, Tensor], config: CloneConfig, seed: int) -> Generator[tuple[int, float], None, None]:
    observations, actions = learned_from
    fit_to_demonstrations(policy, observations, actions)
    parameters = policy.actor_parameters()
    device = parameters[0].device
    learning_rate = config.learning_rate or policy.options.CloneLearningRate
    optimizer = make_adamw(parameters, device, lr=learning_rate, weight_decay=config.weight_decay)
    cycle = max(config.steps, MIN_CYCLE_STEPS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=cycle, pct_start=WARMUP_SHARE)
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that the draws are the same on every device
    for step in range(config.steps):
        picked = torch.randint(len(actions), (min(config.batch, len(actions)),), generator=generator)
        optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64, device=device)
        for rows in picked.split(config.micro_batch or len(picked)):
            share = len(rows) / len(picked)
            shown = policy.tokenise(_pick(observations, rows)).to(device)
            loss = policy.clone_loss(shown, actions[rows].to(device), generator) * share
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
        optimizer.step()
        schedule.step()
        found = total.item()
        if not math.isfinite(found):
            raise LearnerError(f"cloning has a loss of {found} in step {step + 1}. {LOWER_CLONING_RATE}")
        yield step + 1, found


def _following(chunks: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The next `count` actions from the start of each chunk [decisions, C, A] on: [decisions, count, A]. Past the end, the last action is repeated."""
    decisions, chunk, size = chunks.shape
    following = np.arange(decisions)[:, None] * chunk + np.arange(count)
    actions: NDArray[np.float32] = chunks.reshape(-1, size)[np.minimum(following, decisions * chunk - 1)]
    return actions


def _pick(observations: Observations, picked: Tensor) -> Observations:
    images = {camera: image[picked] for camera, image in observations.images.items()}
    instructions = [observations.instructions[row] for row in picked.tolist()]
    return Observations(images, observations.state[picked], observations.elapsed[picked], instructions)
