"""What the HDF5 formats share: a group an episode, and in it arrays by their paths, such as obs/agentview_rgb."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.demonstrations.files import DemonstrationError, DemonstrationFile, Episode, Frame, needed

FRAMES_AT_ONCE = 64
"""Read together: a compressed array is unpacked in blocks."""


class Hdf5File(DemonstrationFile):
    """root: the group that holds the episodes' groups. prefix: of their names, before a number."""

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

    def array(self, episode: Episode, name: str) -> Any:
        """The array, not read yet; None where there is none."""
        found = self.group(episode.key).get(name)
        return found if hasattr(found, "shape") else None

    def shape(self, episode: Episode, name: str) -> tuple[int, ...] | None:
        found = self.array(episode, name)
        return None if found is None else tuple(found.shape[1:]) or (1,)

    def names(self, episode: Episode) -> list[str]:
        found: list[str] = []
        self.group(episode.key).visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
        return found

    def vectors(self, episode: Episode, name: str) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self._read(episode, name, slice(None)).astype(np.float32)
        return values.reshape(len(values), -1)

    def frames(self, episode: Episode, name: str) -> Iterator[Frame]:
        for first in range(0, len(self.array(episode, name)), FRAMES_AT_ONCE):
            yield from self._read(episode, name, slice(first, first + FRAMES_AT_ONCE))

    def length(self, key: str, name: str) -> int:
        """How many entries an array has that every episode must have."""
        found = self.group(key).get(name)
        if not hasattr(found, "shape"):
            raise DemonstrationError(
                f"{self.path}, {key} has no {name}: it is no whole {self.format} episode; it holds {', '.join(self.group(key)) or 'nothing'}"
            )
        return len(found)

    def _read(self, episode: Episode, name: str, which: slice) -> Any:
        try:
            return self.array(episode, name)[which]
        except OSError as error:
            raise DemonstrationError(f"{self.place(episode)}: {name} is damaged ({error}): get the file again, or leave it out of clone.files") from error


def open_hdf5(path: Path) -> Any:
    """An HDF5 file, to be read. Raises DemonstrationError."""
    h5py = needed("h5py")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DemonstrationError(f"{path} is no intact HDF5 file ({error}): get it again, or leave it out of clone.files") from error


def numbered(group: Any, prefix: str) -> list[str]:
    """The names in `group` that are `prefix` and a number, by that number: demo_2 comes before demo_10."""
    found = {name: int(match[1]) for name in group if (match := re.fullmatch(rf"{prefix}(\d+)", name))}
    return sorted(found, key=found.__getitem__)
