"""The weight plane between hosts: every host gets whole versions, whoever else is dead, slow or late."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvla3.links import weight_hosts, weight_wire
from rlvla3.links.doorbell import Doorbell
from rlvla3.links.own_thread import OwnThread
from rlvla3.links.weight_hosts import WeightHost, WeightRelay, WeightSender, tree
from rlvla3.links.weight_memory import WeightMemory, WeightsError
from rlvla3.links.weight_plane import WeightPlane
from rlvla3.links.weight_shelf import Copy, Shelf
from rlvla3.links.weight_wire import Address, Ask, Hello, LinkError, Parcel, connect, hear, receive_bytes, say
from tests.processes import PATIENCE_S, another_process

PIECE = 1 << 12
ENOUGH_VERSIONS = 20


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pieces a version, without many bytes."""
    for module in (weight_wire, weight_hosts):
        monkeypatch.setattr(module, "PIECE_BYTES", PIECE)


def impatient(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    for module in (weight_wire, weight_hosts):
        monkeypatch.setattr(module, "STALL_S", seconds)


def weights(width: int = 100) -> dict[str, Tensor]:
    return {f"layer {number}": torch.full((width, 102), -1.0) for number in range(8)}


def values(tensors: dict[str, Tensor]) -> set[float]:
    return {value for tensor in tensors.values() for value in tensor.unique().tolist()}


class Trainer:
    """Publishes versions that hold their own number, 80 pieces each (with another width, more)."""

    def __init__(self, width: int = 100) -> None:
        self.memory, self._tensors = WeightMemory(), weights(width)
        self._plane = WeightPlane(self.memory, self._tensors)
        self.size = self._plane.size

    def publish(self, version: int, then: Callable[[], None] | None = None) -> None:
        for tensor in self._tensors.values():
            tensor.fill_(version)
        self._plane.publish(version, then)


class Watched(WeightSender):
    """Remembers what was asked of it."""

    def __init__(self, memory: WeightMemory) -> None:
        super().__init__(memory)
        self.asked: list[Ask] = []

    async def _give(self, connection: socket.socket, ask: Ask) -> None:
        self.asked.append(ask)
        await super()._give(connection, ask)


class Cut(WeightRelay):
    """Closes a connection on which it has given half a version."""

    async def _give(self, connection: socket.socket, ask: Ask) -> None:
        copy = await self._shelf.find(ask.version)
        await say(connection, Parcel(copy.version, 0, copy.size, copy.layout))
        half = copy.size // PIECE // 2 * PIECE
        await self._shelf.beyond(copy, half - 1)
        await weight_wire.send_bytes(connection, copy.data[:half])


@asynccontextmanager
async def running(*hosts: WeightHost) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(host.run()) for host in hosts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.002)


def has(memory: WeightMemory, version: int) -> bool:
    return memory.newest == version


def all_have(sender: WeightSender, version: int) -> bool:
    return set(sender.reached().values()) == {version}


def load(memory: WeightMemory) -> tuple[int, set[float]]:
    """As a generator on that host does."""
    tensors = weights()
    return WeightPlane(memory, tensors).load(), values(tensors)


def test_hosts_get_versions_down_a_tree_and_the_sender_gives_each_version_to_few():
    async def scenario() -> None:
        trainer = Trainer()
        sender = Watched(trainer.memory)
        memories = [WeightMemory() for _ in range(7)]
        async with running(sender, *(WeightRelay(memory, sender.address) for memory in memories)):
            await until(lambda: len(sender.reached()) == 7)
            for version in range(3):
                trainer.publish(version, then=sender.announce)
                await until(partial(all_have, sender, version))
                assert [load(memory) for memory in memories] == [(version, {version})] * 7
        assert [ask.version for ask in sender.asked] == [0, 0, 1, 1, 2, 2]

    asyncio.run(scenario())


def test_the_tree_has_every_host_once_and_no_more_than_fanout_below_one():
    places = [("host", port) for port in range(13)]
    for fanout in (1, 2, 3):
        parents = tree(places, fanout)
        assert parents.keys() == set(places[fanout:])
        assert max(list(parents.values()).count(place) for place in places) <= fanout
        for place in places:  # everybody ends at the sender
            while place in parents:
                assert places.index(parents[place]) < places.index(place)
                place = parents[place]


