"""The control channel between a supervisor and one of its workers. It carries few small messages, at most some for each episode or update. Data and weights
have planes of their own.

Invariant: a supervisor never waits for one worker. It reads only what is there, and what a worker does not read yet waits on the supervisor's side. So a
worker that is stopped, even in the middle of a message, holds up nobody but those who need it.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any

from rlvla3.runtimes.processes.plain_pickle import dumps

_LENGTH = struct.Struct("!i")
"""Stands before each message: its bytes, as multiprocessing itself writes it."""

_READ_AT_ONCE = 1 << 16


class Stopped(Exception):
    """The other side has asked this side to end, or is gone."""


class Stop:
    """The message that asks a worker to end."""


class Control:
    """One end of the channel. One coroutine uses it.

    A message whose type has a handler goes to the handler as soon as it arrives. All other messages wait for `receive`.

    connection: one end of a duplex pipe; the other end has a Control too. supervises: whether this is the supervisor's end, whose `send` never waits. At a
    worker's end, `send` waits while the pipe is full, and any thread may call it.
    """

    def __init__(self, connection: Connection, supervises: bool = False) -> None:
        self._connection, self._supervises, self._sending = connection, supervises, Lock()
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))  # a duplex pipe is a pair of sockets, and a socket can be read without waiting
        self._handlers: dict[type, Callable[[Any], None]] = {}
        self._read, self._unsent = bytearray(), bytearray()
        self._arrived: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._stopped = False
        self._on_stop: Callable[[], object] = lambda: None

    def listen(self, on_stop: Callable[[], object] = lambda: None) -> None:
        """Read messages from now on, in the running event loop. on_stop: called once, when the other side asks this side to end or is gone."""
        self._on_stop = on_stop
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self.poll)

    def handle(self, kind: type, handler: Callable[[Any], None]) -> None:
        self._handlers[kind] = handler

    def send(self, message: Any) -> None:
        """Raises Stopped if the other side is gone."""
        content = dumps(message)
        framed = _LENGTH.pack(len(content)) + content
        try:
            if self._supervises:
                self._unsent += framed
                if len(self._unsent) == len(framed):  # else the event loop sends it when the worker has read what is before it
                    self._send_what_fits()
            else:
                with self._sending:
                    self._socket.sendall(framed)
        except OSError as error:
            raise Stopped from error

    def poll(self) -> None:
        """Read what has arrived, without waiting. A worker that computes for long between two waits calls this."""
        while not self._stopped and self._take_in():
            pass

    def arrived(self) -> list[Any]:
        """The messages that have arrived. Neither waits nor reads more: the event loop reads messages whenever it runs."""
        messages = list(self._arrived)
        self._arrived.clear()
        return messages

    async def receive(self) -> Any:
        """The next message without a handler. Raises Stopped when no more will come."""
        while not self._arrived:
            if self._stopped:
                raise Stopped
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._arrived.popleft()

    def close(self) -> None:
        if not self._connection.closed:
            self._leave_loop()
            self._stopped = True
            self._socket.close()
            self._connection.close()

    def _take_in(self) -> bool:
        """Read once, and deal with the messages that are whole. Returns whether there may be more to read."""
        try:
            content = self._socket.recv(_READ_AT_ONCE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            content = b""
        self._read += content
        for message in self._whole() if content else [Stop()]:
            self._deal_with(message)
            if self._stopped:
                break
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        return True

    def _whole(self) -> Iterator[Any]:
        """The messages that have been read to their end."""
        while len(self._read) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._read)[0]
            if len(self._read) < end:
                return
            content = bytes(self._read[_LENGTH.size : end])
            del self._read[:end]  # first: the handler of the message may poll
            yield pickle.loads(content)

    def _deal_with(self, message: Any) -> None:
        if isinstance(message, Stop):
            self._stopped = True
            self._leave_loop()
            self._on_stop()
        elif handler := self._handlers.get(type(message)):
            handler(message)
        else:
            self._arrived.append(message)

    def _send_what_fits(self) -> None:
        """Send as much as the pipe takes now, and the rest when it takes more."""
        loop, number = asyncio.get_running_loop(), self._socket.fileno()
        try:
            del self._unsent[: self._socket.send(self._unsent, socket.MSG_DONTWAIT)]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()
            loop.remove_writer(number)
            raise
        if self._unsent:
            loop.add_writer(number, self._go_on_sending)
        else:
            loop.remove_writer(number)

    def _go_on_sending(self) -> None:
        with suppress(OSError):  # the worker is gone, and the end of its process is reported
            self._send_what_fits()

    def _leave_loop(self) -> None:
        with suppress(RuntimeError):  # the event loop has ended, and its readers and writers with it
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket.fileno())
            loop.remove_writer(self._socket.fileno())
