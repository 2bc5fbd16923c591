"""The weight plane between hosts: from the trainer's host down a tree of hosts, each passing on every piece as soon as it has it.

    trainer -> memory -> WeightSender --> WeightRelay -> memory -> generators
                              |               '--> WeightRelay -> memory -> generators
                              '--> WeightRelay ...

The sender tells each host which version there is and from whom to fetch it; hosts fetch, so each goes at its own pace, and skips versions where it is slow.
The tree is made anew for every version from the hosts that are there. A host that comes, or comes back, is told of the newest version at once. A host that
does not get a version from the one it was told goes on where it stopped, from the sender itself; and whoever failed it is the last in the next tree, where
nobody depends on it. What the bytes go by along an edge is a setting (weight_carriers.py); an edge lives on from one version to the next.

Invariants:
- the trainer waits for no host, and no host for another that is dead or slow: a version is kept for whoever is still reading it (weight_shelf.py);
- a host's generators see a version when all of it is there, and can read the one before it until then (weight_memory.py);
- everything that is waited for has a limit (weight_wire.py), but news of a version: that wait ends with the connection.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlvla3.links.weight_carriers import Carrier, carrier_class
from rlvla3.links.weight_memory import WeightMemory
from rlvla3.links.weight_shelf import Copy, Shelf
from rlvla3.links.weight_wire import (
    STALL_S,
    Address,
    Ask,
    CarrierName,
    Has,
    Hello,
    LinkError,
    Lost,
    Offer,
    Parcel,
    accept,
    connect,
    hear,
    listen,
    say,
    silent,
)
from rlvla3.types import Version

FANOUT = 2
"""Hosts that fetch from one: they share its link, and the tree of n hosts is about log2(n) deep."""

PATIENCE_S = 60.0
"""How long a relay looks for a sender that is away."""

RETRY_S = 0.5

IDLE_S = 600.0
"""How long a giver keeps an edge on which nothing is asked."""

PIECE_BYTES = 4 << 20
"""The sender takes a version out of its memory in pieces of this size, each in the cache still when it is sent on."""

Place = tuple[str, int]
"""Host and port at which a relay gives what it has."""

Doing = Callable[[str], AbstractContextManager[None]]

ResultT = TypeVar("ResultT")


def nothing_noted(_: str) -> AbstractContextManager[None]:
    return nullcontext()


class WeightHost(ABC):
    """One host's place in the tree. `await run()` in an event loop until it is cancelled; or OwnThread(host.run()), in a process that computes.

    address: for those who fetch from here. carrier: what the bytes go by; the same on every host. doing: entered with "send" and "receive" while that goes on.
    """

    def __init__(self, memory: WeightMemory, host: str, key: str, carrier: CarrierName, doing: Doing) -> None:
        self._memory, self._listener, self._shelf, self._carrier_class = memory, listen(host), Shelf(), carrier_class(carrier)
        self._buffers: list[NDArray[np.uint8]] = []
        self._layout, self._doing = (0, 0), doing
        self.address = Address(host, self._listener.getsockname()[1], key)

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


class WeightSender(WeightHost):
    """Gives the versions in a host's memory to other hosts, beside the trainer or in any process that has its memory.

        sender = WeightSender(memory, host="10.0.0.1")
        with OwnThread(sender.run(), "weight sender"):
            ...                                         # elsewhere: WeightRelay(its_memory, sender.address)
            plane.publish(version, then=sender.announce)

    host: this one's name or number in the network that the others reach it by.
    """

    def __init__(self, memory: WeightMemory, host: str = "127.0.0.1", fanout: int = FANOUT, carrier: CarrierName = "tcp", doing: Doing = nothing_noted) -> None:
        super().__init__(memory, host, secrets.token_hex(16), carrier, doing)
        self._fanout, self._relays, self._parents = fanout, dict[Place, Version](), dict[Place, Place]()
        self._led: dict[Place, socket.socket] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._published = asyncio.Event()

    def announce(self) -> None:
        """There is a new version in the memory. From any thread; before `run` has begun and after it has ended there is nobody to be told."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._published.set)

    def reached(self) -> Mapping[Place, Version]:
        """The hosts that are there, and the newest version that each is known to have (-1: none)."""
        return self._relays.copy()

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        torn = False
        while True:
            self._published.clear()
            # A version costs a copy: none is made for nobody.
            if self._relays and self._memory.newest > self._shelf.newest:
                with self._doing("send"):
                    torn = not await self._take_newest(in_one_go=torn)
            else:
                await self._published.wait()

    async def _take_newest(self, in_one_go: bool) -> bool:
        """Put the newest version on the shelf: from the memory it would be gone two publications later, and the trainer does not wait for hosts.

        in_one_go: for it has just gone before all of it had been taken piece by piece. Returns False where it did.
        """
        which, version = self._memory.holder()
        size, layout = (int(self._memory.header[name][0]) for name in ("size", "layout"))
        buffer = self._open_memory(size, layout)[which]
        self._parents = tree(list(self._relays), self._fanout)
        copy = self._shelf.begin(version, size, layout)
        while not copy.whole:
            piece = buffer[copy.have :] if in_one_go else buffer[copy.have : copy.have + PIECE_BYTES]
            copy.data[copy.have : copy.have + len(piece)] = piece
            if not self._memory.holds(which, version):
                self._shelf.give_up(copy)
                return False
            self._shelf.grow(copy, len(piece))
            await asyncio.sleep(0)  # for those who send it on
        return True

    async def _lead(self, connection: socket.socket, hello: Hello) -> None:
        place = (connection.getpeername()[0], hello.port)
        self._relays[place], self._led[place] = -1, connection
        self._published.set()
        try:
            await _both(self._offer_versions(connection, place), self._hear_of(connection, place))
        finally:
            if self._led.get(place) is connection:  # else the host has come back, before its loss was found out
                del self._relays[place], self._led[place]

    async def _offer_versions(self, connection: socket.socket, place: Place) -> None:
        offered = -1
        while True:
            offered = (await self._shelf.find(offered + 1)).version
            await say(connection, Offer(offered, *self._parents.get(place, self._here)))

    async def _hear_of(self, connection: socket.socket, place: Place) -> None:
        while True:
            heard: Has | Lost = await hear(connection, Has, Lost, patience_s=None)
            if isinstance(heard, Has):
                self._relays[place] = heard.version
            elif (lost := (heard.host, heard.port)) in self._relays:
                self._relays[lost] = self._relays.pop(lost)  # to the end

    @property
    def _here(self) -> Place:
        return self.address.host, self.address.port


