"""One live Meta-World task: its physics, its cameras and its scripted expert.

Importing this file imports mujoco, which reads its environment variables as it is imported: `rendering.prepare_process` comes first.
"""

from __future__ import annotations

import warnings
from typing import Any

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP
from numpy.typing import NDArray

from rlvla3.simulators.drawing import Drawing

# The experts ask for more than the arm can do, and say so at every step; what they ask for is clipped.
warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high")

UPSIDE_DOWN = {"corner", "corner2", "corner3", "corner4"}
"""Cameras that Meta-World hangs with their up axis to the floor: their frames are turned by half a circle."""


class Scene:
    """Meta-World's environment `task`, drawn at `size` x `size` pixels.

    fast: without shadows, reflections and antialiasing, which cost a software renderer 20 times the rest of a frame.

    Example:
        scene = Scene("reach-v3", size=64, fast=True)
        scene.reset(seed=0)
        reward, success = scene.step(scene.expert_action())
        image = scene.draw("corner3")
    """

    _vector: NDArray[np.float64]  # Meta-World's own observation: hand, gripper, objects and goal

    def __init__(self, task: str, size: int, fast: bool) -> None:
        self._environment = _with_fresh_states(ALL_V3_ENVIRONMENTS[task]())
        self._expert: Any = ENV_POLICY_MAP[task]()  # type: ignore[abstract]  # the map's type names the base class
        self._model, self._data = self._environment.model, self._environment.data
        self._drawing = Drawing(self._model, size, fast=fast)

    def reset(self, seed: int) -> None:
        """Go to the initial state of `seed`: one of endlessly many, not of Meta-World's 50 fixed ones."""
        self._environment.seed(seed)
        self._environment.reset()
        mujoco.mj_forward(self._model, self._data)  # reset moves bodies after the physics last looked at them
        self._vector = self._environment._get_obs()

    def step(self, action: NDArray[np.float32]) -> tuple[float, bool]:
        """One step with `action` [4] within [-1, 1]. Returns Meta-World's own reward, 0 to 10, and whether the task is done now."""
        self._vector, reward, _, _, info = self._environment.step(action)
        return float(reward), bool(info["success"])

    def state(self) -> NDArray[np.float32]:
        """The position of the hand in metres (x, y, z) and the opening of the gripper in [0, 1]: float32 [4]."""
        return self._vector[:4].astype(np.float32)

    def expert_action(self) -> NDArray[np.float32]:
        """What the scripted expert, which sees the objects' true positions, does now: float32 [4] within [-1, 1]."""
        return np.asarray(np.clip(self._expert.get_action(self._vector), -1, 1), np.float32)

    def draw(self, camera: str) -> NDArray[np.uint8]:
        """The scene as `camera` sees it, the right way up: uint8 [size, size, 3]."""
        # Meta-World moves its goal markers and then lets mj_forward move them back: put them where they belong, for the eye alone.
        for site, position in self._environment._target_site_config:
            self._environment._set_pos_site(site, position)
        image = self._drawing.draw(self._data, camera)
        return image[::-1, ::-1] if camera in UPSIDE_DOWN else image

    def close(self) -> None:
        """Free what the scene holds in the graphics context."""
        self._drawing.close()


def _with_fresh_states(environment: Any) -> Any:
    """A bare environment class draws no states of its own until a benchmark has set it up; this sets it up to draw them from its seed."""
    environment._set_task_called = True
    environment._freeze_rand_vec = False
    environment.seeded_rand_vec = True
    environment._partially_observable = False  # the experts read the goal from the observation vector, policies never see it
    environment.__dict__.pop("sawyer_observation_space", None)  # cached with the goal bounded to zero
    return environment
