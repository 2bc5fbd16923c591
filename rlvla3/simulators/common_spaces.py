"""The spaces that all simulators of one run fit into, so that one policy can see and act in all of them.

Cameras are matched by their order: to the policy, the first camera of each simulator is the same camera. Images that a simulator lacks are black, and numbers
of the state that it lacks are zero. A simulator takes as many dimensions of an action as it has. Its outcome tells this number (`Outcome.dimensions`), and only
those dimensions count in the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import Recipe, SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.scheduling.sharding import ShardSpec
from rlvla3.simulators.base import RunningSimulator, Simulator
from rlvla3.simulators.builtin import BUILT_IN
from rlvla3.simulators.delayed import DelayedSimulator, ShardDelays
from rlvla3.simulators.description import all_described, plain
from rlvla3.simulators.every_step import EveryStep, StepsToKeep
from rlvla3.simulators.guarded import GuardedSimulator
from rlvla3.simulators.registry import make_simulator
from rlvla3.types import ActionSpace, Observation, Outcome, Spaces, Ticket


def common_spaces(recipe: Recipe) -> Spaces:
    """What the policy of `recipe` sees and does. Raises RecipeError for every mistake in a simulator, or in their mix, that can be found before a run."""
    mixed = recipe.mixed
    found = all_described(list(mixed.values()))
    described = {name: _named_states(name, simulator, one.spaces) for (name, simulator), one in zip(mixed.items(), found, strict=True)}
    for name, spaces in described.items():
        if recipe.policy.chunk > spaces.max_steps:
            raise RecipeError(
                f"policy.chunk={recipe.policy.chunk} is longer than an episode of {name}, {spaces.max_steps} steps: set it to {spaces.max_steps} or less"
            )
    return combine_spaces(described)


def _named_states(name: str, simulator: SimulatorConfig, spaces: Spaces) -> Spaces:
    """`spaces`, whose fixed sets of initial states have a name, and the tasks of the run's tickets. name: of the simulator in the recipe."""
    named = {task: replace(states, name=states.name or f"{simulator.name}/{task}") for task, states in spaces.initial_states.items()}
    return replace(spaces, initial_states=named if simulator.tasks else dict(zip([name], named.values(), strict=False)))


def make_run_simulator(recipe: Recipe, shard: ShardSpec, spaces: Spaces, keep: StepsToKeep | None = None) -> RunningSimulator:
    """Build the simulator of a shard, guarded, adapted to the common `spaces`, and delayed as the recipe asks. One that is not built in is tried out.

    keep: whose environment steps are kept in files (None: of no episode).
    """
    name, config = list(recipe.mixed.items())[shard.simulator]
    chunk = 1 if keep else recipe.policy.chunk
    simulator = make_simulator(config.model_copy(update={"devices": [shard.device] if shard.device else []}), chunk)
    guarded = GuardedSimulator(simulator, config, chunk, None if recipe.simulators else _as_built(name, config, simulator, spaces))
    if config.name not in BUILT_IN:
        guarded.try_out((config.tasks or [config.name])[0])
    running = EveryStep(guarded, recipe.policy.chunk, keep) if keep else guarded
    adapted = AdaptedSimulator(running, spaces) if recipe.simulators else running
    if config.delay.is_none:
        return adapted
    first = sum(earlier.shards for earlier in list(recipe.mixed.values())[: shard.simulator])
    return DelayedSimulator(adapted, ShardDelays(config.delay, config.delay.of_shards(config.shards)[shard.number - first]))


def _as_built(name: str, config: SimulatorConfig, simulator: Simulator, spaces: Spaces) -> Spaces:
    """The common `spaces` of a run with one simulator, as the simulator itself writes them: its fixed sets of initial states may have no name,
    and what is a tuple here may be a list there."""
    built = simulator.spaces
    return built if isinstance(built, Spaces) and plain(_named_states(name, config, built)) == plain(spaces) else spaces


def combine_spaces(described: Mapping[str, Spaces]) -> Spaces:
    """The smallest spaces that all of `described` fit into. Raises RecipeError if their actions are of different kinds, or their images differ in size."""
    if len(described) == 1:
        return next(iter(described.values()))
    kinds = {(spaces.action.kind, spaces.action.choices, spaces.action.low, spaces.action.high) for spaces in described.values()}
    if len(kinds) > 1:
        actions = ", ".join(f"{name} {_action_words(spaces.action)}" for name, spaces in described.items())
        raise RecipeError(f"simulators cannot be mixed if their actions are of different kinds: {actions}")
    widest = max(described.values(), key=lambda spaces: len(spaces.cameras))
    for name, spaces in described.items():
        for (camera, shape), (common, expected) in zip(spaces.cameras.items(), widest.cameras.items(), strict=False):
            if shape != expected:
                raise RecipeError(
                    f"camera {camera} of {name} gives images of {'x'.join(map(str, shape))}, but camera {common}, which it is matched with, gives "
                    f"{'x'.join(map(str, expected))}: set options.image_size of both simulators to the same size"
                )
    action = max((spaces.action for spaces in described.values()), key=lambda action: action.size)
    return Spaces(
        cameras=widest.cameras,
        state=max(spaces.state for spaces in described.values()),
        action=action,
        max_steps=max(spaces.max_steps for spaces in described.values()),
        instructions=tuple(instruction for spaces in described.values() for instruction in spaces.instructions),
        initial_states={task: states for spaces in described.values() for task, states in spaces.initial_states.items()},
    )


def _action_words(action: ActionSpace) -> str:
    return f"one of {action.choices} choices" if action.kind == "discrete" else f"{action.size} numbers within [{action.low:g}, {action.high:g}]"


class AdaptedSimulator:
    """A simulator whose observations and actions are adapted to the common spaces of the run."""

    def __init__(self, simulator: RunningSimulator, spaces: Spaces) -> None:
        self.simulator, self.spaces, self.slots = simulator, spaces, simulator.slots
        self._own = simulator.spaces
        self._black = {camera: np.zeros(shape, np.uint8) for camera, shape in spaces.cameras.items()}

    def reset(self, slot: int, ticket: Ticket) -> Observation:
        return self._adapted(self.simulator.reset(slot, ticket))

    def step(self, chunks: Mapping[int, NDArray[np.float32] | None]) -> dict[int, Outcome]:
        size = self._own.action.size
        outcomes = self.simulator.step({slot: None if chunk is None else chunk[:, :size] for slot, chunk in chunks.items()})
        for slot, outcome in outcomes.items():
            chunk = chunks[slot]
            outcome.actions = _widened(outcome.actions, self.spaces.action.size) if chunk is None else chunk
            outcome.dimensions = size
            outcome.observation = None if outcome.observation is None else self._adapted(outcome.observation)
        return outcomes

    def close(self) -> None:
        self.simulator.close()

    def _adapted(self, observation: Observation) -> Observation:
        images = self._black | dict(zip(self.spaces.cameras, (observation.images[camera] for camera in self._own.cameras), strict=False))
        return Observation(images, _widened(observation.state, self.spaces.state), observation.instruction, observation.elapsed)


def _widened(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """`values` [..., n], filled up with zeros to [..., size]."""
    return np.concatenate([values, np.zeros((*values.shape[:-1], size - values.shape[-1]), np.float32)], axis=-1)
