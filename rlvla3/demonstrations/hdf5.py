"""The common part of the HDF5 formats. Each episode is a group, and its arrays have paths in it, such as obs/agentview_rgb."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.demonstrations.demonstration_file import DemonstrationError, DemonstrationFile, Frame, RecordedEpisode, import_optional

FRAMES_AT_ONCE = 64
"""So many frames are read together, because HDF5 decompresses an array in blocks."""


class Hdf5File(DemonstrationFile):
    """A file whose episodes are groups. root: the group that holds them. prefix: their names without the number."""

    root: str
    prefix: str

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.file: Any = open_hdf5(path)
        self._keys = numbered(self.file[self.root], self.prefix)

    @classmethod
    def recognises(cls, file: Any) -> bool:
        """Whether an open HDF5 file is of this format."""
        return cls.root in file and bool(numbered(file[cls.root], cls.prefix))

    def keys(self) -> list[str]:
        return self._keys

    def group(self, key: str | int) -> Any:
        return self.file[self.root][key]

    def array(self, episode: RecordedEpisode, name: str) -> Any:
        """The array, without reading it. None where there is none."""
        found = self.group(episode.key).get(name)
        return found if hasattr(found, "shape") else None

    def shape(self, episode: RecordedEpisode, name: str) -> tuple[int, ...] | None:
        found = self.array(episode, name)
        return None if found is None else tuple(found.shape[1:]) or (1,)

    def names(self, episode: RecordedEpisode) -> list[str]:
        found: list[str] = []
        self.group(episode.key).visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
        return found

    def vectors(self, episode: RecordedEpisode, name: str) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._read(episode, name, slice(None)).astype(np.float32)
        return values.reshape(len(values), -1)

    def frames(self, episode: RecordedEpisode, name: str) -> Iterator[Frame]:
        for first in range(0, len(self.array(episode, name)), FRAMES_AT_ONCE):
            yield from self._read(episode, name, slice(first, first + FRAMES_AT_ONCE))

    def length(self, key: str, name: str) -> int:
        """The length of an array that every episode must have. Raises DemonstrationError where it is missing."""
        found = self.group(key).get(name)
        if not hasattr(found, "shape"):
            raise DemonstrationError(
                f"{self.path}, {key} has no {name}, so it is not a whole {self.format} episode; it holds {', '.join(self.group(key)) or 'nothing'}"
            )
        return len(found)

    def _read(self, episode: RecordedEpisode, name: str, which: slice) -> Any:
        try:
            return self.array(episode, name)[which]
        except OSError as error:
            raise DemonstrationError(f"{self.location(episode)}: {name} is damaged ({error}): get the file again, or leave it out of clone.files") from error


def open_hdf5(path: Path) -> Any:
    """Open an HDF5 file to read it. Raises DemonstrationError."""
    h5py = import_optional("h5py")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DemonstrationError(f"{path} is not an intact HDF5 file ({error}): get it again, or leave it out of clone.files") from error


def numbered(group: Any, prefix: str) -> list[str]:
    """The names in `group` that are `prefix` and a number, sorted by the number: demo_2 comes before demo_10."""
    found = {name: int(match[1]) for name in group if (match := re.fullmatch(rf"{prefix}(\d+)", name))}
    return sorted(found, key=found.__getitem__)
