"""The control channel between a supervisor and one of its workers. It carries few small messages, at most some for each episode or update. Data and weights
have planes of their own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any


class Stopped(Exception):
    """The other side has asked this side to end, or is gone."""


class Stop:
    """The message that asks a worker to end."""


class Control:
    """One end of the channel. One coroutine uses it; any thread may call `send`.

    A message whose type has a handler goes to the handler as soon as it arrives. All other messages wait for `receive`.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection, self._sending = connection, Lock()
        self._handlers: dict[type, Callable[[Any], None]] = {}
        self._arrived: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._stopped = False
        self._on_stop: Callable[[], object] = lambda: None

    def listen(self, on_stop: Callable[[], object] = lambda: None) -> None:
        """Read messages from now on, in the running event loop. on_stop: called once, when the other side asks this side to end or is gone."""
        self._on_stop = on_stop
        # Not _take_in: a poll may have read the message before the loop calls back, and reading would then block.
        asyncio.get_running_loop().add_reader(self._connection.fileno(), self.poll)

    def handle(self, kind: type, handler: Callable[[Any], None]) -> None:
        self._handlers[kind] = handler

    def send(self, message: Any) -> None:
        """Raises Stopped if the other side is gone."""
        try:
            with self._sending:
                self._connection.send(message)
        except OSError as error:
            raise Stopped from error

    def poll(self) -> None:
        """Read what has arrived, without waiting. A worker that computes for long between two waits calls this."""
        while not self._stopped and self._connection.poll():
            self._take_in()

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
            if not self._stopped:
                with suppress(RuntimeError):  # the event loop has ended, and its readers with it
                    asyncio.get_running_loop().remove_reader(self._connection.fileno())
            self._stopped = True
            self._connection.close()

    def _take_in(self) -> None:
        try:
            message = self._connection.recv()
        except (EOFError, ConnectionResetError):
            message = Stop()
        if isinstance(message, Stop):
            self._stopped = True
            asyncio.get_running_loop().remove_reader(self._connection.fileno())
            self._on_stop()
        elif handler := self._handlers.get(type(message)):
            handler(message)
        else:
            self._arrived.append(message)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
