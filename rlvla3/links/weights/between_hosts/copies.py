"""The versions that a process passes on to other hosts. Each is passed on as soon as its first piece is there.

    COMING -> WHOLE -> superseded -> gone
       '----> GIVEN UP ------------> gone

Invariants:
- nobody waits for a slow host: a copy that was superseded or given up stays until its last reader has left. Only then is its memory used again;
- bytes that are there do not change any more;
- if nobody reads, nothing is copied: the last host of a branch holds no more than its own memory.

Everything here is for one event loop. Only the bytes of a copy may be read in any thread.
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

    source: the memory that the bytes arrive in, if it is not `data` itself. They are copied from there when somebody reads them, and never if nobody does.
    """

    def __init__(self, version: Version, layout: int, data: NDArray[np.uint8], source: NDArray[np.uint8] | None) -> None:
        self.version, self.layout, self.data, self.source = version, layout, data, source
        self.have, self.readers, self.given_up = 0, 0, False
        self._copied, self._copying = 0, threading.Lock()

    def pieces(self, start: int, end: int, size: int) -> Iterator[NDArray[np.uint8]]:
        """The bytes from `start` to `end`, which are there, in pieces of `size`. Each piece is copied when it is asked for, in the reader's thread."""
        for begin in range(start, end, size):
            self._copy(stop := min(begin + size, end))
            yield self.data[begin:stop]

    def let_go(self) -> None:
        """The source is about to change: copy what is not copied yet."""
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
    """Copies of versions. One writer fills a copy, and any number of readers read it meanwhile."""

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
        """An empty copy to fill. A copy that was coming is given up. source: the memory that is filled in its place. Readers of what was in that memory keep a
        copy."""
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
        """The next `count` bytes of the copy are there."""
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
        """A copy of `version` or a newer one: a whole one, or else one that is being filled. Waits until there is one."""
        while not (found := [copy for copy in self._copies if copy.version >= version and not copy.given_up]):
            await self._news.wait()
        return max(found, key=lambda copy: (copy.whole, copy.version))

    async def beyond(self, copy: Copy, count: int) -> int:
        """Waits until more than `count` bytes of the copy are there, and returns how many. Raises LinkError if no more will come."""
        while copy.have <= count:
            if copy.given_up:
                raise LinkError(f"version {copy.version} was given up after {copy.have} of {copy.size} bytes")
            await self._news.wait()
        return copy.have

    @contextmanager
    def reading(self, copy: Copy) -> Iterator[None]:
        """The copy is kept until the `with` is left."""
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
        """Wake every coroutine that waits, once."""
        self._news.set()
        self._news = asyncio.Event()
