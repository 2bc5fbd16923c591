"""Behaviour cloning: where a policy comes from before it can be improved.

Demonstrations come from a simulator's scripted expert, as episodes in the data plane, or from files (demonstrations/). Which are used depends on tickets or
files alone, never on which simulator was faster: the first successes of each task, in order.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvla3.config import CloneConfig
from rlvla3.demonstrations.files import DemonstrationError
from rlvla3.links.rollouts import Rollouts
from rlvla3.policies.base import Observations, Policy
from rlvla3.policies.batching import observations_from
from rlvla3.types import Field, Finished, Spaces, observation_layout

GRADIENT_CLIP = 1.0
WARMUP_SHARE = 0.1
"""Of the steps: the learning rate rises over them, and falls to nothing over the rest."""

SHORTEST_CYCLE = 20
"""Steps. A shorter one has no whole step to rise in."""


class Demonstration(Protocol):
    """A successful episode to learn from, wherever it is."""

    @property
    def task(self) -> str: ...

    @property
    def instruction(self) -> str: ...

    @property
    def decisions(self) -> int: ...

    def fill(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Write its observations and its chunks, "actions" [decisions, C, A], into rows of zeros."""


@dataclass(frozen=True, slots=True)
class ExpertEpisode:
    """A scripted expert's episode, copied out of the data plane."""

    task: str
    instruction: str
    arrays: Mapping[str, NDArray[Any]]

    @classmethod
    def copied(cls, rollouts: Rollouts, finished: Finished) -> ExpertEpisode:
        """An episode that has just ended: its place in the data plane is soon another's."""
        ticket = finished.ticket
        arrays = {name: rollouts.episode(ticket.index, name).copy() for name in (*rollouts.observation_names, "actions")}
        return cls(ticket.task, rollouts.instruction(ticket.index), arrays)

    @property
    def decisions(self) -> int:
        return len(self.arrays["actions"])

    def fill(self, rows: Mapping[str, NDArray[Any]]) -> None:
        for name, array in self.arrays.items():
            rows[name][:] = array


class Demonstrations:
    """The first `wanted` successes of each task, whatever the order they come in. spaces, chunk: of the policy that is to learn from them.

    demonstrations = Demonstrations(spaces, chunk, tasks, wanted=10)
    while not demonstrations.complete:
        demonstrations.add(number, demonstration)        # of numbers 0, 1, 2, ... in any order; None for a failure
    """

    def __init__(self, spaces: Spaces, chunk: int, tasks: Sequence[str], wanted: int) -> None:
        self.tasks, self.wanted = tuple(tasks), wanted
        self._layout = observation_layout(spaces) | {"actions": Field((chunk, spaces.action.size), np.float32)}
        self._ended: set[int] = set()
        self._successes: dict[int, Demonstration] = {}

    def add(self, number: int, demonstration: Demonstration | None) -> None:
        """An episode has ended."""
        self._ended.add(number)
        if demonstration is not None:
            self._successes[number] = demonstration

    @property
    def complete(self) -> bool:
        """Whether the first `wanted` successes of every task are known: no earlier number can bring another."""
        frontier = next(number for number in range(len(self._ended) + 1) if number not in self._ended)
        return all(len(self._of(task, before=frontier)) >= self.wanted for task in self.tasks)

    @property
    def found(self) -> dict[str, int]:
        """Successes of each task so far, of those that are wanted."""
        return {task: min(self.wanted, len(self._of(task))) for task in self.tasks}

    def chosen(self) -> list[int]:
        """The numbers to clone from, in order: the first `wanted` successes of each task. Raises DemonstrationError where a task has fewer."""
        for task, found in self.found.items():
            if found < self.wanted:
                raise DemonstrationError(
                    f"{found} of {self.wanted} demonstrations of {task} succeeded: its expert is not reliable enough here. "
                    f"Set clone.demonstrations={max(found, 1)}, less disturbance of the experts or a larger simulator.max_steps"
                )
        return sorted(number for task in self.tasks for number in self._of(task)[: self.wanted])

    def tensors(self) -> tuple[Observations, Tensor]:
        """The chosen demonstrations: N observations and expert chunks [N, C, A], each read to where it stays."""
        chosen = [self._successes[number] for number in self.chosen()]
        ends = list(accumulate(demonstration.decisions for demonstration in chosen))
        arrays = {name: np.zeros((ends[-1], *field.shape), field.dtype) for name, field in self._layout.items()}
        for demonstration, end in zip(chosen, ends, strict=True):
            demonstration.fill({name: array[end - demonstration.decisions : end] for name, array in arrays.items()})
        instructions = [demonstration.instruction for demonstration in chosen for _ in range(demonstration.decisions)]
        actions = torch.from_numpy(arrays.pop("actions"))
        return observations_from(arrays, instructions), actions

    def _of(self, task: str, before: float = float("inf")) -> list[int]:
        return sorted(number for number, shown in self._successes.items() if shown.task == task and number < before)


def clone(policy: Policy, demonstrations: Demonstrations, config: CloneConfig, seed: int) -> Generator[tuple[int, float], None, None]:
    """Make `policy`, on the device it is on, act like the experts. Yields (steps done, loss) after each step; the caller may stop between any two.

    Normalisation first; then AdamW with a one-cycle learning rate (Smith and Topin, "Super-convergence", arXiv 1708.07120). The critic's own parameters stay.
    The same demonstrations and seed give the same weights. Raises DemonstrationError.
    """
    observations, actions = demonstrations.tensors()
    policy.fit_normalisation(observations.state, actions)
    parameters = policy.actor_parameters()
    device = parameters[0].device
    optimizer = torch.optim.AdamW(parameters, config.learning_rate, weight_decay=config.weight_decay)
    cycle = max(config.steps, SHORTEST_CYCLE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=cycle, pct_start=WARMUP_SHARE)
    generator = torch.Generator().manual_seed(seed)  # on the CPU whatever the device, so that every device draws alike
    for step in range(config.steps):
        picked = torch.randint(len(actions), (min(config.batch, len(actions)),), generator=generator)
        loss = policy.clone_loss(_pick(observations, picked).to(device), actions[picked].to(device), generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
        optimizer.step()
        schedule.step()
        yield step + 1, loss.item()


def _pick(observations: Observations, picked: Tensor) -> Observations:
    images = {camera: image[picked] for camera, image in observations.images.items()}
    instructions = [observations.instructions[row] for row in picked.tolist()]
    return Observations(images, observations.state[picked], observations.elapsed[picked], instructions)
