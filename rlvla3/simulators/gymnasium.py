"""Any Gymnasium environment: a registered ID, or a class or function of your own.

Observations: uint8 images [H, W], [H, W, channels] or [channels, H, W] become cameras. Everything else that Gymnasium can flatten (vectors, Discrete as
one-hot, ...) becomes the state. A Dict or Tuple may hold both. A text becomes the instruction (gymnasium_instruction.py).
Actions: Discrete or Box. For a Box, a policy returns numbers within [-1, 1] in every dimension, and they are scaled to the Box.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlvla3.config import Section, SimulatorConfig, check_options
from rlvla3.errors import RecipeError
from rlvla3.named import call_of_user
from rlvla3.simulators.base import SingleEnvironment, Step, initial_state
from rlvla3.simulators.builtin import load_simulator_or_environment
from rlvla3.simulators.gymnasium_instruction import InstructionReader, is_text
from rlvla3.types import ActionSpace, InitialStates, Observation, Spaces, Ticket

ObservationPath = tuple[str | int, ...]
"""The keys that lead to one part of an observation. Empty if the observation has only one part."""


DECLARED = "fixed_initial_states"
"""The attribute with which an environment declares how many initial states it has."""


class GymnasiumOptions(Section):
    """Settings of Gymnasium environments."""

    kwargs: dict[str, Any] = {}
    """Arguments for the environment's constructor."""

    instruction: str | None = None
    """The instruction for the policy, the same for every decision. With `null` it is the environment's own, as `instruction_from` says."""

    instruction_from: str | None = None
    """Where the environment says the instruction: `observation.KEY` for a text of the observation, `info.KEY`, or `attribute.NAME`, which may be a method
    without arguments. With `null` it is the text of the observation, if it has one. Otherwise it is what `info` says under `instruction`, or the attribute
    `instruction`, whichever was said or changed last. Each decision reads the newest."""

    success_return: float | None = None
    """An episode with at least this return counts as a success. With `null`, success is what the environment's info says at any step under `success` or
    `is_success`. If it never says so, no episode succeeds."""


class GymnasiumSimulator(SingleEnvironment):
    """One Gymnasium environment. It is reset with the ticket's seed. If the recipe has tasks, it is also reset with options {"task": the ticket's task}.

    Its attribute `fixed_initial_states` may say how many initial states it has: a number, or {task: number}. Then it is also reset with options
    {"initial_state": the ticket's initial state}, numbered from 0.
    """

    Options = GymnasiumOptions

    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        environment = _make(config, check_options(GymnasiumOptions, config.options, "simulator.options"))
        try:
            return _describe(environment, config)
        finally:
            environment.close()

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        self._options = check_options(GymnasiumOptions, config.options, "simulator.options")
        self.environment = _make(config, self._options)
        self.spaces, self.chunk = _describe(self.environment, config), chunk
        self._leaf_spaces = dict(_leaf_spaces(self.environment.observation_space))
        self._instruction = InstructionReader(self.environment, config.name, self._options.instruction, self._options.instruction_from)
        self._has_tasks = bool(config.tasks)
        self._states = self.spaces.initial_states
        self._only_states = None if config.tasks else next(iter(self._states.values()), None)

    def begin(self, ticket: Ticket) -> None:
        options: dict[str, Any] = {"task": ticket.task} if self._has_tasks else {}
        if (states := self._states.get(ticket.task, self._only_states)) is not None:
            options["initial_state"] = initial_state(ticket, states.count)
        self._last_observation, info = self.environment.reset(seed=ticket.seed, options=options or None)
        self._instruction.begin(info)
        self._return, self._succeeded = 0.0, False

    def act(self, action: NDArray[np.float32]) -> Step:
        self._last_observation, reward, terminated, truncated, info = self.environment.step(_native_action(self.environment.action_space, action))
        self._instruction.hear(info)
        self._return += float(reward)
        self._succeeded = self._succeeded or bool(info.get("success", info.get("is_success", False)))
        done = terminated or truncated or self._steps + 1 >= self.spaces.max_steps
        return_reached = self._options.success_return is not None and done and self._return >= self._options.success_return
        return Step(float(reward), self._succeeded if self._options.success_return is None else return_reached, bool(terminated), bool(truncated))

    def observe(self) -> Observation:
        images: dict[str, NDArray[np.uint8]] = {}
        vectors = [np.zeros(0, np.float32)]
        for path, space in self._leaf_spaces.items():
            value = self._last_observation
            for key in path:
                value = value[key]
            if _is_image(space):
                images[_camera(path)] = _channels_last(np.asarray(value))
            else:
                vectors.append(np.asarray(spaces.flatten(space, value), np.float32))
        return Observation(images=images, state=np.concatenate(vectors), instruction=self._instruction.read(self._last_observation))

    def close(self) -> None:
        self.environment.close()


