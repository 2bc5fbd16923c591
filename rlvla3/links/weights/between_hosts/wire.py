"""The messages between hosts about weights, and the sockets that they go over.

A message is four bytes of length and JSON, over TCP. Hosts come and go, while a process group of torch.distributed is fixed and ends with its first lost
member. So a group has only the two ends of an edge, and carries only the bytes of versions (carriers.py).

Invariant: every wait has a limit. A peer that moves nothing for STALL_S counts as dead. The kernel needs about as long to find a dead machine behind an idle
connection.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar

from rlvla3.errors import ExplainedError
from rlvla3.types import Version

STALL_S = 10.0

LONGEST_MESSAGE = 1 << 16


class SenderAddress(NamedTuple):
    """Where versions are sent from. key: every host that asks must show it, so that no stranger gets the weights."""

    host: str
    port: int
    key: str


@dataclass(frozen=True, slots=True)
class Hello:
    """Relay to sender: this host wants every version. Other hosts may fetch versions from it at `port`."""

    key: str
    port: int


@dataclass(frozen=True, slots=True)
class Offer:
    """Sender to relay: fetch `version` from `host` and `port`."""

    version: Version
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Has:
    """Relay to sender: all of `version` is on its host."""

    version: Version


@dataclass(frozen=True, slots=True)
class Lost:
    """Relay to sender: the host that was to give it a version has failed."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Taker to giver, on a connection of its own: send `version` from byte `start` on, or a newer version. Answered by a Parcel and its bytes."""

    key: str
    version: Version
    start: int


@dataclass(frozen=True, slots=True)
class Meet:
    """Giver to taker, before its first Parcel if a process group carries the bytes: its store is at `port`, and a piece has `piece_bytes`. Taker to giver: it
    has found the store."""

    port: int
    piece_bytes: int


@dataclass(frozen=True, slots=True)
class Parcel:
    """Giver to taker: the bytes from `start` to `size` of `version` follow."""

    version: Version
    start: int
    size: int
    layout: int


Message = Hello | Offer | Has | Lost | Ask | Meet | Parcel
_KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in (Hello, Offer, Has, Lost, Ask, Meet, Parcel)}
MessageT = TypeVar("MessageT", bound=Message)


class LinkError(ExplainedError, ConnectionError):
    """The other host is gone, does not answer, or is not one of this run."""


def listen(host: str) -> socket.socket:
    """A socket that accepts connections at `host`, at a port that the system chooses."""
    listener = socket.create_server((host, 0), family=_family(host))
    listener.setblocking(False)
    return listener


async def accept(listener: socket.socket) -> socket.socket:
    connection, _ = await asyncio.get_running_loop().sock_accept(listener)
    _prepare(connection)
    return connection


async def connect(host: str, port: int) -> socket.socket:
    """Raises LinkError if nothing answers within STALL_S."""
    connection = socket.socket(_family(host))
    _prepare(connection)
    try:
        async with asyncio.timeout(STALL_S):
            await asyncio.get_running_loop().sock_connect(connection, (host, port))
    except OSError as error:  # a TimeoutError is one
        connection.close()
        raise LinkError(f"no connection to {host} port {port}: {error or 'no answer'}") from error
    except asyncio.CancelledError:
        connection.close()
        raise
    return connection


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _prepare(connection: socket.socket) -> None:
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    seconds = max(5, int(STALL_S))
    # The last two options exist on Linux. The limits of other systems are longer.
    options = {"TCP_NODELAY": 1, "TCP_KEEPCNT": 3, "TCP_KEEPINTVL": seconds // 5, "TCP_KEEPIDLE": seconds // 2, "TCP_USER_TIMEOUT": 1000 * seconds}
    for name, value in options.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def silent(connection: socket.socket) -> bool:
    """Whether a connection on which no message is due is alive and silent."""
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


async def say(connection: socket.socket, message: Message) -> None:
    """Send a message. Raises LinkError if that takes longer than STALL_S."""
    content = json.dumps([type(message).__name__, asdict(message)]).encode()
    await _within(STALL_S, asyncio.get_running_loop().sock_sendall(connection, len(content).to_bytes(4, "big") + content))


async def hear(connection: socket.socket, *kinds: type[MessageT], patience_s: float | None = STALL_S) -> MessageT:
    """The next message, which must be of one of `kinds`. patience_s: how long it may take (None: no limit; a dead peer is still found). Raises LinkError."""
    length = int.from_bytes(await _exactly(connection, 4, patience_s), "big")
    if length > LONGEST_MESSAGE:
        raise LinkError(f"a message of {length} bytes was announced, and none is longer than {LONGEST_MESSAGE}: is this port somebody else's?")
    message = _parse(await _exactly(connection, length, STALL_S))
    if not isinstance(message, kinds):
        raise LinkError(f"unexpected on this connection: {message}")
    return message


def _parse(content: bytes) -> Message:
    try:
        name, fields = json.loads(content)
        return _KINDS[name](**fields)
    except (ValueError, KeyError, TypeError) as error:
        raise LinkError(f"no message of the weight plane: {content[:80]!r}") from error


async def _exactly(connection: socket.socket, size: int, patience_s: float | None) -> bytes:
    loop, room = asyncio.get_running_loop(), bytearray(size)

    async def fill(rest: memoryview) -> None:
        while rest:
            if not (received := await loop.sock_recv_into(connection, rest)):
                raise LinkError("the other host has closed the connection")
            rest = rest[received:]

    await _within(patience_s, fill(memoryview(room)))
    return bytes(room)


async def _within(patience_s: float | None, operation: Coroutine[Any, Any, None]) -> None:
    try:
        async with asyncio.timeout(patience_s):
            await operation
    except LinkError:
        raise
    except TimeoutError as error:
        raise LinkError(f"the other host has said and taken nothing for {patience_s:g} s") from error
    except OSError as error:
        raise LinkError(f"the other host is gone: {error}") from error
