"""The root of the tree of hosts: the trainer's host gives the versions in its memory to the other hosts.

The tree is made anew for every version, from the hosts that are there. A host that joins, or comes back, is told of the newest version at once. A host that has
failed another one is the last in the next tree, where no host depends on it.
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
"""Hosts that fetch from one host. They share its link, and a tree of n hosts is about log2(n) deep."""

PIECE_BYTES = 4 << 20
"""The sender copies a version out of its memory in pieces of this size, so that a piece is still in the cache when it is sent."""


class WeightSender(WeightHost):
    """Gives the versions in a host's memory to other hosts. It runs beside the trainer, or in any process that has the memory.

        sender = WeightSender(memory, host="10.0.0.1")
        with OwnThread(sender.run(), "weight sender"):
            ...                                         # elsewhere: WeightRelay(its_memory, sender.address)
            plane.publish(version, then=sender.announce)

    host: the name or address of this host, by which other hosts reach it.
    """

    def __init__(self, memory: WeightMemory, host: str = "127.0.0.1", fanout: int = FANOUT, carrier: CarrierName = "tcp", doing: Doing = nothing_noted) -> None:
        super().__init__(memory, host, secrets.token_hex(16), carrier, doing)
        self._fanout, self._relays, self._parents = fanout, dict[RelayAddress, Version](), dict[RelayAddress, RelayAddress]()
        self._led: dict[RelayAddress, socket.socket] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._published = asyncio.Event()

    def announce(self) -> None:
        """There is a new version in the memory. Any thread may call this. It does nothing before `run` has begun and after it has ended."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the event loop has ended
                self._loop.call_soon_threadsafe(self._published.set)

    def reached(self) -> Mapping[RelayAddress, Version]:
        """The hosts that are there, and the newest version that each one has confirmed (-1: none)."""
        return self._relays.copy()

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        torn = False
        while True:
            self._published.clear()
            # A version costs a copy, so none is made if there is no relay.
            if self._relays and self._memory.newest > self._copies.newest:
                with self._doing("send"):
                    torn = not await self._take_newest(in_one_go=torn)
            else:
                await self._published.wait()

    async def _take_newest(self, in_one_go: bool) -> bool:
        """Copy the newest version out of the memory. In the memory it would be overwritten two publications later, as the trainer does not wait for hosts.

        in_one_go: copy it at once and not in pieces, because a version has just been overwritten while it was copied. Returns False if this one was, too.
        """
        which, version = self._memory.holder()
        size, layout = (int(self._memory.header[name][0]) for name in ("size", "layout"))
        buffer = self._open_memory(size, layout)[which]
        self._parents = tree(list(self._relays), self._fanout)
        copy = self._copies.begin(version, size, layout)
        while not copy.whole:
            piece = buffer[copy.have :] if in_one_go else buffer[copy.have : copy.have + PIECE_BYTES]
            copy.data[copy.have : copy.have + len(piece)] = piece
            if not self._memory.holds(which, version):
                self._copies.give_up(copy)
                return False
            self._copies.grow(copy, len(piece))
            await asyncio.sleep(0)  # so that the tasks that send it can go on
        return True

    async def _lead(self, connection: socket.socket, hello: Hello) -> None:
        place = (connection.getpeername()[0], hello.port)
        self._relays[place], self._led[place] = -1, connection
        self._published.set()
        try:
            await both(self._offer_versions(connection, place), self._hear_of(connection, place))
        finally:
            if self._led.get(place) is connection:  # otherwise the host has come back before its loss was noticed
                del self._relays[place], self._led[place]

    async def _offer_versions(self, connection: socket.socket, place: RelayAddress) -> None:
        offered = -1
        while True:
            offered = (await self._copies.find(offered + 1)).version
            await say(connection, Offer(offered, *self._parents.get(place, self._here)))

    async def _hear_of(self, connection: socket.socket, place: RelayAddress) -> None:
        while True:
            heard: Has | Lost = await hear(connection, Has, Lost, patience_s=None)
            if isinstance(heard, Has):
                self._relays[place] = heard.version
            elif (lost := (heard.host, heard.port)) in self._relays:
                self._relays[lost] = self._relays.pop(lost)  # to the end of the order

    @property
    def _here(self) -> RelayAddress:
        return self.address.host, self.address.port


def tree(places: list[RelayAddress], fanout: int) -> dict[RelayAddress, RelayAddress]:
    """For each host, the one that it fetches from. The first `fanout` hosts fetch from the sender and are not in it."""
    return {place: places[number // fanout] for number, place in enumerate(places[fanout:])}
