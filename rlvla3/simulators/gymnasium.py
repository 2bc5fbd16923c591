"""Any Gymnasium environment: a registered ID, or a class or function of your own.

gymnasium_packages.py finds an ID. gymnasium_observations.py makes images and a state of observations, gymnasium_render.py makes an image of what `render()`
returns, and gymnasium_instruction.py finds the instruction. gymnasium_actions.py makes actions of the environment's space of a policy's actions.
gymnasium_answers.py checks what reset and step return.

Invariant: every action that reaches `step` is in the action space.
"""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Mapping
from functools import partial
from types import FunctionType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from rlvla3.config import Positive, Section, SimulatorConfig, check_options
from rlvla3.errors import RecipeError
from rlvla3.named import call_of_user
from rlvla3.simulators.base import ContractError, SingleEnvironment, Step, initial_state
from rlvla3.simulators.builtin import load_simulator_or_environment
from rlvla3.simulators.gymnasium_actions import native_actions
from rlvla3.simulators.gymnasium_answers import SUCCESS_KEYS, StepAnswer, check_signatures, explain_unpacking, layers, reset_answer, step_answer
from rlvla3.simulators.gymnasium_instruction import InstructionReader
from rlvla3.simulators.gymnasium_observations import ObservationReader
from rlvla3.simulators.gymnasium_packages import registered_id
from rlvla3.simulators.gymnasium_render import CAMERA, prepared_to_draw, rendered, rendered_shape, rendering
from rlvla3.simulators.resizing import resized
from rlvla3.types import InitialStates, Observation, Spaces, Ticket

