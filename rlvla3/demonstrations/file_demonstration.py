"""A recorded episode as the simulator would have shown it: an observation at every step, with the actions that follow as its label.

Invariants:
- a demonstration is checked against its simulator before it is used: cameras, state and actions, by their headers;
- numbers are used only if all of them are finite, and as many as the headers say (`unusable`);
- frames are copied one by one from the file to their final place. So only a few frames are in memory twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.demonstrations.action_conversion import check_conversion, converted
from rlvla3.demonstrations.demonstration_file import WAY_OUT, ArrayHeader, DemonstrationError, DemonstrationFile, RecordedEpisode
from rlvla3.demonstrations.frames import MOST_PIXELS, resized, upright
from rlvla3.demonstrations.served_tasks import as_compared
from rlvla3.instructions import instruction_fault
from rlvla3.simulators.action_meaning import ActionMeaning
from rlvla3.types import Spaces

BOUND_TOLERANCE = 1e-4
"""An action that is outside of its bounds by less than this counts as inside. It is a rounding error."""


@dataclass(frozen=True, eq=False)
class FileDemonstration:
    """One episode of a file, as a demonstration of the recipe's `task`.

    sentence: that of the episode's sentences which is of this task.
    told: for sentences of the recipe's tasks, as `as_compared` writes them, what the policy is told: the simulator's own instruction, where it is known.
    spaces: those of this task's simulator only. mirrored: whether that simulator shows left and right exchanged.
    chunk: actions in a chunk. An episode must be as long. meaning: of the simulator's actions.
    notice: what the user should know about how the task was chosen.
    """

    file: DemonstrationFile
    episode: RecordedEpisode
    task: str
    sentence: str
    told: Mapping[str, str]
    spaces: Spaces
    mirrored: bool
    chunk: int
    meaning: ActionMeaning
    notice: str | None = None

    @property
    def decisions(self) -> int:
        """The number of decisions: one at every step."""
        return self.episode.steps

    @cached_property
    def instructions(self) -> list[str]:
        """The instruction of each decision. An episode with several sentences uses each for its own observations. Raises DemonstrationError."""
        sentences = self.file.instructions(self.episode) or [self.sentence] * self.decisions
        if sentences and as_compared(self.sentence) not in map(as_compared, dict.fromkeys(sentences)):
            there = " and ".join(repr(sentence) for sentence in dict.fromkeys(sentences))
            raise DemonstrationError(f"{self._location} is said to be of {self.sentence!r}, and its observations are of {there}. {WAY_OUT}")
        told = {sentence: self.told.get(as_compared(sentence), sentence) for sentence in dict.fromkeys(sentences)}
        return [told[sentence] for sentence in sentences[: self.decisions]]

    @cached_property
    def cameras(self) -> dict[str, str]:
        """The simulator's cameras, each with the name of the array that holds its frames."""
        return {camera: self.file.camera(self.episode, camera) for camera in self.spaces.cameras}

    @property
    def frame_sizes(self) -> dict[str, tuple[int, ...]]:
        """The height and width of each camera's frames in the file."""
        return {camera: self._header(name, "cameras").shape[:2] for camera, name in self.cameras.items()}

    def check(self) -> None:
        """Check the headers against the simulator. Raises DemonstrationError where cameras, state or actions do not fit."""
        for camera, name in self.cameras.items():
            header, channels = self._header(name, "cameras"), self.spaces.cameras[camera][2]
            if len(header.shape) != 3 or header.shape[2] != channels or 0 in header.shape:
                raise DemonstrationError(
                    f"{self._location}: {name} has entries of shape {list(header.shape)}, and camera {camera} shows frames of {channels} channels: "
                    f"name another array under clone.layout.cameras"
                )
            if header.dtype != np.uint8:
                raise DemonstrationError(
                    f"{self._location}: {name} holds {header.dtype or 'no numbers'}, and frames must be uint8, from 0 to 255: convert them, or name another "
                    f"array under clone.layout.cameras"
                )
            if math.prod(header.shape[:2]) > MOST_PIXELS:
                raise DemonstrationError(f"{self._location}: {name} has frames of shape {list(header.shape)}, more than {MOST_PIXELS} pixels. {WAY_OUT}")
            self._check_entries(name, header.entries, self.decisions)
        sizes = {name: self._width(name, "state") for name in self._state}
        if sum(sizes.values()) != self.spaces.state:
            parts = " + ".join(f"{name} {size}" for name, size in sizes.items()) or "nothing"
            raise DemonstrationError(
                f"{self._location}: the state is {parts} = {sum(sizes.values())} numbers, and the simulator's state has {self.spaces.state}: "
                f"name the arrays of the state under clone.layout.state; the episode has {', '.join(self.file.names(self.episode))}"
            )
        for name in self._state:
            self._check_entries(name, self._header(name, "state").entries, self.decisions)
        if (size := self._width(self._actions, "actions")) != self.spaces.action.size:
            raise DemonstrationError(
                f"{self._location}: {self._actions} has {size} numbers in an action, and the simulator takes {self.spaces.action.size}: "
                f"give demonstrations of the same robot and controller"
            )
        check_conversion(self.file.layout, self.spaces.action, self.meaning)

    @cached_property
    def unusable(self) -> str | None:
        """Why nothing can be learned from this episode, although its file is sound: it is too short, or has numbers that are not finite. None where it can.

        Reads sentences, state and actions, and no frames. Raises DemonstrationError where they are not what the headers say.
        """
        if self.decisions < max(self.chunk, 1):
            return f"has {self.decisions} steps, fewer than one chunk of policy.chunk={self.chunk}"
        for instruction in dict.fromkeys(self.instructions):
            if fault := instruction_fault(instruction):
                return f"cannot be learned from: {fault}"
        for name in (*self._state, self._actions):
            values = self._vectors(name)
            if wrong := int((~np.isfinite(values)).sum()):
                return f"has {wrong} numbers in {name} that are not finite as float32"
        return None

    @cached_property
    def state(self) -> NDArray[np.float32]:
        """The state of each observation: [decisions, S]. Raises DemonstrationError."""
        return np.concatenate([self._vectors(name) for name in self._state] or [np.zeros((self.decisions, 0), np.float32)], axis=1)

    @cached_property
    def actions(self) -> NDArray[np.float32]:
        """The action that follows each observation, as the simulator means it: [decisions, A]. It may be outside of the bounds. Raises DemonstrationError."""
        return converted(self._vectors(self._actions, self.episode.first_action), self.state, self.file.layout, self.spaces.action, self.meaning)

    def count_outside_bounds(self) -> int:
        """How many action numbers the simulator does not accept as they are."""
        space, actions = self.spaces.action, self.actions
        if space.kind == "discrete":
            return int(((actions < 0) | (actions > space.choices - 1) | (actions != np.round(actions))).sum())
        return int(((actions < space.low - BOUND_TOLERANCE) | (actions > space.high + BOUND_TOLERANCE)).sum())

    def fill(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Write observations and chunks into `rows`, {name: [decisions, ...] of zeros}, which may be wider than this simulator's arrays.

        Raises DemonstrationError where values are not what the headers say, or where frames are missing.
        """
        rows["state"][:, : self.spaces.state] = self.state
        rows["elapsed"][:] = np.minimum(np.arange(self.decisions) / self.spaces.max_steps, 1)
        rows["actions"][..., : self.spaces.action.size] = self._following(rows["actions"].shape[1])
        # In a mix of simulators, cameras are matched by their order (simulators/common_spaces.py).
        common = [name for name in rows if name.startswith("image.")]
        for (camera, name), place in zip(self.cameras.items(), common, strict=False):
            height, width, _ = self.spaces.cameras[camera]
            shown = 0
            for row, frame in zip(rows[place], self.file.frames(self.episode, name), strict=False):
                shown_upright = upright(frame, self.file.layout.orientation or self.file.orientation())
                row[:] = resized(shown_upright[:, ::-1] if self.mirrored else shown_upright, height, width)
                shown += 1
            if shown < self.decisions:
                raise DemonstrationError(f"{self._location}: {name} has {shown} frames for {self.decisions} observations: get the file again, or leave it out")

    def _following(self, count: int) -> NDArray[np.float32]:
        """The next `count` actions at every step: [decisions, count, A]. Past the end, the last action is repeated."""
        low, high = self.spaces.action.bounds
        following = np.arange(self.decisions)[:, None] + np.arange(count)
        actions: NDArray[np.float32] = self.actions.clip(low, high)[np.minimum(following, self.decisions - 1)]
        return actions

    @cached_property
    def _headers(self) -> dict[str, ArrayHeader]:
        """Those that were looked up."""
        return {}

    @cached_property
    def _arrays(self) -> dict[str, NDArray[np.float32]]:
        """The arrays of vectors that were read, whole. All of an episode are small beside one of its frames."""
        return {}

    @property
    def _location(self) -> str:
        return self.file.location(self.episode)

    @property
    def _state(self) -> list[str]:
        return self.file.state(self.episode, list(self.spaces.cameras)) if self.spaces.state else []

    @property
    def _actions(self) -> str:
        return self.file.actions()

    def _vectors(self, name: str, first: int = 0) -> NDArray[np.float32]:
        """The entries that belong to the decisions, from entry `first` on: [decisions, n]."""
        if name not in self._arrays:
            self._arrays[name] = self.file.vectors(self.episode, name)
        header, values = self._header(name, "state"), self._arrays[name][first:][: self.decisions]
        self._check_entries(name, len(values), self.decisions)
        if values.shape[1] != (width := int(np.prod(header.shape))):
            raise DemonstrationError(f"{self._location}: {name} has {values.shape[1]} numbers in an entry, and the file says that it has {width}. {WAY_OUT}")
        return values

    def _check_entries(self, name: str, found: int, needed: int) -> None:
        if found < needed:
            raise DemonstrationError(f"{self._location}: {name} has {found} entries for {needed} observations. {WAY_OUT}")

    def _width(self, name: str, key: str) -> int:
        header = self._header(name, key)
        if header.dtype is None:
            raise DemonstrationError(f"{self._location}: {name} holds no numbers: write the name of another array under clone.layout.{key}")
        return int(np.prod(header.shape, dtype=float))

    def _header(self, name: str, key: str) -> ArrayHeader:
        if name in self._headers:
            return self._headers[name]
        header = self.file.header(self.episode, name)
        if header is None:
            raise DemonstrationError(
                f"{self._location} has no {name}: write its name in the file under clone.layout.{key}; "
                f"the episode has {', '.join(self.file.names(self.episode))}"
            )
        self._headers[name] = header
        return header