def test_a_host_that_comes_late_gets_the_newest_version_at_once():
    async def scenario() -> None:
        trainer, memory = Trainer(), WeightMemory()
        sender = Watched(trainer.memory)
        for version in range(5):
            trainer.publish(version)
        async with running(sender):
            await asyncio.sleep(0)
            async with running(WeightRelay(memory, sender.address)):
                await until(partial(has, memory, 4))
            await until(lambda: not sender.reached())
            trainer.publish(5, then=sender.announce)  # while it is away
            trainer.publish(6, then=sender.announce)
            async with running(WeightRelay(memory, sender.address)):
                await until(partial(has, memory, 6))
        assert load(memory) == (6, {6})
        assert [ask.version for ask in sender.asked] == [4, 6]

    asyncio.run(scenario())


def test_a_host_goes_on_from_the_sender_where_the_one_it_fetched_from_stopped():
    async def scenario() -> None:
        trainer, memories = Trainer(), [WeightMemory() for _ in range(3)]
        sender = Watched(trainer.memory)
        cut = [Cut(memory, sender.address) for memory in memories[:2]]
        async with running(sender, *cut):
            await until(lambda: len(sender.reached()) == 2)
            async with running(WeightRelay(memories[2], sender.address)):
                await until(lambda: len(sender.reached()) == 3)
                trainer.publish(0, then=sender.announce)
                await until(partial(all_have, sender, 0))
                assert load(memories[2]) == (0, {0})
                half = trainer.size // PIECE // 2 * PIECE
                assert sorted(ask.start for ask in sender.asked) == [0, 0, half]
                # Whoever stopped is the last in the next tree: the third fetches from the sender now, and the cut one from somebody.
                trainer.publish(1, then=sender.announce)
                await until(partial(all_have, sender, 1))
                assert list(sender.reached())[:2] != [("127.0.0.1", host.address.port) for host in cut]

    asyncio.run(scenario())


def test_nobody_waits_for_a_host_that_has_stopped_reading(monkeypatch):
    async def scenario() -> None:
        trainer, memory = Trainer(4000), WeightMemory()  # 13 MB: more than sockets hold
        sender = WeightSender(trainer.memory)
        async with running(sender, WeightRelay(memory, sender.address)):
            await until(sender.reached)
            trainer.publish(0, then=sender.announce)
            await until(partial(has, memory, 0))
            stopped = await connect(*sender.address[:2])
            stopped.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            await say(stopped, Ask(sender.address.key, 0, 0))
            for version in range(1, 6):
                trainer.publish(version, then=sender.announce)
                await until(partial(has, memory, version))
            assert [copy.version for copy in sender._shelf._copies] == [0, 5]
            with stopped:  # it reads after all: what it was promised is still what it was
                parcel = await hear(stopped, Parcel)
                rest = np.empty(parcel.size, np.uint8)
                await receive_bytes(stopped, rest)
            assert parcel.version == 0
            assert not rest.any()
            await until(lambda: [copy.version for copy in sender._shelf._copies] == [5])

    for module in (weight_wire, weight_hosts):
        monkeypatch.setattr(module, "PIECE_BYTES", 1 << 18)
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


def test_a_host_that_moves_nothing_is_given_up(monkeypatch):
    async def scenario() -> None:
        trainer = Trainer()
        sender = WeightSender(trainer.memory)
        trainer.publish(0)
        async with running(sender):
            silent = await connect(*sender.address[:2])
            await say(silent, Ask(sender.address.key, 7, 0))  # a version that never comes
            with pytest.raises(LinkError, match="closed"):
                await hear(silent, Parcel)
            silent.close()

    impatient(monkeypatch, 0.3)
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


