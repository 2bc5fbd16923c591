"""What the simulators of one run have in common, so that one policy can see and act in all of them.

Cameras go by their order, the first camera of each simulator being the same to the policy; what a simulator lacks is black or zero. Of an action each simulator
takes as many dimensions as it has, and says so with what came of it: only those count in the loss.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import Recipe
from rlvla3.errors import RecipeError
from rlvla3.simulators.base import RunningSimulator, Simulator
from rlvla3.simulators.registry import describe_simulator, make_simulator
from rlvla3.types import ActionSpace, Observation, Outcome, Spaces, Ticket


def common_spaces(recipe: Recipe) -> Spaces:
    """What the policy of `recipe` sees and does. Raises RecipeError for all that can be known to be wrong with a simulator, or with their mix."""
    described = {name: describe_simulator(simulator) for name, simulator in recipe.mixed.items()}
    for name, spaces in described.items():
        if recipe.policy.chunk > spaces.max_steps:
            raise RecipeError(
                f"policy.chunk={recipe.policy.chunk} is longer than an episode of {name}, {spaces.max_steps} steps: set it to {spaces.max_steps} or less"
            )
    return combine(described)


def make_member(recipe: Recipe, number: int, spaces: Spaces, device: str = "") -> RunningSimulator:
    """One of the run's simulators, by its number, as the policy expects it. spaces: the common ones. device: what it is to run on, "" for its own default."""
    config = list(recipe.mixed.values())[number]
    simulator = make_simulator(config.model_copy(update={"devices": [device] if device else []}), recipe.policy.chunk)
    return FittedSimulator(simulator, spaces) if recipe.simulators else simulator


def combine(described: Mapping[str, Spaces]) -> Spaces:
    """The smallest spaces that all of `described` fit into. Raises RecipeError where there are none."""
    if len(described) == 1:
        return next(iter(described.values()))
    kinds = {(spaces.action.kind, spaces.action.choices, spaces.action.low, spaces.action.high) for spaces in described.values()}
    if len(kinds) > 1:
        actions = ", ".join(f"{name} {_wording(spaces.action)}" for name, spaces in described.items())
        raise RecipeError(f"simulators cannot be mixed where their actions are of different kinds: {actions}")
    widest = max(described.values(), key=lambda spaces: len(spaces.cameras))
    for name, spaces in described.items():
        for (camera, shape), (common, expected) in zip(spaces.cameras.items(), widest.cameras.items(), strict=False):
            if shape != expected:
                raise RecipeError(
                    f"camera {camera} of {name} gives images of {'x'.join(map(str, shape))}, and camera {common}, which it is mixed with, "
                    f"{'x'.join(map(str, expected))}: set options.image_size of both simulators to the same size"
                )
    action = max((spaces.action for spaces in described.values()), key=lambda action: action.size)
    return Spaces(
        cameras=widest.cameras,
        state=max(spaces.state for spaces in described.values()),
        action=action,
        max_steps=max(spaces.max_steps for spaces in described.values()),
        instructions=tuple(instruction for spaces in described.values() for instruction in spaces.instructions),
    )


def _wording(action: ActionSpace) -> str:
    return f"one of {action.choices} choices" if action.kind == "discrete" else f"{action.size} numbers within [{action.low:g}, {action.high:g}]"


class FittedSimulator:
    """A simulator whose observations and actions are brought to the spaces it has in common with others."""

    def __init__(self, simulator: Simulator, spaces: Spaces) -> None:
        self.simulator, self.spaces, self.slots = simulator, spaces, simulator.slots
        self._own = simulator.spaces
        self._black = {camera: np.zeros(shape, np.uint8) for camera, shape in spaces.cameras.items()}

    def reset(self, slot: int, ticket: Ticket) -> Observation:
        return self._fit(self.simulator.reset(slot, ticket))

    def step(self, chunks: Mapping[int, NDArray[np.float32] | None]) -> dict[int, Outcome]:
        size = self._own.action.size
        outcomes = self.simulator.step({slot: None if chunk is None else chunk[:, :size] for slot, chunk in chunks.items()})
        for slot, outcome in outcomes.items():
            asked = chunks[slot]
            outcome.actions = _widened(outcome.actions, self.spaces.action.size) if asked is None else asked
            outcome.dimensions = size
            outcome.observation = None if outcome.observation is None else self._fit(outcome.observation)
        return outcomes

    def close(self) -> None:
        self.simulator.close()

    def _fit(self, observation: Observation) -> Observation:
        images = self._black | dict(zip(self.spaces.cameras, (observation.images[camera] for camera in self._own.cameras), strict=False))
        return Observation(images, _widened(observation.state, self.spaces.state), observation.instruction, observation.elapsed)


def _widened(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """`values` [..., n] with zeros up to [..., size]."""
    return np.concatenate([values, np.zeros((*values.shape[:-1], size - values.shape[-1]), np.float32)], axis=-1)
