"""One live task of robosuite, or of RoboCasa, which is built on it: its physics, its goal and its cameras.

Importing this file imports robosuite and mujoco, which read their environment variables as they are imported: `rendering.prepare_process` comes first.
robosuite 1.4 and 1.5 differ in their controllers, in where randomness comes from, and in that 1.5 keeps what belongs to an arm by its name: here alone.

Invariant: `reset` leaves nothing behind of what went before. All that is drawn comes from the seed; the gripper forgets how far it was closed, and the solver
its last solution. Where robosuite keeps a model from episode to episode, what is drawn as it is built (the sizes of objects) is the same in every process.
"""

from __future__ import annotations

import importlib
import random
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from rlvla3.simulators.base import SimulatorError
from rlvla3.simulators.drawing import Drawing
from rlvla3.simulators.robosuite.assets import nobody_to_ask
from rlvla3.simulators.robosuite.tasks import MOBILE_ROBOT_VERSION, robosuite_version
from rlvla3.simulators.robosuite_import import import_robosuite

with nobody_to_ask():
    import_robosuite()
    import robosuite
    from robosuite.utils import transform_utils

COLLISION_SHAPES = 0
"""robosuite's group of geoms that are there for collisions alone."""

HAS_COMPOSITE_CONTROLLERS = (robosuite_version() or (0,)) >= MOBILE_ROBOT_VERSION

ARM_ACTION = 7
"""How far to move (3) and to turn (3) the hand, and whether to close the gripper (1)."""

GRIPPER = 6
"""Its place in an action."""

FINGERS = 2


class Scene:
    """robosuite's environment `task`, drawn at `size` x `size` pixels.

    module: what registers the task with robosuite as it is imported. make: passed on to the task's constructor. fast: as in Drawing.
    A task whose `hard_reset` is left on is built anew for every episode, as RoboCasa's kitchens must be.

    Example:
        scene = Scene("Lift", "robosuite", "Panda", make={"hard_reset": False}, size=64, fast=True)
        scene.reset(seed=0)
        reward, success, over = scene.step(action)
        image = scene.draw("agentview")
    """

    def __init__(self, task: str, module: str, robot: str, *, make: dict[str, Any], size: int, fast: bool) -> None:
        self._size, self._fast = size, fast
        self._model: Any = None
        self._drawing: Drawing | None = None
        with nobody_to_ask():
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
        for name in self._environment.observation_names:  # what is seen is read below, where a decision is due, and not at each of 25 steps of physics
            self._environment.modify_observable(name, "enabled", False)
            self._environment.modify_observable(name, "active", False)
        self._robot = self._environment.robots[0]
        self._grips = self._arm(self._robot.gripper).dof > 0
        self._still = np.zeros(self._environment.action_dim + (not self._grips))
        if self._drives:
            self._still[-1] = -1  # the base keeps still
        self._look()

    def reset(self, seed: int) -> None:
        """Go to the initial state of `seed`."""
        _seed_global_generators(seed)
        if HAS_COMPOSITE_CONTROLLERS:
            # samplers of placements share this generator: it is set, not replaced
            self._environment.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        with nobody_to_ask():
            self._environment.reset()
        self._robot = self._environment.robots[0]
        gripper = self._arm(self._robot.gripper)
        gripper.current_action = np.zeros(gripper.dof)
        self._look()
        self._data.qacc_warmstart[:] = 0  # robosuite looks for a solution before it has moved what it moves
        self._environment.sim.forward()

    def step(self, action: NDArray[np.float32]) -> tuple[float, bool, bool]:
        """One step with `action` [7], as in ARM_ACTION, or [12] of a robot that drives: the base (3), the torso (1) and whether the base moves (1) come last.

        Each within [-1, 1]. Returns robosuite's reward, whether the task is done now, and whether it can go on no more.
        """
        asked = self._still.copy()
        asked[: len(action)] = action
        _, reward, over, _ = self._environment.step(asked if self._grips else np.delete(asked, GRIPPER))
        return float(reward), bool(self._environment._check_success()), bool(over)

    def state(self) -> NDArray[np.float32]:
        """The hand's position in metres (3), its orientation as an axis times an angle in radians (3), and both fingers' positions in metres: float32 [8].

        In the world; from the base, of a robot that drives. A hand without fingers has zeros.
        """
        position = self._data.site_xpos[self._arm(self._robot.eef_site_id)]
        turned = self._data.body(self._arm(self._robot.robot_model.eef_name)).xquat
        if self._drives:
            base = self._data.body(self._model.site(self._robot.robot_model.base.correct_naming("center")).bodyid[0])
            from_world = np.empty(4)
            mujoco.mju_negQuat(from_world, base.xquat)
            position, turned = _rotated(position - base.xpos, from_world), _product(from_world, turned)
        fingers = self._data.qpos[self._arm(self._robot._ref_gripper_joint_pos_indexes)] if self._grips else np.zeros(FINGERS)
        return np.concatenate([position, transform_utils.quat2axisangle(np.roll(turned, -1)), fingers], dtype=np.float32)

    @property
    def instruction(self) -> str:
        """The sentence that goes with the episode, "" where there is none."""
        return str(self._environment.get_ep_meta().get("lang", "")) if hasattr(self._environment, "get_ep_meta") else ""

    def draw(self, camera: str) -> NDArray[np.uint8]:
        """The scene as `camera` sees it, the right way up: uint8 [size, size, 3]."""
        assert self._drawing is not None
        return self._drawing.draw(self._data, camera)

    def check_camera(self, camera: str) -> None:
        """Raises SimulatorError where the task has no such camera."""
        names = [self._model.camera(number).name for number in range(self._model.ncam)]
        if camera not in names:
            raise SimulatorError(f"simulator.options.cameras names {camera}, and the task has {', '.join(names)}: choose among these")

    def close(self) -> None:
        """Free the model, and what it holds in the graphics context: robosuite's objects refer to one another, and would keep it."""
        self._forget_drawing()
        self._environment.close()

    @property
    def _drives(self) -> bool:
        return len(self._still) > ARM_ACTION

    def _look(self) -> None:
        """Draw the model as it is now: another one, where the reset built it anew."""
        self._data = self._environment.sim.data._data
        if self._drawing is None or self._environment.sim.model._model is not self._model:
            self._forget_drawing()
            self._model = self._environment.sim.model._model
            self._drawing = Drawing(self._model, self._size, fast=self._fast, hidden=[COLLISION_SHAPES])

    def _forget_drawing(self) -> None:
        if self._drawing is not None:
            self._drawing.close()
            self._drawing = None

    @staticmethod
    def _arm(of_robot: Any) -> Any:
        """What belongs to the only arm: robosuite 1.5 keeps a dictionary of arms."""
        return of_robot["right"] if isinstance(of_robot, dict) else of_robot


def _controllers(robot: str) -> dict[str, Any]:
    """How actions move the robot: as steps of the hand's pose, and what robosuite has no choice about but to be told."""
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
    """robosuite 1.4 draws from numpy's global generator, and so do parts of RoboCasa."""
    np.random.seed(seed % 2**32)
    random.seed(seed)
