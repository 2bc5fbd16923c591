"""What the workers of a rehearsal see of the runtime that they are part of (runtime.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rlvla3.config import Recipe
from rlvla3.runtimes.virtual.clock import Promise, VirtualClock
from rlvla3.runtimes.virtual.costs import Profile
from rlvla3.runtimes.virtual.machine import Machine
from rlvla3.types import Finished, Version


class World(Protocol):
    """steps: environment steps that all shards have made. offloads: whether trainer and generators have their devices in turn (engine.offload). switches:
    whether an update ends with a switch of devices between stages. across: how many times slower training is because its ranks are on several hosts."""

    clock: VirtualClock
    machine: Machine
    profile: Profile
    recipe: Recipe
    steps: int

    @property
    def offloads(self) -> bool: ...

    @property
    def switches(self) -> bool: ...

    @property
    def across(self) -> float: ...

    def delay(self) -> Promise:
        """To be awaited: a message arrives."""

    def kills(self, ticket: int) -> bool:
        """Whether a ticket kills every shard that begins it."""

    def withdraws(self, shard: int) -> bool:
        """Whether a shard is to drop its tickets of the evaluation beside training."""

    def crash(self, shard: int) -> None:
        """A shard dies now."""

    def hand_in(self, shard: int, finished: Sequence[Finished]) -> None:
        """Episodes of a shard have ended."""

    def publish(self, version: Version, sender: int) -> None:
        """A version is trained, on the device `sender`."""

    async def free_devices(self) -> None:
        """Have every generator leave its device."""

    def offload(self, held: float) -> float:
        """Seconds in which `held` bytes enter or leave a device, where the recipe has them do so."""
