"""The websocket server: who may connect, how clients are kept apart, how it ends.

Nothing here imports torch.

Invariants:
- nobody connects without the token, where there is one; no web page connects at all: a browser says where it comes from;
- what a client does, or does not do, ends at most its own connection;
- on a signal, observations that have come are answered (at most GRACE_S), then all connections are closed, and `serve` returns.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server as WebsocketServer
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from rlvla3.listening import listen
from rlvla3.loops import PolicyEngine, generate
from rlvla3.serving.conversation import Conversation
from rlvla3.serving.latency import Latency
from rlvla3.serving.requests import OneVersion, ServedRequests
from rlvla3.signals import ENDS, handlers_kept, in_words, listened_to
from rlvla3.types import Observation

LARGEST_MESSAGE = 64 * 2**20
"""Bytes."""

MOST_CLIENTS = 256

GRACE_S = 5.0
"""How long observations that have come are still answered when the server is to end."""

CLOSING_S = 2.0
"""How long a client may take to say goodbye."""

SHOWN_S = 10.0
"""So often a line is printed while clients ask."""

PING_S = 20.0
"""So often clients are pinged, so that connections are kept open on the way. No client is dropped for being slow to answer: it may be busy simulating."""

HEALTH = ("/healthz", "/health")
"""Paths at which a program may ask whether the server is there: openpi's and vla-eval's. They need no token."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a server hands to each client. greeting: what it says first. execute: see Conversation."""

    greeting: bytes
    observing: Callable[[object], Observation]
    execute: int


class PolicyServer:
    """Serves one policy until a signal comes. say: prints a line."""

    def __init__(self, served: Served, requests: ServedRequests, engine: PolicyEngine, token: str | None, say: Callable[[str], None]) -> None:
        self._served, self._requests, self._engine, self._token, self._say = served, requests, engine, token, say
        self._latency, self._clients, self._sessions = Latency(), set[int](), 0
        self._ending, self._busy = asyncio.Event(), 0
        self._quiet = asyncio.Event()  # nobody waits for an answer
        self._quiet.set()

    async def serve(self, host: str, port: int, ready: Callable[[str, int], None] = lambda host, port: None) -> None:
        """Listen, and answer until a signal comes. ready: called with the address, once clients can connect. Raises RecipeError where it cannot listen."""
        sockets = listen(host, port)
        with self._heard_signals():
            async with asyncio.TaskGroup() as tasks:
                beside = [tasks.create_task(generate(self._requests, OneVersion(), self._engine)), tasks.create_task(self._show())]
                servers = [await self._listen_on(socket) for socket in sockets]
                ready(*sockets[0].getsockname()[:2])
                await self._ending.wait()
                await self._close(servers)
                for task in beside:
                    task.cancel()
        self._say(f"ended: {self._latency.in_words()}")

    def end(self) -> None:
        """End as after a signal. To be called in the event loop."""
        self._ending.set()

    @contextmanager
    def _heard_signals(self) -> Iterator[None]:
        """Signals end the server, where this is the main thread. The handlers from before are back afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop, numbers = asyncio.get_running_loop(), [number for number in listened_to() if number in ENDS]
        with handlers_kept():
            for number in numbers:
                loop.add_signal_handler(number, self._hear, number)
            try:
                yield
            finally:
                for number in numbers:
                    loop.remove_signal_handler(number)

    async def _listen_on(self, socket: object) -> WebsocketServer:
        return await serve(
            self._talk,
            sock=socket,
            compression=None,  # frames of a camera do not shrink, and it takes time
            max_size=LARGEST_MESSAGE,
            max_queue=1,  # a client that sends without reading waits, and takes no memory here
            origins=[None],
            process_request=self._admit,
            ping_interval=PING_S,
            ping_timeout=None,
            close_timeout=CLOSING_S,
            server_header=None,
            logger=_silent(),
        )

    def _hear(self, number: int) -> None:
        """A signal. A second Ctrl-C waits for no answer any more."""
        if not self._ending.is_set():
            self._say(f"{in_words(number)}: the server ends")
            self.end()
        elif number == signal.SIGINT:
            self._quiet.set()

    async def _close(self, servers: list[WebsocketServer]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await self._quiet.wait()
        for server in servers:
            server.close()
        with suppress(TimeoutError):  # of a policy that never answers: its clients are cancelled with everything else
            async with asyncio.timeout(2 * CLOSING_S):
                await asyncio.gather(*(server.wait_closed() for server in servers))

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """None to go on, or why not."""
        address = urlsplit(request.path)
        if address.path in HEALTH:
            return connection.respond(HTTPStatus.OK, "OK\n")
        if self._token is not None and not any(hmac.compare_digest(given, self._token.encode()) for given in _tokens(request)):
            return connection.respond(HTTPStatus.UNAUTHORIZED, "This server asks for a token: Authorization: Api-Key TOKEN, or ?token=TOKEN in the address.\n")
        if self._ending.is_set():
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "This server ends.\n")
        if len(self._clients) >= MOST_CLIENTS:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"{MOST_CLIENTS} clients are connected, and this server takes no more.\n")
        return None

    async def _talk(self, connection: ServerConnection) -> None:
        """Everything with one client."""
        client = next(number for number in range(MOST_CLIENTS + len(self._clients) + 1) if number not in self._clients)
        conversation = Conversation(client, self._sessions, self._requests.decide, self._served.observing, self._latency, self._served.execute)
        self._clients.add(client)
        self._sessions += 1
        try:
            await connection.send(self._served.greeting)
            while not self._ending.is_set():
                await self._answer(connection, conversation, await connection.recv())
            await connection.close(CloseCode.GOING_AWAY, "the server ends")
        except ConnectionClosed:
            pass
        finally:
            self._clients.discard(client)
            self._requests.forget(client)

    async def _answer(self, connection: ServerConnection, conversation: Conversation, message: bytes | str) -> None:
        self._busy += 1
        self._quiet.clear()
        try:
            if (answer := await conversation.hear(message)) is not None:
                await connection.send(answer)
        except ConnectionClosed:
            raise
        except Exception as error:  # a mistake of ours: it ends this connection, and must not be lost
            self._say("".join(traceback.format_exception(error)))
            await connection.close(CloseCode.INTERNAL_ERROR, "a mistake of the server, which its terminal shows")
        finally:
            self._busy -= 1
            if not self._busy:
                self._quiet.set()

    async def _show(self) -> None:
        """A line every SHOWN_S in which something was asked."""
        shown = 0
        while True:
            await asyncio.sleep(SHOWN_S)
            asked = self._latency.answered + self._latency.errors
            if asked > shown:
                self._say(f"{len(self._clients)} clients; {(asked - shown) / SHOWN_S:.1f} answers/s; {self._latency.in_words()}")
                shown = asked


def _tokens(request: Request) -> list[bytes]:
    """The tokens that a client gives: in the header, as openpi-client does, or in the address, for clients that set no header."""
    words = request.headers.get("Authorization", "").split(" ")
    header = [words[1]] if len(words) == 2 and words[0] in ("Api-Key", "Bearer") else []
    given = header + parse_qs(urlsplit(request.path).query).get("token", [])
    return [token.encode(errors="surrogateescape") for token in given]  # a header may hold any bytes


def _silent() -> logging.Logger:
    """websockets logs what strangers send with tracebacks. Nobody needs that."""
    logger = logging.getLogger("rlvla3.serving.websockets")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    logger.setLevel(logging.CRITICAL)
    return logger
