"""A host that fetches versions from the sender or from another host of the tree, and passes them on.

If the host that it was told to fetch from fails, a relay fetches the rest of the version from the sender.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import closing
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rlvla3.choices import CarrierName
from rlvla3.links.weights.between_hosts.carrier import Carrier
from rlvla3.links.weights.between_hosts.copies import Copy
from rlvla3.links.weights.between_hosts.host import Doing, RelayAddress, WeightHost, both, nothing_noted
from rlvla3.links.weights.between_hosts.wire import Ask, Has, Hello, LinkError, Lost, Offer, Parcel, SenderAddress, connect, hear, say, silent
from rlvla3.links.weights.versions import WeightMemory
from rlvla3.types import Version

PATIENCE_S = 60.0
"""How long a relay tries to reach a sender that is away."""

RETRY_S = 0.5


class WeightRelay(WeightHost):
    """Brings the sender's versions into the memory of another host, and passes them on.

    upstream: the address of the sender. host: the name or address of this host. arrived: called with each version when it is in the memory.
    """

    def __init__(
        self,
        memory: WeightMemory,
        upstream: SenderAddress,
        host: str = "127.0.0.1",
        arrived: Callable[[Version], object] = lambda _: None,
        carrier: CarrierName = "tcp",
        doing: Doing = nothing_noted,
    ) -> None:
        super().__init__(memory, host, upstream.key, carrier, doing)
        self._upstream, self._arrived = upstream, arrived
        self._edge: tuple[RelayAddress, Carrier] | None = None
        self._buffer = -1  # the buffer of the memory that is being filled

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
        """Fetch what the sender offers, until the sender is gone."""
        with closing(await connect(self._upstream.host, self._upstream.port)) as connection:
            await say(connection, Hello(self.address.key, self.address.port))
            self._last_heard = asyncio.get_running_loop().time()
            offers: asyncio.Queue[Offer] = asyncio.Queue()
            await both(self._hear_offers(connection, offers), self._take_offers(connection, offers))

    async def _hear_offers(self, connection: socket.socket, offers: asyncio.Queue[Offer]) -> None:
        while True:
            offers.put_nowait(await hear(connection, Offer, patience_s=None))

    async def _take_offers(self, connection: socket.socket, offers: asyncio.Queue[Offer]) -> None:
        while True:
            offer = await offers.get()
            while not offers.empty():
                offer = offers.get_nowait()  # only the newest offer is of use
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
        """Fill the memory with `version` or a newer one, and go on where the last attempt has ended. Raises LinkError."""
        carrier = await self._edge_to((host, port))
        try:
            coming = self._copies.coming
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
        self._copies.grow(copy, count)

    async def _edge_to(self, place: RelayAddress) -> Carrier:
        """The edge that the last version came by, if it leads to `place`; otherwise a new one."""
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
        coming = self._copies.coming
        if coming is not None and (coming.version, coming.have) == (parcel.version, parcel.start):
            return coming
        if parcel.start:
            raise LinkError(f"version {parcel.version} was sent from byte {parcel.start} on, and its beginning is not here")
        self._buffer = self._memory.begin()
        return self._copies.begin(parcel.version, parcel.size, parcel.layout, buffers[self._buffer])
