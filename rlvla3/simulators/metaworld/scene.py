"""One built Meta-World task: its physics, its cameras and its scripted expert.

Importing this file imports mujoco. mujoco reads environment variables when it is imported, so call `graphics.prepare_process` first.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP
from numpy.typing import NDArray

from rlvla3.simulators.mujoco_renderer import MujocoRenderer

# The experts' actions exceed what the arm can do, and the experts warn about it at every step. The actions are clipped below.
warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high")

MOVED = {"corner2_near": ("corner2", (0.75, 0.075, 0.7))}
"""Cameras that Meta-World does not have: one of its own, and the place in metres that it is moved to while a frame is drawn."""

UPSIDE_DOWN = {"corner", "corner2", "corner2_near", "corner3", "corner4"}
"""Cameras that Meta-World mounts with their up axis towards the floor. Their frames are rotated by 180 degrees."""


class MetaWorldScene:
    """Meta-World's environment `task`, drawn at `size` x `size` pixels.

    fast: see MujocoRenderer.

    Example:
        scene = MetaWorldScene("reach-v3", size=64, fast=True)
        scene.reset(seed=0)
        reward, success = scene.step(scene.expert_action())
        image = scene.draw("corner3")
    """

    _vector: NDArray[np.float64]  # Meta-World's own observation: hand, gripper, objects and goal

    def __init__(self, task: str, size: int, fast: bool) -> None:
        self._environment = _with_fresh_states(ALL_V3_ENVIRONMENTS[task]())
        self._expert: Any = ENV_POLICY_MAP[task]()  # type: ignore[abstract]  # the map's type names the base class
        self._model, self._data = self._environment.model, self._environment.data
        self._renderer = MujocoRenderer(self._model, size, fast=fast)

    def reset(self, seed: int) -> None:
        """Go to the initial state of `seed`. There is no limit to the number of initial states: they are not Meta-World's 50 fixed ones."""
        self._environment.seed(seed)
        self._environment.reset()
        mujoco.mj_forward(self._model, self._data)  # reset moves bodies after its last physics computation
        self._vector = self._environment._get_obs()

    def step(self, action: NDArray[np.float32]) -> tuple[float, bool]:
        """Make one step with `action` [4] within [-1, 1]. Returns Meta-World's own reward, 0 to 10, and whether the task is done now."""
        self._vector, reward, _, _, info = self._environment.step(action)
        return float(reward), bool(info["success"])

    def state(self) -> NDArray[np.float32]:
        """float32 [4]: the position of the hand in metres (x, y, z) and the opening of the gripper in [0, 1]."""
        return self._vector[:4].astype(np.float32)

    def expert_action(self) -> NDArray[np.float32]:
        """The scripted expert's action for the current state: float32 [4] within [-1, 1]. The expert sees the objects' true positions."""
        return np.asarray(np.clip(self._expert.get_action(self._vector), -1, 1), np.float32)

    def draw(self, camera: str) -> NDArray[np.uint8]:
        """The scene as `camera` sees it, the right way up: uint8 [size, size, 3]."""
        # Meta-World sets the places of its goal markers, but mj_forward moves them back. Set them again: they matter only for the frame.
        for site, position in self._environment._target_site_config:
            self._environment._set_pos_site(site, position)
        with self._moved(camera) as own:
            image = self._renderer.draw(self._data, own)
        return image[::-1, ::-1] if camera in UPSIDE_DOWN else image

    @contextmanager
    def _moved(self, camera: str) -> Iterator[str]:
        """The model's own name of `camera`, which stands in its place within the block."""
        if camera not in MOVED:
            yield camera
            return
        own, place = MOVED[camera]
        positions = self._model.cam_pos[self._model.camera(own).id]
        before = positions.copy()
        positions[:] = place
        mujoco.mj_camlight(self._model, self._data)
        yield own
        positions[:] = before
        mujoco.mj_camlight(self._model, self._data)

    def close(self) -> None:
        """Free the scene's objects in the graphics context."""
        self._renderer.close()


def _with_fresh_states(environment: Any) -> Any:
    """Set up `environment` so that it draws initial states from its seed. Without a benchmark's set-up, an environment draws none."""
    environment._set_task_called = True
    environment._freeze_rand_vec = False
    environment.seeded_rand_vec = True
    environment._partially_observable = False  # experts read the goal from the observation vector; policies never see it
    environment.__dict__.pop("sawyer_observation_space", None)  # the cached space bounds the goal to zero
    return environment
