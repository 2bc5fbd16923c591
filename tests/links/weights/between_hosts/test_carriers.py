"""What carries versions along one edge: it lives on between them, ends when it should, and needs what it says."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from functools import partial

import numpy as np
import pytest
import torch

from rlvla3.choices import CarrierName
from rlvla3.config import make_recipe
from rlvla3.errors import RecipeError
from rlvla3.links.weights.between_hosts import carriers, wire
from rlvla3.links.weights.between_hosts import host as host_module
from rlvla3.links.weights.between_hosts.carrier import Carrier
from rlvla3.links.weights.between_hosts.carriers import carrier_class, check_carrier
from rlvla3.links.weights.between_hosts.relay import WeightRelay
from rlvla3.links.weights.between_hosts.wire import LinkError, accept, connect, listen
from rlvla3.links.weights.versions import WeightMemory
from tests.support.processes import PATIENCE_S
from tests.support.weight_hosts import Trainer, Watched, all_have, any_carrier, load, running, until

BYTES = 100_000


@asynccontextmanager
async def edge(carrier: CarrierName) -> AsyncIterator[tuple[Carrier, Carrier]]:
    """Giver and taker, met."""
    kind = carrier_class(carrier)
    with closing(listen("127.0.0.1")) as listener:
        taking, giving = await asyncio.gather(connect(*listener.getsockname()), accept(listener))
    with closing(kind(giving, gives=True)) as giver, closing(kind(taking, gives=False)) as taker:
        await asyncio.gather(giver.meet(), taker.meet())
        yield giver, taker


def content(seed: int, size: int = BYTES) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=size, dtype=np.uint8)


def pieces(giver: Carrier, whole: np.ndarray) -> list[np.ndarray]:
    return [whole[start : start + giver.piece_bytes] for start in range(0, len(whole), giver.piece_bytes)]


async def carry(giver: Carrier, taker: Carrier, sent: np.ndarray) -> list[int]:
    """The sizes of the pieces, once what was taken is what was sent."""
    into, arrived = np.zeros_like(sent), list[int]()
    await asyncio.gather(giver.give(pieces(giver, sent)), taker.take(into, arrived.append))
    assert (into == sent).all()
    return arrived


@any_carrier
def test_what_is_taken_is_what_was_given_in_pieces_of_the_givers_size(carrier):
    async def scenario() -> None:
        async with edge(carrier) as (giver, taker):
            for seed in range(3):
                assert await carry(giver, taker, content(seed)) == [1 << 15] * 3 + [BYTES - (3 << 15)]
            assert await carry(giver, taker, content(3, size=5)) == [5]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carrier_class(carrier), "piece_bytes", 1 << 15)
        asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


def test_a_taker_that_cuts_otherwise_goes_by_what_the_giver_says():
    async def scenario() -> None:
        kind = carrier_class("gloo")
        with closing(listen("127.0.0.1")) as listener:
            taking, giving = await asyncio.gather(connect(*listener.getsockname()), accept(listener))
        with closing(kind(giving, gives=True)) as giver, closing(kind(taking, gives=False)) as taker:
            giver.piece_bytes = 1 << 12
            await asyncio.gather(giver.meet(), taker.meet())
            await carry(giver, taker, content(0))

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


@any_carrier
@pytest.mark.parametrize("end", ["giver", "taker"])
def test_one_end_that_is_cancelled_lets_go_and_ends_the_other(monkeypatch, carrier, end):
    async def scenario() -> None:
        async with edge(carrier) as (giver, taker):
            large, room = np.zeros(1 << 26, np.uint8), np.zeros(BYTES, np.uint8)
            blocked = asyncio.ensure_future(giver.give(pieces(giver, large)) if end == "giver" else taker.take(room, lambda _: None))
            await asyncio.sleep(0.05)
            blocked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await blocked
            with pytest.raises(LinkError):
                await (taker.take(large, lambda _: None) if end == "giver" else giver.give(pieces(giver, large)))

    monkeypatch.setattr(wire, "STALL_S", 2 * PATIENCE_S)
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


@any_carrier
def test_one_end_whose_other_moves_nothing_gives_up(monkeypatch, carrier):
    async def scenario() -> None:
        async with edge(carrier) as (_, taker):
            monkeypatch.setattr(wire, "STALL_S", 0.1)
            room = np.zeros(BYTES, np.uint8)
            with pytest.raises(LinkError):
                await taker.take(room, lambda _: None)

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


def test_one_byte_now_and_then_is_not_enough(monkeypatch):
    async def trickle(connection: socket.socket) -> None:
        with suppress(OSError):
            while True:
                await asyncio.get_running_loop().sock_sendall(connection, b"x")
                await asyncio.sleep(0.01)

    async def scenario() -> None:
        async with edge("tcp") as (giver, taker):
            trickling = asyncio.ensure_future(trickle(giver.connection))
            with pytest.raises(LinkError, match="not moved a piece"):
                await taker.take(np.zeros(BYTES, np.uint8), lambda _: None)
            trickling.cancel()

    monkeypatch.setattr(wire, "STALL_S", 0.2)
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


@any_carrier
def test_a_giver_whose_taker_does_not_come_to_meet_it_hears_of_it(monkeypatch, carrier):
    async def scenario() -> None:
        with closing(listen("127.0.0.1")) as listener:
            taking, giving = await asyncio.gather(connect(*listener.getsockname()), accept(listener))
        with closing(carrier_class(carrier)(giving, gives=True)) as giver:
            taking.close()
            with pytest.raises(LinkError):
                await giver.meet()
                await giver.give(pieces(giver, np.zeros(1 << 26, np.uint8)))

    monkeypatch.setattr(wire, "STALL_S", 2 * PATIENCE_S)
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


class Counting(Watched):
    """Remembers the edges on which it gave."""

    def __init__(self, memory: WeightMemory, carrier: CarrierName) -> None:
        super().__init__(memory, carrier)
        self._fanout, self.edges = 1, 0

    async def _serve(self, *args) -> None:
        self.edges += 1
        await super()._serve(*args)


async def three_versions_down_a_chain(carrier: CarrierName, between: float) -> Counting:
    """Sender, relay, relay: every version comes to the second by the first."""
    trainer = Trainer()
    sender, memories = Counting(trainer.memory, carrier), [WeightMemory() for _ in range(2)]
    async with running(sender, *(WeightRelay(memory, sender.address, carrier=carrier) for memory in memories)):
        await until(lambda: len(sender.reached()) == 2)
        for version in range(3):
            trainer.publish(version, then=sender.announce)
            await until(partial(all_have, sender, version))
            assert [load(memory) for memory in memories] == [(version, {version})] * 2
            await asyncio.sleep(between)
    assert [ask.version for ask in sender.asked] == [0, 1, 2]
    return sender


@any_carrier
def test_an_edge_lives_on_from_one_version_to_the_next(carrier):
    assert asyncio.run(three_versions_down_a_chain(carrier, between=0)).edges == 1


@any_carrier
def test_an_edge_on_which_nothing_is_asked_is_left_and_made_anew_and_nobody_is_called_lost(monkeypatch, carrier):
    monkeypatch.setattr(host_module, "IDLE_S", 0.05)
    assert asyncio.run(three_versions_down_a_chain(carrier, between=0.2)).edges == 3


def test_hosts_import_no_torch_unless_they_have_a_process_group():
    program = (
        "import sys; from rlvla3.links.weights.between_hosts.relay import WeightRelay; from rlvla3.links.weights.versions import WeightMemory;"
        "from rlvla3.links.weights.between_hosts.wire import SenderAddress;"
        "from rlvla3.links.weights.between_hosts.carriers import check_carrier, _cuda_of_torch;"
        "check_carrier('tcp'); _cuda_of_torch();"
        "WeightRelay(WeightMemory(), SenderAddress('127.0.0.1', 1, '')); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE_S)


def test_what_torch_is_built_for_is_known_without_it():
    assert carriers._cuda_of_torch() == torch.version.cuda


@pytest.mark.parametrize("built_for", [None, "13.0"])
def test_nccl_is_refused_where_there_is_none(monkeypatch, built_for):
    monkeypatch.setattr(carriers, "_cuda_of_torch", lambda: built_for)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match=r"weights\.carrier=nccl needs NCCL.* set weights\.carrier=tcp"):
        check_carrier("nccl")
    check_carrier("gloo")


def test_a_recipe_names_its_carrier():
    assert make_recipe({}).weights.carrier == "tcp"
    assert make_recipe({}, ["weights.carrier=gloo"]).weights.carrier == "gloo"
    with pytest.raises(RecipeError, match=r"weights\.carrier"):
        make_recipe({}, ["weights.carrier=pigeon"])


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices: NCCL refuses two ranks on one")
def test_nccl_carries_versions_between_two_devices(monkeypatch):
    async def scenario() -> None:
        kind = carrier_class("nccl")
        with closing(listen("127.0.0.1")) as listener:
            taking, giving = await asyncio.gather(connect(*listener.getsockname()), accept(listener))
        with torch.cuda.device(0):
            giver = kind(giving, gives=True)
        with torch.cuda.device(1):
            taker = kind(taking, gives=False)
        with closing(giver), closing(taker):
            await asyncio.gather(giver.meet(), taker.meet())
            for seed in range(2):
                await carry(giver, taker, content(seed, size=3 << 20))
            monkeypatch.setattr(wire, "STALL_S", 1.0)
            room = np.zeros(BYTES, np.uint8)
            with pytest.raises(LinkError):
                await taker.take(room, lambda _: None)

    monkeypatch.setattr(carrier_class("nccl"), "piece_bytes", 1 << 20)
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))
