"""An episode from a LeRobotDataset: one of `rlvla3 record`, or of other software."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rlvla3.config import DemonstrationLayout
from rlvla3.demonstrations.demonstration_file import RecordedEpisode
from rlvla3.demonstrations.lerobot import INFO, SUCCESS, LeRobotDataset
from rlvla3.viewing.shown_episode import Series, ShownEpisode, ViewError

SHOWN = {"state": "observation.state", "reward": "next.reward", "version": "policy_version"}
"""Series that a dataset may have, and their arrays in it."""


def is_dataset(folder: Path) -> bool:
    """Whether a folder is a LeRobotDataset."""
    return (folder / INFO).is_file()


def dataset_episode(folder: Path, number: int | None) -> ShownEpisode:
    """An episode of a dataset. number: of the episode in it (None: its first). Raises ViewError and DemonstrationError."""
    dataset = LeRobotDataset(folder, DemonstrationLayout())
    episode = _find(dataset, number)
    steps = np.arange(episode.steps)
    arrays = {name: dataset.header(episode, name) for name in dataset.names(episode)}
    actions = dataset.usual_actions()
    kept = {name: source for name, source in (SHOWN | {"action/executed": actions}).items() if arrays.get(source) is not None}
    cameras = [name for name, header in arrays.items() if header is not None and len(header.shape) == 3]
    told = dataset.instructions(episode) or [episode.instruction] * episode.steps
    return ShownEpisode(
        title=f"{folder.name}, episode {episode.key}",
        frame_steps=steps.tolist(),
        cameras={camera.rpartition(".")[2]: dataset.frames(episode, camera) for camera in cameras},
        series={name: Series.of(steps, dataset.vectors(episode, source)) for name, source in kept.items()},
        texts=[(step, text) for step, text in enumerate(told) if step == 0 or text != told[step - 1]],
        outcome=(episode.steps, f"{episode.task}: {'succeeded' if episode.success else 'failed'} after {episode.steps} steps") if SUCCESS in arrays else None,
    )


def _find(dataset: LeRobotDataset, number: int | None) -> RecordedEpisode:
    numbers = []
    for episode in dataset.episodes():
        if number is None or episode.key == number:
            return episode
        numbers.append(int(episode.key))
    if not numbers:
        raise ViewError(f"{dataset.path} has no episode, so there is nothing to show")
    raise ViewError(f"{dataset.path} has no episode {number}: it has episodes {min(numbers)} to {max(numbers)}, so give one of them with --episode")
