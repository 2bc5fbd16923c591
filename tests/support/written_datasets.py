"""Episodes for datasets, and datasets that are written from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import DemonstrationLayout
from rlvla3.demonstrations.lerobot import LeRobotDataset
from rlvla3.demonstrations.writing.dataset_writer import DatasetSettings, DatasetWriter
from rlvla3.instructions import encode_instruction
from rlvla3.simulators.every_step import step_record
from rlvla3.types import ActionSpace, Spaces

CAMERAS = {"front": (32, 48, 3), "wrist": (33, 35, 3)}


def spaces_of(cameras: dict[str, tuple[int, int, int]] = CAMERAS, state: int = 3, action: ActionSpace | None = None) -> Spaces:
    return Spaces(cameras, state, action or ActionSpace("continuous", 2), 50)


def episode(spaces: Spaces, steps: int, seed: int = 0, told: list[str] | None = None) -> NDArray[Any]:
    """An episode that is a success at its last step. Its frames are slopes of colours, as a video keeps them well."""
    chance, rows = np.random.default_rng(seed), np.zeros(steps, step_record(spaces))
    for camera, shape in spaces.cameras.items():
        down, across, colour = np.meshgrid(*(np.linspace(0, 1, length) for length in shape), indexing="ij")
        for number in range(steps):
            rows[f"image.{camera}"][number] = 127 + 120 * np.sin(2 * down + 2 * across + colour + seed + 0.2 * number)
    rows["state"], rows["reward"] = chance.normal(size=(steps, spaces.state)), chance.normal(size=steps)
    if spaces.action.kind == "discrete":
        rows["action"] = chance.integers(spaces.action.choices, size=(steps, 1))
    else:
        rows["action"] = chance.uniform(-1, 1, (steps, spaces.action.size))
    for number in range(steps):
        rows["instruction"][number] = encode_instruction((told or ["go"])[number % len(told or ["go"])])
    rows["success"][-1], rows["truncated"][-1] = True, bool(seed % 2)
    return rows


def written(folder: Path, episodes: list[NDArray[Any]], spaces: Spaces, encoding: Any = "png", fps: float = 20.0, mirrored: bool = False) -> LeRobotDataset:
    writer = DatasetWriter(folder, DatasetSettings("filmed", spaces, fps, encoding, mirrored))
    for number, rows in enumerate(episodes):
        writer.add(rows, np.full(len(rows), number), f"task/{number}")
    writer.close()
    return LeRobotDataset(folder, DemonstrationLayout())
