"""The memory of the weight plane of one host, apart from the plane: whoever lays it out or fills it from another host need not know the weights, nor import
torch.

A version is so many flat bytes. What they are (names, shapes, types) is the plane's affair (weights/layout.py); here stands only a fingerprint of it.

Invariants:
- the buffer that holds the newest version is never written to: a reader always finds it, however long the next version takes to come;
- a buffer's stamp is -1 while it is being written and its version afterwards; a reader that finds another stamp after copying than before copies again, so
  no torn version is ever used;
- one process writes at a time: the trainer on its own host, the relay on any other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlvla3.errors import ExplainedError
from rlvla3.shared_memory import NamelessFile, SharedArrays
from rlvla3.types import Field, Version

BUFFERS = 2
"""Versions held at a time: one being read while the next is written."""


class WeightsError(ExplainedError, RuntimeError):
    """Weights that do not fit, or do not come: what was found, what was expected, and what to do about it."""


class WeightMemory:
    """Room for BUFFERS versions, sized by whoever first lays it out with weights in hand.

    header: the newest version (-1: none) and which buffer holds it; the version of each buffer; a version's size in bytes and the fingerprint of its layout (0:
    not laid out). handles: where buffers that are elsewhere are told of.
    """

    def __init__(self) -> None:
        one = Field((1,), np.int64)
        self.header = SharedArrays({"newest": one, "holder": one, "stamp": Field((BUFFERS,), np.int64), "size": one, "layout": one})
        self.header["newest"][:] = self.header["stamp"][:] = -1
        self.buffers, self.handles = [NamelessFile() for _ in range(BUFFERS)], NamelessFile()

    @property
    def newest(self) -> Version:
        """The newest version that is whole, -1 before the first."""
        return int(self.header["newest"][0])

    def lay_out(self, size: int, layout: int) -> list[NDArray[np.uint8]]:
        """The buffers, uint8 [size] each; memory is taken as they are written to. Raises WeightsError where they were laid out for other weights."""
        for name, value in (("size", size), ("layout", layout)):
            found = int(self.header[name][0])
            if found and found != value:
                raise WeightsError(
                    f"the weights of this process are not those on the weight plane: {name} {value} here, {found} there. "
                    f"Trainer and generators must build their policies from one recipe, and publish and load with one weights.dtype"
                )
            self.header[name][0] = value
        return [np.frombuffer(file.map(size), np.uint8) for file in self.buffers]

    def begin(self) -> int:
        """The buffer to write the next version into. What it held is gone."""
        which = (int(self.header["holder"][0]) + 1) % BUFFERS
        self.header["stamp"][which] = -1
        return which

    def complete(self, which: int, version: Version) -> None:
        """The buffer holds all of `version`, which is the newest from now on."""
        self.header["stamp"][which] = version
        self.header["holder"][0] = which
        self.header["newest"][0] = version

    def holder(self) -> tuple[int, Version]:
        """The buffer of the newest version, and the version. Raises WeightsError before the first."""
        if self.newest < 0:
            raise WeightsError("no version of the weights has been published yet: wait until `newest` is at least 0")
        while (version := int(self.header["stamp"][which := int(self.header["holder"][0])])) < 0:
            pass  # two versions came between the two looks: the next look finds the newer one
        return which, version

    def holds(self, which: int, version: Version) -> bool:
        """Whether the buffer still holds all of `version`: asked after copying."""
        return int(self.header["stamp"][which]) == version
