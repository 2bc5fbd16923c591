"""What settings hold in memory, and whether that fits: the bytes of a profile's `memory`, summed over all that is on one device or host at the same time."""

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
class Held:
    """Bytes on the fullest device and on the fullest host, by what holds them, and the limits (inf: none)."""

    device: Mapping[str, float]
    host: Mapping[str, float]
    device_limit: float
    host_limit: float

    @property
    def short(self) -> float:
        """Bytes that are missing, 0 where it fits."""
        return max(sum(self.device.values()) - self.device_limit, sum(self.host.values()) - self.host_limit, 0.0)

    def __str__(self) -> str:
        """ "52.3 GiB a device (trainer 40.0, generator 8.3, simulators 4.0), 12.3 GiB more than the 40.0 GiB there are"."""
        over_device = sum(self.device.values()) - self.device_limit
        over_host = sum(self.host.values()) - self.host_limit
        where, parts, limit = ("host", self.host, self.host_limit) if over_host > over_device else ("device", self.device, self.device_limit)
        total = sum(parts.values())
        said = ", ".join(f"{name} {held / GIB:.1f}" for name, held in parts.items() if held)
        over = f", {(total - limit) / GIB:.1f} GiB more than the {limit / GIB:.1f} GiB there are" if total > limit else ""
        return f"{total / GIB:.1f} GiB a {where} ({said}){over}"


def held(recipe: Recipe, memory: MemoryProfile, placement: Placement, device_limit: float | None) -> Held:
    """What a run holds. device_limit: bytes of a device, instead of the profile's."""
    simulator, engine = recipe.simulator, recipe.engine
    shards = math.ceil(simulator.shards / len(placement.simulators))
    served = math.ceil(simulator.shards * simulator.slots / min(len(placement.generators), simulator.shards))
    batch = min(engine.max_batch or served, served)
    rank = memory.of_rank(len(placement.trainers))
    devices = _held_by(
        {
            "trainer": rank + memory.activations * recipe.training.micro_batch,
            "generator": memory.generator + memory.inference * batch,
            "simulators": shards * (memory.simulator + memory.slot * simulator.slots),
        },
        placement,
        lambda device: device,
    )
    away = {"trainer": rank, "generator": memory.generator} if engine.offload else {}
    hosts = _held_by({"simulators": shards * (memory.process + memory.environment * simulator.slots)} | away, placement, placement.cluster.host)
    if engine.offload:
        devices = [{role: part for role, part in its.items() if role != other} for its in devices for other in IN_TURN]
    return Held(
        device=max(devices, key=lambda its: sum(its.values())),
        host=max(hosts, key=lambda its: sum(its.values())),
        device_limit=device_limit or memory.device or math.inf,
        host_limit=memory.host or math.inf,
    )


def _held_by(roles: Mapping[str, float], placement: Placement, at: Callable[[int], int]) -> list[dict[str, float]]:
    """What is held wherever devices are `at`, by role. roles: what each holds on, or for, one device."""
    devices = {"trainer": placement.trainers, "generator": placement.generators, "simulators": placement.simulators}
    held: dict[int, dict[str, float]] = {}
    for role, part in roles.items():
        for device in devices[role]:
            its = held.setdefault(at(device), {})
            its[role] = its.get(role, 0.0) + part
    return list(held.values())
