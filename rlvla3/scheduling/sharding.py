"""Flexible environment sharding (RL-VLA3, section 3): what each shard is, which generator serves it, and which cores and device it runs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Literal

from rlvla3.scheduling.placement import PlacementError

Serving = Literal["round_robin", "least_loaded"]


@dataclass(frozen=True, slots=True)
class Sharding:
    """How one simulator is cut into shards. cores: how many each shard is bound to (0: it may use any). devices: shards take them in turn (empty: the
    default)."""

    shards: int
    slots: int
    cores: int = 0
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """One shard, by its number in the run.

    simulator: the number of its simulator. slots: its slots, which are numbered across all shards. generator: the number of the generator that serves it; its
    home, if that may change (elastic.py). cores: those that it is bound to, () for any. device: "" for the default one.
    """

    number: int
    simulator: int
    slots: range
    generator: int
    cores: tuple[int, ...] = ()
    device: str = ""


def lay_out(simulators: Sequence[Sharding], generators: int, serving: Serving = "round_robin", cores: Sequence[int] = ()) -> list[ShardSpec]:
    """All shards of a run. cores: those of the host; bound shards take them in turn. Raises PlacementError if a shard is to have more cores than there are.

    serving: `round_robin`, generators take turns; `least_loaded`, the generator with the fewest slots takes the next shard, large shards first.
    """
    turn = cycle(cores)
    shards: list[ShardSpec] = []
    first = 0
    for simulator, sharding in enumerate(simulators):
        if sharding.cores > len(cores):
            raise PlacementError(
                f"a shard is to be bound to cores={sharding.cores}, and this host has {len(cores)}: set it to {len(cores)} or less, or null for any"
            )
        for number in range(sharding.shards):
            bound = tuple(islice(turn, sharding.cores))
            device = sharding.devices[number % len(sharding.devices)] if sharding.devices else ""
            shards.append(ShardSpec(len(shards), simulator, range(first, first + sharding.slots), len(shards) % generators, bound, device))
            first += sharding.slots
    return shards if serving == "round_robin" else _balanced(shards, generators)


def _balanced(shards: Sequence[ShardSpec], generators: int) -> list[ShardSpec]:
    """The longest-processing-time rule (Graham, "Bounds on multiprocessing timing anomalies", 1969)."""
    load = [0] * generators
    serves: dict[int, int] = {}
    for shard in sorted(shards, key=lambda shard: -len(shard.slots)):
        serves[shard.number] = load.index(min(load))
        load[serves[shard.number]] += len(shard.slots)
    return [replace(shard, generator=serves[shard.number]) for shard in shards]
