"""`rlvla3 check` of a simulator, in this process: for mistakes that end no process."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Mapping
from typing import Any

from rlvla3.checking.checked_simulator import CallFailed, CallHandler
from rlvla3.checking.evidence import Evidence, Examination
from rlvla3.config import SimulatorConfig
from rlvla3.types import Ticket

CHUNK = 5


class Here:
    """A subject in this process: for mistakes that end no process."""

    def __init__(self, config: SimulatorConfig) -> None:
        self._handler = CallHandler(config, CHUNK)

    def _call(self, call: str, *arguments: Any) -> Any:
        came, answer = self._handler.answer(call, *arguments)
        if came == "raised":
            assert not isinstance(answer, bytes)
            raise CallFailed(answer)
        assert isinstance(answer, bytes)
        return pickle.loads(answer)

    async def describe(self) -> Any:
        return self._call("describe")

    async def build(self) -> Any:
        return self._call("build")

    async def reset(self, slot: int, ticket: Ticket) -> Any:
        return self._call("reset", slot, ticket)

    async def step(self, chunks: Mapping[int, Any]) -> Any:
        return self._call("step", chunks)

    async def close(self) -> Any:
        return self._call("close")

    async def end(self) -> None:
        pass

    def kill(self) -> None:
        pass


def config_of(simulator: type, slots: int = 2) -> SimulatorConfig:
    return SimulatorConfig(name=f"{simulator.__module__}:{simulator.__name__}", tasks=["near", "far"], slots=slots)


def examined(settings: SimulatorConfig) -> Evidence:
    return asyncio.run(Examination(settings, CHUNK, lambda _: Here(settings)).run())
