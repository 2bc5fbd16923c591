"""robosuite: a Panda arm at a table. And RoboCasa, which is built on robosuite: a Panda arm on a mobile base in kitchens.

An episode runs the ticket's task from an initial state that is drawn from the ticket's seed. The state is proprioceptive (hand and fingers), in the form that
LIBERO's policies use. It never tells where objects are. An action moves the hand, turns it, and opens or closes the gripper; each number is within [-1, 1].

Nothing here imports robosuite or mujoco before a simulator is built, so a recipe is checked in an instant. Nothing ever asks on standard input.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rlvla3.config import ExpandedPath, Positive, Section, SimulatorConfig, check_options
from rlvla3.errors import RecipeError
from rlvla3.simulators.action_meaning import OSC_POSE, ActionMeaning
from rlvla3.simulators.base import SimulatorError, SingleEnvironment, Step
from rlvla3.simulators.graphics import GRAPHICS_HELP, check_frame, check_moving, prepare_process
from rlvla3.simulators.robosuite.assets import robocasa_assets, use_robocasa_assets
from rlvla3.simulators.robosuite.tasks import INSTRUCTIONS, MOBILE_ROBOT_VERSION, check_tasks, package_folder, robocasa_tasks, robosuite_version
from rlvla3.simulators.scene_cache import SceneCache
from rlvla3.types import ActionSpace, Observation, Spaces, Ticket

if TYPE_CHECKING:
    from rlvla3.simulators.robosuite.scene import RobosuiteScene

Camera = Literal[
    "agentview",
    "frontview",
    "sideview",
    "birdview",
    "robot0_robotview",
    "robot0_eye_in_hand",
    "robot0_agentview_left",
    "robot0_agentview_right",
    "robot0_agentview_center",
    "robot0_frontview",
]

STATE_SIZE = 8
"""The hand's position (3) and orientation (3), and two fingers (2)."""

ACTION_SIZES = {"arm": 7, "arm_and_base": 12}
"""`simulator.options.moves` -> number of action dimensions."""

INSTALL = "pip install 'rlvla3[robosuite]'"

INSTALL_ROBOCASA = (
    "RoboCasa is on no package index: install it from its source at github.com/robocasa/robocasa, with robosuite 1.5 or later, in an environment of its own"
)


class RobosuiteOptions(Section):
    """Settings of robosuite."""

    image_size: Annotated[int, Field(ge=64, le=256)] = 64
    """Height and width of images, in pixels."""

    cameras: Annotated[list[Camera], Field(min_length=1)] = ["agentview", "robot0_eye_in_hand"]
    """The cameras that the policy sees."""

    fast_rendering: bool = True
    """Whether images are drawn without shadows, reflections and antialiasing. It is faster."""

    robot: Literal["Panda", "PandaOmron"] = "Panda"
    """`Panda` is fixed to its place. `PandaOmron` drives, and needs robosuite 1.5 or later."""

    moves: Literal["arm", "arm_and_base"] = "arm"
    """What an action moves. `arm`: 7 numbers. `arm_and_base`, for a robot that drives: 12 numbers, the last of which are the base (3), the torso (1) and
    whether the base moves (1)."""

    reward: Literal["sparse", "dense"] = "sparse"
    """`sparse`: +1 at the first success. `dense`: robosuite's shaped reward, 0 to 1 for each step. The reward of Wipe has penalties, and peaks above 1."""

    end_on_success: bool = True
    """Whether a success ends the episode."""

    live_tasks: Positive = 4
    """How many tasks a process keeps ready. Any other task is built before its episode, which takes about 1 s."""

    kwargs: dict[str, Any] = {}
    """Arguments for the constructor of the task."""


class RoboCasaOptions(RobosuiteOptions):
    """Settings of RoboCasa: those of robosuite. Only the ones with another default, and new ones, are listed here.

    Every episode has its own kitchen, which is built before the episode. So no task is kept ready.
    """

    cameras: Annotated[list[Camera], Field(min_length=1)] = ["robot0_agentview_left", "robot0_eye_in_hand"]
    robot: Literal["Panda", "PandaOmron"] = "PandaOmron"
    live_tasks: Positive = 1
    kwargs: dict[str, Any] = {}
    """Arguments for the constructor of the task. They can select kitchens: `{layout_ids: [1], style_ids: [2]}`."""

    assets: ExpandedPath | None = None
    """The folder with kitchens and objects. With `null` it is $RLVLA3_ROBOCASA_ASSETS, or else the folder of the package."""


