"""Workers that are lost: how a process ended, in words, and whether a successor makes sense. Nothing here imports torch."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

from rlvla3.observability.formatting import number_of

IN_VAIN = 5
"""How often in a row a worker may be lost without having got any further. Its next successor would be lost too."""

SIGNALS = {
    signal.SIGKILL: "it was killed",
    signal.SIGSEGV: "it crashed, because native code used memory that it does not have",
    signal.SIGBUS: "it crashed, because memory or a mapped file could not be read or written: /dev/shm or a disk may be full",
    signal.SIGABRT: "it crashed, because a native library aborted it",
    signal.SIGILL: "it crashed, because this processor does not know one of its instructions",
    signal.SIGFPE: "it crashed in an arithmetic operation",
}


class MemoryKills:
    """Notices when the system kills processes because memory is used up. It counts these kills in this process's container and on this machine."""

    def __init__(self) -> None:
        self._seen = _memory_kills()

    def happened(self) -> bool:
        """Whether there was one since the last call, or since the beginning."""
        before, self._seen = self._seen, _memory_kills()
        return self._seen > before


def ending_in_words(exitcode: int, memory_was_used_up: bool = False) -> str:
    """How a process ended. exitcode: as multiprocessing gives it, -N for the signal N."""
    if exitcode >= 0:
        return f"it ended by itself with exit code {exitcode}"
    try:
        sent = signal.Signals(-exitcode)
    except ValueError:  # a real-time signal has no name
        return f"it was ended by signal {-exitcode}"
    if sent is not signal.SIGKILL:
        return f"{SIGNALS.get(sent, 'it was ended by a signal')} ({sent.name})"
    by = "the system, because memory was used up" if memory_was_used_up else "a user, by a batch system, or by the system because memory was short"
    return f"{SIGNALS[sent]} ({sent.name}) by {by}"


def run_again(tickets: int) -> str:
    """What becomes of the tickets that a lost worker was running."""
    return f"its {number_of(tickets, 'running ticket')} {'is' if tickets == 1 else 'are'} run again" if tickets else "it was running no ticket"


class Losses:
    """Counts how often one worker was lost. limit: how often it may be replaced.

    losses = Losses(limit=20)
    if why_not := losses.why_not_replaced(progress=answers): ...
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._count, self._in_vain, self._progress = limit, 0, 0, -1

    def why_not_replaced(self, progress: int) -> str:
        """The worker is lost once more. Returns why there is no successor, as the end of a sentence; empty if there is one.

        progress: grows with the work that the worker and its predecessors have done.
        """
        self._count += 1
        self._in_vain = 1 if progress > self._progress else self._in_vain + 1
        self._progress = max(progress, self._progress)
        if self._count > self._limit:
            return f"it is not replaced, because engine.max_restarts={self._limit} is used up"
        if self._in_vain >= IN_VAIN:
            return f"it is not replaced, because it was lost {IN_VAIN} times in a row and got no further in between"
        return ""


def _memory_kills() -> int:
    """How often the system has killed a process for its memory, as far as this process may know."""
    return sum(_counts())


def _counts() -> Iterator[int]:
    for path in (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")):
        try:
            lines = path.read_text().splitlines()
        except OSError:  # not this system, or not in this container
            continue
        yield from (int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
