"""Which devices run which stages: the placements of the papers, as parts of one list of devices.

    colocated       simulators, generators and trainers on every device
    hybrid a:b      simulators on a parts, generators on b parts, trainers on all of them
    disaggregated a:b       simulators and generators on a parts, trainers on b parts
    separate a:b:c  simulators, generators and trainers on parts of their own

If the parts divide the devices of a host, every host is divided in the same way. Then observations and decisions never leave the host of their simulator
(D-VLA, "topology replication"). Otherwise, the devices of all hosts are divided as one row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlvla3.errors import ExplainedError

Kind = Literal["colocated", "hybrid", "disaggregated", "separate"]
PARTS: dict[Kind, int] = {"colocated": 1, "hybrid": 2, "disaggregated": 2, "separate": 3}


class PlacementError(ExplainedError, ValueError):
    """Devices that cannot be divided as asked: what was asked, what there is, and what would fit."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A number of hosts with so many devices each. Devices are numbered across hosts: device = host * devices + number on the host."""

    hosts: int
    devices: int

    @classmethod
    def parse(cls, text: str) -> Cluster:
        """From "4x8", four hosts of eight devices; "8" is one host. Raises PlacementError."""
        found = re.fullmatch(r"(?:(\d+)x)?(\d+)", text)
        if not found or not int(found[2]) or found[1] == "0":
            raise PlacementError(f"{text!r} is not a cluster: write hosts x devices, for example 4x8, or 8 for one host of eight")
        return cls(int(found[1] or 1), int(found[2]))

    def __len__(self) -> int:
        return self.hosts * self.devices

    def host(self, device: int) -> int:
        return device // self.devices


@dataclass(frozen=True, slots=True)
class Placement:
    """The devices of each stage, in rising order."""

    cluster: Cluster
    simulators: tuple[int, ...]
    generators: tuple[int, ...]
    trainers: tuple[int, ...]

    def simulator_of(self, shard: int) -> int:
        """The device of a shard: shards go round the simulators' devices."""
        return self.simulators[shard % len(self.simulators)]

    def generator_of(self, shard: int) -> int:
        """The number of the generator that serves a shard: one on the device of the shard, else one on its host, else any.

        If there is a choice, the shards of a device go round the generators, and each device begins with another one.
        """
        device = self.simulator_of(shard)
        if device in self.generators:
            return self.generators.index(device)
        host = self.cluster.host(device)
        near = [number for number, place in enumerate(self.generators) if self.cluster.host(place) == host]
        beside = [place for place in self.simulators if self.cluster.host(place) == host] if near else list(self.simulators)
        near = near or list(range(len(self.generators)))
        return near[(beside.index(device) + shard // len(self.simulators)) % len(near)]


def place(cluster: Cluster, kind: Kind, ratio: Sequence[int] = ()) -> Placement:
    """Divide the devices among the stages. ratio: the parts, (1,) or () for colocated. Raises PlacementError if they cannot be divided like that."""
    ratio = tuple(ratio) or (1,) * PARTS[kind]
    check_parts(kind, ratio)
    every = tuple(range(len(cluster)))
    if kind == "colocated":
        return Placement(cluster, every, every, every)
    parts = _divide(cluster, ratio)
    match kind:
        case "hybrid":
            return Placement(cluster, parts[0], parts[1], every)
        case "disaggregated":
            return Placement(cluster, parts[0], parts[0], parts[1])
        case "separate":
            return Placement(cluster, *parts)


def check_parts(kind: Kind, ratio: Sequence[int]) -> None:
    """Raises PlacementError if a placement of this kind does not have such parts."""
    if ratio and (len(ratio) != PARTS[kind] or min(ratio) < 1):
        raise PlacementError(f"placement.kind={kind} takes {PARTS[kind]} parts of at least 1, and placement.ratio is {':'.join(map(str, ratio))}")


def parse_ratio(text: str) -> tuple[int, ...]:
    """From "3:1". Raises PlacementError."""
    if not re.fullmatch(r"\d+(:\d+)*", text):
        raise PlacementError(f"placement.ratio={text!r} is not a ratio: write whole numbers with colons, for example 3:1")
    return tuple(map(int, text.split(":")))


def _divide(cluster: Cluster, ratio: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The devices of each part."""
    whole = sum(ratio)
    if len(cluster) % whole:
        raise PlacementError(
            f"{len(cluster)} devices cannot be divided {':'.join(map(str, ratio))}: use a multiple of {whole} devices, or another placement.ratio"
        )
    rows = cluster.devices if cluster.devices % whole == 0 else len(cluster)
    parts: list[list[int]] = [[] for _ in ratio]
    for first in range(0, len(cluster), rows):
        taken = first
        for part, share in zip(parts, ratio, strict=True):
            width = rows * share // whole
            part += range(taken, taken + width)
            taken += width
    return [tuple(part) for part in parts]
