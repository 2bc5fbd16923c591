"""A trainer, a sender and hosts of the weight plane, for tests of what goes between hosts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import torch
from torch import Tensor

from rlvla3.choices import CarrierName
from rlvla3.links.weights.between_hosts.carrier import Carrier
from rlvla3.links.weights.between_hosts.host import WeightHost
from rlvla3.links.weights.between_hosts.sender import WeightSender
from rlvla3.links.weights.between_hosts.wire import Ask
from rlvla3.links.weights.plane import WeightPlane
from rlvla3.links.weights.versions import WeightMemory
from tests.support.processes import PATIENCE_S

any_carrier = pytest.mark.parametrize("carrier", ["tcp", "gloo"])


def weights(width: int = 100) -> dict[str, Tensor]:
    return {f"layer {number}": torch.full((width, 102), -1.0) for number in range(8)}


def values(tensors: dict[str, Tensor]) -> set[float]:
    return {value for tensor in tensors.values() for value in tensor.unique().tolist()}


class Trainer:
    """Publishes versions that hold their own number, 80 pieces each (with another width, more)."""

    def __init__(self, width: int = 100) -> None:
        self.memory, self._tensors = WeightMemory(), weights(width)
        self._plane = WeightPlane(self.memory, self._tensors)
        self.size = self._plane.size

    def publish(self, version: int, then: Callable[[], None] | None = None) -> None:
        for tensor in self._tensors.values():
            tensor.fill_(version)
        self._plane.publish(version, then)


class Watched(WeightSender):
    """Remembers what was asked of it."""

    def __init__(self, memory: WeightMemory, carrier: CarrierName = "tcp") -> None:
        super().__init__(memory, carrier=carrier)
        self.asked: list[Ask] = []

    async def _give(self, carrier: Carrier, ask: Ask) -> None:
        self.asked.append(ask)
        await super()._give(carrier, ask)


@asynccontextmanager
async def running(*hosts: WeightHost) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(host.run()) for host in hosts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.002)


def has(memory: WeightMemory, version: int) -> bool:
    return memory.newest == version


def all_have(sender: WeightSender, version: int) -> bool:
    return set(sender.reached().values()) == {version}


def load(memory: WeightMemory) -> tuple[int, set[float]]:
    """As a generator on that host does."""
    tensors = weights()
    return WeightPlane(memory, tensors).load(), values(tensors)
