"""Behaviour cloning: where a policy comes from before it can be improved.

Which demonstrations are used depends on tickets alone, never on which simulator was faster: the first successes of each task, in ticket order.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvla3.config import CloneConfig
from rlvla3.links.rollouts import Rollouts
from rlvla3.policies.base import Observations, Policy
from rlvla3.policies.batching import observations_from
from rlvla3.types import Finished

GRADIENT_CLIP = 1.0
WARMUP_SHARE = 0.1
"""Of the steps: the learning rate rises over them, and falls to nothing over the rest."""

SHORTEST_CYCLE = 20
"""Steps. A shorter one has no whole step to rise in."""


class DemonstrationError(ValueError):
    """Too few successful demonstrations: how many there are, how many are wanted, and what to do about it."""


@dataclass(frozen=True, slots=True)
class _Demonstration:
    task: str
    instruction: str
    arrays: dict[str, NDArray[Any]]


class Demonstrations:
    """Successful expert episodes, copied out of the data plane as they end. tasks: what to show. wanted: successes of each.

    demonstrations = Demonstrations(rollouts, tasks, wanted=10)
    while not demonstrations.complete:
        demonstrations.add(finished)        # of tickets 0, 1, 2, ... in any order
    """

    def __init__(self, rollouts: Rollouts, tasks: Sequence[str], wanted: int) -> None:
        self.rollouts, self.tasks, self.wanted = rollouts, tuple(tasks), wanted
        self._ended: set[int] = set()
        self._successes: dict[int, _Demonstration] = {}

    def add(self, finished: Finished) -> None:
        """Copy an episode that has just ended; a failure is only noted."""
        ticket = finished.ticket.index
        self._ended.add(ticket)
        if finished.success:
            names = (*self.rollouts.observation_names, "actions")
            arrays = {name: self.rollouts.episode(ticket, name).copy() for name in names}
            self._successes[ticket] = _Demonstration(finished.ticket.task, self.rollouts.instruction(ticket), arrays)

    @property
    def complete(self) -> bool:
        """Whether the first `wanted` successes of every task are known: no earlier ticket can bring another."""
        frontier = next(ticket for ticket in range(len(self._ended) + 1) if ticket not in self._ended)
        return all(len(self._of(task, before=frontier)) >= self.wanted for task in self.tasks)

    @property
    def found(self) -> dict[str, int]:
        """Successes of each task so far, of those that are wanted."""
        return {task: min(self.wanted, len(self._of(task))) for task in self.tasks}

    def chosen(self) -> list[int]:
        """The tickets to clone from, in order: the first `wanted` successes of each task. Raises DemonstrationError where a task has fewer."""
        for task, found in self.found.items():
            if found < self.wanted:
                raise DemonstrationError(
                    f"{found} of {self.wanted} demonstrations of {task} succeeded: its expert is not reliable enough here. "
                    f"Set clone.demonstrations={max(found, 1)}, less disturbance of the experts or a larger simulator.max_steps"
                )
        return sorted(ticket for task in self.tasks for ticket in self._of(task)[: self.wanted])

    def tensors(self) -> tuple[Observations, Tensor]:
        """The chosen demonstrations: N observations and expert chunks [N, C, A]."""
        episodes = [self._successes[ticket] for ticket in self.chosen()]
        arrays = {name: np.concatenate([episode.arrays[name] for episode in episodes]) for name in episodes[0].arrays}
        instructions = [episode.instruction for episode in episodes for _ in range(len(episode.arrays["actions"]))]
        actions = torch.from_numpy(arrays.pop("actions"))
        return observations_from(arrays, instructions), actions

    def _of(self, task: str, before: float = float("inf")) -> list[int]:
        return sorted(ticket for ticket, shown in self._successes.items() if shown.task == task and ticket < before)


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
