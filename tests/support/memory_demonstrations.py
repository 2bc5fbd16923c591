"""Demonstrations that lie in memory, as if they had been read, and an arm whose state follows its actions as LIBERO's does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import DemonstrationLayout
from rlvla3.demonstrations.demonstration_file import ArrayHeader, DemonstrationFile, Frame, RecordedEpisode, RecordedWith
from rlvla3.demonstrations.file_demonstration import FileDemonstration
from rlvla3.simulators.action_meaning import OSC_REACHED_M, ActionMeaning
from rlvla3.types import ActionSpace, Spaces

Recording = tuple[NDArray[Any], NDArray[Any]]
"""The states [T, S], and the action after each, [T, A]."""


class MemoryFile(DemonstrationFile):
    """A file of recordings, which says `said` of itself."""

    format = "memory"

    def __init__(self, recordings: Sequence[Recording], said: RecordedWith, layout: DemonstrationLayout) -> None:
        super().__init__(Path("data/demo.hdf5"), layout)
        self.recordings, self.said = recordings, said

    def episodes(self) -> Iterator[RecordedEpisode]:
        for number, (states, _) in enumerate(self.recordings):
            yield RecordedEpisode(number, ("task",), "", len(states), True)

    def header(self, episode: RecordedEpisode, name: str) -> ArrayHeader:
        values = self.vectors(episode, name)
        return ArrayHeader(len(values), values.shape[1:], values.dtype)

    def names(self, episode: RecordedEpisode) -> list[str]:
        return ["state", "actions"]

    def vectors(self, episode: RecordedEpisode, name: str) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self.recordings[int(episode.key)][self.names(episode).index(name)].astype(np.float32)
        return values

    def frames(self, episode: RecordedEpisode, name: str) -> Iterator[Frame]:
        raise NotImplementedError

    def usual_actions(self) -> str:
        return "actions"

    def usual_camera(self, episode: RecordedEpisode, camera: str) -> str:
        raise NotImplementedError

    def usual_state(self, episode: RecordedEpisode, cameras: Sequence[str]) -> list[str]:
        return ["state"]

    def recorded_with(self) -> RecordedWith:
        return self.said


def in_memory(recordings: Sequence[Recording], meaning: ActionMeaning, said: RecordedWith | None = None, **layout: Any) -> list[FileDemonstration]:
    """Demonstrations of a simulator whose actions have this meaning. said: what their file says of itself."""
    file = MemoryFile(recordings, said or RecordedWith(), DemonstrationLayout.model_validate(layout))
    spaces = Spaces({}, recordings[0][0].shape[1], ActionSpace("continuous", recordings[0][1].shape[1]), 500)
    found = [FileDemonstration(file, episode, "task", "", {}, spaces, False, 1, meaning) for episode in file.episodes()]
    for demonstration in found:
        demonstration.check()
    return found


def arm_recording(seed: int, steps: int = 120, smooth: int = 6) -> Recording:
    """What LIBERO's arm does in free space: the hand moves at most OSC_REACHED_M a step, and fingers open and close. smooth: steps of one motion."""
    random = np.random.default_rng(seed)
    actions = np.zeros((steps, 7))
    actions[:, :6] = np.repeat(random.uniform(-0.9, 0.9, (-(-steps // smooth), 6)), smooth, axis=0)[:steps]
    actions[:, 6] = np.where((np.arange(steps) // 25 + seed) % 2, 1.0, -1.0)
    state, speed, states = np.array([0.1, -0.05, 1.0, 0.1, 0.2, 0.3, 0.04, -0.04]), np.zeros(6), []
    for action in actions:
        states.append(state.copy())
        speed += 0.5 * (action[:6] * np.repeat([OSC_REACHED_M, 0.05], 3) - speed)
        state[:6] += speed + random.normal(0, 1e-4, 6)
        opening = np.clip(state[6] - 0.008 * np.sign(action[6]), 0, 0.04)
        state[6:] = opening, -opening
    return np.array(states), actions
