"""The simulator under examination, in a process of its own.

Invariants:
- every call is answered within its limit;
- a process that hangs is killed, together with all processes that it started;
- a process that died is not started again: every further call fails in the same way.
"""

from __future__ import annotations

import asyncio
import faulthandler
import pickle
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvla3.checking.checked_simulator import BuiltSimulator, CallFailed, CallHandler, Description, Failure, Leftovers, call_words
from rlvla3.config import SimulatorConfig
from rlvla3.process_ends import ending_in_words
from rlvla3.runtimes.processes.control import Control, Stopped
from rlvla3.runtimes.processes.messages import Ready
from rlvla3.runtimes.processes.process import start_worker
from rlvla3.types import Observation, Outcome, Ticket

START_S = 120.0
READ_LINES, SHOWN_LINES = 100, 12
"""The last lines that a process printed: how many are read, and how many are shown of those that are not IRRELEVANT."""

IRRELEVANT = re.compile(r'^$|^Timeout |^Extension modules:|^  File ".*(/asyncio/|/multiprocessing/|/rlvla3/(checking|runtimes)/|<string>)')
"""Lines that say only how the process was started and what it has imported."""

STACK_AT = 0.8
"""The share of a call's limit after which the process prints its stack, in case it hangs."""


def limit_of(call: str, config: SimulatorConfig, timeout_s: float | None) -> float:
    """The seconds that a call may take: `timeout_s`, or what a run allows (None)."""
    return timeout_s or (config.build_timeout_s if call in ("describe", "build") else config.timeout_s)


async def answer_calls(control: Control, config: SimulatorConfig, chunk: int, timeout_s: float | None) -> None:
    """The body of the simulator's process: receives calls and sends their answers."""
    faulthandler.enable()
    handler = CallHandler(config, chunk)
    control.send(Ready())
    while True:
        call, arguments = await control.receive()
        faulthandler.dump_traceback_later(STACK_AT * limit_of(call, config, timeout_s))
        control.send(handler.answer(call, *arguments))
        faulthandler.cancel_dump_traceback_later()


class SimulatorProcess:
    """A CheckedSimulator in a process of its own. timeout_s: the limit of each call (None: as in a run). folder: where its log goes."""

    def __init__(self, name: str, config: SimulatorConfig, chunk: int, timeout_s: float | None, folder: Path) -> None:
        self._config, self._timeout_s = config, timeout_s
        self._has_started = self._has_ended = False
        self._failure: Failure | None = None
        body, log = "rlvla3.checking.simulator_process:answer_calls", folder / f"{name}.log"
        self._worker = start_worker(name, body, config, chunk, timeout_s, log=log, own_session=True, python=config.python)

    async def describe(self) -> Description:
        answer: Description = await self._call("describe")
        return answer

    async def build(self) -> BuiltSimulator:
        answer: BuiltSimulator = await self._call("build")
        return answer

    async def reset(self, slot: int, ticket: Ticket) -> Observation:
        answer: Observation = await self._call("reset", slot, ticket)
        return answer

    async def step(self, chunks: Mapping[int, Any]) -> Mapping[int, Outcome]:
        answer: Mapping[int, Outcome] = await self._call("step", chunks)
        return answer

    async def close(self) -> Leftovers:
        answer: Leftovers = await self._call("close")
        return answer

    async def end(self) -> None:
        if self._has_ended:
            return
        limit = limit_of("close", self._config, self._timeout_s)
        await self._worker.stop(limit)
        self._has_ended = True
        if self._worker.process.exitcode == -signal.SIGKILL:
            raise CallFailed(Failure("its process", "hung", f"did not end within {limit:g} s of being told to, and was killed"))

    def kill(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._worker.process.kill()
            self._worker.release()

    async def _call(self, call: str, *arguments: Any) -> Any:
        if self._failure is not None:
            raise CallFailed(self._failure)
        limit = limit_of(call, self._config, self._timeout_s)
        try:
            await self._wait_until_started()
            self._worker.control.send((call, arguments))
            kind, answer = await asyncio.wait_for(self._worker.control.receive(), limit)
        except TimeoutError:
            self._failure = Failure(call_words(call, arguments), "hung", f"did not return within {limit:g} s{self._last_lines()}")
        except Stopped:
            self._worker.process.join(limit)
            self._failure = Failure(call_words(call, arguments), "died", f"lost its process: {self._ending()}{self._last_lines()}")
        if self._failure is not None:
            self.kill()
            raise CallFailed(self._failure)
        if kind == "raised":
            raise CallFailed(answer)
        return pickle.loads(answer)

    async def _wait_until_started(self) -> None:
        """Wait for the process before the first call, so that its start does not count as the simulator's time."""
        if not self._has_started:
            await asyncio.wait_for(self._worker.control.receive(), START_S)
            self._has_started = True

    def _ending(self) -> str:
        code = self._worker.process.exitcode
        return "it closed what it answers with" if code is None else ending_in_words(code)

    def _last_lines(self) -> str:
        lines = [line for line in self._worker.last_words(READ_LINES).splitlines() if not IRRELEVANT.search(line)]
        return "; the last lines that it printed:\n" + "\n".join(lines[-SHOWN_LINES:]) if lines else "; it printed nothing"
