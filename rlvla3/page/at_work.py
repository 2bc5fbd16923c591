"""Whether a run goes on: a process of this host holds the lock of its folder."""

from __future__ import annotations

import os
from pathlib import Path

LOCKS = Path("/proc/locks")
"""Linux tells here who holds a lock on what. Trying to lock the folder could refuse a run that is just starting."""


def is_at_work(path: Path) -> bool | None:
    """Whether a process holds the lock of the run directory. None where the system does not tell."""
    try:
        folder = path.stat()
        locks = LOCKS.read_text()
    except OSError:
        return None
    place = f"{os.major(folder.st_dev):02x}:{os.minor(folder.st_dev):02x}:{folder.st_ino}"
    return any(place in line.split() for line in locks.splitlines())
