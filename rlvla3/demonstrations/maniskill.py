"""ManiSkill's trajectory files: NAME.h5 with NAME.json beside it, as its RecordEpisode wrapper writes them (mani_skill 3.0.1).

    NAME.json     env_info: env_id, env_kwargs; episodes: [{episode_id, control_mode, success, ...}]
    traj_0        actions [T, A], success [T], terminated [T], truncated [T], env_states
    traj_0/obs    [T + 1, D] (observation mode state), or agent/{qpos, qvel}, extra/..., sensor_data/CAMERA/rgb [T + 1, H, W, 3]

No action follows the last observation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from rlvla3.config import DemonstrationLayout
from rlvla3.demonstrations.demonstration_file import DemonstrationError, RecordedEpisode, RecordedWith
from rlvla3.demonstrations.hdf5 import Hdf5File
from rlvla3.metadata import Count, Metadata, checked, read_json
from rlvla3.simulators.maniskill.tasks import EXTRA_SHOWN_WITH_IMAGES, TASKS

REPLAY = "replay the file with `python -m mani_skill.trajectory.replay_trajectory --traj-path FILE --save-traj -o state -c CONTROL_MODE`, or with -o rgb"
SEEN_ARRAYS = ["obs/agent/qpos", "obs/agent/qvel", *(f"obs/extra/{name}" for name in EXTRA_SHOWN_WITH_IMAGES)]
"""The arrays of the state beside images, as the simulator uses them (simulators/maniskill/tasks.py). Some tasks lack some of them."""

BESIDE = "It describes the trajectories in the file of the same name: put the two files together, or leave both out of clone.files"


class SimulationSettings(Metadata):
    """sim_config: where it departs from the environment's own."""

    control_freq: Annotated[float, Field(gt=0, le=10_000)] | None = None


class EnvironmentSettings(Metadata):
    """env_kwargs of NAME.json."""

    control_mode: str | None = None
    sim_config: SimulationSettings | None = None


class EnvironmentInfo(Metadata):
    """env_info of NAME.json."""

    env_id: str
    env_kwargs: EnvironmentSettings = EnvironmentSettings()


class EpisodeDescription(Metadata):
    """One of the episodes of NAME.json."""

    episode_id: Count
    control_mode: str | None = None
    success: bool | None = None


class Description(Metadata):
    """NAME.json."""

    env_info: EnvironmentInfo
    episodes: list[EpisodeDescription]


class ManiSkillFile(Hdf5File):
    """The trajectories of one environment."""

    format = "ManiSkill"
    root, prefix = "/", "traj_"

    def __init__(self, path: Path, layout: DemonstrationLayout) -> None:
        super().__init__(path, layout)
        json_file = path.with_suffix(".json")
        description = checked(Description, read_json(json_file, BESIDE, DemonstrationError), str(json_file), BESIDE, DemonstrationError)
        self._task = description.env_info.env_id
        self._succeeded = {f"{self.prefix}{episode.episode_id}": episode.success is not False for episode in description.episodes}
        modes = dict.fromkeys(episode.control_mode for episode in description.episodes if episode.control_mode)
        if len(modes) > 1:
            raise DemonstrationError(f"{json_file} names several control modes ({', '.join(modes)}), and a policy has one: give each its own file")
        settings = description.env_info.env_kwargs
        self._rate_hz = settings.sim_config.control_freq if settings.sim_config else None
        self.control_mode = next(iter(modes), settings.control_mode)

    def episodes(self) -> Iterator[RecordedEpisode]:
        for key in self.keys():
            steps = self.length(key, self.actions())
            if not self.layout.state and "obs" not in self.group(key):
                raise DemonstrationError(f"{self.path}, {key} holds actions and no observations: {REPLAY}")
            ends = self.array(key, "success")
            success = self._succeeded.get(key, True) if ends is None else bool(self.numbers(key, "success").any())
            yield RecordedEpisode(key, (self._task,), "", steps, success)

    def usual_camera(self, episode: RecordedEpisode, camera: str) -> str:
        return f"obs/sensor_data/{camera}/rgb"

    def usual_state(self, episode: RecordedEpisode, cameras: Sequence[str]) -> list[str]:
        return [name for name in SEEN_ARRAYS if self.array(episode.key, name) is not None] if cameras else ["obs"]

    def recorded_with(self) -> RecordedWith:
        return RecordedWith(rate_hz=self._rate_hz)

    def default_control_mode(self) -> str | None:
        return next(iter(TASKS[self._task].actions)) if self._task in TASKS else None
