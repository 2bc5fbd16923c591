"""One built task of robosuite, or of RoboCasa, which is built on robosuite: its physics, its goal and its cameras.

Invariant: after `reset`, nothing depends on earlier episodes. All random numbers come from the seed. The gripper forgets how far it was closed, and the solver
forgets its last solution. Where robosuite keeps a model from episode to episode, the random numbers of its construction (the sizes of objects) are the same in
every process.

robosuite 1.4 and 1.5 differ in their controllers and in their random generators, and 1.5 stores what belongs to an arm under the arm's name. Only this file
knows of these differences.

Importing this file imports robosuite and mujoco. They read environment variables when they are imported, so call `graphics.prepare_process` first.
"""

from __future__ import annotations

import importlib
import random
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from rlvla3.simulators.base import SimulatorError
from rlvla3.simulators.mujoco_renderer import MujocoRenderer
from rlvla3.simulators.robosuite.assets import without_standard_input
from rlvla3.simulators.robosuite.tasks import MOBILE_ROBOT_VERSION, robosuite_version
from rlvla3.simulators.robosuite_import import import_robosuite

with without_standard_input():
    import_robosuite()
    import robosuite
    from robosuite.utils import transform_utils

COLLISION_SHAPES = 0
"""robosuite's group of geoms that serve only for collisions."""

HAS_COMPOSITE_CONTROLLERS = (robosuite_version() or (0,)) >= MOBILE_ROBOT_VERSION

ARM_ACTION = 7
"""The size of an arm's action: how far the hand moves (3) and turns (3), and whether the gripper closes (1)."""

GRIPPER = 6
"""The gripper's index in an action."""

FINGERS = 2