def _make(config: SimulatorConfig, options: GymnasiumOptions) -> gymnasium.Env[Any, Any]:
    registry, _, identifier = config.name.partition(":")
    failed = f"simulator.name={config.name} cannot be made with simulator.options.kwargs={options.kwargs}"
    if registry == "gymnasium":
        made = partial(gymnasium.make, identifier, max_episode_steps=config.max_steps, disable_env_checker=True)
    else:
        made = load_simulator_or_environment(config.name)
    environment = call_of_user(made, failed, **options.kwargs)
    if not isinstance(environment, gymnasium.Env):
        raise RecipeError(f"simulator.name={config.name} makes a {type(environment).__name__}, not a gymnasium.Env: name a class or function that makes one")
    return environment


def _describe(environment: gymnasium.Env[Any, Any], config: SimulatorConfig) -> Spaces:
    options = check_options(GymnasiumOptions, config.options, "simulator.options")
    InstructionReader(environment, config.name, options.instruction, options.instruction_from)  # raises where there is none
    parts = dict(_leaf_spaces(environment.observation_space))
    cameras: dict[str, tuple[int, int, int]] = {}
    state = 0
    for path, space in parts.items():
        if _is_image(space):
            height, width, channels = _channels_last(np.empty(space.shape or (), np.uint8)).shape
            cameras[_camera(path)] = (height, width, channels)
        elif space.is_np_flattenable and not (isinstance(space, spaces.Box) and len(space.shape) > 2):
            state += spaces.flatdim(space)
        else:
            raise RecipeError(
                f"{config.name} shows {space}, which is neither an image nor a vector. Supported are uint8 images [H, W], [H, W, channels] or "
                f"[channels, H, W], vectors, Discrete, MultiDiscrete, MultiBinary, Text, and a Dict or Tuple of these: use an observation wrapper"
            )
    max_steps = config.max_steps or (environment.spec and environment.spec.max_episode_steps)
    if not max_steps:
        raise RecipeError(f"{config.name} has no time limit of its own: set simulator.max_steps, for example simulator.max_steps=500")
    action = _action_space(environment.action_space, config)
    instructions = () if options.instruction is None else (options.instruction,)
    return Spaces(cameras, state, action, max_steps, instructions, initial_states=_initial_states(environment, config))


def _initial_states(environment: gymnasium.Env[Any, Any], config: SimulatorConfig) -> dict[str, InitialStates]:
    """The fixed sets of initial states that the environment declares. Raises RecipeError where it declares something else."""
    declared = environment.get_wrapper_attr(DECLARED) if environment.has_wrapper_attr(DECLARED) else None
    if declared is None:
        return {}
    tasks = config.tasks or [config.name]
    counts = {task: declared.get(task) for task in tasks} if isinstance(declared, Mapping) else dict.fromkeys(tasks, declared)
    for count in counts.values():
        if count is not None and (isinstance(count, bool) or not isinstance(count, (int, np.integer))):
            raise RecipeError(f"{config.name} has {DECLARED}={declared!r:.80}: write how many initial states it has, such as 50, or {{task: how many}}")
    return {task: InitialStates(int(count)) for task, count in counts.items() if count is not None}


def _leaf_spaces(space: spaces.Space[Any], path: ObservationPath = ()) -> Iterator[tuple[ObservationPath, spaces.Space[Any]]]:
    """The parts of `space` that are neither Dict nor Tuple nor a text, each with its path."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        for key, inner in space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces):
            yield from _leaf_spaces(inner, (*path, key))
    elif not is_text(space):
        yield path, space


def _camera(path: ObservationPath) -> str:
    return ".".join(map(str, path)) or "image"


def _is_image(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)


def _channels_last(image: NDArray[Any]) -> NDArray[np.uint8]:
    """`image` as [H, W, channels]. A grey image gets one channel. Of the first and the last axis, the shorter one is taken for the channels."""
    if image.ndim == 2:
        return image[:, :, None]
    return image.transpose(1, 2, 0) if image.shape[0] < image.shape[2] else image


def _action_space(space: spaces.Space[Any], config: SimulatorConfig) -> ActionSpace:
    if isinstance(space, spaces.Discrete):
        return ActionSpace("discrete", size=1, choices=int(space.n))
    if isinstance(space, spaces.Box):
        return ActionSpace("continuous", size=int(np.prod(space.shape)))
    raise RecipeError(f"{config.name} takes actions of {space}, but supported are Discrete and Box: change it with a Gymnasium action wrapper")


def _native_action(space: spaces.Space[Any], action: NDArray[np.float32]) -> Any:
    """A policy's action [A] in the environment's own form.

    In a dimension of a Box that has bounds, [-1, 1] is scaled to [low, high]. In a dimension without bounds, the number stays as it is.
    """
    if isinstance(space, spaces.Discrete):
        return space.start + round(float(action[0]))
    assert isinstance(space, spaces.Box)
    bounded = np.isfinite(space.low) & np.isfinite(space.high)
    low, high = np.where(bounded, space.low, -1), np.where(bounded, space.high, 1)
    share = (np.clip(action, -1, 1).reshape(space.shape) + 1) / 2
    return (low + share * (high - low)).astype(space.dtype)
