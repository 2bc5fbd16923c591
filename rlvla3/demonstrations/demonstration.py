"""A recorded episode as the simulator would have shown it: a decision at every step, labelled with the actions that follow.

Invariants:
- a demonstration is checked against the simulator it is for before anything of it is used: cameras, state and action sizes from headers, actions when read;
- frames go one by one from the file to where they stay, so no more than a few are in memory twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import DemonstrationLayout
from rlvla3.demonstrations.files import DemonstrationError, DemonstrationFile, Episode
from rlvla3.demonstrations.frames import resized, upright
from rlvla3.types import Spaces

ROUNDING = 1e-4
"""An action so little outside its bounds is inside: it was rounded."""


@dataclass(frozen=True, eq=False)
class FileDemonstration:
    """One episode of a file, of the recipe's `task`.

    spaces: of its simulator alone. mirrored: whether that shows left and right exchanged. chunk: actions a decision. layout: where names differ.
    """

    file: DemonstrationFile
    episode: Episode
    task: str
    instruction: str
    spaces: Spaces
    mirrored: bool
    chunk: int
    layout: DemonstrationLayout

    @property
    def decisions(self) -> int:
        """One at every step."""
        return self.episode.steps

    @cached_property
    def cameras(self) -> dict[str, str]:
        """The simulator's cameras, each with the array its frames are in."""
        return {camera: self.layout.cameras.get(camera) or self.file.camera(self.episode, camera) for camera in self.spaces.cameras}

    @property
    def frame_sizes(self) -> dict[str, tuple[int, ...]]:
        """Height and width of each camera's frames in the file."""
        return {camera: self._shape(name, "cameras")[:2] for camera, name in self.cameras.items()}

    def check(self) -> None:
        """Raises DemonstrationError where the file does not hold what the simulator shows and accepts, as far as headers tell."""
        for camera, name in self.cameras.items():
            shape, channels = self._shape(name, "cameras"), self.spaces.cameras[camera][2]
            if len(shape) != 3 or shape[2] != channels:
                raise DemonstrationError(
                    f"{self._place}: {name} has entries of shape {list(shape)}, and camera {camera} shows frames of {channels} channels: "
                    f"name another array under clone.layout.cameras"
                )
        sizes = {name: self._width(name, "state") for name in self._state}
        if sum(sizes.values()) != self.spaces.state:
            told = " + ".join(f"{name} {size}" for name, size in sizes.items()) or "nothing"
            raise DemonstrationError(
                f"{self._place}: the state is {told} = {sum(sizes.values())} numbers, and the simulator's state has {self.spaces.state}: "
                f"name the arrays it is made of under clone.layout.state; there are {', '.join(self.file.names(self.episode))}"
            )
        if (size := self._width(self._actions, "actions")) != self.spaces.action.size:
            raise DemonstrationError(
                f"{self._place}: {self._actions} has {size} numbers an action, and the simulator takes {self.spaces.action.size}: "
                f"these demonstrations are of another robot or controller"
            )
        if self.chunk > self.episode.steps:
            raise DemonstrationError(
                f"{self._place} has {self.episode.steps} steps, fewer than one chunk of policy.chunk={self.chunk}: "
                f"set policy.chunk={max(self.episode.steps, 1)} or less, or leave the file out of clone.files"
            )

    @cached_property
    def recorded_actions(self) -> NDArray[np.float32]:
        """The action that follows each observation, as recorded: [decisions, A]. Raises DemonstrationError where one is not a number."""
        actions = self.file.vectors(self.episode, self._actions)[self.episode.first_action :][: self.decisions]
        if len(actions) != self.decisions:
            raise DemonstrationError(f"{self._place} has {len(actions)} actions for {self.decisions} observations: get the file again, or leave it out")
        if not np.isfinite(actions).all():
            raise DemonstrationError(f"{self._place}: {self._actions} holds numbers that are not finite: leave the file out of clone.files")
        return actions

    def outside(self) -> int:
        """How many of the recorded action numbers the simulator does not take as they are."""
        space, actions = self.spaces.action, self.recorded_actions
        if space.kind == "discrete":
            return int(((actions < 0) | (actions > space.choices - 1) | (actions != np.round(actions))).sum())
        return int(((actions < space.low - ROUNDING) | (actions > space.high + ROUNDING)).sum())

    def fill(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Write observations and chunks into `rows`, {name: [decisions, ...] of zeros}, which may be wider than this simulator's. Raises DemonstrationError."""
        state = np.concatenate([self._vectors(name) for name in self._state] or [np.zeros((self.decisions, 0), np.float32)], axis=1)
        if not np.isfinite(state).all():
            raise DemonstrationError(f"{self._place}: the state holds numbers that are not finite: leave the file out of clone.files")
        rows["state"][:, : self.spaces.state] = state
        rows["elapsed"][:] = np.minimum(np.arange(self.decisions) / self.spaces.max_steps, 1)
        rows["actions"][..., : self.spaces.action.size] = self._chunks()
        # What a camera is called in a mix goes by its place (simulators/common_spaces.py).
        common = [name for name in rows if name.startswith("image.")]
        for (camera, name), place in zip(self.cameras.items(), common, strict=False):
            height, width, _ = self.spaces.cameras[camera]
            shown = 0
            for row, frame in zip(rows[place], self.file.frames(self.episode, name), strict=False):
                shown_upright = upright(frame, self.layout.orientation or self.file.orientation())
                row[:] = resized(shown_upright[:, ::-1] if self.mirrored else shown_upright, height, width)
                shown += 1
            if shown < self.decisions:
                raise DemonstrationError(f"{self._place}: {name} has {shown} frames for {self.decisions} observations: get the file again, or leave it out")

    def _chunks(self) -> NDArray[np.float32]:
        """The next C actions at every step, the last one repeated past the end: [decisions, C, A]."""
        space = self.spaces.action
        low, high = (0, space.choices - 1) if space.kind == "discrete" else (space.low, space.high)
        following = np.arange(self.decisions)[:, None] + np.arange(self.chunk)
        chunks: NDArray[np.float32] = self.recorded_actions.clip(low, high)[np.minimum(following, self.decisions - 1)]
        return chunks

    @property
    def _place(self) -> str:
        return self.file.place(self.episode)

    @property
    def _state(self) -> list[str]:
        if not self.spaces.state:
            return []
        return self.layout.state or self.file.state(self.episode, list(self.spaces.cameras))

    @property
    def _actions(self) -> str:
        return self.layout.actions or self.file.actions

    def _vectors(self, name: str) -> NDArray[np.float32]:
        values = self.file.vectors(self.episode, name)[: self.decisions]
        if len(values) < self.decisions:
            raise DemonstrationError(f"{self._place}: {name} has {len(values)} entries for {self.decisions} observations: get the file again, or leave it out")
        return values

    def _width(self, name: str, key: str) -> int:
        return int(np.prod(self._shape(name, key)))

    def _shape(self, name: str, key: str) -> tuple[int, ...]:
        shape = self.file.shape(self.episode, name)
        if shape is None:
            raise DemonstrationError(
                f"{self._place} has no {name}: say what it is called there under clone.layout.{key}; there are {', '.join(self.file.names(self.episode))}"
            )
        return shape