class RobosuiteScene:
    """robosuite's environment `task`, drawn at `size` x `size` pixels.

    module: the module that registers the task with robosuite when it is imported. make: arguments of the task's constructor. fast: see MujocoRenderer.
    If a task's `hard_reset` is on, which is the default, its model is built again for every episode. RoboCasa's kitchens need this.

    Example:
        scene = RobosuiteScene("Lift", "robosuite", "Panda", make={"hard_reset": False}, size=64, fast=True)
        scene.reset(seed=0)
        reward, success, terminated = scene.step(action)
        image = scene.draw("agentview")
    """

    def __init__(self, task: str, module: str, robot: str, *, make: dict[str, Any], size: int, fast: bool) -> None:
        self._size, self._fast = size, fast
        self._model: Any = None
        self._renderer: MujocoRenderer | None = None
        with without_standard_input():
            importlib.import_module(module)
            _seed_global_generators(0)
            self._environment = robosuite.make(
                task,
                robots=[robot],
                **_controllers(robot),
                use_camera_obs=False,
                has_offscreen_renderer=False,
                renderer="mujoco",
                ignore_done=True,
                **make,
            )
        for name in self._environment.observation_names:  # observations are read below when a decision is due, not at each of 25 physics steps
            self._environment.modify_observable(name, "enabled", False)
            self._environment.modify_observable(name, "active", False)
        self._robot = self._environment.robots[0]
        self._has_gripper = self._arm(self._robot.gripper).dof > 0
        self._hold_action = np.zeros(self._environment.action_dim + (not self._has_gripper))
        if self._has_mobile_base:
            self._hold_action[-1] = -1  # the base does not move
        self._update_renderer()

    def reset(self, seed: int) -> None:
        """Go to the initial state of `seed`."""
        _seed_global_generators(seed)
        if HAS_COMPOSITE_CONTROLLERS:
            # the samplers of placements share this generator, so its state is set and it is not replaced
            self._environment.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        with without_standard_input():
            self._environment.reset()
        self._robot = self._environment.robots[0]
        gripper = self._arm(self._robot.gripper)
        gripper.current_action = np.zeros(gripper.dof)
        self._update_renderer()
        self._data.qacc_warmstart[:] = 0  # robosuite runs the solver before it has moved all bodies
        self._environment.sim.forward()

    def step(self, action: NDArray[np.float32]) -> tuple[float, bool, bool]:
        """Make one step. Returns robosuite's reward, whether the task is done now, and whether the episode cannot go on.

        action: [7] as in ARM_ACTION. For a mobile robot [12]: then the base (3), the torso (1) and whether the base moves (1) follow. Each within [-1, 1].
        """
        full_action = self._hold_action.copy()
        full_action[: len(action)] = action
        _, reward, terminated, _ = self._environment.step(full_action if self._has_gripper else np.delete(full_action, GRIPPER))
        return float(reward), bool(self._environment._check_success()), bool(terminated)

    def state(self) -> NDArray[np.float32]:
        """float32 [8]: the hand's position in metres (3), its orientation as axis times angle in radians (3), and both fingers' positions in metres (2).

        Position and orientation are in the world's frame; for a mobile robot they are in the frame of its base. A hand without fingers has zeros for them.
        """
        position = self._data.site_xpos[self._arm(self._robot.eef_site_id)]
        orientation = self._data.body(self._arm(self._robot.robot_model.eef_name)).xquat
        if self._has_mobile_base:
            base = self._data.body(self._model.site(self._robot.robot_model.base.correct_naming("center")).bodyid[0])
            from_world = np.empty(4)
            mujoco.mju_negQuat(from_world, base.xquat)
            position, orientation = _rotated(position - base.xpos, from_world), _product(from_world, orientation)
        fingers = self._data.qpos[self._arm(self._robot._ref_gripper_joint_pos_indexes)] if self._has_gripper else np.zeros(FINGERS)
        return np.concatenate([position, transform_utils.quat2axisangle(np.roll(orientation, -1)), fingers], dtype=np.float32)

    @property
    def instruction(self) -> str:
        """The instruction of the current episode; "" if it has none."""
        return str(self._environment.get_ep_meta().get("lang", "")) if hasattr(self._environment, "get_ep_meta") else ""

    def draw(self, camera: str) -> NDArray[np.uint8]:
        """The scene as `camera` sees it, the right way up: uint8 [size, size, 3]."""
        assert self._renderer is not None
        return self._renderer.draw(self._data, camera)

    def check_camera(self, camera: str) -> None:
        """Raise SimulatorError if the task has no camera of this name."""
        names = [self._model.camera(number).name for number in range(self._model.ncam)]
        if camera not in names:
            raise SimulatorError(f"simulator.options.cameras names {camera}, but the task has {', '.join(names)}: choose among these")

    def close(self) -> None:
        """Free the model and its objects in the graphics context. robosuite's objects refer to one another, so they would keep the model otherwise."""
        self._close_renderer()
        self._environment.close()

    @property
    def _has_mobile_base(self) -> bool:
        return len(self._hold_action) > ARM_ACTION

    def _update_renderer(self) -> None:
        """Make a renderer for the current model. It is a new model if the reset has built it again."""
        self._data = self._environment.sim.data._data
        if self._renderer is None or self._environment.sim.model._model is not self._model:
            self._close_renderer()
            self._model = self._environment.sim.model._model
            self._renderer = MujocoRenderer(self._model, self._size, fast=self._fast, hidden=[COLLISION_SHAPES])

    def _close_renderer(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    @staticmethod
    def _arm(part: Any) -> Any:
        """The entry of the only arm. robosuite 1.5 stores a dictionary by arm where 1.4 stores the entry itself."""
        return part["right"] if isinstance(part, dict) else part


def _controllers(robot: str) -> dict[str, Any]:
    """Arguments for robosuite's constructor: with this controller an action is a step of the hand's pose. For robosuite 1.5 also a seed, which it requires."""
    if not HAS_COMPOSITE_CONTROLLERS:
        return {"controller_configs": robosuite.load_controller_config(default_controller="OSC_POSE")}
    config = robosuite.load_composite_controller_config(robot=robot)
    if "base" in config["body_parts"]:
        config["composite_controller_specific_configs"] = {"body_part_ordering": ["right", "right_gripper", "base", "torso"]}
    return {"controller_configs": config, "seed": 0}


def _rotated(vector: NDArray[np.float64], quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    result = np.empty(3)
    mujoco.mju_rotVecQuat(result, vector, quaternion)
    return result


def _product(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    result = np.empty(4)
    mujoco.mju_mulQuat(result, first, second)
    return result


def _seed_global_generators(seed: int) -> None:
    """Seed Python's and numpy's global generators. robosuite 1.4 and parts of RoboCasa draw from them."""
    np.random.seed(seed % 2**32)
    random.seed(seed)
