"""The memory of a host that holds versions of the weights. A process that lays it out, or fills it from another host, knows no tensors and imports no torch.

A version is a number of flat bytes. Only the plane knows their names, shapes and types (layout.py). Here is only a fingerprint of them.

Invariants:
- the buffer that holds the newest version is never written to. So a reader always finds that version, however long the next one takes to arrive;
- the stamp of a buffer is -1 while it is written, and its version afterwards. A reader that finds a different stamp after copying copies again. So no torn
  version is ever used;
- one process writes at a time: the trainer on its own host, the relay on any other host;
- the buffer of a pinned version is not written to before the version is released. So an evaluation beside training finds its version for as long as it needs
  it, and a generator that takes the place of a lost one finds it too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlvla3.errors import ExplainedError
from rlvla3.shared_memory import NamelessFile, SharedArrays
from rlvla3.types import Field, Version

BUFFERS = 2
"""Versions that are held at a time: one is read while the next one is written. A pinned version has one more buffer."""

NONE = -1
"""No version."""


class WeightsError(ExplainedError, RuntimeError):
    """Weights that do not fit, or do not arrive: what was found, what was expected, and what to do about it."""


class PinnedVersion(NamedTuple):
    """The bytes of a pinned version, uint8 [size], on their way to another host. layout: the fingerprint of their layout."""

    version: Version
    layout: int
    data: NDArray[np.uint8]


class WeightMemory:
    """Room for BUFFERS versions, and with `pins` for a pinned one too. The first process that knows the weights sets its size.

    header: the newest version (-1: none) and the buffer that holds it; the pinned version (-1: none) and its buffer; the stamp of each buffer; the size of a
    version in bytes and the fingerprint of its layout (0: not laid out). handles: room for the handles of buffers that lie on a GPU. made_here: these buffers,
    if a thread of this process has made them.
    """

    made_here: Any = None

    def __init__(self, pins: bool = False) -> None:
        one, count = Field((1,), np.int64), BUFFERS + pins
        places = dict.fromkeys(("newest", "holder", "pinned", "pinned_in", "size", "layout"), one)
        self.header = SharedArrays(places | {"stamp": Field((count,), np.int64)})
        self.header["newest"][:] = self.header["stamp"][:] = self.header["pinned"][:] = self.header["pinned_in"][:] = NONE
        self.buffers, self.handles = [NamelessFile() for _ in range(count)], NamelessFile()

    @property
    def newest(self) -> Version:
        """The newest version that is whole, -1 before the first."""
        return int(self.header["newest"][0])

    @property
    def pinned(self) -> Version:
        """The version that is pinned, -1 if none is."""
        return int(self.header["pinned"][0])

    def lay_out(self, size: int, layout: int) -> list[NDArray[np.uint8]]:
        """The buffers, uint8 [size] each. Their memory is taken when they are written to. Raises WeightsError if they were laid out for other weights."""
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
        """The buffer to write the next version into. Its content is no longer valid."""
        kept = {int(self.header["holder"][0]), int(self.header["pinned_in"][0])}
        which = next(number for number in range(len(self.buffers)) if number not in kept)
        self.header["stamp"][which] = -1
        return which

    def complete(self, which: int, version: Version) -> None:
        """The buffer holds all of `version`, which is the newest version from now on."""
        self.header["stamp"][which] = version
        self.header["holder"][0] = which
        self.header["newest"][0] = version

    def pin(self) -> None:
        """Pin the newest version. To be called by the process that writes, with room for a pinned version, and where none is pinned."""
        self.header["pinned_in"][0] = self.header["holder"][0]
        self.header["pinned"][0] = self.newest

    def release(self) -> None:
        """The pinned version is not needed any more. To be called by the process that writes."""
        self.header["pinned"][0] = self.header["pinned_in"][0] = NONE

    def take_pinned(self) -> PinnedVersion:
        """A copy of the pinned version, for another host. Raises WeightsError where none is pinned."""
        which, version = self.where_pinned()
        size, layout = (int(self.header[name][0]) for name in ("size", "layout"))
        return PinnedVersion(version, layout, self.lay_out(size, layout)[which].copy())

    def put_pinned(self, pinned: PinnedVersion) -> None:
        """Let this memory have a version that is pinned on the trainer's host. Its buffer is one that no other version is written to: the last one."""
        which = len(self.buffers) - 1
        self.lay_out(len(pinned.data), pinned.layout)[which][:] = pinned.data
        self.header["stamp"][which] = pinned.version
        self.header["pinned_in"][0] = which
        self.header["pinned"][0] = pinned.version

    def where_pinned(self) -> tuple[int, Version]:
        """The buffer of the pinned version, and the version. Raises WeightsError where none is pinned."""
        if self.pinned < 0:
            raise WeightsError("no version of the weights is pinned: an evaluation beside training pins one before its first episode")
        return int(self.header["pinned_in"][0]), self.pinned

    def holder(self) -> tuple[int, Version]:
        """The buffer of the newest version, and the version. Raises WeightsError before the first."""
        if self.newest < 0:
            raise WeightsError("no version of the weights has been published yet: wait until `newest` is at least 0")
        while (version := int(self.header["stamp"][which := int(self.header["holder"][0])])) < 0:
            pass  # a newer version was published between the two reads: the next reads find it
        return which, version

    def holds(self, which: int, version: Version) -> bool:
        """Whether the buffer still holds all of `version`. To be asked after copying."""
        return int(self.header["stamp"][which]) == version
