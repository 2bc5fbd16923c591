"""Meta-World v3: a Sawyer arm and 50 tasks, seen through cameras and described by an instruction.

An episode runs the ticket's task from the initial state of the ticket's seed. The state is proprioceptive: the hand's x, y, z in metres and the opening of the
gripper. It never tells where objects are. An action moves the hand (x, y, z) and closes the gripper; each number is within [-1, 1].

Nothing here imports metaworld or mujoco before a simulator is built, so a recipe is checked in an instant.
"""

from __future__ import annotations

import difflib
import importlib.util
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rlvla3.config import NonNegative, NonNegativeFloat, Positive, Section, SimulatorConfig, check_options
from rlvla3.errors import RecipeError
from rlvla3.simulators.action_meaning import ActionMeaning, Gripper, Motion
from rlvla3.simulators.base import SimulatorError, SingleEnvironment, Step, initial_state
from rlvla3.simulators.graphics import GRAPHICS_HELP, check_frame, check_moving, prepare_process
from rlvla3.simulators.metaworld.tasks import INSTRUCTIONS
from rlvla3.simulators.scene_cache import SceneCache
from rlvla3.types import ActionSpace, InitialStates, Observation, Spaces, Ticket

if TYPE_CHECKING:
    from rlvla3.simulators.metaworld.scene import MetaWorldScene

Camera = Literal["corner", "corner2", "corner2_near", "corner3", "corner4", "topview", "behindGripper", "gripperPOV"]

DEFAULT_STEPS = 100
"""The length of an episode in the papers. The slowest experts need more: 150 to 250 steps for disassemble, bin-picking, peg-insert-side, peg-unplug-side and
pick-out-of-hole."""

LONGEST_STEPS = 500
"""Meta-World refuses to make more steps."""

GREATEST_REWARD = 10.0

INSTALL = "run `make install`, or pip install 'rlvla3[metaworld]'"


class MetaWorldOptions(Section):
    """Settings of Meta-World."""

    image_size: Annotated[int, Field(ge=64, le=512)] = 64
    """Height and width of images, in pixels."""

    cameras: Annotated[list[Camera], Field(min_length=1)] = ["corner3"]
    """The cameras that the policy sees. `corner2_near` is corner2 moved to where lerobot's and RLinf's data of Meta-World were recorded, so published policies
    need it."""

    fast_rendering: bool = True
    """Whether images are drawn without shadows, reflections and antialiasing. It takes a twentieth of the time."""

    reward: Literal["sparse", "dense"] = "sparse"
    """`sparse`: +1 at the first success. `dense`: Meta-World's own reward, scaled to 0..1 for each step."""

    end_on_success: bool = True
    """Whether a success ends the episode."""

    instructions: dict[str, str] = {}
    """Other instructions than ours: {task: sentence}. A policy of other software knows the sentences of its own data."""

    warmup_steps: NonNegative = 0
    """Environment steps without motion before an episode, as RLinf has them. They do not count as steps of the episode."""

    first_seed: NonNegative | None = None
    """With a number, each task has `seeds` fixed initial states: state k is the one that Meta-World draws with seed `first_seed` + k. With `null` the seed of a
    ticket draws the initial state, and there is no limit to their number."""

    seeds: Annotated[int, Field(ge=1, le=10_000)] = 50
    """How many fixed initial states there are with `first_seed`."""

    demonstration_noise: NonNegativeFloat = 0.0
    """Size of the disturbance that is added to the expert's actions. The labels are the undisturbed actions. With 0 there is no disturbance."""

    live_tasks: Positive = 4
    """How many tasks a process keeps ready, at about 75 MB each. Any other task is built before its episode, which takes 0.2 s."""


