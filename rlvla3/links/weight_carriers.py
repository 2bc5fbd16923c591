"""What carries the bytes of a version along one edge of the tree of hosts (weight_hosts.py), from the one that gives to the one that takes.

    Ask -> [Meet, once, where a process group is made] -> Parcel -> pieces -> Ask -> Parcel -> pieces ...

Messages go over the edge's connection; pieces go over it too (tcp), or through a process group of the two ends (weight_groups.py). An edge lives on from one
version to the next, until one of its ends leaves it.

Invariants:
- what blocks does so in a thread of the carrier's own: the event loop goes on, and a host's other edges with it;
- a carrier that fails or is cancelled has left the memory that it was given before anybody hears of it, and is of no use from then on;
- both ends cut a version into the same pieces, of the size that the giver says: a process group would mistake them otherwise.
"""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import RecipeError
from rlvla3.links import weight_wire
from rlvla3.links.weight_wire import CarrierName, LinkError

Piece = NDArray[np.uint8]
ResultT = TypeVar("ResultT")


class Carrier(ABC):
    """One end of an edge, made with its connection, which it closes. gives: whether it is the giver's."""

    piece_bytes: int
    """A version goes in pieces of this size from where it starts; only the last is smaller."""

    def __init__(self, connection: socket.socket, gives: bool) -> None:
        self.connection, self._gives = connection, gives
        self._thread = ThreadPoolExecutor(1, "weight carrier")

    @abstractmethod
    async def meet(self) -> None:
        """Be ready for pieces; from the second time on there is nothing to do. The giver's end says what the taker's hears. Raises LinkError."""

    async def give(self, pieces: Iterable[Piece]) -> None:
        """Send pieces, each of which is made when its turn has come. Raises LinkError where one takes longer than STALL_S, or the other end is gone."""
        await self._in_thread(lambda: self._give(pieces))

    async def take(self, into: NDArray[np.uint8], arrived: Callable[[int], None]) -> None:
        """Fill `into`. arrived: called in this event loop with the size of each piece. Raises LinkError as `give` does."""
        loop = asyncio.get_running_loop()

        def fill() -> None:
            for piece in self._take(into[start : start + self.piece_bytes] for start in range(0, len(into), self.piece_bytes)):
                loop.call_soon_threadsafe(arrived, len(piece))

        await self._in_thread(fill)

    def close(self) -> None:
        """Leave the edge, between versions or after an error."""
        self.connection.close()
        self._thread.shutdown(wait=False)

    @abstractmethod
    def _give(self, pieces: Iterable[Piece]) -> None:
        """In the thread. Raises OSError or RuntimeError, as `_take` does."""

    @abstractmethod
    def _take(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """In the thread: fill the pieces, and hand each on once it is full."""

    @abstractmethod
    def _abort(self) -> None:
        """Make what blocks in the thread end with an error, now."""

    async def _in_thread(self, work: Callable[[], ResultT]) -> ResultT:
        job = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            await asyncio.wait([job])  # not `shield`, which tells the loop of an error that comes after a cancellation
            return job.result()
        except asyncio.CancelledError:
            self._abort()
            await asyncio.wait([job])  # at the latest when its own limit ends it
            job.exception()  # has been seen
            raise
        except LinkError:
            raise
        except (OSError, RuntimeError) as error:
            raise LinkError(f"the other host is gone, or has moved nothing: {str(error).partition(chr(10))[0]}") from error


class TcpCarrier(Carrier):
    """Over the edge's own connection: nothing to meet for, no other port, none but those who know the key."""

    piece_bytes = 4 << 20

    async def meet(self) -> None:
        """They have."""

    def _give(self, pieces: Iterable[Piece]) -> None:
        with _blocking(self.connection):
            for piece in pieces:
                self.connection.sendall(piece.data)

    def _take(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        with _blocking(self.connection):
            for piece in pieces:
                self._fill(piece.data)
                yield piece

    def _fill(self, room: memoryview) -> None:
        limit = time.monotonic() + weight_wire.STALL_S
        while room:
            received = self.connection.recv_into(room)
            if not received:
                raise LinkError("the other host has closed the connection")
            if time.monotonic() > limit:
                raise LinkError(f"the other host has not moved a piece in {weight_wire.STALL_S:g} s")
            room = room[received:]

    def _abort(self) -> None:
        with suppress(OSError):  # the other host was faster
            self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def _blocking(connection: socket.socket) -> Iterator[None]:
    """Its calls block, for STALL_S at most, while this is entered."""
    connection.settimeout(weight_wire.STALL_S)
    try:
        yield
    finally:
        connection.setblocking(False)


def carrier_class(name: CarrierName) -> type[Carrier]:
    """Torch is imported for a process group alone."""
    if name == "tcp":
        return TcpCarrier
    from rlvla3.links import weight_groups

    return weight_groups.GlooCarrier if name == "gloo" else weight_groups.NcclCarrier


def check_carrier(name: CarrierName) -> None:
    """Raises RecipeError where this host cannot do it. Without importing torch, where a torch that is built for no GPU says so."""
    if name == "nccl":
        if _cuda_of_torch() is None:
            raise RecipeError("weights.carrier=nccl needs NCCL, and the torch of this host is built without: install one for CUDA, or set weights.carrier=tcp")
        import torch

        if not torch.distributed.is_nccl_available() or not torch.cuda.is_available():
            raise RecipeError("weights.carrier=nccl needs NCCL and a CUDA device on every host, and this one has not both: set weights.carrier=tcp")


def _cuda_of_torch() -> str | None:
    """The CUDA that the installed torch is built for: what its version.py, which imports nothing of it, says."""
    torch = importlib.util.find_spec("torch")
    assert torch is not None and torch.origin is not None
    spec = importlib.util.spec_from_file_location("version_of_torch", Path(torch.origin).with_name("version.py"))
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(version := importlib.util.module_from_spec(spec))
    cuda: str | None = version.cuda
    return cuda
