"""Runs a program that should end at once, such as an interpreter that is asked for its version.

Invariants:
- a program that hangs is killed, with what it has started, and is one RecipeError. It hangs where all its processes sleep and none has woken for STILL_S. One
  that computes, or waits for a processor or a disk, has PATIENCE_S: the machine may be busy, or the disk slow;
- its output goes to files: nobody waits for a pipe that a process which it left behind holds open.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import psutil

from rlvla3.errors import RecipeError

START_S = 0.5
"""A program is looked at after this time for the first time: most have ended by then."""

STILL_S = 1.5
"""A program in which nothing happens for so long hangs."""

PATIENCE_S = 30.0
"""How long a program may take at most."""

END_S = 2.0
"""How long a killed program is waited for. One that hangs in the kernel ends later, and nobody waits for that."""

AT_WORK = {psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP}


def run_briefly(command: Sequence[str], variables: Mapping[str, str], named: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program in the folder / with nothing on standard input, and return how it ended and what it printed.

    named: what messages begin with. Raises RecipeError where it hangs, and where it cannot be started.
    """
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as complained:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=printed, stderr=complained, env=variables, cwd="/", start_new_session=True)
        except OSError as error:
            raise RecipeError(f"{named} cannot be started ({error.strerror}): it is no program of this machine. Name another interpreter") from error
        try:
            if why := _hangs(process):
                raise RecipeError(f"{named} {why}. Run `{command[0]} -c 'import numpy'` to see where it hangs, or name another interpreter")
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(END_S)
        printed.seek(0)
        complained.seek(0)
        return subprocess.CompletedProcess(command, process.returncode, printed.read(), complained.read())


def _hangs(process: subprocess.Popen[bytes]) -> str:
    """Wait until a program has ended. Returns why it is not waited for any longer, in words, and "" where it has ended."""
    end, before, look_after_s = time.monotonic() + PATIENCE_S, None, START_S
    while (left := end - time.monotonic()) > 0:
        with suppress(subprocess.TimeoutExpired):
            process.wait(min(look_after_s, left))
            return ""
        woken = _times_woken(process.pid)
        if woken is not None and woken == before:
            return f"hangs: it was asked for its version, and then nothing has happened in it for {STILL_S:g} s"
        before, look_after_s = woken, STILL_S
    return f"did not answer within {PATIENCE_S:g} s"


def _times_woken(pid: int) -> int | None:
    """How often the system has woken a process and all that it has started. None where one of them is at work."""
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        return None if any(process.status() in AT_WORK for process in tree) else sum(sum(process.num_ctx_switches()) for process in tree)
    except psutil.Error:  # one of them has just ended
        return None
