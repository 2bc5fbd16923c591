"""LIBERO and LIBERO-PRO: a Panda arm at a table, in a kitchen, a living room or a study.

An episode begins from one of the benchmark's initial states of its task, the one of its ticket. The arm stands still for some steps before the episode begins.
The state is proprioceptive (hand and fingers), as published policies of LIBERO expect it. An action moves the hand, turns it, and opens or closes the gripper;
each number is clipped to [-1, 1].

Nothing here imports robosuite or mujoco before a simulator is built, so a recipe is checked in an instant. Nothing ever asks on standard input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from rlvla3.config import ExpandedPath, NonNegative, Positive, Section, SimulatorConfig, check_options
from rlvla3.errors import RecipeError
from rlvla3.simulators.action_meaning import OSC_POSE, ActionMeaning
from rlvla3.simulators.base import SimulatorError, SingleEnvironment, Step, initial_state
from rlvla3.simulators.graphics import GRAPHICS_HELP, check_frame, check_moving, prepare_process
from rlvla3.simulators.libero.package import INSTALL, assets_folder
from rlvla3.simulators.libero.suites import STANDARD, SUITES, longest_episode
from rlvla3.simulators.libero.tasks import InstructionSource, check_runs, find_task
from rlvla3.simulators.scene_cache import SceneCache
from rlvla3.types import ActionSpace, InitialStates, Observation, Spaces, Ticket

if TYPE_CHECKING:
    from rlvla3.simulators.libero.scene import LiberoScene

Camera = Literal["agentview", "robot0_eye_in_hand"]


class LiberoOptions(Section):
    """Settings of LIBERO."""

    image_size: Annotated[int, Field(ge=64, le=512)] = 64
    """Height and width of images, in pixels."""

    cameras: Annotated[list[Camera], Field(min_length=1)] = ["agentview", "robot0_eye_in_hand"]
    """The cameras that the policy sees. `agentview` looks from across the table, `robot0_eye_in_hand` from the wrist."""

    mirrored: bool = False
    """Whether left and right are exchanged in images. OpenVLA's and openpi's policies of LIBERO were trained on such images."""

    fast_rendering: bool = True
    """Whether images are drawn without shadows, reflections and antialiasing. It is faster."""

    warmup_steps: NonNegative = 10
    """Environment steps of standing still before an episode, while objects settle."""

    warmup_gripper: Annotated[float, Field(ge=-1, le=1)] = -1.0
    """The gripper's number during `warmup_steps`: -1 opens it, 0 lets it be, 1 closes it."""

    observation_lag: Annotated[int, Field(ge=0, le=24)] = 0
    """How many physics steps of 2 ms the policy's observation is older than the end of an environment step, which has 25. In published evaluations it is 1,
    because of how robosuite samples observations."""

    suite_max_steps: dict[str, Positive] = {}
    """The longest episode of a suite, in environment steps, for suites that have less than `simulator.max_steps`: {suite: steps}."""

    fixture_draws: Literal["by_state", "in_turn"] = "by_state"
    """How the places of fixtures, such as cabinets, are drawn. `by_state`: initial state k has the seed `fixture_seed` + k. `in_turn`: the seed is set once for
    a task, and initial state k has draw number k + 1, as in scripts that go through the initial states in order."""

    fixture_seed: NonNegative = 0
    """The seed of these draws."""

    end_on_success: bool = True
    """Whether a success ends the episode."""

    live_tasks: Positive = 4
    """How many tasks a process keeps ready, at 300 to 800 MB each. Any other task is built before its episode, which takes 2 to 5 s."""

    instruction: InstructionSource = "task"
    """What the policy is told. `name`: the words of the task's name, as in published evaluations of LIBERO. `definition`: the words of the task's definition.
    `task`: `definition` in the suites of LIBERO-PRO that change the instruction (`..._lan`, `..._task`) and keep the old name, and `name` in all others."""

    assets: ExpandedPath | None = None
    """The folder with meshes and textures. With `null` it is $RLVLA3_LIBERO_ASSETS, or else the folder of the package."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_earlier_setting(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("initial_states") is not None:
            raise ValueError("initial_states is no option of LIBERO any more: set simulator.initial_states.training and simulator.initial_states.evaluation")
        return given


class Libero(SingleEnvironment):
    """One LIBERO environment. Its task may change from ticket to ticket. Only the thread that built it can use it, because of its graphics context."""

    Options, draws_with_mujoco = LiberoOptions, True

    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        options = check_options(LiberoOptions, config.options, "simulator.options")
        if not config.tasks:
            raise RecipeError("simulator.tasks is empty: choose among the tasks of LIBERO, for example simulator.tasks=[libero_goal/0-9]")
        tasks = [find_task(name) for name in config.tasks]
        if unknown := sorted(options.suite_max_steps.keys() - set(SUITES)):
            raise RecipeError(f"simulator.options.suite_max_steps names {unknown[0]}, which is no suite of LIBERO: known are {', '.join(STANDARD)}, ...")
        assets = assets_folder(options.assets)
        for task in tasks:
            check_runs(task, assets)
        size = options.image_size
        return Spaces(
            cameras=dict.fromkeys(options.cameras, (size, size, 3)),
            state=8,
            action=ActionSpace("continuous", 7),
            max_steps=config.max_steps or max(longest_episode(task.suite) for task in tasks),
            instructions=tuple(task.instruction_from(options.instruction) for task in tasks),
            initial_states={name: InitialStates(task.initial_state_count, task.initial_state_set) for name, task in zip(config.tasks, tasks, strict=True)},
        )

    @classmethod
    def action_meaning(cls, config: SimulatorConfig) -> ActionMeaning:
        return OSC_POSE

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        """Raises RecipeError if the assets are missing, SimulatorError if frames cannot be drawn or are wrong."""
        self.spaces, self.chunk = self.describe(config), chunk
        self._options = check_options(LiberoOptions, config.options, "simulator.options")
        prepare_process("LIBERO", *config.devices)
        self._assets = assets_folder(self._options.assets)
        self._scenes = SceneCache(self._options.live_tasks, self._build)
        self._scene = self._scenes[str(find_task(config.tasks[0]))]

    def begin(self, ticket: Ticket) -> None:
        task = find_task(ticket.task)
        self._scene = self._scenes[str(task)]
        options, number = self._options, initial_state(ticket, self._scene.initial_states)
        self._scene.reset(number, options.warmup_steps, options.warmup_gripper, options.fixture_seed, options.fixture_draws == "in_turn")
        self._instruction = task.instruction_from(options.instruction)
        self._succeeded = False

    def longest(self, ticket: Ticket) -> int:
        return min(self._options.suite_max_steps.get(find_task(ticket.task).suite, self.spaces.max_steps), self.spaces.max_steps)

    def act(self, action: NDArray[np.float32]) -> Step:
        success = self._scene.step(action)
        first_success = success and not self._succeeded
        self._succeeded = self._succeeded or success
        return Step(reward=float(first_success), success=self._succeeded, terminated=self._succeeded and self._options.end_on_success)

    def observe(self) -> Observation:
        images = {camera: self._draw(camera) for camera in self.spaces.cameras}
        return Observation(images=images, state=self._scene.state(), instruction=self._instruction)

    def close(self) -> None:
        self._scenes.close()

    def _draw(self, camera: str) -> NDArray[np.uint8]:
        image = self._scene.draw(camera)
        check_frame(camera, image)
        return image[:, ::-1] if self._options.mirrored else image

    def _build(self, task_name: str) -> LiberoScene:
        task = find_task(task_name)
        try:
            from rlvla3.simulators.libero.scene import LiberoScene

            scene = LiberoScene(task, self._assets, self._options.image_size, self._options.fast_rendering, self._options.observation_lag)
        except SimulatorError:
            raise
        except ImportError as error:
            raise SimulatorError(f"LIBERO cannot be imported ({type(error).__name__}: {error}): {INSTALL}; {GRAPHICS_HELP}") from error
        except Exception as error:  # a missing mesh or graphics library raises ValueError, AttributeError, RuntimeError and types of the libraries
            raise SimulatorError(
                f"LIBERO cannot build {task_name} ({type(error).__name__}: {error}). Its assets are in {self._assets}; {GRAPHICS_HELP}"
            ) from error
        _check_frames(scene, task_name, self.spaces)
        return scene


def _check_frames(scene: LiberoScene, task_name: str, spaces: Spaces) -> None:
    """Raise SimulatorError if a camera gives flat frames, or frames that stay the same while the arm moves."""
    scene.reset(initial_state=0, warmup_steps=0)
    before = {camera: scene.draw(camera) for camera in spaces.cameras}
    for _ in range(5):
        scene.step(np.ones(7, np.float32))
    for camera, image in before.items():
        check_moving(camera, task_name, image, scene.draw(camera))
