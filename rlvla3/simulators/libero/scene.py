"""One built LIBERO task: its physics, its initial states, its goal and its cameras.

Invariant: after `reset`, nothing depends on earlier episodes. robosuite's fast reset alone does not give this. It keeps the model, and so the places of
fixtures and the visible sites. The gripper keeps how far it was closed, and the solver starts from its last solution. `reset` sets each of these; otherwise
two processes would differ.

Importing this file imports robosuite and mujoco. They read environment variables when they are imported, so call `graphics.prepare_process` first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from rlvla3.simulators.base import SimulatorError
from rlvla3.simulators.libero.package import package_folder
from rlvla3.simulators.libero.tasks import LiberoTask
from rlvla3.simulators.mujoco_renderer import MujocoRenderer
from rlvla3.simulators.robosuite_import import import_robosuite, libero_config

import_robosuite()
from robosuite import load_controller_config  # noqa: E402
from robosuite.utils.errors import RandomizationError  # noqa: E402

COLLISION_SHAPES = 0
"""robosuite's group of geoms that serve only for collisions."""

STAND_STILL = np.array([0, 0, 0, 0, 0, 0, -1.0])
"""The action for no motion with an open gripper. Published evaluations use it while objects settle."""

PHYSICS_STEPS = 25
"""Physics steps of 2 ms in an environment step."""

SHOWN = (
    "qpos",
    "xpos",
    "xquat",
    "xmat",
    "xipos",
    "ximat",
    "geom_xpos",
    "geom_xmat",
    "site_xpos",
    "site_xmat",
    "cam_xpos",
    "cam_xmat",
    "light_xpos",
    "light_xdir",
)
"""The arrays of MjData that a frame and the state are made of."""

MAX_PLACEMENTS = 100
"""How often a reset may draw new places for the fixtures."""


