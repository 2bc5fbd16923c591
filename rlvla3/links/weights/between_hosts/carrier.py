"""What carries the bytes of a version along one edge of the tree of hosts (host.py), from the one that gives to the one that takes.

    Ask -> [Meet, once, where a process group is made] -> Parcel -> pieces -> Ask -> Parcel -> pieces ...

Messages go over the edge's connection. Pieces go over it too (tcp, carriers.py), or through a process group of the two ends (process_groups.py). An edge
lives on from one version to the next, until one of its ends leaves it.

Invariants:
- blocking calls run in a thread of the carrier's own, so the event loop goes on, and with it the other edges of the host;
- a carrier that fails or is cancelled no longer touches the memory that it was given when the error is raised. It is not used again;
- both ends cut a version into the same pieces, of the size that the giver says. A process group would otherwise mistake them.
"""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rlvla3.links.weights.between_hosts.wire import LinkError

Piece = NDArray[np.uint8]
ResultT = TypeVar("ResultT")


class Carrier(ABC):
    """One end of an edge. It owns the connection and closes it. gives: whether this is the giver's end."""

    piece_bytes: int
    """A version is sent in pieces of this size. Only the last one is smaller."""

    def __init__(self, connection: socket.socket, gives: bool) -> None:
        self.connection, self._gives = connection, gives
        self._thread = ThreadPoolExecutor(1, "weight carrier")

    @abstractmethod
    async def meet(self) -> None:
        """Get ready for pieces. From the second call on there is nothing to do. The giver sends what the taker waits for. Raises LinkError."""

    async def give(self, pieces: Iterable[Piece]) -> None:
        """Send pieces. Each one is made when its turn has come. Raises LinkError if a piece takes longer than STALL_S, or the other end is gone."""
        await self._in_thread(lambda: self._give(pieces))

    async def take(self, into: NDArray[np.uint8], arrived: Callable[[int], None]) -> None:
        """Fill `into`. arrived: called in this event loop with the size of each piece. Raises LinkError as `give` does."""
        loop = asyncio.get_running_loop()

        def fill() -> None:
            for piece in self._take(into[start : start + self.piece_bytes] for start in range(0, len(into), self.piece_bytes)):
                loop.call_soon_threadsafe(arrived, len(piece))

        await self._in_thread(fill)

    def close(self) -> None:
        """Close the edge, between versions or after an error."""
        self.connection.close()
        self._thread.shutdown(wait=False)

    @abstractmethod
    def _give(self, pieces: Iterable[Piece]) -> None:
        """In the thread. Raises OSError or RuntimeError, as `_take` does."""

    @abstractmethod
    def _take(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """In the thread: fill the pieces, and yield each one when it is full."""

    @abstractmethod
    def _abort(self) -> None:
        """Make a blocking call in the thread end with an error at once."""

    async def _in_thread(self, work: Callable[[], ResultT]) -> ResultT:
        job = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            await asyncio.wait([job])  # not `shield`, which reports an error after a cancellation to the event loop
            return job.result()
        except asyncio.CancelledError:
            self._abort()
            await asyncio.wait([job])  # it ends at its own limit at the latest
            job.exception()  # so that Python does not warn of an error that nobody has looked at
            raise
        except LinkError:
            raise
        except (OSError, RuntimeError) as error:
            raise LinkError(f"the other host is gone, or has moved nothing: {str(error).partition(chr(10))[0]}") from error