class Robosuite(SingleEnvironment):
    """One robosuite environment. Its task may change from ticket to ticket. Only the thread that built it can use it, because of its graphics context."""

    Options: ClassVar[type[RobosuiteOptions]] = RobosuiteOptions
    draws_with_mujoco = True
    package: ClassVar[str] = "robosuite"
    default_steps: ClassVar[int] = 500
    """The length of an episode in robosuite's own benchmark."""
    _build_help: str = GRAPHICS_HELP
    """What the error message advises if a task cannot be built."""

    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        options = check_options(cls.Options, config.options, "simulator.options")
        cls._check_installed(options)
        check_tasks(cls.package, config.tasks, cls._known_tasks())
        if options.moves == "arm_and_base" and options.robot != "PandaOmron":
            raise RecipeError(f"simulator.options.moves=arm_and_base, but a {options.robot} does not drive: set simulator.options.robot=PandaOmron")
        size = options.image_size
        return Spaces(
            cameras=dict.fromkeys(options.cameras, (size, size, 3)),
            state=STATE_SIZE,
            action=ActionSpace("continuous", ACTION_SIZES[options.moves]),
            max_steps=config.max_steps or cls.default_steps,
            instructions=cls._instructions(config.tasks),
        )

    @classmethod
    def action_meaning(cls, config: SimulatorConfig) -> ActionMeaning:
        options = check_options(cls.Options, config.options, "simulator.options")
        return OSC_POSE if options.robot == "Panda" and not options.kwargs else ActionMeaning()

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        """Raises SimulatorError if frames cannot be drawn or are wrong."""
        self.spaces, self.chunk = self.describe(config), chunk
        self._options = check_options(self.Options, config.options, "simulator.options")
        prepare_process(self.package, *config.devices)
        self._scenes = SceneCache(self._options.live_tasks, self._build)
        self._scene = self._scenes[config.tasks[0]]

    def begin(self, ticket: Ticket) -> None:
        self._scene = self._scenes[ticket.task]
        self._scene.reset(ticket.seed)
        self._instruction = self._scene.instruction or INSTRUCTIONS.get(ticket.task, "")
        self._succeeded = False

    def act(self, action: NDArray[np.float32]) -> Step:
        reward, success, terminated = self._scene.step(np.clip(action, -1, 1))
        first_success = success and not self._succeeded
        self._succeeded = self._succeeded or success
        return Step(
            reward=reward if self._options.reward == "dense" else float(first_success),
            success=self._succeeded,
            terminated=terminated or (self._succeeded and self._options.end_on_success),
        )

    def observe(self) -> Observation:
        images = {camera: self._scene.draw(camera) for camera in self.spaces.cameras}
        for camera, image in images.items():
            check_frame(camera, image)
        return Observation(images=images, state=self._scene.state(), instruction=self._instruction)

    def close(self) -> None:
        self._scenes.close()

    @classmethod
    def _check_installed(cls, options: RobosuiteOptions) -> None:
        version = robosuite_version()
        if version is None:
            raise RecipeError(f"simulator.name={cls.package} needs the package robosuite, which is not installed: {INSTALL}")
        if options.robot == "PandaOmron" and version < MOBILE_ROBOT_VERSION:
            installed = ".".join(map(str, version))
            raise RecipeError(
                f"simulator.options.robot=PandaOmron needs robosuite 1.5 or later, but {installed} is installed, which LIBERO needs: "
                f"install a later robosuite in a Python environment of its own, or set simulator.options.robot=Panda"
            )

    @classmethod
    def _known_tasks(cls) -> Collection[str]:
        return INSTRUCTIONS

    @classmethod
    def _instructions(cls, tasks: list[str]) -> tuple[str, ...]:
        """The instructions that are known before the run."""
        return tuple(INSTRUCTIONS[task] for task in tasks)

    def _task_arguments(self) -> Mapping[str, Any]:
        """Arguments of a task's constructor. The model is kept from episode to episode, because building it takes 100 times as long as a reset."""
        return {"hard_reset": False, "reward_shaping": self._options.reward == "dense"}

    def _build(self, task: str) -> RobosuiteScene:
        try:
            from rlvla3.simulators.robosuite.scene import RobosuiteScene

            scene = RobosuiteScene(
                task,
                self.package,
                self._options.robot,
                make={**self._task_arguments(), **self._options.kwargs},
                size=self._options.image_size,
                fast=self._options.fast_rendering,
            )
        except SimulatorError:
            raise
        except Exception as error:  # a check of the package, a missing file or a graphics library can raise errors of every type
            raise SimulatorError(f"{self.package} cannot build {task} ({type(error).__name__}: {error}): {self._build_help}") from error
        _check_frames(scene, task, self.spaces)
        return scene


class RoboCasa(Robosuite):
    """One RoboCasa environment. Each episode brings its own instruction."""

    Options: ClassVar[type[RobosuiteOptions]] = RoboCasaOptions
    package: ClassVar[str] = "robocasa"
    default_steps: ClassVar[int] = 320
    """The length of an episode in the papers."""

    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        spaces = super().describe(config)
        options = check_options(RoboCasaOptions, config.options, "simulator.options")
        if options.reward == "dense":
            raise RecipeError("simulator.options.reward=dense, but RoboCasa's tasks have no dense reward: set it to sparse")
        robocasa_assets(_robocasa_folder(), options.assets)
        return spaces

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        options = check_options(RoboCasaOptions, config.options, "simulator.options")
        assets = robocasa_assets(_robocasa_folder(), options.assets)
        use_robocasa_assets(assets)
        self._build_help = f"are all of RoboCasa's assets in {assets}? If so, {GRAPHICS_HELP}"
        super().__init__(config, chunk)

    @classmethod
    def _known_tasks(cls) -> Collection[str]:
        return robocasa_tasks(_robocasa_folder())

    @classmethod
    def _instructions(cls, tasks: list[str]) -> tuple[str, ...]:
        return ()

    def _task_arguments(self) -> Mapping[str, Any]:
        return {}


def _robocasa_folder() -> Path:
    folder = package_folder("robocasa")
    if folder is None:
        raise RecipeError(f"simulator.name=robocasa needs the package robocasa, which is not installed. {INSTALL_ROBOCASA}")
    return folder


def _check_frames(scene: RobosuiteScene, task: str, spaces: Spaces) -> None:
    """Raise SimulatorError if a camera does not exist, or gives flat frames, or gives frames that stay the same while the arm moves."""
    for camera in spaces.cameras:
        scene.check_camera(camera)
    scene.reset(seed=0)
    before = {camera: scene.draw(camera) for camera in spaces.cameras}
    for _ in range(5):
        scene.step(np.ones(spaces.action.size, np.float32))
    for camera, image in before.items():
        check_moving(camera, task, image, scene.draw(camera))
