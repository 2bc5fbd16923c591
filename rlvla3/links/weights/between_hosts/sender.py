"""The root of the tree of hosts: the trainer's host gives the versions in its memory to the other hosts.

The tree is made anew for every version from the hosts that are there. A host that comes, or comes back, is told of the newest version at once. A host that has
failed another one is the last in the next tree, where nobody depends on it.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress

from rlvla3.choices import CarrierName
from rlvla3.links.weights.between_hosts.host import Doing, RelayAddress, WeightHost, both, nothing_noted
from rlvla3.links.weights.between_hosts.wire import Has, Hello, Lost, Offer, hear, say
from rlvla3.links.weights.versions import WeightMemory
from rlvla3.types import Version

FANOUT = 2
"""Hosts that fetch from one: they share its link, and the tree of n hosts is about log2(n) deep."""

PIECE_BYTES = 4 << 20
"""The sender takes a version out of its memory in pieces of this size, each in the cache still when it is sent on."""


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
        self._fanout, self._relays, self._parents = fanout, dict[RelayAddress, Version](), dict[RelayAddress, RelayAddress]()
        self._led: dict[RelayAddress, socket.socket] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._published = asyncio.Event()

    def announce(self) -> None:
        """There is a new version in the memory. From any thread; before `run` has begun and after it has ended there is nobody to be told."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._published.set)

    def reached(self) -> Mapping[RelayAddress, Version]:
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
            await both(self._offer_versions(connection, place), self._hear_of(connection, place))
        finally:
            if self._led.get(place) is connection:  # else the host has come back, before its loss was found out
                del self._relays[place], self._led[place]

    async def _offer_versions(self, connection: socket.socket, place: RelayAddress) -> None:
        offered = -1
        while True:
            offered = (await self._shelf.find(offered + 1)).version
            await say(connection, Offer(offered, *self._parents.get(place, self._here)))

    async def _hear_of(self, connection: socket.socket, place: RelayAddress) -> None:
        while True:
            heard: Has | Lost = await hear(connection, Has, Lost, patience_s=None)
            if isinstance(heard, Has):
                self._relays[place] = heard.version
            elif (lost := (heard.host, heard.port)) in self._relays:
                self._relays[lost] = self._relays.pop(lost)  # to the end

    @property
    def _here(self) -> RelayAddress:
        return self.address.host, self.address.port


def tree(places: list[RelayAddress], fanout: int) -> dict[RelayAddress, RelayAddress]:
    """From whom each fetches, apart from the first `fanout`, who fetch from the sender."""
    return {place: places[number // fanout] for number, place in enumerate(places[fanout:])}
