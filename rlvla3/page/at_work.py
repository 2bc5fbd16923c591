"""Signs that a run goes on: a process of this machine holds the lock of its folder, or the run has written lately.

Invariant: nothing here says that a run is dead. Linux does not list the locks of another host or of another container. On some file systems it lists the lock
under another device. A run without a lock that has written nothing for a long time may still be at work. So only these two facts are told.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlvla3.observability.machine_use import FILE as MACHINE
from rlvla3.observability.run_directory import RunDirectory

LOCKS = Path("/proc/locks")
"""Linux tells here who holds a lock on what. Trying to lock the folder could refuse a run that is just starting."""

QUIET_S = 300.0
"""A run that has written within so long goes on. An update may take minutes."""


@dataclass(frozen=True, slots=True)
class Signs:
    """Signs of work. locked: whether a process of this machine holds the lock of the run directory; None where the system does not tell. quiet_s: for how long
    the run has written nothing; infinite where it has no file."""

    locked: bool | None
    quiet_s: float

    @property
    def of_work(self) -> bool:
        return bool(self.locked) or self.quiet_s < QUIET_S


def signs(run: RunDirectory) -> Signs:
    """The signs of work in a run directory."""
    return Signs(is_locked(run.path), time.time() - max(_written(run), default=float("-inf")))


def is_locked(path: Path) -> bool | None:
    """Whether a process of this machine holds the lock of the run directory. None where the system does not tell."""
    try:
        folder = path.stat()
        locks = LOCKS.read_text()
    except OSError:
        return None
    place = f"{os.major(folder.st_dev):02x}:{os.minor(folder.st_dev):02x}:{folder.st_ino}"
    return any(place in line.split() for line in locks.splitlines())


def _written(run: RunDirectory) -> Iterator[float]:
    """When each file that the run writes was written last."""
    for path in (run.config, run.metrics, run.summary, run.path / MACHINE, *run.record.glob("*.bin")):
        try:
            yield path.stat().st_mtime
        except OSError:  # it is not there, or may not be read
            continue
