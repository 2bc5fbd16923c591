"""Ray's nodes as the hosts of a placement: who works where, and what of each node is reserved for it.

Devices are dealt out by scheduling/placement.py, as in a rehearsal; Ray reserves whole bundles, one a node, and restarts what is lost on one that is left.
A node without GPUs counts as one device: itself.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rlvla3.config import Recipe, RecipeError, SimulatorConfig
from rlvla3.scheduling.placement import Cluster, Placement, place

RESERVE_TIMEOUT_S, RESERVE_TRY_S = 60.0, 10.0
HEAD = "node:__internal_head__"
"""A resource that only the node of Ray's head has."""


@dataclass(frozen=True, slots=True)
class Node:
    """What one node has."""

    gpus: int
    cpus: int


@dataclass(frozen=True, slots=True)
class Station:
    """What one node does in the run, and with which of its devices. recipe: with this host's own shards and generators; None where it runs none.

    trainers: the ranks on it. devices: the GPUs that generators and simulators see, those of generators first; trainer_devices: the one of each rank.
    """

    node: int
    recipe: Recipe | None
    trainers: tuple[int, ...]
    devices: tuple[int, ...]
    trainer_devices: tuple[int, ...]


def connect(address: str) -> bool:
    """Connect to Ray: at `address`, or to one of our own that is started here. Returns whether it was started here, and so has to be ended here."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # actors without reserved GPUs see all of them; which they use is said by the placement
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(address, **quiet) if address else ray.init("local", include_dashboard=False, **quiet)
    except ConnectionError as error:
        raise RecipeError(
            f"no Ray cluster answers at ray.address={address} ({error}): start one with `ray start --head`, or leave ray.address empty"
        ) from error
    return not address


def nodes() -> list[Node]:
    """The nodes that are alive."""
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"])
    return [Node(int(node["Resources"].get("GPU", 0)), int(node["Resources"].get("CPU", 1))) for node in alive]


def stations(recipe: Recipe, found: Sequence[Node], ranks: int) -> list[Station]:
    """Who works where on the nodes that were found. Raises RecipeError and PlacementError where they cannot be dealt out as the recipe asks."""
    devices = max(min(node.gpus for node in found), 1)
    placement = place(Cluster(len(found), devices), recipe.placement.kind, recipe.placement.parts)
    seats = [placement.trainers[rank * len(placement.trainers) // ranks] for rank in range(ranks)]
    hosting = [host for host in range(len(found)) if any(placement.cluster.host(device) == host for device in placement.simulators)]
    _refuse_split_hosts(recipe, placement, hosting)
    dealt = []
    for host in range(len(found)):
        generators, simulators = (_on(host, placement.cluster, stage) for stage in (placement.generators, placement.simulators))
        mine = tuple(rank for rank, seat in enumerate(seats) if placement.cluster.host(seat) == host)
        visible = (*generators, *(device for device in simulators if device not in generators))
        part = _share(recipe, hosting.index(host), len(hosting), generators, [visible.index(device) for device in simulators]) if host in hosting else None
        dealt.append(Station(host, part, mine, visible, tuple(seats[rank] % devices for rank in mine)))
    return [station for station in dealt if station.recipe or station.trainers]


def _on(host: int, cluster: Cluster, stage: Sequence[int]) -> tuple[int, ...]:
    """Of a stage's devices those of one host, by their numbers there."""
    return tuple(device % cluster.devices for device in stage if cluster.host(device) == host)


def _refuse_split_hosts(recipe: Recipe, placement: Placement, hosting: Sequence[int]) -> None:
    cluster = placement.cluster
    for host in hosting:
        if not _on(host, cluster, placement.generators):
            raise RecipeError(
                f"placement.kind={recipe.placement.kind} leaves host {host} with simulators and without a generator, and observations never leave their host: "
                f"use a placement.ratio that divides the {cluster.devices} devices of each host, or placement.kind=colocated or disaggregated"
            )
    for name, simulator in recipe.mixed.items():
        if simulator.shards < len(hosting):
            raise RecipeError(f"{name} has shards={simulator.shards} for {len(hosting)} hosts that simulate: set it to {len(hosting)} or more")


def _share(recipe: Recipe, number: int, hosts: int, generators: Sequence[int], simulators: Sequence[int]) -> Recipe:
    """One host's part of every simulator's shards, and of the generators: at least one a device. generators, simulators: its devices of each."""

    def part(whole: int) -> int:
        return (whole + hosts - 1 - number) // hosts

    def of(simulator: SimulatorConfig) -> SimulatorConfig:
        devices = simulator.devices or ([f"cuda:{device}" for device in simulators] if len(simulators) > 1 else [])
        return simulator.model_copy(update={"shards": part(simulator.shards), "devices": devices})

    return recipe.model_copy(
        update={
            "simulator": of(recipe.simulator),
            "simulators": {name: of(simulator) for name, simulator in recipe.simulators.items()},
            "engine": recipe.engine.model_copy(update={"generators": max(part(recipe.engine.generators), len(generators)), "record": False}),
        }
    )


class Reservation:
    """A bundle of each station's node, for as long as the run lasts."""

    def __init__(self, group: PlacementGroup, dealt: Sequence[Station]) -> None:
        self._group, self.stations = group, dealt

    def strategy(self, bundle: int) -> PlacementGroupSchedulingStrategy:
        return PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle)

    def release(self) -> None:
        remove_placement_group(self._group)


def reserve(recipe: Recipe, ranks: int) -> Reservation:
    """Deal the nodes out and reserve them. A node that has died may be taken for alive for a while, so it is tried again. Raises RecipeError at last."""
    end = time.monotonic() + RESERVE_TIMEOUT_S
    while True:
        found = nodes()
        dealt = stations(recipe, found, ranks)
        bundles = [_bundle(station, found[station.node]) for station in dealt]
        group = placement_group(bundles, strategy="STRICT_SPREAD")
        if group.wait(RESERVE_TRY_S):
            return Reservation(group, dealt)
        remove_placement_group(group)
        if time.monotonic() > end:
            raise RecipeError(f"Ray could not reserve {bundles} on {len(dealt)} nodes within {RESERVE_TIMEOUT_S:g} s: {ray.available_resources()} is free")


def _bundle(station: Station, node: Node) -> dict[str, float]:
    bundle = {"CPU": 1.0} | ({"GPU": float(node.gpus)} if node.gpus else {})
    # Rank 0 of the trainer goes where Ray's own head is: what ends with it would end anyway.
    return bundle | ({HEAD: 0.001} if 0 in station.trainers and ray.cluster_resources().get(HEAD) else {})
