"""Carriers that are process groups of torch.distributed with two members: the giver is rank 0, and the taker is rank 1.

They meet at a TCPStore. The giver opens it at the address by which the taker has reached it, at a port that the system chooses, and sends the port over the
connection of the edge. None of these groups is the default group, which belongs to the ranks of a trainer. Two pieces are under way at a time.

Neither the store nor the group knows a key. Use tcp on a network where strangers can reach the hosts' ports.
"""

from __future__ import annotations

import os
import socket
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import cycle
from typing import Any

import torch
import torch.distributed as dist

from rlvla3.links.weights.between_hosts import wire
from rlvla3.links.weights.between_hosts.carrier import Carrier, Piece
from rlvla3.links.weights.between_hosts.wire import Meet, hear, say

PIECES, GOODBYE = 0, 1
"""Tags of a group's messages."""

UNDER_WAY = 2

CONNECT_TRIES = 4
"""At most so many timeouts of a store pass before its client knows that nothing is there."""

Finish = Callable[[], object]
"""Waits until a piece has been moved, for STALL_S at most."""


class GroupCarrier(Carrier):
    """What gloo and NCCL have in common."""

    def __init__(self, connection: socket.socket, gives: bool) -> None:
        super().__init__(connection, gives)
        self._group: Any = None  # a Backend; its methods that are used here are not in torch's stubs

    async def meet(self) -> None:
        if self._group is not None:
            return
        if self._gives:
            store = self._open_store()
            await say(self.connection, Meet(store.port, self.piece_bytes))
            await hear(self.connection, Meet)  # a taker that is gone is noticed here at once, and in making the group it is not
        else:
            meet = await hear(self.connection, Meet)
            self.piece_bytes = meet.piece_bytes
            store = await self._in_thread(lambda: self._find_store(meet.port))
            await say(self.connection, meet)
        self._group = await self._in_thread(lambda: self._make_group(store))

    def close(self) -> None:
        super().close()
        self._group = None

    @abstractmethod
    def _make_group(self, store: Any) -> Any:
        """This end of the group, which the other end is making, too."""

    @abstractmethod
    def _send(self, piece: Piece) -> Finish: ...

    @abstractmethod
    def _receive(self, piece: Piece) -> Finish: ...

    def _open_store(self) -> Any:
        here = self.connection.getsockname()[0]
        listener = socket.create_server((here, 0), family=self.connection.family)
        port = listener.getsockname()[1]
        return dist.TCPStore(here, port, 2, is_master=True, timeout=_limit(), wait_for_workers=False, master_listen_fd=listener.detach())  # type: ignore[attr-defined]

    def _find_store(self, port: int) -> Any:
        there = self.connection.getpeername()[0]
        return dist.TCPStore(there, port, 2, is_master=False, timeout=_limit() / CONNECT_TRIES, wait_for_workers=False)  # type: ignore[attr-defined]

    @property
    def _rank(self) -> int:
        return 0 if self._gives else 1

    @property
    def _other(self) -> int:
        return 1 - self._rank

    def _give(self, pieces: Iterable[Piece]) -> None:
        for _ in _moved(pieces, self._send):
            pass

    def _take(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        return _moved(pieces, self._receive)


class GlooCarrier(GroupCarrier):
    """From host memory to host memory."""

    piece_bytes = 4 << 20

    def _make_group(self, store: Any) -> Any:
        options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        # By the address that the edge goes by: gloo would look the host's name up, which need not lead anywhere.
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=self.connection.getsockname()[0])]
        options._timeout = _limit()
        return dist.ProcessGroupGloo(store, self._rank, 2, options)

    def _send(self, piece: Piece) -> Finish:
        work = self._group.send([torch.from_numpy(piece)], self._other, PIECES)
        return lambda: work.wait(_limit())

    def _receive(self, piece: Piece) -> Finish:
        work = self._group.recv([torch.from_numpy(piece)], self._other, PIECES)
        return lambda: work.wait(_limit())

    def _abort(self) -> None:
        """Gloo's own abort does nothing; but a message that does not come in time ends the pair, and whatever waits on it at either end."""
        if self._group is not None:
            with suppress(RuntimeError):
                self._group.recv([torch.empty(1, dtype=torch.uint8)], self._other, GOODBYE).wait(timedelta(milliseconds=1))


class NcclCarrier(GroupCarrier):
    """From host memory over the current CUDA device to the other host's: a piece crosses to or from the device while another is on its way."""

    piece_bytes = 64 << 20

    def __init__(self, connection: socket.socket, gives: bool) -> None:
        super().__init__(connection, gives)
        self._device = torch.device("cuda", torch.cuda.current_device())
        self._stream = torch.cuda.Stream(self._device)
        self._rooms = cycle([torch.empty(self.piece_bytes, dtype=torch.uint8, device=self._device) for _ in range(UNDER_WAY)])

    def _make_group(self, store: Any) -> Any:
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = 2 * _limit()  # for its watchdog; who waits here has given up by then
        with _set_in_environment("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2"):  # a lost peer ends the group, and not this process
            return dist.ProcessGroupNCCL(store, self._rank, 2, options)

    def _send(self, piece: Piece) -> Finish:
        with torch.cuda.stream(self._stream):
            room = next(self._rooms)[: len(piece)]
            room.copy_(torch.from_numpy(piece))
            work = self._group.send([room], self._other, PIECES)

        def finish() -> None:
            with torch.cuda.stream(self._stream):  # this thread's own is the one that training computes on, which would wait, too
                work.wait(_limit())

        return finish

    def _receive(self, piece: Piece) -> Finish:
        with torch.cuda.stream(self._stream):
            room = next(self._rooms)[: len(piece)]
            work = self._group.recv([room], self._other, PIECES)

        def finish() -> None:
            with torch.cuda.stream(self._stream):
                work.wait(_limit())
                torch.from_numpy(piece).copy_(room)

        return finish

    def _abort(self) -> None:
        if self._group is not None:
            self._group.abort()


def _moved(pieces: Iterable[Piece], begin: Callable[[Piece], Finish]) -> Iterator[Piece]:
    """The pieces in turn, each once it has been moved, with UNDER_WAY begun at a time."""
    under_way: deque[tuple[Piece, Finish]] = deque()
    for piece in pieces:
        if len(under_way) == UNDER_WAY:
            yield _finished(*under_way.popleft())
        under_way.append((piece, begin(piece)))
    while under_way:
        yield _finished(*under_way.popleft())


def _finished(piece: Piece, finish: Finish) -> Piece:
    finish()
    return piece


def _limit() -> timedelta:
    return timedelta(seconds=wire.STALL_S)


@contextmanager
def _set_in_environment(name: str, value: str) -> Iterator[None]:
    """While a group is made: it reads this once."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
