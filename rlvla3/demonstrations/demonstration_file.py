"""The interface of a file of demonstrations, for any format: episodes, and arrays by name in each episode.

A format says only how its files are laid out. selection.py decides which episodes are used. file_demonstration.py turns them into observations.

Invariants:
- `episodes` and `header` read only headers and small arrays. Only `frames` reads frames, one after another;
- the recipe's names for arrays (`clone.layout`) replace the format's. An array that is replaced is not needed;
- what a file says about itself is checked before it is used. A file that is damaged, or of another kind, raises DemonstrationError and nothing else.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import DemonstrationLayout, Orientation
from rlvla3.errors import RecipeError, described

Frame = NDArray[np.uint8]

MOST_STEPS = 1_000_000
"""Steps of an episode. At 20 steps a second it is 14 hours. A file that says more is damaged."""

WAY_OUT = "Get it again, or leave it out of clone.files"


class DemonstrationError(RecipeError):
    """Demonstrations cannot be cloned from. The message says which file, what is wrong with it, what is needed, and what to do."""


@dataclass(frozen=True, slots=True)
class RecordedEpisode:
    """The header of one recorded episode.

    key: its name or number in its file. tasks: the names that the file gives its task, the most exact name first. Empty where it has only a sentence.
    instruction: its sentence, or the first of them where it has several (`DemonstrationFile.instructions`).
    steps: the number of observations that are followed by an action. It may be 0. first_action: the index of the action that follows the first observation.
    """

    key: str | int
    tasks: tuple[str, ...]
    instruction: str
    steps: int
    success: bool
    first_action: int = 0
    sentences: tuple[str, ...] = ()
    """All its instructions, where it has several."""

    @property
    def task(self) -> str:
        """Its task, as messages call it."""
        return self.tasks[-1] if self.tasks else self.instruction


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """What is known of an array before it is read.

    entries: how many. shape: of one entry, (n,) for a vector, (H, W, channels) for a frame. dtype: of its numbers, None where it holds no numbers.
    """

    entries: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None


@dataclass(frozen=True, slots=True)
class RecordedWith:
    """What a file says of how its actions were recorded. None where it says nothing.

    rate_hz: actions a second. rate_is_exact: whether the recording software wrote the rate, and not a person who converted the file. controller: robosuite's
    name of the controller. targets: whether actions are targets, and not changes. units: the change that an action of 1 asks for, number by number.
    """

    rate_hz: float | None = None
    rate_is_exact: bool = True
    controller: str | None = None
    targets: bool | None = None
    units: tuple[float, ...] | None = None


class DemonstrationFile(ABC):
    """One file, or one folder, of demonstrations.

    format: the name of the format in messages. layout: the recipe's names for arrays.
    control_mode: the robot's control mode, where the file names one.
    """

    format: str
    control_mode: str | None = None

    def __init__(self, path: Path, layout: DemonstrationLayout) -> None:
        self.path, self.layout = path, layout
        self.left_out: dict[str | int, str] = {}
        """The episodes that the selection left out, and why each."""

    @abstractmethod
    def episodes(self) -> Iterator[RecordedEpisode]:
        """All episodes, in the order of the file. Each is looked at only when the iterator reaches it."""

    @abstractmethod
    def header(self, episode: RecordedEpisode, name: str) -> ArrayHeader | None:
        """What is known of an array. None where there is no such array."""

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
    def usual_actions(self) -> str:
        """The format's name for the array of actions."""

    @abstractmethod
    def usual_camera(self, episode: RecordedEpisode, camera: str) -> str:
        """The format's name for the array with the frames of the simulator's `camera`."""

    @abstractmethod
    def usual_state(self, episode: RecordedEpisode, cameras: Sequence[str]) -> list[str]:
        """The format's names for the arrays that make up the state of a simulator with these cameras, in order."""

    def actions(self) -> str:
        """The name of the array of actions."""
        return self.layout.actions or self.usual_actions()

    def camera(self, episode: RecordedEpisode, camera: str) -> str:
        """The name of the array with the frames of the simulator's `camera`."""
        return self.layout.cameras.get(camera) or self.usual_camera(episode, camera)

    def state(self, episode: RecordedEpisode, cameras: Sequence[str]) -> list[str]:
        """The names of the arrays that make up the state of a simulator with these cameras, in order."""
        return self.layout.state or self.usual_state(episode, cameras)

    @property
    def folder(self) -> str:
        """The name of the dataset's folder, or of the folder that the file is in."""
        path = self.path.absolute()
        return path.name if path.is_dir() else path.parent.name

    def instructions(self, episode: RecordedEpisode) -> Sequence[str] | None:
        """The sentence of each observation, [steps]. None where all of them have the same one."""
        return None

    def full_name(self, task: str) -> str:
        """The format's full name for a task of the recipe, where the recipe may use a short one."""
        return task

    def recorded_with(self) -> RecordedWith:
        """What the file says of how its actions were recorded. Raises DemonstrationError."""
        return RecordedWith()

    def default_control_mode(self) -> str | None:
        """The control mode of a simulator whose recipe names none."""
        return None

    def orientation(self) -> Orientation:
        """How the frames are stored, where the recipe does not say it."""
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
        raise DemonstrationError(f"demonstrations need the package {package}, which is not installed: pip install 'rlvla3[files]' ({error})") from error


def cannot_open(path: Path, error: OSError) -> DemonstrationError:
    """What is said where the operating system, or HDF5, does not open a file."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return DemonstrationError(f"{path} cannot be opened, because too many files are open: raise the limit with `ulimit -n 4096`, or name fewer clone.files")
    return DemonstrationError(f"{path} cannot be opened ({error.strerror or error}). {WAY_OUT}")


@contextmanager
def readable(place: str) -> Iterator[None]:
    """Raises DemonstrationError where a library cannot read what is at `place`. Only calls of the library belong into the block."""
    try:
        yield
    except DemonstrationError:
        raise
    except Exception as error:  # h5py, pyarrow and Pillow raise almost any type for a damaged file
        raise DemonstrationError(f"{place} cannot be read ({described(error)[:200]}). {WAY_OUT}") from error
