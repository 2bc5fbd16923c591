"""The simulator under examination: the calls that can be made to it, and how they are answered.

Invariants:
- every call is answered, either with what the simulator returned or with the Failure of the call;
- what a call returns is a copy: if the simulator writes to its buffers later, nothing that has been recorded changes.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import psutil

from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.runtimes.processes.plain_pickle import dumps
from rlvla3.simulators.base import Simulator, SimulatorError, SingleEnvironment
from rlvla3.simulators.contract import reset_kind_fault, step_kind_fault
from rlvla3.simulators.registry import describe_simulator, make_simulator, simulator_class
from rlvla3.types import Observation, Outcome, Spaces, Ticket

HEAVY_PACKAGES = ("torch", "tensorflow", "jax", "mujoco", "OpenGL", "robosuite", "sapien", "pybullet", "pygame", "genesis", "isaacsim")
"""Packages for deep learning and rendering. describe() must not import them, because a recipe must be checked in an instant."""


@dataclass(frozen=True)
class Failure:
    """Why a call failed.

    kind: "refused": it raised an error that is meant to be read (SimulatorError, RecipeError); "raised": it raised another error; "died": its process died;
    "hung": it did not return in time. message: what happened, as the rest of a sentence that begins with `call`. Where describe() refused, it is
    the sentence of its error.
    """

    call: str
    kind: Literal["refused", "raised", "died", "hung"]
    message: str

    def __str__(self) -> str:
        return f"{self.call} {self.message}"


class CallFailed(Exception):
    """A call failed: the simulator returned nothing."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


@dataclass(frozen=True)
class Description:
    """What describe() returned. seconds: the faster of two calls. imported: the HEAVY_PACKAGES that it imported."""

    spaces: Spaces
    seconds: float
    imported: tuple[str, ...]


@dataclass(frozen=True)
class BuiltSimulator:
    """What a built simulator says of itself. has_expert: None if this is known only when the expert is asked to act."""

    spaces: Spaces
    slots: int
    has_expert: bool | None


@dataclass(frozen=True)
class Leftovers:
    """What close() left behind: threads that keep the process alive, and processes, that did not exist before the simulator was built."""

    threads: tuple[str, ...]
    processes: tuple[str, ...]


class CheckedSimulator(Protocol):
    """A simulator under examination, in this process or in another. Every method raises CallFailed if its call fails."""

    async def describe(self) -> Description: ...

    async def build(self) -> BuiltSimulator: ...

    async def reset(self, slot: int, ticket: Ticket) -> Observation: ...

    async def step(self, chunks: Mapping[int, Any]) -> Mapping[int, Outcome]: ...

    async def close(self) -> Leftovers: ...

    async def end(self) -> None:
        """Tell the process to end, and wait until it has ended."""

    def kill(self) -> None:
        """Kill the process, whatever it is doing. Does nothing if it has ended."""


Answer = tuple[Literal["returned"], bytes] | tuple[Literal["raised"], Failure]


class CallHandler:
    """The simulator's side: makes each call and returns an answer, whatever happens."""

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        self._config, self._chunk = config, chunk

    def answer(self, call: str, *arguments: Any) -> Answer:
        """The answer to a call. What the call returned is pickled; if it cannot be pickled, this too is a failure of the simulator."""
        try:
            return "returned", dumps(getattr(self, call)(*arguments))
        except Exception as error:
            if isinstance(error, (SimulatorError, RecipeError)):
                # What `describe` refuses ends the check, and the user reads nothing but this sentence.
                said = str(error) if call == "describe" else f"raised {type(error).__name__}: {error}"
                return "raised", Failure(call_words(call, arguments), "refused", said)
            return "raised", Failure(call_words(call, arguments), "raised", f"raised {type(error).__name__}: {error}\n{_end_of_traceback(error)}")

    def describe(self) -> Description:
        before = set(sys.modules)
        simulator_class(self._config.name)
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            spaces = describe_simulator(self._config)
            seconds.append(time.perf_counter() - start)
        return Description(spaces, min(seconds), tuple(name for name in HEAVY_PACKAGES if name in sys.modules and name not in before))

    def build(self) -> BuiltSimulator:
        self._threads, self._processes = set(threading.enumerate()), _children()
        self._simulator: Simulator = make_simulator(self._config, self._chunk)
        kind = type(self._simulator)
        has_expert = kind.expert_action is not SingleEnvironment.expert_action if issubclass(kind, SingleEnvironment) else None
        return BuiltSimulator(self._simulator.spaces, self._simulator.slots, has_expert)

    def reset(self, slot: int, ticket: Ticket) -> Observation:
        observation = self._simulator.reset(slot, ticket)
        if fault := reset_kind_fault(observation):
            raise SimulatorError(fault)
        return observation

    def step(self, chunks: Mapping[int, Any]) -> dict[int, Outcome]:
        outcomes = self._simulator.step(chunks)
        if fault := step_kind_fault(outcomes, chunks):
            raise SimulatorError(fault)
        return dict(outcomes)

    def close(self) -> Leftovers:
        self._simulator.close()
        threads = [thread.name for thread in set(threading.enumerate()) - self._threads if thread.is_alive() and not thread.daemon]
        return Leftovers(tuple(threads), tuple(f"{process.name()} ({process.pid})" for process in _children() - self._processes))


def call_words(call: str, arguments: tuple[Any, ...]) -> str:
    """A call in the words of a finding."""
    match call, arguments:
        case "reset", (slot, ticket):
            return f"reset({slot}, {ticket_words(ticket)})"
        case "step", (chunks,):
            return f"step of slots {sorted(chunks)}" + (" by the expert" if any(chunk is None for chunk in chunks.values()) else "")
        case _:
            return f"{call}()"


def ticket_words(ticket: Ticket) -> str:
    return f"ticket {ticket.index}: task {ticket.task}, seed {ticket.seed}"


def _end_of_traceback(error: Exception, lines: int = 6) -> str:
    return "\n".join("".join(traceback.format_tb(error.__traceback__)).splitlines()[-lines:])


def _children() -> set[psutil.Process]:
    """The processes that this process has started and that have not ended."""
    children = psutil.Process(os.getpid()).children(recursive=True)
    return {process for process in children if process.is_running() and process.status() != psutil.STATUS_ZOMBIE}
