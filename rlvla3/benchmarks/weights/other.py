"""The other process of the measurements: a generator on this host, the relay of another host, and rank 1 of a bare gloo group."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from rlvla3.choices import CarrierName
from rlvla3.links.own_thread import OwnThread
from rlvla3.links.weights.between_hosts.relay import WeightRelay
from rlvla3.links.weights.between_hosts.sender import WeightSender
from rlvla3.links.weights.between_hosts.wire import SenderAddress
from rlvla3.links.weights.plane import WeightPlane
from rlvla3.links.weights.versions import WeightMemory

PATIENCE_S = 60.0
"""For anything that the other process is to do."""

Parts = Callable[[], dict[str, Tensor]]
"""Makes the tensors of a version, in either process."""


class Other:
    """Both ends are here: what the other process did is known when a call returns."""

    def __init__(self, commands: Connection, arrivals: Connection, memory: WeightMemory, senders: Mapping[CarrierName, WeightSender]) -> None:
        self._commands, self._arrivals, self._senders = commands, arrivals, senders
        self.memory = memory

    def load(self) -> None:
        """It copies the newest version out of this host's memory."""
        self._ask("load")

    def begin_to_load(self) -> None:
        self._commands.send("load")

    def finish(self) -> None:
        """Wait for what was begun."""
        _receive(self._commands)

    def broadcast(self, flat: Tensor) -> None:
        """It takes `flat` from a bare gloo broadcast."""
        self._commands.send("broadcast")
        dist.broadcast(flat, 0)
        _receive(self._commands)

    def announce(self, carrier: CarrierName = "tcp") -> None:
        """There is a new version for the other host."""
        self._senders[carrier].announce()

    def arrive(self, carrier: CarrierName = "tcp") -> None:
        """Announce the newest version, and wait until all of it is in its own memory."""
        self.announce(carrier)
        self.arrived()

    def arrived(self) -> None:
        _receive(self._arrivals)

    def _ask(self, word: str) -> None:
        self._commands.send(word)
        _receive(self._commands)


@contextmanager
def other_process(parts: Parts, carriers: Sequence[CarrierName] = ("tcp",)) -> Iterator[Other]:
    """Start it, and a sender for each of the carriers beside this process."""
    spawn = multiprocessing.get_context("spawn")
    memory = WeightMemory()
    senders = {carrier: WeightSender(memory, carrier=carrier) for carrier in carriers}
    addresses = {carrier: sender.address for carrier, sender in senders.items()}
    commands, theirs = spawn.Pipe()
    arrivals, arriving = spawn.Pipe()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as threads:
        for carrier, sender in senders.items():
            threads.enter_context(OwnThread(sender.run(), f"weight sender, {carrier}"))
        store = str(Path(folder) / "store")
        process = spawn.Process(target=_run, args=(theirs, arriving, memory, parts, addresses, store), daemon=True)
        process.start()
        try:
            _join_gloo(store, 0)
            _receive(commands)
            yield Other(commands, arrivals, memory, senders)
            commands.send("end")
            process.join(PATIENCE_S)
        finally:
            process.kill()
            if dist.is_initialized():
                dist.destroy_process_group()


def _run(commands: Connection, arrivals: Connection, memory: WeightMemory, parts: Parts, addresses: Mapping[CarrierName, SenderAddress], store: str) -> None:
    torch.set_num_threads(1)
    plane = WeightPlane(memory, parts())
    flat = torch.empty(plane.size, dtype=torch.uint8)
    _join_gloo(store, 1)
    with ExitStack() as threads:
        for carrier, address in addresses.items():
            relay = WeightRelay(WeightMemory(), address, arrived=arrivals.send, carrier=carrier)
            threads.enter_context(OwnThread(relay.run(), f"weight relay, {carrier}"))
        commands.send("ready")
        while (word := commands.recv()) != "end":
            if word == "load":
                plane.load()
            else:
                dist.broadcast(flat, 0)
            commands.send("done")
    dist.destroy_process_group()


def _join_gloo(store: str, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=PATIENCE_S))


def _receive(connection: Connection) -> None:
    if not connection.poll(PATIENCE_S):
        raise TimeoutError(f"the other process has not answered within {PATIENCE_S:g} s")
    connection.recv()
