"""lerobot's own reader returns what was written: numbers and sentences exactly, frames to within their codec.

lerobot needs versions of torch and numpy of its own, and 5 GB. So it runs in another environment, which RLVLA3_LEROBOT_PYTHON names.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlvla3.demonstrations.writing.encodings import ENCODERS
from rlvla3.demonstrations.writing.statistics import NAMES
from rlvla3.instructions import decode_instructions
from rlvla3.types import ActionSpace
from tests.support.repository import ROOT
from tests.support.written_datasets import episode, spaces_of, written

PYTHON = "RLVLA3_LEROBOT_PYTHON"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON not in os.environ, reason=f"needs an environment with lerobot: name its Python in {PYTHON}"),
]


def read_by_lerobot(dataset: Path, out: Path) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # packages there are for this Python
    words = [os.environ[PYTHON], str(ROOT / "scripts" / "read_with_lerobot.py"), str(dataset), str(out)]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return dict(np.load(out))


@pytest.mark.parametrize("encoding", [*ENCODERS, "png"])
def test_lerobot_reads_what_was_written(encoding: Any, tmp_path: Path) -> None:
    spaces = spaces_of({"front": (64, 96, 3), "wrist": (65, 67, 3)})
    told = ["put it there", "  quote ' and \" and\nline", "ünï 把红色的杯子拿起来 🤖"]
    episodes = [episode(spaces, steps, seed, told) for seed, steps in enumerate([5, 1, 30])]
    written(tmp_path / "dataset", episodes, spaces, encoding)
    found, rows = read_by_lerobot(tmp_path / "dataset", tmp_path / "read.npz"), np.concatenate(episodes)
    lengths = [len(one) for one in episodes]
    numbers = {
        "observation.state": rows["state"],
        "action": rows["action"],
        "next.reward": rows["reward"],
        "next.truncated": rows["truncated"],
        "next.success": rows["success"],
        "next.done": np.concatenate([np.arange(length) == length - 1 for length in lengths]),
        "policy_version": np.repeat(range(3), lengths),
        "episode_index": np.repeat(range(3), lengths),
        "frame_index": np.concatenate([np.arange(length) for length in lengths]),
        "index": np.arange(len(rows)),
        "timestamp": np.concatenate([np.arange(length) / 20 for length in lengths]).astype(np.float32),
    }
    for name, expected in numbers.items():
        assert np.array_equal(found.pop(name).reshape(expected.shape), expected), name
    assert found.pop("task").tolist() == decode_instructions(rows["instruction"])
    for camera, shape in spaces.cameras.items():
        frames = found.pop(f"observation.images.{camera}").transpose(0, 2, 3, 1) * 255
        assert frames.shape == (len(rows), *shape)
        difference = np.abs(frames - rows[f"image.{camera}"])
        assert difference.max() < 0.01 if encoding == "png" else difference.mean(axis=(1, 2, 3)).max() < 4  # the next frame is 15 away
    assert np.allclose(found["stats/action/q90"], np.quantile(rows["action"], 0.9, axis=0))
    assert {name.rpartition("/")[2] for name in found if name.startswith("stats/observation.images.front/")} == set(NAMES)
    assert found.keys() - {"task_index"} == {name for name in found if name.startswith("stats/")}


def test_lerobot_reads_choices_and_no_cameras(tmp_path: Path) -> None:
    spaces = spaces_of({}, state=1, action=ActionSpace("discrete", 1, 4))
    rows = episode(spaces, 7)
    written(tmp_path / "dataset", [rows], spaces)
    found = read_by_lerobot(tmp_path / "dataset", tmp_path / "read.npz")
    assert np.array_equal(found["action"].ravel(), rows["action"].ravel()) and found["action"].dtype == np.int64
    assert np.array_equal(found["observation.state"].ravel(), rows["state"].ravel())