class MetaWorld(SingleEnvironment):
    """One Meta-World environment. Its task may change from ticket to ticket. Only the thread that built it can use it, because of its graphics context."""

    Options, draws_with_mujoco = MetaWorldOptions, True

    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        options = check_options(MetaWorldOptions, config.options, "simulator.options")
        _check_tasks(config.tasks)
        _check_tasks(list(options.instructions) or config.tasks, "simulator.options.instructions")
        max_steps = config.max_steps or DEFAULT_STEPS
        if max_steps > (most := LONGEST_STEPS - options.warmup_steps):
            before = f" and {options.warmup_steps} steps before" if options.warmup_steps else ""
            raise RecipeError(f"simulator.max_steps={max_steps}{before}, but Meta-World's episodes end at {LONGEST_STEPS} steps: set {most} or less")
        if importlib.util.find_spec("metaworld") is None:
            raise RecipeError(f"simulator.name=metaworld needs the package metaworld, which is not installed: {INSTALL}")
        size = options.image_size
        return Spaces(
            cameras=dict.fromkeys(options.cameras, (size, size, 3)),
            state=4,
            action=ActionSpace("continuous", 4),
            max_steps=max_steps,
            instructions=tuple(_instruction(task, options) for task in config.tasks),
            initial_states={}
            if options.first_seed is None
            else {task: InitialStates(options.seeds, f"{task}, seeds", options.first_seed) for task in config.tasks},
        )

    @classmethod
    def action_meaning(cls, config: SimulatorConfig) -> ActionMeaning:
        # The gripper's number is a force. Experts hold with 0.6 and rest with 0, so a recording within [0, 1] is right.
        motions = tuple(Motion(axis, axis, unit=0.01, reached=0.01) for axis in range(3))
        return ActionMeaning(rate_hz=80.0, motions=motions, gripper=Gripper(3, {3: 1.0}, closes=1, both_ways=False))

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        """Raises SimulatorError if frames cannot be drawn or are wrong."""
        self.spaces, self.chunk = self.describe(config), chunk
        self._options = check_options(MetaWorldOptions, config.options, "simulator.options")
        prepare_process("Meta-World", *config.devices)
        self._scenes = SceneCache(self._options.live_tasks, self._build)
        self._scene = self._scenes[config.tasks[0]]

    def begin(self, ticket: Ticket) -> None:
        self._scene = self._scenes[ticket.task]
        options = self._options
        self._scene.reset(ticket.seed if options.first_seed is None else options.first_seed + initial_state(ticket, options.seeds))
        for _ in range(options.warmup_steps):
            self._scene.step(np.zeros(4, np.float32))
        self._instruction = _instruction(ticket.task, options)
        self._succeeded = False
        self._disturbance = Disturbance(ticket.seed, self._options.demonstration_noise)

    def act(self, action: NDArray[np.float32]) -> Step:
        reward, success = self._scene.step(np.clip(action, -1, 1))
        first_success = success and not self._succeeded
        self._succeeded = self._succeeded or success
        return Step(
            reward=reward / GREATEST_REWARD if self._options.reward == "dense" else float(first_success),
            success=self._succeeded,
            terminated=self._succeeded and self._options.end_on_success,
        )

    def observe(self) -> Observation:
        images = {camera: self._scene.draw(camera) for camera in self.spaces.cameras}
        for camera, image in images.items():
            check_frame(camera, image)
        return Observation(images=images, state=self._scene.state(), instruction=self._instruction)

    def expert_action(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        label = self._scene.expert_action()
        return label, np.clip(label + self._disturbance.next(), -1, 1)

    def close(self) -> None:
        self._scenes.close()

    def _build(self, task: str) -> MetaWorldScene:
        try:
            from rlvla3.simulators.metaworld.scene import MetaWorldScene

            scene = MetaWorldScene(task, self._options.image_size, self._options.fast_rendering)
        except Exception as error:  # if a library is missing or does not fit, PyOpenGL and mujoco raise AttributeError, RuntimeError and types of their own
            raise SimulatorError(f"Meta-World cannot draw {task} ({type(error).__name__}: {error}): {GRAPHICS_HELP}") from error
        for camera in self.spaces.cameras:
            _check_frames(scene, task, camera)
        return scene


class Disturbance:
    """Random pushes that are added to an expert's actions, so that its demonstrations show how to recover.

    Each push is constant for 3 to 9 steps. Its components are normal with standard deviation `size`, and 0.3 `size` for the gripper.
    """

    def __init__(self, seed: int, size: float) -> None:
        self._random = np.random.default_rng(seed)
        self._scale = size * np.array([1, 1, 1, 0.3])
        self._steps_left = 0

    def next(self) -> NDArray[np.float32]:
        """The push for the next action, float32 [4]."""
        if self._steps_left == 0:
            self._steps_left = int(self._random.integers(3, 10))
            self._push = (self._random.normal(size=4) * self._scale).astype(np.float32)
        self._steps_left -= 1
        return self._push


def _instruction(task: str, options: MetaWorldOptions) -> str:
    return options.instructions.get(task, INSTRUCTIONS[task])


def _check_tasks(tasks: list[str], named: str = "simulator.tasks") -> None:
    if not tasks:
        raise RecipeError("simulator.tasks is empty: choose among Meta-World's 50 tasks, for example simulator.tasks=[button-press-topdown-v3]")
    for task in tasks:
        if task not in INSTRUCTIONS:
            close = difflib.get_close_matches(task, INSTRUCTIONS, n=3)
            way_out = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(INSTRUCTIONS)}"
            raise RecipeError(f"{named}: {task!r} is not a Meta-World task; {way_out}")


def _check_frames(scene: MetaWorldScene, task: str, camera: str) -> None:
    """Raise SimulatorError if `camera` gives flat frames, or frames that stay the same while the arm moves."""
    scene.reset(seed=0)
    before = scene.draw(camera)
    for _ in range(5):
        scene.step(np.ones(4, np.float32))
    after = scene.draw(camera)
    check_moving(camera, task, before, after)