def test_who_does_not_know_the_key_gets_nothing():
    async def scenario() -> None:
        trainer, memory = Trainer(), WeightMemory()
        sender = WeightSender(trainer.memory)
        trainer.publish(0)
        host, port, key = sender.address
        async with running(sender, WeightRelay(memory, Address(host, port, key))):
            await until(partial(has, memory, 0))
            for message in (Ask("guessed", 0, 0), Hello("guessed", 1), Parcel(0, 0, 1, 1)):
                stranger = await connect(host, port)
                await say(stranger, message)
                with pytest.raises(LinkError):
                    await hear(stranger, Parcel)
                stranger.close()
            stranger = await connect(host, port)
            await asyncio.get_running_loop().sock_sendall(stranger, b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises(LinkError):
                await hear(stranger, Parcel)
            stranger.close()
            assert list(sender.reached().values()) == [0]

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


def test_a_host_that_loses_the_sender_comes_back_and_one_whose_sender_stays_away_says_so(monkeypatch):
    class Forgetful(WeightSender):
        forgot = 0

        async def _hear_of(self, connection, place):
            if not self.forgot:
                self.forgot += 1
                raise LinkError("lost")
            await super()._hear_of(connection, place)

    async def scenario() -> None:
        trainer, memory = Trainer(), WeightMemory()
        sender = Forgetful(trainer.memory)
        relay = asyncio.ensure_future(WeightRelay(memory, sender.address).run())
        async with running(sender):
            trainer.publish(0, then=sender.announce)
            await until(partial(has, memory, 0))
        assert sender.forgot == 1
        with pytest.raises(LinkError, match=f"port {sender.address.port} has been away for 0.2 s"):
            await relay

    monkeypatch.setattr(weight_hosts, "RETRY_S", 0.02)
    monkeypatch.setattr(weight_hosts, "PATIENCE_S", 0.2)
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


def test_a_host_whose_policy_is_another_says_so():
    async def scenario() -> None:
        trainer, memory = Trainer(), WeightMemory()
        WeightPlane(memory, weights() | {"extra": torch.zeros(3)})
        sender = WeightSender(trainer.memory)
        trainer.publish(0)
        async with running(sender):
            with pytest.raises(WeightsError, match="one recipe"):
                await asyncio.wait_for(WeightRelay(memory, sender.address).run(), PATIENCE_S)

    asyncio.run(scenario())


def relay_and_load(address: Address, enough: Doorbell) -> None:
    """Another host: a relay in a thread of its own, and a generator that takes every version it finds."""
    torch.set_num_threads(1)
    memory, tensors = WeightMemory(), weights()
    plane, versions = WeightPlane(memory, tensors), [-1]
    try:
        with OwnThread(WeightRelay(memory, address).run(), "relay"):
            while len(versions) < ENOUGH_VERSIONS:
                if plane.newest > versions[-1]:
                    versions.append(plane.load())
                    assert values(tensors) == {versions[-1]}
    finally:
        enough.ring(0)
    assert versions == sorted(set(versions))


def test_no_version_is_torn_on_its_way_to_another_process_however_fast_the_next_are_published():
    trainer, enough, version = Trainer(), Doorbell(), 0
    sender = WeightSender(trainer.memory)
    with OwnThread(sender.run(), "sender"), another_process(relay_and_load, sender.address, enough):
        while not enough.collect():
            trainer.publish(version, then=sender.announce)
            version += 1
    assert version > 2 * ENOUGH_VERSIONS, "none was torn or skipped"


def fill(shelf: Shelf, copy: Copy, piece: NDArray[np.uint8]) -> None:
    copy.data[copy.have : copy.have + len(piece)] = piece
    shelf.grow(copy, len(piece))


def test_a_copy_stays_for_its_reader_and_its_memory_is_used_again():
    async def scenario() -> None:
        shelf, piece = Shelf(), np.arange(8, dtype=np.uint8)
        first = shelf.begin(0, 16, 1)
        fill(shelf, first, piece)
        assert (await shelf.find(0), await shelf.beyond(first, 0)) == (first, 8)
        fill(shelf, first, piece)
        with shelf.reading(first):
            second, third = (shelf.begin(version, 16, 1) for version in (1, 2))
            with pytest.raises(LinkError, match="given up after 0 of 16"):
                await shelf.beyond(second, 0)
            assert (await shelf.find(0), await shelf.find(1)) == (first, third), "a whole copy goes first, and one that was given up never"
            fill(shelf, third, np.tile(piece, 2))
            assert shelf.newest == 2
            assert first.data.tolist() == [*piece, *piece]
        assert shelf.begin(3, 16, 1).data is first.data

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


def test_an_error_in_a_thread_of_its_own_is_raised_when_it_is_closed():
    async def fail() -> None:
        raise WeightsError("no")

    thread = OwnThread(fail(), "fails")
    with pytest.raises(WeightsError, match="no"):
        thread.close()
