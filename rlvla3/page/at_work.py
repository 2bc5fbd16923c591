"""Signs that a run goes on: a process of this machine holds the lock of its folder, or the run has written lately to a disk that other machines may use.

Invariants:
- on a disk that this machine alone uses, whoever works on a run holds a lock that is seen here, also from another container. So a run that was killed is seen
  at once;
- nothing here says that a run on a shared disk is dead. Its host may be slow. So only these facts are told: no process of this machine works on it, and for
  how long it has been silent.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil

from rlvla3.observability.machine_use import FILE as MACHINE
from rlvla3.observability.run_directory import RunDirectory

QUIET_S = 300.0
"""A run that has written within so long goes on. An update may take minutes."""

OF_ONE_MACHINE = frozenset(("apfs", "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"))
"""File systems that one machine alone uses. Any other one may be shared."""


@dataclass(frozen=True, slots=True)
class Signs:
    """Signs of work. locked: whether a process of this machine holds the lock of the run directory; None where the system does not tell. quiet_s: for how long
    the run has written nothing; infinite where it has no file. shared: whether a process of another machine may work on it."""

    locked: bool | None
    quiet_s: float
    shared: bool = True

    @property
    def none_for_certain(self) -> bool:
        """Nobody works on it: no process of this machine does, and no other machine can."""
        return self.locked is False and not self.shared

    @property
    def of_work(self) -> bool:
        return bool(self.locked) or (not self.none_for_certain and self.quiet_s < QUIET_S)


def signs(run: RunDirectory) -> Signs:
    """The signs of work in a run directory."""
    return Signs(is_locked(run.path), time.time() - max(_written(run), default=float("-inf")), is_shared(run.path))


def is_locked(path: Path) -> bool | None:
    """Whether a process of this machine holds the lock of the run directory. None where the system does not tell.

    It is found out by locking the folder for a moment, together with others who ask. A run that starts in this moment tries again (RunDirectory.locked).
    """
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError:  # it may not be read, or is gone
        return None
    try:
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # this file system has no locks
        return None
    finally:
        os.close(folder)  # it ends the lock
    return False


@lru_cache(1000)
def is_shared(path: Path) -> bool:
    """Whether other machines may use the disk that `path` is on."""
    kinds = {Path(mounted.mountpoint): mounted.fstype for mounted in psutil.disk_partitions(all=True)}
    whole = path.resolve()
    place = next((folder for folder in (whole, *whole.parents) if folder in kinds), None)
    return place is None or kinds[place] not in OF_ONE_MACHINE


def _written(run: RunDirectory) -> Iterator[float]:
    """When each file that the run writes was written last."""
    for path in (run.config, run.metrics, run.summary, run.path / MACHINE, *run.record.glob("*.bin")):
        try:
            yield path.stat().st_mtime
        except OSError:  # it is not there, or may not be read
            continue
