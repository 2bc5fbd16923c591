"""The weight plane between hosts: every host gets whole versions, whoever else is dead, slow or late."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from functools import partial

import numpy as np
import pytest
import torch

from rlvla3.choices import CarrierName
from rlvla3.links.doorbell import Doorbell
from rlvla3.links.own_thread import OwnThread
from rlvla3.links.weights.between_hosts import host as host_module
from rlvla3.links.weights.between_hosts import relay as relay_module
from rlvla3.links.weights.between_hosts import sender as sender_module
from rlvla3.links.weights.between_hosts import wire
from rlvla3.links.weights.between_hosts.carrier import Carrier
from rlvla3.links.weights.between_hosts.carriers import TcpCarrier, carrier_class
from rlvla3.links.weights.between_hosts.process_groups import GlooCarrier
from rlvla3.links.weights.between_hosts.relay import WeightRelay
from rlvla3.links.weights.between_hosts.sender import WeightSender, tree
from rlvla3.links.weights.between_hosts.wire import Ask, Hello, LinkError, Parcel, SenderAddress, connect, hear, say
from rlvla3.links.weights.plane import WeightPlane
from rlvla3.links.weights.versions import WeightMemory, WeightsError
from tests.support.processes import PATIENCE_S, another_process
from tests.support.weight_hosts import Trainer, Watched, all_have, any_carrier, has, load, running, until, values, weights

PIECE = 1 << 12
ENOUGH_VERSIONS = 20


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pieces a version, without many bytes."""
    cut(monkeypatch, PIECE)


