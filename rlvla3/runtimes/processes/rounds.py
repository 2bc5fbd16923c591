"""Workers that only work to be measured: they do rounds until a time, and say how long a round took."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from rlvla3.errors import WorkerError
from rlvla3.runtimes.processes.control import Stopped
from rlvla3.runtimes.processes.messages import Failed
from rlvla3.runtimes.processes.process import WorkerProcess


@dataclass(frozen=True, slots=True)
class WorkUntil:
    """Coordinator to worker: do rounds until this time of the monotonic clock, and at least one. Answered by RoundSeconds."""

    until: float


@dataclass(frozen=True, slots=True)
class RoundSeconds:
    """Worker to coordinator: the mean seconds of a round."""

    seconds: float


class NoAnswer(WorkerError):
    """A measured worker has failed, ended, or not answered in time. The first line says what happened, the others what it printed last."""


async def answer_of(worker: WorkerProcess, limit_s: float) -> Any:
    """The next message of a measured worker. Raises NoAnswer, or WorkerError for an error of the worker that explains itself."""
    try:
        message = await asyncio.wait_for(worker.control.receive(), limit_s)
    except Stopped:
        raise _no_answer(worker, "ended unexpectedly") from None
    except TimeoutError:
        raise _no_answer(worker, f"has not answered within {limit_s:.0f} s") from None
    if not isinstance(message, Failed):
        return message
    if message.explained:
        raise WorkerError(message.message)
    raise _no_answer(worker, f"failed with {message.kind}: {message.message}")


def _no_answer(worker: WorkerProcess, why: str) -> NoAnswer:
    return NoAnswer(f"{worker.name} {why} (its output is in {worker.log})\n{worker.last_words()}")
