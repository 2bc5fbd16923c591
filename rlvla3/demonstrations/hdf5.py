"""The common part of the HDF5 formats. Each episode is a group, and its arrays have paths in it, such as obs/agentview_rgb."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import DemonstrationLayout
from rlvla3.demonstrations.demonstration_file import (
    MOST_STEPS,
    WAY_OUT,
    ArrayHeader,
    DemonstrationError,
    DemonstrationFile,
    Frame,
    RecordedEpisode,
    cannot_open,
    import_optional,
    readable,
)

FRAMES_AT_ONCE = 64
"""So many frames are read together, because HDF5 decompresses an array in blocks."""

MOST_NUMBERS = 100_000_000
"""Numbers of an array that is read as a whole. A damaged file may say that there are any number."""


class Hdf5File(DemonstrationFile):
    """A file whose episodes are groups. root: the group that holds them. prefix: their names without the number."""

    root: str
    prefix: str

    def __init__(self, path: Path, layout: DemonstrationLayout) -> None:
        super().__init__(path, layout)
        self.file: Any = open_hdf5(path)
        self._group: tuple[str | int | None, Any] = None, None  # of the last episode, and its arrays: to look one up takes h5py half a millisecond
        self._arrays: dict[str, Any] = {}
        with readable(str(path)):
            self._keys = numbered(self.file[self.root], self.prefix)

    @classmethod
    def recognises(cls, file: Any) -> bool:
        """Whether an open HDF5 file is of this format."""
        return cls.root in file and bool(numbered(file[cls.root], cls.prefix))

    def keys(self) -> list[str]:
        return self._keys

    def group(self, key: str | int) -> Any:
        """The group of an episode. Raises DemonstrationError where there is no group of that name."""
        with readable(f"{self.path}, {key}"):
            found = self.file[self.root].get(key)
            if hasattr(found, "visititems"):
                return found
        raise DemonstrationError(f"{self.path}, {key} is no group of arrays, so it is no {self.format} episode. {WAY_OUT}")

    def usual_actions(self) -> str:
        return "actions"

    def array(self, key: str | int, name: str) -> Any:
        """The array, without reading it. None where there is none."""
        if self._group[0] != key:
            self._group, self._arrays = (key, self.group(key)), {}
        if name not in self._arrays:
            with readable(f"{self.path}, {key}: {name}"):
                found = self._group[1].get(name)
                self._arrays[name] = found if getattr(found, "shape", None) else None
        return self._arrays[name]

    def header(self, episode: RecordedEpisode, name: str) -> ArrayHeader | None:
        found = self.array(episode.key, name)
        if found is None:
            return None
        with readable(f"{self.location(episode)}: {name}"):
            shape, dtype = tuple(map(int, found.shape)), np.dtype(found.dtype)
        return ArrayHeader(shape[0], shape[1:] or (1,), dtype if dtype.kind in "biuf" else None)

    def names(self, episode: RecordedEpisode) -> list[str]:
        found: list[str] = []
        group = self.group(episode.key)
        with readable(self.location(episode)):
            group.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
        return found

    def vectors(self, episode: RecordedEpisode, name: str) -> NDArray[np.float32]:
        return self.numbers(episode.key, name)

    def frames(self, episode: RecordedEpisode, name: str) -> Iterator[Frame]:
        array = self.array(episode.key, name)
        for first in range(0, len(array), FRAMES_AT_ONCE):
            with readable(f"{self.location(episode)}: {name}"):
                frames = array[first : first + FRAMES_AT_ONCE]
            yield from frames

    def length(self, key: str, name: str) -> int:
        """The length of an array that every episode must have. Raises DemonstrationError where it is missing, or longer than an episode may be."""
        found = self.array(key, name)
        if found is None:
            with readable(f"{self.path}, {key}"):
                there = ", ".join(self.group(key)) or "nothing"
            raise DemonstrationError(
                f"{self.path}, {key} has no {name}, so it is not a whole {self.format} episode; it holds {there}. Where another array takes its place, name it "
                f"under clone.layout"
            )
        if len(found) > MOST_STEPS:
            raise DemonstrationError(f"{self.path}, {key}: {name} has {len(found)} entries, and an episode has {MOST_STEPS} steps at most. {WAY_OUT}")
        return len(found)

    def numbers(self, key: str | int, name: str) -> NDArray[np.float32]:
        """A whole array of numbers, which is there: [T, n]. Raises DemonstrationError."""
        array, place = self.array(key, name), f"{self.path}, {key}: {name}"
        with readable(place):
            if np.dtype(array.dtype).kind not in "biuf":
                raise DemonstrationError(f"{place} holds {array.dtype}, and must hold numbers. {WAY_OUT}")
            if math.prod(array.shape) > MOST_NUMBERS:
                raise DemonstrationError(f"{place} has shape {list(array.shape)}, and an array has {MOST_NUMBERS} numbers at most. {WAY_OUT}")
            values = np.asarray(array[:])
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused as such
            return values.reshape(len(values), int(np.prod(values.shape[1:]))).astype(np.float32)


def open_hdf5(path: Path) -> Any:
    """Open an HDF5 file to read it. Raises DemonstrationError."""
    h5py = import_optional("h5py")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if error.errno is not None:
            raise cannot_open(path, error) from error
        raise DemonstrationError(f"{path} is not an intact HDF5 file ({error}): get it again, or leave it out of clone.files") from error


def numbered(group: Any, prefix: str) -> list[str]:
    """The names in `group` that are `prefix` and a number, sorted by the number: demo_2 comes before demo_10."""
    found = {name: int(match[1]) for name in group if (match := re.fullmatch(rf"{prefix}(\d{{1,18}})", name))}
    return sorted(found, key=found.__getitem__)
