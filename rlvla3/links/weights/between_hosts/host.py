"""The weight plane between hosts: versions go from the trainer's host down a tree of hosts. Each host passes on every piece as soon as it has it.

    trainer -> memory -> WeightSender --> WeightRelay -> memory -> generators
                              |               '--> WeightRelay -> memory -> generators
                              '--> WeightRelay ...

The sender (sender.py) tells each host which version there is and where to fetch it from. Hosts fetch (relay.py), so each host has its own pace, and a slow host
skips versions. A setting chooses what carries the bytes along an edge of the tree (carriers.py). An edge lives on from one version to the next. This file has
what every host of the tree does: it gives the versions that it has to hosts that ask for them.

Invariants:
- the trainer waits for no host, and no host waits for another one that is dead or slow: a version is kept for whoever is still reading it (copies.py);
- the generators of a host see a version when all of it is there, and can read the version before it until then (weights/versions.py);
- every wait has a limit (wire.py). Only the wait for news of a version has none; it ends with the connection.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlvla3.choices import CarrierName
from rlvla3.links.weights.between_hosts.carrier import Carrier
from rlvla3.links.weights.between_hosts.carriers import carrier_class
from rlvla3.links.weights.between_hosts.copies import VersionCopies
from rlvla3.links.weights.between_hosts.wire import STALL_S, Ask, Hello, LinkError, Parcel, SenderAddress, accept, hear, listen, say
from rlvla3.links.weights.versions import WeightMemory

IDLE_S = 600.0
"""How long a giver keeps an edge on which no version is asked for."""

RelayAddress = tuple[str, int]
"""Host and port at which a relay gives the versions that it has."""

Doing = Callable[[str], AbstractContextManager[None]]
"""Entered with "send" and "receive" while that goes on."""

ResultT = TypeVar("ResultT")


def nothing_noted(_: str) -> AbstractContextManager[None]:
    return nullcontext()


class WeightHost(ABC):
    """One host of the tree. Await `run()` in an event loop until it is cancelled, or use OwnThread(host.run()) in a process that computes.

    address: where other hosts fetch from this one. carrier: what carries the bytes; the same on every host. doing: entered with "send" and "receive" while this
    host sends and receives.
    """

    def __init__(self, memory: WeightMemory, host: str, key: str, carrier: CarrierName, doing: Doing) -> None:
        self._memory, self._listener, self._copies, self._carrier_class = memory, listen(host), VersionCopies(), carrier_class(carrier)
        self._buffers: list[NDArray[np.uint8]] = []
        self._layout, self._doing = (0, 0), doing
        self.address = SenderAddress(host, self._listener.getsockname()[1], key)

    async def run(self) -> None:
        """Raises WeightsError if two hosts have different weights; LinkError if the sender of a relay stays away."""
        try:
            with closing(self._listener):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._work())
                    while True:
                        tasks.create_task(self._attend(await accept(self._listener)))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group  # the first error has ended the other tasks

    @abstractmethod
    async def _work(self) -> None:
        """What this host does beside giving versions."""

    def _open_memory(self, size: int, layout: int) -> list[NDArray[np.uint8]]:
        """The buffers of its memory, uint8 [size] each. They are mapped once: the first touch of a mapped page costs more than copying the page."""
        if self._layout != (size, layout):
            self._buffers, self._layout = self._memory.lay_out(size, layout), (size, layout)
        return self._buffers

    async def _attend(self, connection: socket.socket) -> None:
        try:
            with closing(connection):
                first: Hello | Ask = await hear(connection, Hello, Ask)
                if not secrets.compare_digest(first.key.encode(), self.address.key.encode()):
                    return  # a stranger
                if isinstance(first, Ask):
                    await self._serve(connection, first)
                else:
                    await self._lead(connection, first)
        except LinkError:
            return  # the other host is gone; if it lives, it connects again

    async def _serve(self, connection: socket.socket, ask: Ask) -> None:
        """Give one version after another, as long as they are asked for."""
        with closing(self._carrier_class(connection, gives=True)) as carrier:
            await carrier.meet()
            while True:
                await self._give(carrier, ask)
                ask = await hear(connection, Ask, patience_s=IDLE_S)

    async def _give(self, carrier: Carrier, ask: Ask) -> None:
        """Send a version, piece by piece as it arrives here."""
        copy = await _soon(self._copies.find(ask.version))
        with self._copies.reading(copy), self._doing("send"):
            sent = ask.start if copy.version == ask.version else 0
            await say(carrier.connection, Parcel(copy.version, sent, copy.size, copy.layout))
            while sent < copy.size:
                have = await _soon(self._copies.beyond(copy, min(sent + carrier.piece_bytes, copy.size) - 1))
                if have < copy.size:
                    have -= (have - sent) % carrier.piece_bytes
                await carrier.give(copy.pieces(sent, have, carrier.piece_bytes))
                sent = have

    async def _lead(self, connection: socket.socket, hello: Hello) -> None:
        raise LinkError("a relay makes no tree: only the sender does")


async def both(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """Run both side by side until one raises an error. That ends the other one, and is raised here."""
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(one)
            tasks.create_task(other)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _soon(awaited: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Await with a limit. Raises LinkError after STALL_S."""
    try:
        async with asyncio.timeout(STALL_S):
            return await awaited
    except TimeoutError as error:
        raise LinkError(f"nothing has come for {STALL_S:g} s") from error