class LiberoScene:
    """LIBERO's environment of `task`, drawn at `size` x `size` pixels.

    assets: the folder of meshes and textures. fast: see MujocoRenderer.
    lag: `state` and `draw` show what was so many physics steps before the end of an environment step.

    Example:
        scene = LiberoScene(find_task("libero_goal/8"), assets, size=64, fast=True)
        scene.reset(initial_state=0, warmup_steps=10)
        success = scene.step(action)
        image = scene.draw("agentview")
    """

    def __init__(self, task: LiberoTask, assets: Path, size: int, fast: bool, lag: int = 0) -> None:
        definition = str(task.definition)
        with _imported_libero(assets) as libero:
            np.random.seed(0)  # LIBERO draws from numpy's global generator
            self._environment = libero.TASK_MAPPING[libero.bddl_utils.get_problem_info(definition)["problem_name"]](
                definition,
                robots=["Panda"],
                controller_configs=load_controller_config(default_controller="OSC_POSE"),
                initialization_noise=None,
                use_camera_obs=False,
                has_offscreen_renderer=False,
                ignore_done=True,
                hard_reset=False,
            )
        self._environment._observables = {}  # observations are read below when a decision is due, not at each of 25 physics steps
        self._states = task.initial_states()
        self._before_draw: dict[int, list[Any]] = {}  # {seed: numpy's generator before each draw of a turn}, as far as they are known
        self._model, self._data = self._environment.sim.model._model, self._environment.sim.data._data
        self._robot = self._environment.robots[0]
        self._renderer = MujocoRenderer(self._model, size, fast=fast, hidden=[COLLISION_SHAPES])
        self._observed, self._observed_at, self._physics_steps = self._data, PHYSICS_STEPS - lag, 0
        if lag:
            self._observed = mujoco.MjData(self._model)
            self._environment._update_observables = self._after_physics_step  # robosuite calls it after each physics step

    @property
    def initial_states(self) -> int:
        """The number of initial states that the benchmark has for this task."""
        return len(self._states)

    def reset(self, initial_state: int, warmup_steps: int, gripper: float = -1.0, fixture_seed: int = 0, in_turn: bool = False) -> None:
        """Go to the benchmark's initial state number `initial_state`, then stand still for `warmup_steps` while objects settle.

        Fixtures such as cabinets are not part of these states: LIBERO draws a place for each within a region. Here the draw is seeded with `fixture_seed` +
        `initial_state`. With `in_turn`, the seed is `fixture_seed`, and as many draws as `initial_state` are made before: a script that goes through the states
        in order does this. gripper: its number while the arm stands still.

        All that follows is bit for bit what follows a hard reset, in which robosuite builds the model anew.
        """
        self._seed_draw(initial_state, fixture_seed, in_turn)
        self._place_fixtures()
        self._robot.gripper.current_action = np.zeros(self._robot.gripper.dof)
        self._environment.sim.set_state_from_flattened(self._states[initial_state])
        self._data.qacc_warmstart[:] = 0  # the solver's last solution, which belongs to the last episode
        self._environment.sim.forward()
        self._environment._post_process()  # updates what shows that a stove is on
        self._keep_observed()
        for _ in range(warmup_steps):
            self.step(np.array([0, 0, 0, 0, 0, 0, gripper]))

    def step(self, action: NDArray[Any]) -> bool:
        """Make one step with `action` [7] and return whether the task's goal holds now.

        action: how far the hand moves (3) and turns (3), each clipped to [-1, 1], and the gripper (1), which opens below 0 and closes above 0.
        """
        self._physics_steps = 0
        return bool(self._environment.step(action)[2])

    def state(self) -> NDArray[np.float32]:
        """float32 [8]: the hand's position in metres (3), its orientation as axis times angle in radians (3), and both fingers' positions in metres (2)."""
        quaternion = self._observed.body(self._robot.robot_model.eef_name).xquat
        fingers = self._observed.qpos[self._robot._ref_gripper_joint_pos_indexes]
        return np.concatenate([self._observed.site_xpos[self._robot.eef_site_id], axis_angle(quaternion), fingers], dtype=np.float32)

    def draw(self, camera: str) -> NDArray[np.uint8]:
        """The scene as `camera` sees it, the right way up: uint8 [size, size, 3]."""
        return self._renderer.draw(self._observed, camera)

    def close(self) -> None:
        """Free the model and its objects in the graphics context. robosuite's objects refer to one another, so they would keep the model otherwise."""
        self._renderer.close()
        self._environment.close()

    def _after_physics_step(self, force: bool = False) -> None:
        self._physics_steps += 1
        if self._physics_steps == self._observed_at:
            self._keep_observed()

    def _keep_observed(self) -> None:
        """What is there now is what `state` and `draw` show."""
        if self._observed is not self._data:
            for name in SHOWN:
                getattr(self._observed, name)[:] = getattr(self._data, name)

    def _seed_draw(self, initial_state: int, seed: int, in_turn: bool) -> None:
        """Bring numpy's generator to where the draw of `initial_state` begins."""
        if not in_turn:
            np.random.seed((seed + initial_state) % 2**32)
            return
        if not (known := self._before_draw.setdefault(seed, [])):
            np.random.seed(seed % 2**32)
            known.append(np.random.get_state())
        while len(known) <= initial_state:  # nothing but a reset draws numbers
            np.random.set_state(known[-1])
            self._place_fixtures()
            known.append(np.random.get_state())
        np.random.set_state(known[initial_state])

    def _place_fixtures(self) -> None:
        """Reset as robosuite does. It draws places for the objects and fails if they overlap, so it is repeated until they do not.

        Raises SimulatorError after MAX_PLACEMENTS attempts.
        """
        for _ in range(MAX_PLACEMENTS):
            try:
                self._environment.reset()
                return
            except RandomizationError:
                continue
        raise SimulatorError(f"LIBERO found no place for the objects of {self._environment.bddl_file_name} in {MAX_PLACEMENTS} attempts")


@contextmanager
def _imported_libero(assets: Path) -> Iterator[ModuleType]:
    """Within this context tasks can be built from libero.libero.envs, which is yielded.

    Raises SimulatorError if LIBERO was imported with another folder of assets: parts of it read the folder once.
    """
    with libero_config(package_folder(), assets):
        import libero.libero as package
        import libero.libero.envs as environments

        package._assets_path_cache = str(assets)  # of hf-libero, which does not read its configuration for it
        in_use = Path(environments.__dict__.setdefault("rlvla3_assets", assets))
        if in_use != assets:
            raise SimulatorError(f"LIBERO already reads its assets in {in_use} and cannot read {assets} too: give each folder a process of its own")
        yield environments


def axis_angle(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation `quaternion` [w, x, y, z] as axis times angle, [3]; the angle is 0 to 2 pi.

    The formula is that of robosuite's quat2axisangle, which LIBERO's demonstrations use.
    """
    cosine = np.clip(quaternion[0], -1, 1)
    sine = np.sqrt(1 - cosine**2)
    return np.zeros(3) if sine < 1e-8 else np.asarray(quaternion[1:] * (2 * np.arccos(cosine) / sine))
