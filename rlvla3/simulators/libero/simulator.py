"""LIBERO: a Panda arm on a table, in a kitchen, a living room or a study, and 130 tasks in five suites.

An episode is the ticket's task from the benchmark's initial state that the ticket's seed chooses, after some steps of standing still. The state is what the arm
feels, as published policies of LIBERO expect it; an action moves the hand, turns it, and opens or closes the gripper, each clipped to [-1, 1].

Nothing here imports robosuite or mujoco before a simulator is built, so a recipe is checked in an instant. Nothing ever asks on standard input.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rlvla3.config import NonNegative, Positive, Section, SimulatorConfig, check_options
from rlvla3.errors import RecipeError
from rlvla3.simulators.base import SimulatorError, SingleEnvironment, Step
from rlvla3.simulators.libero.assets import check_assets, get_assets
from rlvla3.simulators.libero.tasks import INSTALL, SUITES, Task, find_task
from rlvla3.simulators.rendering import GRAPHICS_HELP, check_frame, check_moving, prepare_process
from rlvla3.simulators.scene_cache import SceneCache
from rlvla3.types import ActionSpace, Observation, Spaces, Ticket

if TYPE_CHECKING:
    from rlvla3.simulators.libero.scene import Scene

Camera = Literal["agentview", "robot0_eye_in_hand"]


class LiberoOptions(Section):
    """Settings of LIBERO.

    image_size: height and width in pixels. cameras: what a policy sees, from across the table and from the wrist.
    mirrored: left and right exchanged, as in the frames that OpenVLA's and openpi's policies of LIBERO were trained on.
    fast_rendering: no shadows, reflections or antialiasing.
    initial_states: numbers of those that episodes begin from (None: all that the benchmark has, 50 a task).
    warmup_steps: of standing still, before an episode, while objects settle. end_on_success: success ends the episode.
    live_tasks: tasks kept ready in a process, about 400 MB each; a task that is not among them takes 1 to 3 s to build before its episode.
    assets: the folder of meshes and textures (None: $RLVLA3_LIBERO_ASSETS, else the package's own, else the hub's).
    """

    image_size: Annotated[int, Field(ge=64, le=256)] = 64
    cameras: Annotated[list[Camera], Field(min_length=1)] = ["agentview", "robot0_eye_in_hand"]
    mirrored: bool = False
    fast_rendering: bool = True
    initial_states: Annotated[list[NonNegative], Field(min_length=1)] | None = None
    warmup_steps: NonNegative = 10
    end_on_success: bool = True
    live_tasks: Positive = 4
    assets: Path | None = None


class Libero(SingleEnvironment):
    """One LIBERO environment, whose task changes from ticket to ticket. It draws in the thread that built it."""

    Options = LiberoOptions

    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        options = check_options(LiberoOptions, config.options, "simulator.options")
        if not config.tasks:
            raise RecipeError("simulator.tasks is empty, and LIBERO has 130 tasks to choose from: for example simulator.tasks=[libero_goal/0-9]")
        tasks = [find_task(named) for named in config.tasks]
        if options.initial_states is not None:
            _check_initial_states(tasks, max(options.initial_states))
        check_assets(options.assets)
        size = options.image_size
        return Spaces(
            cameras=dict.fromkeys(options.cameras, (size, size, 3)),
            state=8,
            action=ActionSpace("continuous", 7),
            max_steps=config.max_steps or max(SUITES[task.suite] for task in tasks),
            instructions=tuple(task.instruction for task in tasks),
        )

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        """Raises RecipeError where assets cannot be had, SimulatorError where frames cannot be drawn, or cannot be trusted."""
        self.spaces, self.chunk = self.describe(config), chunk
        self._options = check_options(LiberoOptions, config.options, "simulator.options")
        prepare_process("LIBERO", *config.devices)
        self._assets = get_assets(self._options.assets)
        self._live = SceneCache(self._options.live_tasks, self._build)
        self._scene = self._live[str(find_task(config.tasks[0]))]

    def begin(self, ticket: Ticket) -> None:
        task = find_task(ticket.task)
        self._scene = self._live[str(task)]
        numbers = self._options.initial_states or range(self._scene.initial_states)
        self._scene.reset(numbers[ticket.seed % len(numbers)], self._options.warmup_steps)
        self._instruction = task.instruction
        self._succeeded = False

    def act(self, action: NDArray[np.float32]) -> Step:
        success = self._scene.step(action)
        first_success = success and not self._succeeded
        self._succeeded = self._succeeded or success
        return Step(reward=float(first_success), success=self._succeeded, terminated=self._succeeded and self._options.end_on_success)

    def observe(self) -> Observation:
        images = {camera: self._draw(camera) for camera in self.spaces.cameras}
        return Observation(images=images, state=self._scene.state(), instruction=self._instruction)

    def close(self) -> None:
        self._live.close()

    def _draw(self, camera: str) -> NDArray[np.uint8]:
        image = self._scene.draw(camera)
        check_frame(camera, image)
        return image[:, ::-1] if self._options.mirrored else image

    def _build(self, named: str) -> Scene:
        task = find_task(named)
        try:
            from rlvla3.simulators.libero.scene import Scene

            scene = Scene(task, self._assets, self._options.image_size, self._options.fast_rendering)
        except ImportError as error:
            raise SimulatorError(f"LIBERO cannot be imported ({type(error).__name__}: {error}): {INSTALL}; {GRAPHICS_HELP}") from error
        except Exception as error:  # a mesh that is missing, or a graphics library, is met with ValueError, AttributeError, RuntimeError and types of their own
            raise SimulatorError(
                f"LIBERO cannot build {named} ({type(error).__name__}: {error}): the assets are those of {self._assets}; {GRAPHICS_HELP}"
            ) from error
        _check_frames(scene, named, self.spaces)
        return scene


def _check_initial_states(tasks: list[Task], greatest: int) -> None:
    for task in tasks:
        count = len(task.initial_states())
        if greatest >= count:
            raise RecipeError(
                f"simulator.options.initial_states names {greatest}, and {task} has {count}: name some of 0 to {count - 1}, or leave it out for all"
            )


def _check_frames(scene: Scene, named: str, spaces: Spaces) -> None:
    """Raise SimulatorError where a camera gives flat frames, or frames that stay the same while the arm moves."""
    scene.reset(initial_state=0, warmup_steps=0)
    before = {camera: scene.draw(camera) for camera in spaces.cameras}
    for _ in range(5):
        scene.step(np.ones(7, np.float32))
    for camera, image in before.items():
        check_moving(camera, named, image, scene.draw(camera))
