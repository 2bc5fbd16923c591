"""How a process ended, in words."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

SIGNALS = {
    signal.SIGKILL: "it was killed",
    signal.SIGSEGV: "it crashed, because native code used memory that it does not have",
    signal.SIGBUS: "it crashed, because memory or a mapped file could not be read or written: /dev/shm or a disk may be full",
    signal.SIGABRT: "it crashed, because a native library aborted it",
    signal.SIGILL: "it crashed, because this processor does not know one of its instructions",
    signal.SIGFPE: "it crashed in an arithmetic operation",
}


KILLERS = {
    True: "the system, because memory was used up",
    False: "a user or by a batch system; memory was not used up",
    None: "a user, by a batch system, or by the system because memory was short",
}


class MemoryKills:
    """Notices when the system kills processes because memory is used up. It counts these kills in this process's container and on this machine."""

    def __init__(self) -> None:
        self._seen = _memory_kills()

    def happened(self) -> bool | None:
        """Whether there was one since the last call, or since the beginning. None where the system does not tell."""
        before, self._seen = self._seen, _memory_kills()
        return None if self._seen is None or before is None else self._seen > before


def ending_in_words(exitcode: int, memory_was_used_up: bool | None = None) -> str:
    """How a process ended. exitcode: as multiprocessing gives it, -N for the signal N. memory_was_used_up: None where this is not known."""
    if exitcode >= 0:
        return f"it ended by itself with exit code {exitcode}"
    try:
        sent = signal.Signals(-exitcode)
    except ValueError:  # a real-time signal has no name
        return f"it was ended by signal {-exitcode}"
    if sent is not signal.SIGKILL:
        return f"{SIGNALS.get(sent, 'it was ended by a signal')} ({sent.name})"
    return f"{SIGNALS[sent]} ({sent.name}) by {KILLERS[memory_was_used_up]}"


def _memory_kills() -> int | None:
    """How often the system has killed a process for its memory, as far as this process may know. None where the system does not tell."""
    counts = list(_counts())
    return sum(counts) if counts else None


def _counts() -> Iterator[int]:
    for path in (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")):
        try:
            lines = path.read_text().splitlines()
        except OSError:  # not this system, or not in this container
            continue
        yield from (int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