def cut(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(sender_module, "PIECE_BYTES", size * 2 // 3)  # no carrier's own
    for carrier in (TcpCarrier, GlooCarrier):
        monkeypatch.setattr(carrier, "piece_bytes", size)


def impatient(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    for module in (wire, host_module):
        monkeypatch.setattr(module, "STALL_S", seconds)


class Cut(WeightRelay):
    """Closes a connection on which it has given half a version."""

    async def _give(self, carrier: Carrier, ask: Ask) -> None:
        copy = await self._copies.find(ask.version)
        await say(carrier.connection, Parcel(copy.version, 0, copy.size, copy.layout))
        half = copy.size // PIECE // 2 * PIECE
        await self._copies.beyond(copy, half - 1)
        await carrier.give(copy.pieces(0, half, PIECE))
        raise LinkError("no more")


@any_carrier
def test_hosts_get_versions_down_a_tree_and_the_sender_gives_each_version_to_few(carrier):
    async def scenario() -> None:
        trainer = Trainer()
        sender = Watched(trainer.memory, carrier)
        memories = [WeightMemory() for _ in range(7)]
        async with running(sender, *(WeightRelay(memory, sender.address, carrier=carrier) for memory in memories)):
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


@any_carrier
def test_a_host_that_comes_late_gets_the_newest_version_at_once(carrier):
    async def scenario() -> None:
        trainer, memory = Trainer(), WeightMemory()
        sender = Watched(trainer.memory, carrier)
        for version in range(5):
            trainer.publish(version)
        async with running(sender):
            await asyncio.sleep(0)
            async with running(WeightRelay(memory, sender.address, carrier=carrier)):
                await until(partial(has, memory, 4))
            await until(lambda: not sender.reached())
            trainer.publish(5, then=sender.announce)  # while it is away
            trainer.publish(6, then=sender.announce)
            async with running(WeightRelay(memory, sender.address, carrier=carrier)):
                await until(partial(has, memory, 6))
        assert load(memory) == (6, {6})
        assert [ask.version for ask in sender.asked] == [4, 6]

    asyncio.run(scenario())


@any_carrier
def test_a_host_goes_on_from_the_sender_where_the_one_it_fetched_from_stopped(carrier):
    async def scenario() -> None:
        trainer, memories = Trainer(), [WeightMemory() for _ in range(3)]
        sender = Watched(trainer.memory, carrier)
        cut = [Cut(memory, sender.address, carrier=carrier) for memory in memories[:2]]
        async with running(sender, *cut):
            await until(lambda: len(sender.reached()) == 2)
            async with running(WeightRelay(memories[2], sender.address, carrier=carrier)):
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


@any_carrier
def test_nobody_waits_for_a_host_that_has_stopped_reading(monkeypatch, carrier):
    async def scenario() -> None:
        trainer, memory = Trainer(4000), WeightMemory()  # 13 MB: more than sockets hold
        sender = WeightSender(trainer.memory, carrier=carrier)
        async with running(sender, WeightRelay(memory, sender.address, carrier=carrier)):
            await until(sender.reached)
            trainer.publish(0, then=sender.announce)
            await until(partial(has, memory, 0))
            stopped = carrier_class(carrier)(await connect(*sender.address[:2]), gives=False)
            stopped.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            await say(stopped.connection, Ask(sender.address.key, 0, 0))
            await stopped.meet()
            for version in range(1, 6):
                trainer.publish(version, then=sender.announce)
                await until(partial(has, memory, version))
            assert [copy.version for copy in sender._copies._copies] == [0, 5]
            with closing(stopped):  # it reads after all: what it was promised is still what it was
                parcel = await hear(stopped.connection, Parcel)
                rest = np.empty(parcel.size, np.uint8)
                await stopped.take(rest, lambda _: None)
            assert parcel.version == 0
            assert not rest.any()
            await until(lambda: [copy.version for copy in sender._copies._copies] == [5])

    cut(monkeypatch, 1 << 18)
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


@any_carrier
def test_a_host_that_moves_nothing_is_given_up(monkeypatch, carrier):
    async def scenario() -> None:
        trainer = Trainer()
        sender = WeightSender(trainer.memory, carrier=carrier)
        trainer.publish(0)
        async with running(sender):
            with closing(carrier_class(carrier)(await connect(*sender.address[:2]), gives=False)) as silent:
                await say(silent.connection, Ask(sender.address.key, 7, 0))  # a version that never comes
                await silent.meet()
                with pytest.raises(LinkError, match="closed"):
                    await hear(silent.connection, Parcel)

    impatient(monkeypatch, 0.3)
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


@any_carrier
def test_who_does_not_know_the_key_gets_nothing(carrier):
    async def scenario() -> None:
        trainer, memory = Trainer(), WeightMemory()
        sender = WeightSender(trainer.memory, carrier=carrier)
        trainer.publish(0)
        host, port, key = sender.address
        async with running(sender, WeightRelay(memory, SenderAddress(host, port, key), carrier=carrier)):
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
            await until(lambda: list(sender.reached().values()) == [0])  # the relay confirms a moment after it has the version

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


@any_carrier
def test_a_host_that_loses_the_sender_comes_back_and_one_whose_sender_stays_away_says_so(monkeypatch, carrier):
    class Forgetful(WeightSender):
        forgot = 0

        async def _hear_of(self, connection, place):
            if not self.forgot:
                self.forgot += 1
                raise LinkError("lost")
            await super()._hear_of(connection, place)

    async def scenario() -> None:
        trainer, memory = Trainer(), WeightMemory()
        sender = Forgetful(trainer.memory, carrier=carrier)
        relay = asyncio.ensure_future(WeightRelay(memory, sender.address, carrier=carrier).run())
        async with running(sender):
            trainer.publish(0, then=sender.announce)
            await until(partial(has, memory, 0))
        assert sender.forgot == 1
        with pytest.raises(LinkError, match=f"port {sender.address.port} has been away for 0.2 s"):
            await relay

    monkeypatch.setattr(relay_module, "RETRY_S", 0.02)
    monkeypatch.setattr(relay_module, "PATIENCE_S", 0.2)
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


def relay_and_load(addresses: dict[CarrierName, SenderAddress], enough: Doorbell) -> None:
    """Another host: a relay in a thread of its own, and a generator that takes every version it finds; by each carrier in turn."""
    torch.set_num_threads(1)
    try:
        for carrier, address in addresses.items():
            memory, tensors = WeightMemory(), weights()
            plane, versions = WeightPlane(memory, tensors), [-1]
            with OwnThread(WeightRelay(memory, address, carrier=carrier).run(), "relay"):
                while len(versions) < ENOUGH_VERSIONS:
                    if plane.newest > versions[-1]:
                        versions.append(plane.load())
                        assert values(tensors) == {versions[-1]}
            assert versions == sorted(set(versions))
    finally:
        enough.ring(0)


@pytest.mark.slow
def test_no_version_is_torn_on_its_way_to_another_process_however_fast_the_next_are_published():
    trainer, enough, version = Trainer(), Doorbell(), 0
    tcp, gloo = (WeightSender(trainer.memory, carrier=carrier) for carrier in ("tcp", "gloo"))

    def announce() -> None:
        tcp.announce()
        gloo.announce()

    addresses = {"tcp": tcp.address, "gloo": gloo.address}
    with OwnThread(tcp.run(), "sender"), OwnThread(gloo.run(), "sender"), another_process(relay_and_load, addresses, enough):
        while not enough.collect():
            trainer.publish(version, then=announce)
            version += 1
    assert version > 4 * ENOUGH_VERSIONS, "none was torn or skipped"


def test_an_error_in_a_thread_of_its_own_is_raised_when_it_is_closed():
    async def fail() -> None:
        raise WeightsError("no")

    thread = OwnThread(fail(), "fails")
    with pytest.raises(WeightsError, match="no"):
        thread.close()


def test_a_host_that_is_back_before_its_loss_is_found_out_stays():
    async def run() -> None:
        sender = WeightSender(WeightMemory())
        async with running(sender):
            lost, back = [await connect(*sender.address[:2]) for _ in range(2)]
            for connection in (lost, back):
                await say(connection, Hello(sender.address.key, 12345))
                await until(sender.reached)
            await until(lambda: len(sender._led) == 1 and sender._led[("127.0.0.1", 12345)].getpeername() == back.getsockname())
            lost.close()
            await asyncio.sleep(0.1)  # nothing is to happen
            assert list(sender.reached()) == [("127.0.0.1", 12345)]
            back.close()
            await until(lambda: not sender.reached())

    asyncio.run(run())
