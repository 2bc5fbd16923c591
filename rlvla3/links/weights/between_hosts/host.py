"""The weight plane between hosts: from the trainer's host down a tree of hosts, each passing on every piece as soon as it has it.

    trainer -> memory -> WeightSender --> WeightRelay -> memory -> generators
                              |               '--> WeightRelay -> memory -> generators
                              '--> WeightRelay ...

The sender (sender.py) tells each host which version there is and from whom to fetch it. Hosts fetch (relay.py), so each goes at its own pace, and a slow host
skips versions. What the bytes go by along an edge of the tree is a setting (carriers.py). An edge lives on from one version to the next. This file has what
every host of the tree does: it gives the versions that it has to those who ask.

Invariants:
- the trainer waits for no host, and no host waits for another one that is dead or slow: a version is kept for whoever is still reading it (copies.py);
- the generators of a host see a version when all of it is there, and can read the version before it until then (weights/versions.py);
- every wait has a limit (wire.py), but the wait for news of a version: that wait ends with the connection.
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
"""How long a giver keeps an edge on which nothing is asked."""

RelayAddress = tuple[str, int]
"""Host and port at which a relay gives the versions that it has."""

Doing = Callable[[str], AbstractContextManager[None]]
"""Entered with "send" and "receive" while that goes on."""

ResultT = TypeVar("ResultT")


def nothing_noted(_: str) -> AbstractContextManager[None]:
    return nullcontext()


class WeightHost(ABC):
    """One host's place in the tree. `await run()` in an event loop until it is cancelled; or OwnThread(host.run()), in a process that computes.

    address: for those who fetch from here. carrier: what the bytes go by; the same on every host. doing: entered with "send" and "receive" while that goes on.
    """

    def __init__(self, memory: WeightMemory, host: str, key: str, carrier: CarrierName, doing: Doing) -> None:
        self._memory, self._listener, self._shelf, self._carrier_class = memory, listen(host), VersionCopies(), carrier_class(carrier)
        self._buffers: list[NDArray[np.uint8]] = []
        self._layout, self._doing = (0, 0), doing
        self.address = SenderAddress(host, self._listener.getsockname()[1], key)

    async def run(self) -> None:
        """Raises WeightsError where two hosts have different weights, LinkError where a relay's sender stays away."""
        try:
            with closing(self._listener):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._work())
                    while True:
                        tasks.create_task(self._attend(await accept(self._listener)))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group  # the first one ended the others

    @abstractmethod
    async def _work(self) -> None:
        """What this host does beside answering."""

    def _open_memory(self, size: int, layout: int) -> list[NDArray[np.uint8]]:
        """Its buffers, uint8 [size] each. Mapped once: the first touch of a mapped page costs more than the copying of it."""
        if self._layout != (size, layout):
            self._buffers, self._layout = self._memory.lay_out(size, layout), (size, layout)
        return self._buffers

    async def _attend(self, connection: socket.socket) -> None:
        try:
            with closing(connection):
                first: Hello | Ask = await hear(connection, Hello, Ask)
                if not secrets.compare_digest(first.key.encode(), self.address.key.encode()):
                    return  # not one of us
                if isinstance(first, Ask):
                    await self._serve(connection, first)
                else:
                    await self._lead(connection, first)
        except LinkError:
            return  # whoever it was is gone, and if it lives it comes again

    async def _serve(self, connection: socket.socket, ask: Ask) -> None:
        """One version after another, for as long as they are asked for."""
        with closing(self._carrier_class(connection, gives=True)) as carrier:
            await carrier.meet()
            while True:
                await self._give(carrier, ask)
                ask = await hear(connection, Ask, patience_s=IDLE_S)

    async def _give(self, carrier: Carrier, ask: Ask) -> None:
        """Send a version, as it comes here."""
        copy = await _soon(self._shelf.find(ask.version))
        with self._shelf.reading(copy), self._doing("send"):
            sent = ask.start if copy.version == ask.version else 0
            await say(carrier.connection, Parcel(copy.version, sent, copy.size, copy.layout))
            while sent < copy.size:
                have = await _soon(self._shelf.beyond(copy, min(sent + carrier.piece_bytes, copy.size) - 1))
                if have < copy.size:
                    have -= (have - sent) % carrier.piece_bytes
                await carrier.give(copy.pieces(sent, have, carrier.piece_bytes))
                sent = have

    async def _lead(self, connection: socket.socket, hello: Hello) -> None:
        raise LinkError("a relay leads nobody")


async def both(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """Side by side, until one ends with an error: that ends the other, and is raised."""
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(one)
            tasks.create_task(other)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _soon(awaited: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Raises LinkError where it does not come within STALL_S."""
    try:
        async with asyncio.timeout(STALL_S):
            return await awaited
    except TimeoutError as error:
        raise LinkError(f"nothing has come for {STALL_S:g} s") from error
