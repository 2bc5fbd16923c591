"""The arrays of a dataset, from the spaces of a simulator.

observation.images.CAMERA   the frame that the simulator showed before the action
observation.state           its state then, where it has one
action                      the action that was carried out
next.reward, next.done, next.truncated, next.success   what came of it. done: at the last step; truncated: where a time limit cut the episode
policy_version              the version of the policy that chose the action
timestamp, frame_index, episode_index, index, task_index   lerobot's own
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.demonstrations.demonstration_file import DemonstrationError
from rlvla3.types import Spaces

Feature = dict[str, Any]

IMAGES = "observation.images."
OWN_COLUMNS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}
RESULTS = {"next.reward": "float32", "next.done": "bool", "next.truncated": "bool", "next.success": "bool", "policy_version": "int64"}


def check_recordable(name: str, spaces: Spaces) -> None:
    """Raise DemonstrationError where the simulator `name` shows what a LeRobotDataset cannot hold."""
    for camera, shape in spaces.cameras.items():
        if shape[2] != 3:
            raise DemonstrationError(
                f"camera {camera} of {name} shows frames of {shape[2]} channels, and a LeRobotDataset holds frames of 3: it cannot be recorded"
            )
        if "/" in camera or not camera or camera.startswith("."):
            raise DemonstrationError(f"camera {camera!r} of {name} cannot be recorded, because its videos lie in a folder of its name: give it another name")


def features(spaces: Spaces, frames: Mapping[str, Any]) -> dict[str, Feature]:
    """The arrays of a dataset of a simulator with these spaces. frames: what is said of the frames of every camera: their dtype, and of a video its `info`."""
    found: dict[str, Feature] = {}
    for camera, (height, width, channels) in spaces.cameras.items():
        info = {"info": {**frames["info"], "video.height": height, "video.width": width}} if "info" in frames else {}
        found[IMAGES + camera] = {"dtype": frames["dtype"], "shape": [height, width, channels], "names": ["height", "width", "channels"], **info}
    if spaces.state:
        found["observation.state"] = _vector("float32", "state", spaces.state)
    found["action"] = _vector("int64" if spaces.action.kind == "discrete" else "float32", "action", spaces.action.size)
    return found | {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in {**RESULTS, **OWN_COLUMNS}.items()}


def _vector(dtype: str, name: str, size: int) -> Feature:
    return {"dtype": dtype, "shape": [size], "names": [f"{name}_{number}" for number in range(size)]}


def columns(steps: NDArray[Any], versions: NDArray[np.int64], described: Mapping[str, Feature]) -> dict[str, NDArray[Any]]:
    """The arrays of numbers of one episode, [steps, n], without lerobot's own. steps: step_record (simulators/every_step.py)."""
    done = np.zeros(len(steps), bool)
    done[-1] = True
    found = {
        "observation.state": steps["state"],
        "action": steps["action"],
        "next.reward": steps["reward"],
        "next.done": done,
        "next.truncated": steps["truncated"],
        "next.success": steps["success"],
        "policy_version": versions,
    }
    return {name: found[name].reshape(len(steps), -1).astype(feature["dtype"]) for name, feature in described.items() if name in found}
