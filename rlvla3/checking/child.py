"""The simulator under examination, in a process of its own.

Invariants:
- every call is answered within its limit;
- a process that hangs is killed, with all that it started; a process that died stays dead, and says so at every further call.
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

import psutil

from rlvla3.checking.subject import Attendant, Built, CallFailed, Described, Left, Trouble, wording
from rlvla3.config import SimulatorConfig
from rlvla3.runtimes.processes.control import Control, Stopped
from rlvla3.runtimes.processes.messages import Ready
from rlvla3.runtimes.processes.process import WorkerProcess
from rlvla3.types import Observation, Outcome, Ticket

START_S = 120.0
MOST_LINES, LAST_LINES = 100, 12
"""Of what a process printed: read, and shown once the lines that tell nothing are left out."""

NOT_TELLING = re.compile(r'^$|^Timeout |^Extension modules:|^  File ".*(/asyncio/|/multiprocessing/|/rlvla3/(checking|runtimes)/|<string>)')
"""How a process was started, and what it has imported."""

STACK_AT = 0.8
"""The share of a call's limit after which the process writes down where it is, in case it hangs."""


async def attend(control: Control, config: SimulatorConfig, chunk: int, timeout_s: float) -> None:
    """The body of a subject's process."""
    faulthandler.enable()
    attendant = Attendant(config, chunk)
    control.send(Ready())
    while True:
        call, arguments = await control.receive()
        faulthandler.dump_traceback_later(STACK_AT * timeout_s)
        control.send(attendant.answer(call, *arguments))
        faulthandler.cancel_dump_traceback_later()


class Child:
    """A Subject in a process of its own. timeout_s: of each call."""

    def __init__(self, name: str, config: SimulatorConfig, chunk: int, timeout_s: float, folder: Path) -> None:
        self._timeout_s = timeout_s
        self._is_ready = self._over = False
        self._trouble: Trouble | None = None
        self._worker = WorkerProcess(name, "rlvla3.checking.child:attend", config, chunk, timeout_s, log=folder / f"{name}.log")

    async def describe(self) -> Described:
        answer: Described = await self._call("describe")
        return answer

    async def build(self) -> Built:
        answer: Built = await self._call("build")
        return answer

    async def reset(self, slot: int, ticket: Ticket) -> Observation:
        answer: Observation = await self._call("reset", slot, ticket)
        return answer

    async def step(self, chunks: Mapping[int, Any]) -> Mapping[int, Outcome]:
        answer: Mapping[int, Outcome] = await self._call("step", chunks)
        return answer

    async def close(self) -> Left:
        answer: Left = await self._call("close")
        return answer

    async def end(self) -> None:
        if self._over:
            return
        started = _family(self._worker.process.pid)
        await self._worker.stop(self._timeout_s)
        self._over = True
        _kill(started)
        if self._worker.process.exitcode == -signal.SIGKILL:
            raise CallFailed(Trouble("its process", "hung", f"did not end within {self._timeout_s:g} s of being told to, and was killed"))

    def kill(self) -> None:
        if not self._over:
            self._over = True
            _kill(_family(self._worker.process.pid))
            self._worker.release()

    async def _call(self, call: str, *arguments: Any) -> Any:
        if self._trouble is not None:
            raise CallFailed(self._trouble)
        try:
            await self._started()
            self._worker.control.send((call, arguments))
            came, answer = await asyncio.wait_for(self._worker.control.receive(), self._timeout_s)
        except TimeoutError:
            self._trouble = Trouble(wording(call, arguments), "hung", f"did not return within {self._timeout_s:g} s{self._last_words()}")
        except Stopped:
            self._worker.process.join(self._timeout_s)
            self._trouble = Trouble(wording(call, arguments), "died", f"ended its process ({self._exit()}){self._last_words()}")
        if self._trouble is not None:
            self.kill()
            raise CallFailed(self._trouble)
        if came == "raised":
            raise CallFailed(answer)
        return pickle.loads(answer)

    async def _started(self) -> None:
        """Before the first call: what starting a process takes is none of the simulator's time."""
        if not self._is_ready:
            await asyncio.wait_for(self._worker.control.receive(), START_S)
            self._is_ready = True

    def _exit(self) -> str:
        code = self._worker.process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    def _last_words(self) -> str:
        words = [line for line in self._worker.last_words(MOST_LINES).splitlines() if not NOT_TELLING.search(line)]
        return "; its last words:\n" + "\n".join(words[-LAST_LINES:]) if words else "; it printed nothing"


def _family(pid: int | None) -> list[psutil.Process]:
    """A process, and all that it started."""
    try:
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        if process.is_running():
            process.kill()
