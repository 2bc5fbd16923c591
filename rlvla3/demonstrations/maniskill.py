"""ManiSkill's trajectory files: NAME.h5 with NAME.json beside it, as its RecordEpisode wrapper writes them (mani_skill 3.0.1).

    NAME.json     env_info: env_id, env_kwargs; episodes: [{episode_id, control_mode, success, ...}]
    traj_0        actions [T, A], success [T], terminated [T], truncated [T], env_states
    traj_0/obs    [T + 1, D] (observation mode state), or agent/{qpos, qvel}, extra/..., sensor_data/CAMERA/rgb [T + 1, H, W, 3]

No action follows the last observation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlvla3.demonstrations.demonstration_file import DemonstrationError, RecordedEpisode
from rlvla3.demonstrations.hdf5 import Hdf5File
from rlvla3.simulators.maniskill.tasks import EXTRA_SHOWN_WITH_IMAGES, TASKS

REPLAY = "replay the file with `python -m mani_skill.trajectory.replay_trajectory --traj-path FILE --save-traj -o state -c CONTROL_MODE`, or with -o rgb"
SEEN_ARRAYS = ["obs/agent/qpos", "obs/agent/qvel", *(f"obs/extra/{name}" for name in EXTRA_SHOWN_WITH_IMAGES)]
"""The arrays of the state beside images, as the simulator uses them (simulators/maniskill/tasks.py). Some tasks lack some of them."""


class ManiSkillFile(Hdf5File):
    """The trajectories of one environment."""

    format = "ManiSkill"
    root, prefix = "/", "traj_"
    actions = "actions"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        json_file = path.with_suffix(".json")
        try:
            description = json.loads(json_file.read_text())
            self._task: str = description["env_info"]["env_id"]
            self._episode_descriptions: dict[str, Any] = {f"{self.prefix}{episode['episode_id']}": episode for episode in description["episodes"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DemonstrationError(
                f"{path} is a ManiSkill trajectory file. The file {json_file.name} that describes it cannot be read from the same folder "
                f"({type(error).__name__}: {error}): put the two files together"
            ) from error
        modes = [episode.get("control_mode") for episode in self._episode_descriptions.values()]
        self.control_mode = next((mode for mode in modes if mode), description["env_info"].get("env_kwargs", {}).get("control_mode"))

    def episodes(self) -> Iterator[RecordedEpisode]:
        for key in self.keys():
            group, steps = self.group(key), self.length(key, "actions")
            if "obs" not in group:
                raise DemonstrationError(f"{self.path}, {key} holds actions and no observations: {REPLAY}")
            success = bool(group["success"][:].any()) if "success" in group else bool(self._episode_descriptions.get(key, {}).get("success", True))
            yield RecordedEpisode(key, (self._task,), "", steps, success)

    def camera(self, episode: RecordedEpisode, camera: str) -> str:
        return f"obs/sensor_data/{camera}/rgb"

    def state(self, episode: RecordedEpisode, cameras: Sequence[str]) -> list[str]:
        return [name for name in SEEN_ARRAYS if self.array(episode, name) is not None] if cameras else ["obs"]

    def default_control_mode(self) -> str | None:
        return next(iter(TASKS[self._task].actions)) if self._task in TASKS else None
