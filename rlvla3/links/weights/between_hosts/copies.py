"""The versions that a process passes on to other hosts, each from its first piece on.

    COMING -> WHOLE -> superseded -> gone
       '----> GIVEN UP ------------> gone

Invariants:
- nobody waits for a slow host: a copy that has been superseded or given up stays until its last reader has left, and only then is its memory used again;
- what a reader has been told is there does not change any more;
- where nobody reads, nothing is copied: the last host of a branch holds no more than its memory.

For one event loop; a copy is read in any thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from rlvla3.links.weights.between_hosts.wire import LinkError
from rlvla3.types import Version


class Copy:
    """A version of which `have` bytes, from the first on, are there.

    source: where they come to, if not into `data` itself: they are copied from there as somebody reads them, and where nobody does, never.
    """

    def __init__(self, version: Version, layout: int, data: NDArray[np.uint8], source: NDArray[np.uint8] | None) -> None:
        self.version, self.layout, self.data, self.source = version, layout, data, source
        self.have, self.readers, self.given_up = 0, 0, False
        self._copied, self._copying = 0, threading.Lock()

    def pieces(self, start: int, end: int, size: int) -> Iterator[NDArray[np.uint8]]:
        """The bytes from `start` to `end`, which are there, in pieces of `size`. Each is copied when it is asked for: in the reader's own thread."""
        for begin in range(start, end, size):
            self._copy(stop := min(begin + size, end))
            yield self.data[begin:stop]

    def let_go(self) -> None:
        """The source is about to change."""
        self._copy(self.have)
        with self._copying:
            self.source = None

    def _copy(self, end: int) -> None:
        with self._copying:
            if self.source is not None and self._copied < end:
                self.data[self._copied : end] = self.source[self._copied : end]
                self._copied = end

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def whole(self) -> bool:
        return self.have == self.size


class VersionCopies:
    """Copies of versions, filled by one writer and read by any number of others meanwhile."""

    def __init__(self) -> None:
        self._copies: list[Copy] = []
        self._spare: NDArray[np.uint8] | None = None
        self._news = asyncio.Event()

    @property
    def coming(self) -> Copy | None:
        """The copy that is being filled."""
        return next((copy for copy in self._copies if not copy.whole and not copy.given_up), None)

    @property
    def newest(self) -> Version:
        """The newest version that is whole, -1 if there is none."""
        return max((copy.version for copy in self._copies if copy.whole), default=-1)

    def begin(self, version: Version, size: int, layout: int, source: NDArray[np.uint8] | None = None) -> Copy:
        """An empty copy to fill; one that was coming is given up. source: filled instead of it, from now on; who reads what was in there has a copy of that."""
        if (before := self.coming) is not None:
            before.given_up = True
        self._put_away()
        for other in self._copies:
            if source is not None and other.source is source:
                other.let_go()
        data, self._spare = self._spare, None
        copy = Copy(version, layout, data if data is not None and len(data) == size else np.empty(size, np.uint8), source)
        self._copies.append(copy)
        self._tell()
        return copy

    def grow(self, copy: Copy, count: int) -> None:
        """The copy's next `count` bytes are there."""
        copy.have += count
        if copy.whole:
            self._put_away()
        self._tell()

    def give_up(self, copy: Copy) -> None:
        """The rest of the copy will not come."""
        copy.given_up = True
        self._put_away()
        self._tell()

    async def find(self, version: Version) -> Copy:
        """A copy of `version` or a newer one: one that is whole, or else one that is coming. Waits until there is one."""
        while not (found := [copy for copy in self._copies if copy.version >= version and not copy.given_up]):
            await self._news.wait()
        return max(found, key=lambda copy: (copy.whole, copy.version))

    async def beyond(self, copy: Copy, count: int) -> int:
        """How many of the copy's bytes are there, once it is more than `count`. Raises LinkError where no more will be."""
        while copy.have <= count:
            if copy.given_up:
                raise LinkError(f"version {copy.version} was given up after {copy.have} of {copy.size} bytes")
            await self._news.wait()
        return copy.have

    @contextmanager
    def reading(self, copy: Copy) -> Iterator[None]:
        """The copy stays until this is left."""
        copy.readers += 1
        try:
            yield
        finally:
            copy.readers -= 1
            self._put_away()

    def _put_away(self) -> None:
        newest = self.newest
        for copy in self._copies.copy():
            needed = copy.readers or copy.version == newest or copy is self.coming
            if not needed:
                self._copies.remove(copy)
                self._spare = copy.data

    def _tell(self) -> None:
        """Wake all who wait, once."""
        self._news.set()
        self._news = asyncio.Event()
