"""LIBERO's demonstration files: SUITE/TASK_demo.hdf5, as its scripts/create_dataset.py writes them (LIBERO, commit 19520007).

    data                 bddl_file_name, problem_info (JSON with language_instruction), macros_image_convention
    data/demo_0          actions [T, 7], states [T, 1 + positions + velocities], rewards [T], dones [T]
    data/demo_0/obs      agentview_rgb, eye_in_hand_rgb [T, H, W, 3], ee_pos [T, 3], ee_ori [T, 3] axis-angle, gripper_states [T, 2], joint_states [T, 7]

Two facts about these files are surprising:
- frames are upside down, unless macros_image_convention is "opencv" (robosuite's macros.py);
- the script appends obs[t] after it has executed actions[t], but states[t] before. So obs[t] is what the demonstrator saw when it chose actions[t + 1]. Scripts
  that write the same layout again (OpenVLA's regenerate_libero_dataset.py) append obs[t] before. The arm's joint angles are in both arrays, so they show which
  case a file is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from rlvla3.config import Orientation
from rlvla3.demonstrations.demonstration_file import RecordedEpisode
from rlvla3.demonstrations.hdf5 import Hdf5File
from rlvla3.simulators.libero.tasks import SUITES, find_task

CAMERAS: Mapping[str, str] = {"agentview": "obs/agentview_rgb", "robot0_eye_in_hand": "obs/eye_in_hand_rgb"}
JOINTS = slice(1, 8)
"""The arm's seven joint angles in a flat MuJoCo state. Time comes first, then the positions, and those of the arm are the first positions."""


class LiberoFile(Hdf5File):
    """The demonstrations of one task."""

    format = "LIBERO"
    root, prefix = "data", "demo_"
    actions = "actions"

    def episodes(self) -> Iterator[RecordedEpisode]:
        tasks, instruction = self._task()
        for key in self.keys():
            actions, seen = self.length(key, "actions"), min(self.length(key, name) for name in ("obs/ee_pos", "obs/gripper_states"))
            success = any(name in self.group(key) and bool(self.group(key)[name][-1]) for name in ("rewards", "dones"))
            yield RecordedEpisode(key, tasks, instruction, min(seen, actions - self._lag), success, first_action=self._lag)

    def camera(self, episode: RecordedEpisode, camera: str) -> str:
        return CAMERAS.get(camera, f"obs/{camera}_rgb")

    def state(self, episode: RecordedEpisode, cameras: Sequence[str]) -> list[str]:
        return ["obs/ee_pos", "obs/ee_ori", "obs/gripper_states"]

    def full_name(self, task: str) -> str:
        suite, _, number = task.partition("/")
        return str(find_task(task)) if suite in SUITES and number.isdecimal() else task

    def orientation(self) -> Orientation:
        return "upright" if self._text("macros_image_convention") == "opencv" else "flipped"

    def notice(self) -> str | None:
        if self._lag:
            return f"{self.path.name} was recorded with observations from after their action: each is paired with the next action"
        return None

    def _task(self) -> tuple[tuple[str, ...], str]:
        """The task's names and its instruction. Where the file names neither, they come from the name of the file."""
        bddl = PurePosixPath(self._text("bddl_file_name") or f"{self.path.parent.name}/{self.path.stem.removesuffix('_demo')}.bddl")
        problem = json.loads(self._text("problem_info") or "{}")
        # A string, or a list of its characters or words, as the BDDL parser leaves it.
        instruction = "".join(problem.get("language_instruction", "")) or re.sub(r"^[A-Z_]+SCENE\d+_", "", bddl.stem).replace("_", " ")
        return (f"{bddl.parent.name}/{bddl.stem}", bddl.stem), instruction.strip()

    def _text(self, attribute: str) -> str:
        value: Any = self.file[self.root].attrs.get(attribute, "")
        return value.decode() if isinstance(value, bytes) else str(value)

    @cached_property
    def _lag(self) -> int:
        """1 where observation t was recorded after action t, 0 where it was recorded before or the file cannot tell. The first episode decides."""
        group = self.group(self.keys()[0])
        states, joints = group.get("states"), group.get("obs/joint_states")
        if states is None or joints is None or len(states) != len(joints) or len(joints) < 2:
            return 0
        before, seen = np.asarray(states[:, JOINTS]), np.asarray(joints[:])
        return int(np.abs(before[1:] - seen[:-1]).mean() < np.abs(before - seen).mean())
