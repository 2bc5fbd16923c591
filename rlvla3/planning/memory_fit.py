"""How much memory settings need, and whether it fits. The bytes of a profile's `memory` are summed over all that is on one device or host at the same time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rlvla3.config import Recipe
from rlvla3.config.memory import IN_TURN
from rlvla3.runtimes.virtual.costs import MemoryProfile
from rlvla3.scheduling.placement import Placement

GIB = 2**30


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """The bytes needed on the fullest device and on the fullest host, by stage, and the limits (inf: no limit)."""

    device: Mapping[str, float]
    host: Mapping[str, float]
    device_limit: float
    host_limit: float

    @property
    def shortfall(self) -> float:
        """The bytes that are missing; 0 if the settings fit."""
        return max(sum(self.device.values()) - self.device_limit, sum(self.host.values()) - self.host_limit, 0.0)

    def __str__(self) -> str:
        """Such as "52.3 GiB per device (trainer 40.0, generator 8.3, simulators 4.0), 12.3 GiB more than the 40.0 GiB available"."""
        over_device = sum(self.device.values()) - self.device_limit
        over_host = sum(self.host.values()) - self.host_limit
        where, parts, limit = ("host", self.host, self.host_limit) if over_host > over_device else ("device", self.device, self.device_limit)
        total = sum(parts.values())
        by_stage = ", ".join(f"{name} {needed / GIB:.1f}" for name, needed in parts.items() if needed)
        over = f", {(total - limit) / GIB:.1f} GiB more than the {limit / GIB:.1f} GiB available" if total > limit else ""
        return f"{total / GIB:.1f} GiB per {where} ({by_stage}){over}"


def memory_need(recipe: Recipe, memory: MemoryProfile, placement: Placement, device_limit: float | None) -> MemoryNeed:
    """The memory that a run needs. device_limit: bytes of a device (None: what the profile says)."""
    simulator, engine = recipe.simulator, recipe.engine
    shards = math.ceil(simulator.shards / len(placement.simulators))
    served = math.ceil(simulator.shards * simulator.slots / min(len(placement.generators), simulator.shards))
    batch = served if engine.batch_limit is None else min(engine.batch_limit, served)
    rank = memory.of_rank(len(placement.trainers))
    devices = _bytes_by_place(
        {
            "trainer": rank + memory.activations * recipe.training.micro_batch,
            "generator": memory.generator + memory.inference * batch,
            "simulators": shards * (memory.simulator + memory.slot * simulator.slots),
        },
        placement,
        lambda device: device,
    )
    away = {"trainer": rank, "generator": memory.generator} if engine.offload else {}
    hosts = _bytes_by_place({"simulators": shards * (memory.process + memory.environment * simulator.slots)} | away, placement, placement.cluster.host)
    if engine.offload:
        devices = [{role: part for role, part in parts.items() if role != other} for parts in devices for other in IN_TURN]
    return MemoryNeed(
        device=max(devices, key=lambda parts: sum(parts.values())),
        host=max(hosts, key=lambda parts: sum(parts.values())),
        device_limit=device_limit or memory.device or math.inf,
        host_limit=memory.host or math.inf,
    )


def _bytes_by_place(roles: Mapping[str, float], placement: Placement, at: Callable[[int], int]) -> list[dict[str, float]]:
    """The bytes by stage at each place. roles: bytes that each stage needs for one device. at: the place of a device, either the device itself or its host."""
    devices = {"trainer": placement.trainers, "generator": placement.generators, "simulators": placement.simulators}
    places: dict[int, dict[str, float]] = {}
    for role, part in roles.items():
        for device in devices[role]:
            parts = places.setdefault(at(device), {})
            parts[role] = parts.get(role, 0.0) + part
    return list(places.values())
