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

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from rlvla3.config import Orientation
from rlvla3.demonstrations.demonstration_file import WAY_OUT, DemonstrationError, RecordedEpisode, RecordedWith, readable
from rlvla3.demonstrations.hdf5 import Hdf5File
from rlvla3.metadata import Metadata, MetadataT, checked, parse_json
from rlvla3.simulators.libero.tasks import full_name

CAMERAS: Mapping[str, str] = {"agentview": "obs/agentview_rgb", "robot0_eye_in_hand": "obs/eye_in_hand_rgb"}
ROBOSUITE_CONTROLLERS = ("OSC_POSE", "OSC_POSITION", "IK_POSE", "JOINT_POSITION", "JOINT_VELOCITY", "JOINT_TORQUE")

SCENE = re.compile(r"^[A-Z_]+SCENE\d+_")
"""How the name of a task of libero_10 and libero_90 begins."""

JOINTS = slice(1, 8)
"""The arm's seven joint angles in a flat MuJoCo state. Time comes first, then the positions, and those of the arm are the first positions."""


class ProblemInfo(Metadata):
    """The attribute problem_info. The BDDL parser leaves the instruction as a text, or as a list of its characters or words."""

    language_instruction: str | list[str] = ""


class Controller(Metadata):
    """controller_configs: the controller of robosuite 1.4. Later versions nest them, and then nothing is known."""

    type: str | None = None
    control_delta: bool | None = None
    output_max: list[Annotated[float, Field(gt=0, le=1e6)]] | float | None = None


class EnvironmentSettings(Metadata):
    """env_kwargs: arguments of the environment's constructor."""

    control_freq: Annotated[float, Field(gt=0, le=10_000)] | None = None
    controller_configs: Controller | None = None


class EnvironmentArguments(Metadata):
    """The attribute env_args."""

    env_kwargs: EnvironmentSettings = EnvironmentSettings()


class LiberoFile(Hdf5File):
    """The demonstrations of one task."""

    format = "LIBERO"
    root, prefix = "data", "demo_"

    def episodes(self) -> Iterator[RecordedEpisode]:
        tasks, instruction = self._task()
        for key in self.keys():
            actions, seen = self.length(key, self.actions()), min(self.length(key, name) for name in self.layout.state or ("obs/ee_pos", "obs/gripper_states"))
            ends = [self.numbers(key, name)[-1:] for name in ("rewards", "dones") if self.array(key, name) is not None]
            success = any(bool(last.any()) for last in ends)
            yield RecordedEpisode(key, tasks, instruction, max(0, min(seen, actions - self._lag)), success, first_action=self._lag)

    def usual_camera(self, episode: RecordedEpisode, camera: str) -> str:
        return CAMERAS.get(camera, f"obs/{camera}_rgb")

    def usual_state(self, episode: RecordedEpisode, cameras: Sequence[str]) -> list[str]:
        return ["obs/ee_pos", "obs/ee_ori", "obs/gripper_states"]

    def full_name(self, task: str) -> str:
        return full_name(task)

    def recorded_with(self) -> RecordedWith:
        settings = self._attribute("env_args", EnvironmentArguments).env_kwargs
        controller = settings.controller_configs or Controller()
        if controller.type not in ROBOSUITE_CONTROLLERS:
            return RecordedWith(rate_hz=settings.control_freq)
        largest = controller.output_max
        return RecordedWith(
            rate_hz=settings.control_freq,
            controller=controller.type,
            targets=None if controller.control_delta is None else not controller.control_delta,
            units=tuple(largest) if isinstance(largest, list) else None,
        )

    def orientation(self) -> Orientation:
        return "upright" if self._text("macros_image_convention") == "opencv" else "flipped"

    def notice(self) -> str | None:
        if self._lag:
            return f"{self.path.name} was recorded with observations from after their action: each is paired with the next action"
        return None

    def _task(self) -> tuple[tuple[str, ...], str]:
        """The names that the file gives its task, and its instruction.

        The authors renamed tasks after they had recorded them: inside a published file there may be the old name. The right one says the instruction. A file of
        any name, such as demo.hdf5, does not name its task.
        """
        inside = PurePosixPath(self._text("bddl_file_name").removesuffix(".bddl"))
        own = self.path.stem.removesuffix("_demo")
        parts = self._attribute("problem_info", ProblemInfo).language_instruction
        instruction = ("" if all(len(part) <= 1 for part in parts) else " ").join(parts).strip() or _sentence(inside.name or own)
        own_says_it, inside_says_it = (_sentence(name).casefold() == instruction.casefold().rstrip(".") for name in (own, inside.name))
        if not inside.name:
            return ((own,) if own_says_it else ()), instruction
        names = f"{inside.parent.name}/{inside.name}", inside.name
        if not own_says_it or (inside_says_it and None in (_scene(own), _scene(inside.name))):
            return names, instruction
        contradicts = inside_says_it and _scene(own) != _scene(inside.name)
        return ((own, *names) if contradicts else (f"{inside.parent.name}/{own}", own)), instruction

    def _attribute(self, name: str, schema: type[MetadataT]) -> MetadataT:
        """What an attribute of `data` holds as JSON. Raises DemonstrationError."""
        place = f"{self.path}: {name} of data"
        return checked(schema, parse_json(self._text(name) or "{}", place, WAY_OUT, DemonstrationError), place, WAY_OUT, DemonstrationError)

    def _text(self, attribute: str) -> str:
        with readable(f"{self.path}: {attribute} of data"):
            value: Any = self.file[self.root].attrs.get(attribute, "")
            return value.decode() if isinstance(value, bytes) else str(value)

    @cached_property
    def _lag(self) -> int:
        """1 where observation t was recorded after action t, 0 where it was recorded before. The first episode that can tell decides; 0 where none can."""
        return next((lag for key in self.keys() if (lag := self._lag_of(key)) is not None), 0)

    def _lag_of(self, key: str) -> int | None:
        states, joints = self.array(key, "states"), self.array(key, "obs/joint_states")
        arm = JOINTS.stop - JOINTS.start
        if states is None or joints is None or len(states.shape) != 2 or states.shape[1] < JOINTS.stop or joints.shape != (len(states), arm):
            return None
        if self.length(key, "states") < 2:
            return None
        before, seen = self.numbers(key, "states")[:, JOINTS], self.numbers(key, "obs/joint_states")
        if not (np.isfinite(before).all() and np.isfinite(seen).all()):
            return None
        return int(np.abs(before[1:] - seen[:-1]).mean() < np.abs(before - seen).mean())


def _sentence(name: str) -> str:
    """What the name of a task says, without the scene."""
    return SCENE.sub("", name).replace("_", " ")


def _scene(name: str) -> str | None:
    found = SCENE.match(name)
    return found[0].replace("_TABLETOP", "") if found else None
