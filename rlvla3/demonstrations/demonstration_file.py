"""The interface of a file of demonstrations, for any format: episodes, and arrays by name in each episode.

A format says only how its files are laid out. selection.py decides which episodes are used. file_demonstration.py turns them into observations.

Invariant: `episodes` and `shape` read only headers and small arrays. Only `frames` reads frames, one after another.
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
    """Demonstrations cannot be cloned from. The message says which file, what is wrong with it, what is needed, and what to do."""


@dataclass(frozen=True, slots=True)
class RecordedEpisode:
    """The header of one recorded episode.

    key: its name or number in its file. tasks: the names of its task in the file, the most exact name first.
    steps: the number of observations that are followed by an action. first_action: the index of the action that follows the first observation.
    """

    key: str | int
    tasks: tuple[str, ...]
    instruction: str
    steps: int
    success: bool
    first_action: int = 0


class DemonstrationFile(ABC):
    """One file, or one folder, of demonstrations.

    format: the name of the format in messages. actions: the name of the array of actions. control_mode: the robot's control mode, where the file names one.
    """

    format: str
    actions: str
    control_mode: str | None = None

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def episodes(self) -> Iterator[RecordedEpisode]:
        """All episodes, in the order of the file. Each is looked at only when the iterator reaches it."""

    @abstractmethod
    def shape(self, episode: RecordedEpisode, name: str) -> tuple[int, ...] | None:
        """The shape of one entry of an array: (n,) for a vector, (H, W, channels) for a frame. None where there is no such array."""

    @abstractmethod
    def names(self, episode: RecordedEpisode) -> list[str]:
        """The names of all arrays, for messages."""

    @abstractmethod
    def vectors(self, episode: RecordedEpisode, name: str) -> NDArray[np.float32]:
        """A whole array of vectors: [T, n]."""

    @abstractmethod
    def frames(self, episode: RecordedEpisode, name: str) -> Iterator[Frame]:
        """The frames of an array, one after another: [H, W, channels] each."""

    @abstractmethod
    def camera(self, episode: RecordedEpisode, camera: str) -> str:
        """The name of the array with the frames of the simulator's `camera`."""

    @abstractmethod
    def state(self, episode: RecordedEpisode, cameras: Sequence[str]) -> list[str]:
        """The names of the arrays that make up the state of a simulator with these cameras, in order."""

    def full_name(self, task: str) -> str:
        """The format's full name for a task of the recipe, where the recipe may use a short one."""
        return task

    def default_control_mode(self) -> str | None:
        """The control mode of a simulator whose recipe names none."""
        return None

    def orientation(self) -> Orientation:
        """How the frames are stored."""
        return "upright"

    def notice(self) -> str | None:
        """What the user should know about how this file is read. None where there is nothing."""
        return None

    def location(self, episode: RecordedEpisode) -> str:
        """The file and the episode, for messages."""
        return f"{self.path}, {episode.key}"


def import_optional(package: str) -> Any:
    """Import an optional package that is needed to read files. Raises DemonstrationError where it is not installed."""
    try:
        return import_module(package)
    except ImportError as error:
        raise DemonstrationError(f"clone.files cannot be read without the package {package}: pip install 'rlvla3[files]' ({error})") from error
