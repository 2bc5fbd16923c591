"""Ray's nodes as the hosts of a placement: what each node does in the run, and what is reserved on it.

scheduling/placement.py deals devices out, as in a rehearsal. Ray reserves one bundle on each node, and restarts a lost actor on a node that is left. If no node
has a GPU, each node counts as one device. If some have GPUs, nodes without one take no part in the run.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rlvla3.config import Recipe, SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.scheduling.placement import Cluster, Placement, place
from rlvla3.signals import HEARD, handlers_kept
from rlvla3.simulators.description import described

RESERVE_TIMEOUT_S, RESERVE_TRY_S = 60.0, 10.0

ANSWER_S = 2.0
"""How long the head of a cluster may take to accept a connection."""

HEAD = "node:__internal_head__"
"""A resource that only the node of Ray's head has."""


@dataclass(frozen=True, slots=True)
class Node:
    """What one node has. head: whether Ray's head runs on it."""

    gpus: int
    cpus: int
    head: bool = False


@dataclass(frozen=True, slots=True)
class NodeRole:
    """What one node does in the run, and with which of its devices.

    recipe: with this host's own shards and generators (None: it runs none). trainers: the ranks on it. devices: the GPUs that generators and simulators see,
    those of generators first. trainer_devices: the GPU of each rank. draw_on: the GPUs of simulators, as the host numbers those that it sees.
    """

    node: int
    recipe: Recipe | None
    trainers: tuple[int, ...]
    devices: tuple[int, ...]
    trainer_devices: tuple[int, ...]
    draw_on: tuple[str, ...] = ()


def connect(address: str) -> bool:
    """Connect to the Ray cluster at `address`, or start one on this machine. Returns whether it was started here and so has to be ended here."""
    if ray.is_initialized():
        return False
    _check(address)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # actors without reserved GPUs see all GPUs; the placement says which ones they use
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    # Ray's processes inherit this: a dropped ssh, or a warning of a batch system to every process of a job, would end them. Ray itself uses SIGTERM.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD - {signal.SIGTERM})
    try:
        with handlers_kept():  # Ray sets one for SIGTERM, which ends this process 3 s later, whether the run has saved its checkpoint or not
            ray.init(address, **quiet) if address else ray.init("local", include_dashboard=False, **quiet)
    except ConnectionError as error:
        raise _no_answer(address, error) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return not address


