"""What a file of demonstrations is, whatever its format: episodes, and in each of them arrays by name.

A format says how its files are laid out and nothing else; which episodes are used and how they become observations is choosing.py's and demonstration.py's.

Invariant: what `episodes` and `shape` tell comes from headers and small arrays; frames are read by `frames` alone, one after another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import Orientation
from rlvla3.errors import RecipeError

Frame = NDArray[np.uint8]


class DemonstrationError(RecipeError):
    """Demonstrations that cannot be cloned from: which file, what is wrong with it, what is needed, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One recorded episode, before it is read.

    key: its name or number in its file. tasks: what its file calls its task, the most exact name first. steps: of its observations, those that an action
    follows. first_action: the action that follows the first observation.
    """

    key: str | int
    tasks: tuple[str, ...]
    instruction: str
    steps: int
    success: bool
    first_action: int = 0


class DemonstrationFile(ABC):
    """One file, or one folder, of demonstrations.

    format: as messages call it. actions: the array of actions. control_mode: what they mean to the robot, where the file says so.
    """

    format: str
    actions: str
    control_mode: str | None = None

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def episodes(self) -> Iterator[Episode]:
        """All episodes, in the file's own order, each looked at only when it is asked for."""

    @abstractmethod
    def shape(self, episode: Episode, name: str) -> tuple[int, ...] | None:
        """The shape of one entry of an array: (n,) of a vector, (H, W, channels) of a frame. None where there is no such array."""

    @abstractmethod
    def names(self, episode: Episode) -> list[str]:
        """Every array there is, for messages."""

    @abstractmethod
    def vectors(self, episode: Episode, name: str) -> NDArray[np.float32]:
        """An array of vectors, whole: [T, n]."""

    @abstractmethod
    def frames(self, episode: Episode, name: str) -> Iterator[Frame]:
        """An array of frames, one after another, [H, W, channels] each."""

    @abstractmethod
    def camera(self, episode: Episode, camera: str) -> str:
        """What this format calls the simulator's `camera`."""

    @abstractmethod
    def state(self, episode: Episode, cameras: Sequence[str]) -> list[str]:
        """The arrays that make up the state of a simulator with these cameras, in order."""

    def full_name(self, task: str) -> str:
        """What this format calls a task of the recipe, where that is another way to write the same."""
        return task

    def usual_control_mode(self) -> str | None:
        """The control mode of a simulator whose recipe names none."""
        return None

    def orientation(self) -> Orientation:
        """How frames are stored."""
        return "upright"

    def notice(self) -> str | None:
        """What the user should know of how this file is read."""
        return None

    def place(self, episode: Episode) -> str:
        """Where an episode is, for messages."""
        return f"{self.path}, {episode.key}"


def needed(package: str) -> Any:
    """An optional package that files are read with. Raises DemonstrationError."""
    try:
        return import_module(package)
    except ImportError as error:
        raise DemonstrationError(f"clone.files cannot be read without the package {package}: pip install 'rlvla3[files]' ({error})") from error