def tree(places: list[Place], fanout: int) -> dict[Place, Place]:
    """From whom each fetches, apart from the first `fanout`, who fetch from the sender."""
    return {place: places[number // fanout] for number, place in enumerate(places[fanout:])}


class WeightRelay(WeightHost):
    """Brings the sender's versions into the memory of another host, and passes them on.

    upstream: the sender's address. host: this one's name or number in the network. arrived: called with each version once it is in the memory.
    """

    def __init__(
        self,
        memory: WeightMemory,
        upstream: Address,
        host: str = "127.0.0.1",
        arrived: Callable[[Version], object] = lambda _: None,
        carrier: CarrierName = "tcp",
        doing: Doing = nothing_noted,
    ) -> None:
        super().__init__(memory, host, upstream.key, carrier, doing)
        self._upstream, self._arrived = upstream, arrived
        self._edge: tuple[Place, Carrier] | None = None
        self._buffer = -1  # of the memory, that the copy which is coming goes into

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        self._last_heard = loop.time()
        try:
            while True:
                try:
                    await self._follow()
                except LinkError as error:
                    if loop.time() - self._last_heard > PATIENCE_S:
                        host, port, _ = self._upstream
                        raise LinkError(f"the sender at {host} port {port} has been away for {PATIENCE_S:g} s: {error}") from error
                await asyncio.sleep(RETRY_S)
        finally:
            self._leave_edge()

    async def _follow(self) -> None:
        """Take what the sender offers, until it is gone."""
        with closing(await connect(self._upstream.host, self._upstream.port)) as connection:
            await say(connection, Hello(self.address.key, self.address.port))
            self._last_heard = asyncio.get_running_loop().time()
            offers: asyncio.Queue[Offer] = asyncio.Queue()
            await _both(self._hear_offers(connection, offers), self._take_offers(connection, offers))

    async def _hear_offers(self, connection: socket.socket, offers: asyncio.Queue[Offer]) -> None:
        while True:
            offers.put_nowait(await hear(connection, Offer, patience_s=None))

    async def _take_offers(self, connection: socket.socket, offers: asyncio.Queue[Offer]) -> None:
        while True:
            offer = await offers.get()
            while not offers.empty():
                offer = offers.get_nowait()  # only the newest is of use
            if offer.version > self._memory.newest:
                await self._fetch(connection, offer)
            await say(connection, Has(self._memory.newest))

    async def _fetch(self, connection: socket.socket, offer: Offer) -> None:
        sender = self._upstream.host, self._upstream.port
        if (offer.host, offer.port) != sender:
            try:
                return await self._receive(offer.host, offer.port, offer.version)
            except LinkError:
                await say(connection, Lost(offer.host, offer.port))
        await self._receive(*sender, offer.version)
        return None

    async def _receive(self, host: str, port: int, version: Version) -> None:
        """Fill the memory with `version` or a newer one, from wherever the last attempt at it ended. Raises LinkError."""
        carrier = await self._edge_to((host, port))
        try:
            coming = self._shelf.coming
            start = coming.have if coming is not None and coming.version == version else 0
            await say(carrier.connection, Ask(self.address.key, version, start))
            await carrier.meet()
            parcel = await hear(carrier.connection, Parcel)
            buffers = self._open_memory(parcel.size, parcel.layout)
            copy = self._copy_for(parcel, buffers)
            with self._doing("receive"):
                await carrier.take(buffers[self._buffer][copy.have :], partial(self._grow, copy))
        except BaseException:
            self._leave_edge()
            raise
        self._arrived(copy.version)

    def _grow(self, copy: Copy, count: int) -> None:
        if copy.have + count == copy.size:
            self._memory.complete(self._buffer, copy.version)
        self._shelf.grow(copy, count)

    async def _edge_to(self, place: Place) -> Carrier:
        """The edge by which the last version came, where it came from there too, or else a new one."""
        if self._edge is not None:
            there, carrier = self._edge
            if there == place and silent(carrier.connection):
                return carrier
            self._leave_edge()
        carrier = self._carrier_class(await connect(*place), gives=False)
        self._edge = place, carrier
        return carrier

    def _leave_edge(self) -> None:
        if self._edge is not None:
            self._edge[1].close()
            self._edge = None

    def _copy_for(self, parcel: Parcel, buffers: list[NDArray[np.uint8]]) -> Copy:
        coming = self._shelf.coming
        if coming is not None and (coming.version, coming.have) == (parcel.version, parcel.start):
            return coming
        if parcel.start:
            raise LinkError(f"version {parcel.version} was sent from byte {parcel.start} on, and its beginning is not here")
        self._buffer = self._memory.begin()
        return self._shelf.begin(parcel.version, parcel.size, parcel.layout, buffers[self._buffer])


async def _both(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
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