def _check(address: str) -> None:
    """Raises RecipeError if nothing answers at `address`. Ray itself needs minutes to find that out."""
    if address in ("", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not re.fullmatch(r"[\w.-]+|\[[\da-fA-F:]+\]", host) or not port.isdecimal():
        raise RecipeError(f"ray.address={address} is no address of a Ray cluster: write host:port, as `ray start --head` prints it, or auto, or leave it empty")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise _no_answer(address, error) from error


def _no_answer(address: str, error: Exception) -> RecipeError:
    return RecipeError(f"no Ray cluster answers at ray.address={address} ({error}): start one with `ray start --head`, or leave ray.address empty")


def nodes() -> list[Node]:
    """The nodes that are alive and have devices."""
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"])
    return with_devices([Node(int(of.get("GPU", 0)), int(of.get("CPU", 1)), HEAD in of) for of in (node["Resources"] for node in alive)])


def with_devices(found: Sequence[Node]) -> list[Node]:
    """The nodes that have GPUs; all nodes, if none has any."""
    return [node for node in found if node.gpus] or list(found)


def roles(recipe: Recipe, found: Sequence[Node], ranks: int) -> list[NodeRole]:
    """The roles of the nodes that were found. Raises RecipeError or PlacementError if they cannot be dealt out as the recipe asks."""
    devices = max(min(node.gpus for node in found), 1)
    placement = place(Cluster(len(found), devices), recipe.placement.kind, recipe.placement.parts)
    if ranks > len(placement.trainers) and found[0].gpus:
        raise RecipeError(
            f"training.ranks={ranks} is more than the {len(placement.trainers)} GPUs that placement.kind={recipe.placement.kind} gives the trainer, and each "
            f"rank needs one of its own: set training.ranks to {len(placement.trainers)} or fewer, or another placement.ratio"
        )
    seats = [placement.trainers[rank * len(placement.trainers) // ranks] for rank in range(ranks)]
    hosting = [host for host in range(len(found)) if any(placement.cluster.host(device) == host for device in placement.simulators)]
    _refuse_split_hosts(recipe, placement, hosting)
    dealt = []
    for host in range(len(found)):
        generators, simulators = (_on(host, placement.cluster, stage) for stage in (placement.generators, placement.simulators))
        mine = tuple(rank for rank, seat in enumerate(seats) if placement.cluster.host(seat) == host)
        visible = (*generators, *(device for device in simulators if device not in generators))
        draw_on = tuple(f"cuda:{visible.index(device)}" for device in simulators)
        part = _share(recipe, hosting.index(host), len(hosting), generators, draw_on) if host in hosting else None
        dealt.append(NodeRole(host, part, mine, visible, tuple(seats[rank] % devices for rank in mine), draw_on))
    _refuse_rigid(recipe, dealt)
    return [role for role in dealt if role.recipe or role.trainers]


def _on(host: int, cluster: Cluster, stage: Sequence[int]) -> tuple[int, ...]:
    """The devices of a stage that one host has, by their numbers on that host."""
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


def _refuse_rigid(recipe: Recipe, dealt: Sequence[NodeRole]) -> None:
    engine, hosts = recipe.engine, [role.recipe.engine for role in dealt if role.recipe]
    if engine.elastic is not None and all(host.elastic is None for host in hosts):
        raise RecipeError(
            f"engine.elastic.least={engine.elastic.least} leaves nothing to choose with engine.generators={engine.generators} on {len(hosts)} hosts that "
            f"simulate, each of which has at least one that is active: set engine.generators to {max(engine.elastic.least, len(hosts)) + 1} or more, or "
            f"engine.elastic to null"
        )


def _share(recipe: Recipe, number: int, hosts: int, generators: Sequence[int], simulators: Sequence[str]) -> Recipe:
    """The recipe with one host's part of every simulator's shards, and of the generators: at least one on each device, and at least one that is always active.

    generators, simulators: the host's devices of these stages.
    """
    engine = recipe.engine

    def part(whole: int) -> int:
        return (whole + hosts - 1 - number) // hosts

    def of(simulator: SimulatorConfig) -> SimulatorConfig:
        takes_turns = len(simulators) > 1 and not described(simulator).draws_with_mujoco  # the host finds out where it can draw
        devices = simulator.devices or (list(simulators) if takes_turns else [])
        return simulator.model_copy(update={"shards": part(simulator.shards), "devices": devices})

    most = max(part(engine.generators), len(generators))
    elastic = engine.elastic and engine.elastic.model_copy(update={"least": max(part(engine.elastic.least), 1)})
    return recipe.model_copy(
        update={
            "simulator": of(recipe.simulator),
            "simulators": {name: of(simulator) for name, simulator in recipe.simulators.items()},
            "engine": engine.model_copy(update={"generators": most, "elastic": elastic if elastic and elastic.least < most else None, "record": False}),
        }
    )


class Reservation:
    """A bundle on the node of each role, for as long as the run lasts."""

    def __init__(self, group: PlacementGroup, dealt: Sequence[NodeRole]) -> None:
        self._group, self.roles = group, dealt

    def strategy(self, bundle: int) -> PlacementGroupSchedulingStrategy:
        return PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle)

    def release(self) -> None:
        remove_placement_group(self._group)


def reserve(recipe: Recipe, ranks: int) -> Reservation:
    """Deal the nodes out and reserve them. Ray may list a dead node as alive for a while, so this tries again. Raises RecipeError after RESERVE_TIMEOUT_S."""
    end = time.monotonic() + RESERVE_TIMEOUT_S
    while True:
        found = nodes()
        dealt = roles(recipe, found, ranks)
        bundles = [_bundle(role, found) for role in dealt]
        group = placement_group(bundles, strategy="STRICT_SPREAD")
        if group.wait(RESERVE_TRY_S):
            return Reservation(group, dealt)
        remove_placement_group(group)
        if time.monotonic() > end:
            raise RecipeError(f"Ray could not reserve {bundles} on {len(dealt)} nodes within {RESERVE_TIMEOUT_S:g} s: {ray.available_resources()} is free")


def _bundle(role: NodeRole, found: Sequence[Node]) -> dict[str, float]:
    """What is reserved for a role. It asks for no more GPUs than every node has, so that Ray can place it on any node."""
    gpus = min(node.gpus for node in found)
    # Rank 0 of the trainer goes to the node of Ray's head: if that node is lost, the run ends anyway.
    with_head = 0 in role.trainers and any(node.head for node in found)
    return {"CPU": 1.0} | ({"GPU": float(gpus)} if gpus else {}) | ({HEAD: 0.001} if with_head else {})
