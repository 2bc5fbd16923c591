"""The process at the other end of the measurements. It acts as a generator on this host, as the relay of another host, and as rank 1 of a bare gloo group."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from rlvla3.choices import CarrierName, OnHost
from rlvla3.links.own_thread import OwnThread
from rlvla3.links.weights.between_hosts.relay import WeightRelay
from rlvla3.links.weights.between_hosts.sender import WeightSender
from rlvla3.links.weights.between_hosts.wire import SenderAddress
from rlvla3.links.weights.plane import WeightPlane
from rlvla3.links.weights.versions import WeightMemory
from rlvla3.runtimes.processes.main_module import main_module_hidden

ANSWER_TIMEOUT_S = 60.0
"""How long the second process may take for one command."""

MakeTensors = Callable[[], dict[str, Tensor]]
"""Makes the tensors of a version. Both processes call it."""


class SecondProcess:
    """The second process, as the first one sees it. Except for `begin_to_load` and `announce`, a call returns when the second process is done."""

    def __init__(self, commands: Connection, arrivals: Connection, memory: WeightMemory, senders: Mapping[CarrierName, WeightSender]) -> None:
        self._commands, self._arrivals, self._senders = commands, arrivals, senders
        self.memory = memory

    def load(self) -> None:
        """Copy the newest version from this host's memory, in the second process."""
        self._ask("load")

    def begin_to_load(self) -> None:
        """Begin what `load` does, without waiting for its end. Call `finish` later."""
        self._commands.send("load")

    def finish(self) -> None:
        """Wait for the end of what `begin_to_load` began."""
        _receive(self._commands)

    def broadcast(self, flat: Tensor) -> None:
        """Broadcast `flat` to the second process with bare gloo."""
        self._commands.send("broadcast")
        dist.broadcast(flat, 0)
        _receive(self._commands)

    def announce(self, carrier: CarrierName = "tcp") -> None:
        """Tell the relay of the other host that there is a new version."""
        self._senders[carrier].announce()

    def arrive(self, carrier: CarrierName = "tcp") -> None:
        """Announce the newest version, and wait until all of it is in the memory of the other host."""
        self.announce(carrier)
        self.arrived()

    def arrived(self) -> None:
        """Wait until the announced version is in the memory of the other host."""
        _receive(self._arrivals)

    def _ask(self, word: str) -> None:
        self._commands.send(word)
        _receive(self._commands)


@contextmanager
def second_process(make_tensors: MakeTensors, carriers: Sequence[CarrierName] = ("tcp",), on_host: OnHost = "shared_memory") -> Iterator[SecondProcess]:
    """Start the second process, and a sender for each of `carriers` in a thread of this process. on_host: where versions lie (weights.on_host)."""
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
        process = spawn.Process(target=_run, args=(theirs, arriving, memory, make_tensors, addresses, store, on_host), daemon=True)
        with main_module_hidden():
            process.start()
        try:
            _join_gloo(store, 0)
            _receive(commands)
            yield SecondProcess(commands, arrivals, memory, senders)
            commands.send("end")
            process.join(ANSWER_TIMEOUT_S)
        finally:
            process.kill()
            if dist.is_initialized():
                dist.destroy_process_group()


def _run(
    commands: Connection,
    arrivals: Connection,
    memory: WeightMemory,
    make_tensors: MakeTensors,
    addresses: Mapping[CarrierName, SenderAddress],
    store: str,
    on_host: OnHost,
) -> None:
    torch.set_num_threads(1)
    plane = WeightPlane(memory, make_tensors(), on_host=on_host)
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
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # both are on this host, whose name may have no route
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=ANSWER_TIMEOUT_S))


def _receive(connection: Connection) -> None:
    if not connection.poll(ANSWER_TIMEOUT_S):
        raise TimeoutError(f"the second process has not answered within {ANSWER_TIMEOUT_S:g} s")
    connection.recv()
