"""Orders: how a benchmark tells a process of a run to do something bad to itself, at a place of its own code.

An order is a file. Its name is the place, such as `step`, and its text is what to do there, such as `hang`. The first process that comes to the place removes
the file and obeys: so one process does, however many there are. Two orders stay and count for all processes: CLOCK_STEP and SLOW_DISK.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = "RLVLA3_CHAOS_ORDERS"
"""The environment variable that names the folder of the orders. Every process of a run inherits it."""

CLOCK_STEP, SLOW_DISK = "clock-step", "slow-disk"
"""CLOCK_STEP: seconds that are added to the clock of the wall. SLOW_DISK: seconds that each flush to the disk takes longer."""

LONG_S = 3600.0


def give(folder: Path, place: str, what: str) -> None:
    """Order whoever comes to `place` first to do `what`."""
    beside = folder / f".{place}"
    beside.write_text(what)
    beside.rename(folder / place)


def withdraw(folder: Path, place: str) -> bool:
    """Take an order back. Returns whether it was still there: nobody has obeyed it."""
    try:
        (folder / place).unlink()
    except FileNotFoundError:
        return False
    return True


def obey(place: str) -> str:
    """Do what is ordered at `place`, if anything is. Returns the order where the caller is to do it (nan), and "" where there is none.

    kill, stop: this process gets SIGKILL or SIGSTOP. hang: it sleeps for an hour. exit: it ends. raise: RuntimeError.
    """
    if not (folder := os.environ.get(FOLDER)):
        return ""
    path = Path(folder) / place
    try:
        what = path.read_text()
        path.unlink()  # only one process can
    except FileNotFoundError:
        return ""
    match what:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hang":
            time.sleep(LONG_S)
        case "exit":
            os._exit(3)
        case "raise":
            raise RuntimeError("the physics blew up")
    return what


def obey_all_the_time() -> None:
    """From now on this process obeys the two orders that stay. To be called once in a process, before it does anything else."""
    if not os.environ.get(FOLDER) or hasattr(time.time, "of_chaos"):
        return
    real_time, real_fsync = time.time, os.fsync

    def stepped_time() -> float:
        return real_time() + _amount(CLOCK_STEP)

    def slow_fsync(file: Any) -> None:
        time.sleep(_amount(SLOW_DISK))
        real_fsync(file)

    stepped: Callable[[], float] = stepped_time
    stepped.of_chaos = True  # type: ignore[attr-defined]
    time.time = stepped
    os.fsync = slow_fsync  # type: ignore[assignment]  # nobody gives its argument by name


def _amount(order: str) -> float:
    try:
        return float((Path(os.environ[FOLDER]) / order).read_text())
    except FileNotFoundError:
        return 0.0
