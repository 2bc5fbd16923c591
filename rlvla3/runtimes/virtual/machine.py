"""A cluster on the virtual clock: the cores of its hosts, the lanes of its devices, and the links between them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from statistics import fmean

from rlvla3.runtimes.virtual.clock import Promise, VirtualClock
from rlvla3.runtimes.virtual.costs import Cost, Profile
from rlvla3.runtimes.virtual.resources import Resource
from rlvla3.scheduling.placement import Cluster


class Machine:
    """Everything that virtual work is done on.

    A device has two lanes that do not slow each other down: `compute`, for inference and training, and `simulation`, for physics and rendering. The
    `coordinator` is one process of the whole cluster; its callers take turns.
    """

    def __init__(self, clock: VirtualClock, cluster: Cluster, profile: Profile, seed: int) -> None:
        self.clock, self.cluster, self.profile = clock, cluster, profile
        self._seed, self._seats = seed, 0
        self.cores = [Resource(clock, profile.host.cores) for _ in range(cluster.hosts)]
        self.links = [Resource(clock) for _ in range(cluster.hosts)]
        self.compute = [Resource(clock) for _ in range(len(cluster))]
        self.simulation = [Resource(clock) for _ in range(len(cluster))]
        self.coordinator = Resource(clock)

    def seat(self, device: int, low: bool = False) -> Seat:
        """Where a worker works. low: its work on the cores has low priority.

        Each seat draws from random numbers of its own. So the k-th chunk of a simulator takes the same time in every configuration: they can be compared.
        """
        self._seats += 1
        return Seat(self, device, low, random.Random(f"seat {self._seats} of run {self._seed}"))

    def busy(self) -> dict[str, float]:
        """Seconds that each kind of resource was in use until now, on average."""
        kinds = {"compute": self.compute, "simulation": self.simulation, "cores": self.cores, "links": self.links, "coordinator": [self.coordinator]}
        return {kind: fmean(resource.used() for resource in resources) for kind, resources in kinds.items()}

    async def send(self, sender: int, receiver: int, count: float) -> None:
        """Move `count` bytes from one device to another."""
        if sender == receiver or not count:
            return
        host, other = self.cluster.host(sender), self.cluster.host(receiver)
        if host == other:
            await self.clock.sleep(count / self.profile.host.inside)
        else:
            await self.links[host].work(count / self.profile.host.link)

    async def broadcast(self, sender: int, count: float) -> None:
        """Move `count` bytes from a device to every host, along a tree. Hosts that have them send them on, so their number doubles in every round."""
        first = self.cluster.host(sender)
        order = [first, *(host for host in range(self.cluster.hosts) if host != first)]
        have = 1
        while have < len(order):
            sending = order[: min(have, len(order) - have)]
            await together(self.links[host].work(count / self.profile.host.link) for host in sending)
            have += len(sending)
        await self.clock.sleep(count / self.profile.host.inside)


class Seat:
    """Where a worker works: its device, and the host of that device. random: its random numbers."""

    def __init__(self, machine: Machine, device: int, low: bool, random: random.Random) -> None:
        self.device, self._machine, self._low, self.random = device, machine, low, random
        self._on: dict[str, Resource] = {
            "cores": machine.cores[machine.cluster.host(device)],
            "compute": machine.compute[device],
            "simulation": machine.simulation[device],
            "coordinator": machine.coordinator,
        }

    def begin(self, cost: Cost, size: float, slower: float = 1.0) -> Promise:
        """Begin one call of a stage, for `size` items. To be awaited. slower: how many times longer than usual it takes."""
        machine = self._machine
        factor = cost.factor(self.random) * slower
        work, waits = cost.work(size) * factor, cost.waits * factor
        resource = self._on.get(cost.on)
        if resource is None or (waits and not work):
            return machine.clock.sleep(work + waits)
        if not waits:
            return resource.work(work, self._low)
        done = machine.clock.promise()
        machine.clock.at(machine.clock.now + waits, lambda: resource.work(work, self._low).then(done.resolve))
        return done


async def together(promises: Iterable[Promise]) -> None:
    """Wait for all of them."""
    for promise in list(promises):
        await promise
