"""The simulator under examination: what can be asked of it, and how it answers.

Invariants:
- every call is answered: by what the simulator returned, or by the Trouble it ran into;
- what a call returns is a copy: what the simulator does with its buffers later changes nothing that has been recorded.
"""

from __future__ import annotations

import os
import pickle
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
from rlvla3.simulators.base import Simulator, SimulatorError, SingleEnvironment
from rlvla3.simulators.registry import describe_simulator, make_simulator, simulator_class
from rlvla3.types import Observation, Outcome, Spaces, Ticket

HEAVY = ("torch", "tensorflow", "jax", "mujoco", "OpenGL", "robosuite", "sapien", "pybullet", "pygame", "genesis", "isaacsim")
"""Deep learning and renderers: what describe() must not import, because a recipe is to be checked in an instant."""


@dataclass(frozen=True)
class Trouble:
    """What a call ran into. kind: it was refused with an error that is meant to be read (SimulatorError, RecipeError), it raised another, its process died, or
    it hung."""

    call: str
    kind: Literal["refused", "raised", "died", "hung"]
    words: str

    def __str__(self) -> str:
        return f"{self.call} {self.words}"


class CallFailed(Exception):
    """A call that was not answered by what the simulator returned."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble


@dataclass(frozen=True)
class Described:
    """What describe() said, in how many seconds (the better of two calls), and which of HEAVY were imported by then."""

    spaces: Spaces
    seconds: float
    imported: tuple[str, ...]


@dataclass(frozen=True)
class Built:
    """What the simulator says once it is built. has_expert: None where that only shows when it is asked to act."""

    spaces: Spaces
    slots: int
    has_expert: bool | None


@dataclass(frozen=True)
class Left:
    """What there is after close() that was not there before the simulator was built: threads that keep a process alive, processes."""

    threads: tuple[str, ...]
    processes: tuple[str, ...]


class Subject(Protocol):
    """A simulator, wherever it runs. Every method raises CallFailed where it is not answered."""

    async def describe(self) -> Described: ...

    async def build(self) -> Built: ...

    async def reset(self, slot: int, ticket: Ticket) -> Observation: ...

    async def step(self, chunks: Mapping[int, Any]) -> Mapping[int, Outcome]: ...

    async def close(self) -> Left: ...

    async def end(self) -> None:
        """Let the process end by itself."""

    def kill(self) -> None:
        """Whatever it is doing. Nothing to a process that has ended."""


Answer = tuple[Literal["returned"], bytes] | tuple[Literal["raised"], Trouble]


class Attendant:
    """The simulator's side: does what it is asked and answers, whatever happens."""

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        self._config, self._chunk = config, chunk

    def answer(self, call: str, *arguments: Any) -> Answer:
        """What comes of a call, pickled: what cannot be is the simulator's fault as well."""
        try:
            return "returned", pickle.dumps(getattr(self, call)(*arguments))
        except Exception as error:
            if isinstance(error, (SimulatorError, RecipeError)):
                return "raised", Trouble(wording(call, arguments), "refused", f"raised {type(error).__name__}: {error}")
            return "raised", Trouble(wording(call, arguments), "raised", f"raised {type(error).__name__}: {error}\n{_end_of_traceback(error)}")

    def describe(self) -> Described:
        before = set(sys.modules)
        simulator_class(self._config.name)
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            spaces = describe_simulator(self._config)
            seconds.append(time.perf_counter() - start)
        return Described(spaces, min(seconds), tuple(name for name in HEAVY if name in sys.modules and name not in before))

    def build(self) -> Built:
        self._threads, self._processes = set(threading.enumerate()), _children()
        self._simulator: Simulator = make_simulator(self._config, self._chunk)
        kind = type(self._simulator)
        has_expert = kind.expert_action is not SingleEnvironment.expert_action if issubclass(kind, SingleEnvironment) else None
        return Built(self._simulator.spaces, self._simulator.slots, has_expert)

    def reset(self, slot: int, ticket: Ticket) -> Observation:
        observation = self._simulator.reset(slot, ticket)
        if not isinstance(observation, Observation):
            raise SimulatorError(f"it returned a {type(observation).__name__}: return an rlvla3.types.Observation")
        return observation

    def step(self, chunks: Mapping[int, Any]) -> dict[int, Outcome]:
        outcomes = self._simulator.step(chunks)
        if not isinstance(outcomes, Mapping) or set(outcomes) != set(chunks):
            raise SimulatorError(f"slots {sorted(chunks)} were stepped, and it returned {outcomes!r:.200}: return {{slot: Outcome}} for exactly these slots")
        for slot, outcome in outcomes.items():
            if not isinstance(outcome, Outcome):
                raise SimulatorError(f"it returned a {type(outcome).__name__} for slot {slot}: return an rlvla3.types.Outcome")
        return dict(outcomes)

    def close(self) -> Left:
        self._simulator.close()
        threads = [thread.name for thread in set(threading.enumerate()) - self._threads if thread.is_alive() and not thread.daemon]
        return Left(tuple(threads), tuple(f"{process.name()} ({process.pid})" for process in _children() - self._processes))


def wording(call: str, arguments: tuple[Any, ...]) -> str:
    """A call as a finding names it."""
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
    """The processes that this one started and that are still at work."""
    mine = psutil.Process(os.getpid()).children(recursive=True)
    return {process for process in mine if process.is_running() and process.status() != psutil.STATUS_ZOMBIE}
