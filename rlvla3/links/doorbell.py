"""A pipe that wakes a coroutine of another process. Beside the control channel, it is the only thing that processes of one host wait for.

The data stand in shared memory. A ring only says that they are there, and in which slot.
"""

from __future__ import annotations

import asyncio
import os
import select
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.reduction import DupFd
from typing import Any

_NUMBER_BYTES = 4
_READ_AT_ONCE = 4096 * _NUMBER_BYTES


class Doorbell:
    """Many processes may ring a number, and one coroutine of one process hears it. Rings are never lost. They are never torn either, as long as no more than
    1024 numbers (PIPE_BUF) are rung at once."""

    def __init__(self, fds: tuple[int, int] | None = None) -> None:
        self._read, self._write = fds or os.pipe()
        os.set_blocking(self._read, False)
        self._heard: list[int] = []
        self._waiter: asyncio.Future[None] | None = None
        self._heard_by: Callable[[], None] | None = None
        self._listening: asyncio.AbstractEventLoop | None = None

    def ring(self, *numbers: int) -> None:
        """Ring all numbers at once: they are heard together. Waits where thousands of rings are not heard yet."""
        os.write(self._write, struct.pack(f"={len(numbers)}I", *numbers))

    def remind(self, number: int) -> None:
        """Ring a number that only says "look again", without ever waiting. Where thousands of rings are not heard yet, it is needless."""
        room = select.poll()
        room.register(self._write, select.POLLOUT)
        if room.poll(0):
            self.ring(number)

    def collect(self) -> list[int]:
        """The numbers rung since the last call, without waiting."""
        self._drain()
        heard, self._heard = self._heard, []
        return heard

    async def wait(self, deadline: float | None = None) -> None:
        """Return when there is a ring that was not collected yet, or at `deadline` on the monotonic clock."""
        self._drain()
        if self._heard:
            return
        loop = self._listen()
        self._waiter = loop.create_future()
        timer = None if deadline is None else loop.call_at(deadline, self._wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    @contextmanager
    def heard_by(self, call: Callable[[], None]) -> Iterator[None]:
        """Within the block, `call` is called at once, and then whenever there are new rings. It costs no task, which a coroutine that waits would."""
        self._listen()
        self._heard_by = call
        try:
            call()
            yield
        finally:
            self._heard_by = None

    def _listen(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._listening is not loop:
            loop.add_reader(self._read, self._on_readable)
            self._listening = loop
        return loop

    def _on_readable(self) -> None:
        self._drain()
        self._wake()
        if self._heard_by is not None:
            self._heard_by()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _drain(self) -> None:
        try:
            while rung := os.read(self._read, _READ_AT_ONCE):
                self._heard += memoryview(rung).cast("I")
                if len(rung) < _READ_AT_ONCE:
                    return
        except BlockingIOError:
            return

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_in_child, (DupFd(self._read), DupFd(self._write))

    def __del__(self) -> None:
        for fd in (getattr(self, "_read", None), getattr(self, "_write", None)):
            if fd is not None:
                os.close(fd)


def _open_in_child(read: Any, write: Any) -> Doorbell:
    return Doorbell((read.detach(), write.detach()))