REGISTERED = "gymnasium:"
"""What the name of a registered environment begins with."""

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

    images: list[str] | None = None
    """The parts of an observation that are images: the keys of a Dict, joined by dots, and `image` where an observation has one part. Every other part is
    numbers. With `null`, an image is what has uint8 [H, W], [H, W, channels] or [channels, H, W] within 0 to 255 and at least 16 x 16 pixels."""

    action_bounds: tuple[float, float] | None = None
    """The lowest and the highest action in dimensions of a Box whose own bounds cannot be used: one bound alone, or bounds above a million. With `null` such a
    Box is refused, and dimensions without any bounds take the policy's numbers as they are, within [-1, 1]."""

    render: bool = False
    """Show what `render()` returns as one more camera, called `render`. The environment is made with `render_mode: rgb_array`. It is for environments whose
    observations have no image. How large the frames are is up to the environment, which often has `kwargs` for it."""

    image_size: Positive | tuple[Positive, Positive] | None = None
    """Height and width of all images in pixels, or one number for both. Larger and smaller images are resized by averaging areas. With `null` they stay as the
    environment gives them."""

    success_key: str | None = None
    """The key of the environment's info that says success. With `null` it is `success`, `is_success` or `succeed`, and if info has none of them, no episode
    succeeds. One true value within an episode makes it a success."""

    success_return: float | None = None
    """An episode with at least this return counts as a success, whatever info says. With `null` info says it."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of all images. None: their own."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size


class GymnasiumSimulator(SingleEnvironment):
    """One Gymnasium environment. It is reset with the ticket's seed, and so are the generators of the whole process, `random` and `numpy.random`. If the
    recipe has tasks, it is also reset with options {"task": the ticket's task}.

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
            call_of_user(environment.close, f"{config.name} cannot be closed")

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        self._options = check_options(GymnasiumOptions, config.options, "simulator.options")
        self.environment = _make(config, self._options)
        self.spaces, self.chunk = _describe(self.environment, config), chunk
        self._reader = ObservationReader(self.environment.observation_space, config.name, self._options.images)
        self._actions = native_actions(self.environment.action_space, config.name, self._options.action_bounds)
        self._instruction = InstructionReader(self.environment, config.name, self._options.instruction, self._options.instruction_from)
        self._success_keys = SUCCESS_KEYS if self._options.success_key is None else (self._options.success_key,)
        self._has_tasks = bool(config.tasks)
        self._states = self.spaces.initial_states
        self._only_states = None if config.tasks else next(iter(self._states.values()), None)

    def begin(self, ticket: Ticket) -> None:
        options: dict[str, Any] = {"task": ticket.task} if self._has_tasks else {}
        if (states := self._states.get(ticket.task, self._only_states)) is not None:
            options["initial_state"] = initial_state(ticket, states.count)
        np.random.seed(ticket.seed % 2**32)  # some environments draw from these instead of their own generator
        random.seed(ticket.seed)
        try:
            answer = self.environment.reset(seed=ticket.seed, options=options or None)
        except (TypeError, ValueError) as error:
            explain_unpacking(error)
        self._last_observation, info = reset_answer(answer)
        self._instruction.begin(info)
        self._return, self._succeeded, self._told = 0.0, False, False

    def act(self, action: NDArray[np.float32]) -> Step:
        answer = self._native_step(self._actions.of(action))
        self._last_observation = answer.observation
        self._instruction.hear(answer.info)
        self._return += answer.reward
        self._succeeded = self._succeeded or bool(answer.success)
        self._told = self._told or answer.success is not None
        done = answer.terminated or answer.truncated or self._steps + 1 >= self.spaces.max_steps
        if done and not self._told and self._options.success_key is not None:
            raise ContractError(
                f"simulator.options.success_key={self._options.success_key}, and info of no step of the episode has it: it has "
                f"{', '.join(map(str, answer.info)) or 'no keys'} in the last step. Name a key that says success by the end of each episode"
            )
        return_reached = self._options.success_return is not None and done and self._return >= self._options.success_return
        succeeded = self._succeeded if self._options.success_return is None else return_reached
        return Step(answer.reward, succeeded, answer.terminated, answer.truncated)

    def observe(self) -> Observation:
        images, state = self._reader.read(self._last_observation)
        if self._options.render:
            images[CAMERA] = rendered(self.environment)
        if self._options.size is not None:
            images = {camera: resized(image, self._options.size) for camera, image in images.items()}
        return Observation(images=images, state=state, instruction=self._instruction.read(self._last_observation))

    def close(self) -> None:
        self.environment.close()

    def _native_step(self, action: Any) -> StepAnswer:
        if not self.environment.action_space.contains(action):
            raise ContractError(f"action {action} is not in {self.environment.action_space}: the space refuses an action within its own bounds, so mend it")
        try:
            answer = self.environment.step(action)
        except (TypeError, ValueError) as error:
            explain_unpacking(error)
        return step_answer(answer, self._success_keys)


def _make(config: SimulatorConfig, options: GymnasiumOptions) -> gymnasium.Env[Any, Any]:
    """Build the environment. Raises RecipeError if it cannot be built, or if it is no Gymnasium environment."""
    kwargs = rendering(config.name, options.kwargs) if options.render else options.kwargs
    failed = f"simulator.name={config.name} cannot be made with simulator.options.kwargs={options.kwargs}"
    if config.name.startswith(REGISTERED):
        with prepared_to_draw(config.name, next(iter(config.devices), "")):
            identifier = registered_id(config.name.removeprefix(REGISTERED))
            made = partial(gymnasium.make, identifier, max_episode_steps=config.max_steps, disable_env_checker=True)
            environment = call_of_user(made, failed, **kwargs)
    else:
        maker = load_simulator_or_environment(config.name)
        _check_maker(maker, config.name)
        environment = call_of_user(maker, failed, **kwargs)
    if not isinstance(environment, gymnasium.Env):
        raise RecipeError(f"simulator.name={config.name} makes a {type(environment).__name__}, not a gymnasium.Env: {_other_kind_help(type(environment))}")
    check_signatures(environment, config.name)
    return environment


def _check_maker(made: Any, name: str) -> None:
    """Raise RecipeError where `made` is no class of environments, and no function of Python that may make one. Nothing of it is called."""
    if isinstance(made, type):
        if not issubclass(made, gymnasium.Env):
            raise RecipeError(f"simulator.name={name} is a class, and neither a Simulator nor a gymnasium.Env: {_other_kind_help(made)}")
        return
    function = inspect.unwrap(made.func if isinstance(made, partial) else made)
    if not isinstance(function, FunctionType):
        raise RecipeError(f"simulator.name={name} is a {type(made).__name__}: name a Simulator, a gymnasium.Env, or a function that makes one")
    if function.__module__.partition(".")[0] in sys.stdlib_module_names:
        raise RecipeError(f"simulator.name={name} is {function.__module__}.{function.__name__} of Python itself: name a function that makes a gymnasium.Env")


def _other_kind_help(kind: type[Any]) -> str:
    if issubclass(kind, gymnasium.vector.VectorEnv):
        return "make one environment, because each shard runs one: for more, raise simulator.shards"
    if any(base.__module__.partition(".")[0] == "gym" for base in kind.__mro__):
        return "it is of the older package gym: derive it from gymnasium.Env"
    return "name a class or function that makes one"


def _describe(environment: gymnasium.Env[Any, Any], config: SimulatorConfig) -> Spaces:
    options = check_options(GymnasiumOptions, config.options, "simulator.options")
    for space in ("observation_space", "action_space"):
        if not isinstance(getattr(environment, space, None), gymnasium.Space):
            raise RecipeError(f"{config.name} has no {space}: set self.{space} to a space of gymnasium.spaces in its constructor")
    InstructionReader(environment, config.name, options.instruction, options.instruction_from)  # raises where there is none
    reader = ObservationReader(environment.observation_space, config.name, options.images)
    action = native_actions(environment.action_space, config.name, options.action_bounds).described
    limits = [limit for limit in (config.max_steps, _own_limit(environment)) if limit]
    if not limits:
        raise RecipeError(f"{config.name} has no time limit of its own: set simulator.max_steps, for example simulator.max_steps=500")
    states = _initial_states(environment, config)
    cameras = dict(reader.cameras)
    if options.render and CAMERA in cameras:
        raise RecipeError(f"{config.name} shows an image {CAMERA!r} by itself: leave simulator.options.render out")
    if options.render:
        cameras[CAMERA] = call_of_user(rendered_shape, f"{config.name} cannot render", environment, config.name)
    if options.size is not None:
        cameras = {camera: (*options.size, channels) for camera, (_, _, channels) in cameras.items()}
    instructions = () if options.instruction is None else (options.instruction,)
    return Spaces(cameras, reader.state, action, min(limits), instructions, initial_states=states)


def _initial_states(environment: gymnasium.Env[Any, Any], config: SimulatorConfig) -> dict[str, InitialStates]:
    """The fixed sets of initial states that the environment declares. Raises RecipeError where it declares something else."""
    declared = environment.get_wrapper_attr(DECLARED) if environment.has_wrapper_attr(DECLARED) else None
    if declared is None:
        return {}
    tasks = config.tasks or [config.name]
    if isinstance(declared, Mapping) and declared and not config.tasks:
        raise RecipeError(
            f"{config.name} has {DECLARED} for the tasks {', '.join(map(str, declared))}, but the recipe names no task: set simulator.tasks to some of these, "
            f"or make {DECLARED} one number"
        )
    counts = {task: declared.get(task) for task in tasks} if isinstance(declared, Mapping) else dict.fromkeys(tasks, declared)
    for count in counts.values():
        if count is not None and (isinstance(count, bool) or not isinstance(count, (int, np.integer))):
            raise RecipeError(f"{config.name} has {DECLARED}={declared!r:.80}: write how many initial states it has, such as 50, or {{task: how many}}")
    return {task: InitialStates(int(count)) for task, count in counts.items() if count is not None}


def _own_limit(environment: gymnasium.Env[Any, Any]) -> int | None:
    """The environment's own time limit: the shortest of its TimeLimit wrappers, or what its registration says. None if it has none."""
    limits = [layer._max_episode_steps for layer in layers(environment) if isinstance(layer, TimeLimit)]
    if limits:
        return min(limits)
    return environment.spec.max_episode_steps if environment.spec else None
