"""One live LIBERO task: its physics, its initial states, its goal and its cameras.

Importing this file imports robosuite and mujoco, which read their environment variables as they are imported: `rendering.prepare_process` comes first.

Invariant: `reset` leaves nothing behind of what went before. robosuite's fast reset keeps the model, and with it where fixtures were put and which sites are
shown; the gripper keeps how far it was closed; and the solver starts from its last solution. Each of these is set here, or two processes would differ.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlvla3.simulators.base import SimulatorError
from rlvla3.simulators.drawing import Drawing
from rlvla3.simulators.libero.tasks import Task
from rlvla3.simulators.robosuite_import import import_robosuite, libero_configured

import_robosuite()
with libero_configured():
    import libero.libero as package
    from libero.libero.envs import TASK_MAPPING
    from libero.libero.envs.bddl_utils import get_problem_info
    from robosuite import load_controller_config
    from robosuite.utils.errors import RandomizationError

COLLISION_SHAPES = 0
"""robosuite's group of geoms that are there for collisions alone."""

STAND_STILL = np.array([0, 0, 0, 0, 0, 0, -1.0])
"""No motion, gripper open: what published evaluations do while objects settle."""

PLACEMENTS_TRIED = 100


class Scene:
    """LIBERO's environment of `task`, drawn at `size` x `size` pixels.

    assets: the folder of meshes and textures. fast: as in Drawing.

    Example:
        scene = Scene(find_task("libero_goal/8"), assets, size=64, fast=True)
        scene.reset(initial_state=0, warmup_steps=10)
        success = scene.step(action)
        image = scene.draw("agentview")
    """

    def __init__(self, task: Task, assets: Path, size: int, fast: bool) -> None:
        package._assets_path_cache = str(assets)
        definition = str(task.definition)
        np.random.seed(0)  # LIBERO draws from numpy's global generator
        self._environment = TASK_MAPPING[get_problem_info(definition)["problem_name"]](
            definition,
            robots=["Panda"],
            controller_configs=load_controller_config(default_controller="OSC_POSE"),
            initialization_noise=None,
            use_camera_obs=False,
            has_offscreen_renderer=False,
            ignore_done=True,
            hard_reset=False,
        )
        self._environment._observables = {}  # what is seen is read below, where a decision is due, and not at each of 25 steps of physics
        self._states = task.initial_states()
        self._model, self._data = self._environment.sim.model._model, self._environment.sim.data._data
        self._robot = self._environment.robots[0]
        self._drawing = Drawing(self._model, size, fast=fast, hidden=[COLLISION_SHAPES])

    @property
    def initial_states(self) -> int:
        """How many the benchmark has for this task."""
        return len(self._states)

    def reset(self, initial_state: int, warmup_steps: int) -> None:
        """Go to the benchmark's initial state of that number, then stand still for `warmup_steps` while objects settle.

        Fixtures such as cabinets are not part of those states: LIBERO puts each within a region, here by the number of the initial state.
        """
        np.random.seed(initial_state)
        self._place_fixtures()
        self._robot.gripper.current_action = np.zeros(self._robot.gripper.dof)
        self._environment.sim.set_state_from_flattened(self._states[initial_state])
        self._data.qacc_warmstart[:] = 0  # the solver's last solution, found while fixtures were where the last episode had them
        self._environment.sim.forward()
        self._environment._post_process()  # what shows that a stove is on
        for _ in range(warmup_steps):
            self._environment.step(STAND_STILL)

    def step(self, action: NDArray[np.float32]) -> bool:
        """One step with `action` [7]: how far to move (3) and to turn (3) the hand, each clipped to [-1, 1]; the gripper opens below 0 and closes above.

        Returns whether the task's goal holds now.
        """
        return bool(self._environment.step(action)[2])

    def state(self) -> NDArray[np.float32]:
        """The hand's position in metres (3), its orientation as an axis times an angle in radians (3), and both fingers' positions in metres: float32 [8]."""
        quaternion = self._data.body(self._robot.robot_model.eef_name).xquat
        fingers = self._data.qpos[self._robot._ref_gripper_joint_pos_indexes]
        return np.concatenate([self._data.site_xpos[self._robot.eef_site_id], axis_angle(quaternion), fingers], dtype=np.float32)

    def draw(self, camera: str) -> NDArray[np.uint8]:
        """The scene as `camera` sees it, the right way up: uint8 [size, size, 3]."""
        return self._drawing.draw(self._data, camera)

    def close(self) -> None:
        """Free the model, and what it holds in the graphics context: robosuite's objects refer to one another, and would keep it."""
        self._drawing.close()
        self._environment.close()

    def _place_fixtures(self) -> None:
        """robosuite's own reset, which draws until nothing overlaps."""
        for _ in range(PLACEMENTS_TRIED):
            try:
                self._environment.reset()
                return
            except RandomizationError:
                continue
        raise SimulatorError(f"LIBERO found no place for the objects of {self._environment.bddl_file_name} in {PLACEMENTS_TRIED} attempts")


def axis_angle(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation `quaternion` [w, x, y, z] as its axis times its angle, 0 to 2 pi: [3]. It is robosuite's quat2axisangle, as in LIBERO's demonstrations."""
    cosine = np.clip(quaternion[0], -1, 1)
    sine = np.sqrt(1 - cosine**2)
    return np.zeros(3) if sine < 1e-8 else np.asarray(quaternion[1:] * (2 * np.arccos(cosine) / sine))
