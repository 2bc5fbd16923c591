"""Ends everything that a process has started, and what those processes have started.

Environments and policies may start servers and pools. These must end with the worker that they belong to, however that worker ends. So a worker is started
with a mark among its environment variables, which all its descendants inherit, and an environment's worker leads a session of its own. A descendant is known
by either of the two: a daemon leaves the session, and a program may be started with other variables. Only a daemon with other variables is not found.

Run as a program, this file is the guardian of the process that has started it: it waits until that process has ended, even by `kill -9`, and then ends
everything that has its mark.

Invariants:
- only the standard library is imported, and nothing of this package: the guardian starts in some 10 ms and stays small;
- a process is told to end by a descriptor of its own, never by its number, which another process may have got meanwhile;
- multiprocessing's resource trackers are spared: they end by themselves, and remove blocks of shared memory that killed processes have left.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

VARIABLE = "RLVLA3_PROCESS"
"""The environment variable that holds marks. A run inside of a worker of another run has the marks of both."""

ENDED_WITHIN_S = 2.0
"""How long killed processes are waited for. One that hangs in the kernel takes longer, and nobody waits for that."""

SESSION, START_TIME = 3, 19
"""Places of two fields among those after the name in /proc/PID/stat."""

SLACK_TICKS = 100
"""A process that has a mark is not older than this before the mark: clocks are rounded."""

WITHOUT_DESCRIPTOR_S = 0.01
"""How long a killed process is waited for where it has no descriptor."""

UNHEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Signals that do nothing to a guardian."""

_starting = threading.Lock()
_numbers = count()
_guarded: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
"""{this process: its mark and its guardian}. A forked copy of this process has another number, and so gets a guardian of its own."""


def new_mark() -> str:
    """A mark for one worker: whose it is, when it was made, and a number. This process has a guardian from now on."""
    with _starting:
        mark, guardian = _guarded.get(os.getpid(), (f"{os.getpid()}-{secrets.token_hex(8)}-{_ticks() - SLACK_TICKS}", None))
        if guardian is None or guardian.poll() is not None:
            _guarded[os.getpid()] = mark, _start_guardian(mark)
        return f"{mark}.{next(_numbers)}"


def keep_guardian() -> None:
    """Start another guardian of this process in the place of one that has ended. To be called now and then by a process whose workers go on for long."""
    with _starting:
        mark, guardian = _guarded.get(os.getpid(), ("", None))
        if guardian is not None and guardian.poll() is not None:
            _guarded[os.getpid()] = mark, _start_guardian(mark)


@contextmanager
def marked(mark: str) -> Iterator[None]:
    """Processes that are started inside have `mark`, and so have all their descendants."""
    with _starting:
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = f"{before} {mark}" if before else mark
        try:
            yield
        finally:
            if before is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = before


def end_tree(mark: str, leader: int | None = None) -> None:
    """Kill all processes that have `mark`, and all of the session that `leader` leads, if it leads one. Returns when they have ended."""

    since = int(mark.partition(".")[0].rpartition("-")[2])

    def belongs(pid: int) -> bool:
        fields = _after_name(pid)
        if len(fields) <= START_TIME or int(fields[START_TIME]) < since:  # nearly all processes of a machine: they are not looked at any closer
            return False
        return (leader is not None and int(fields[SESSION]) == leader) or _has(pid, mark)

    end = time.monotonic() + ENDED_WITHIN_S
    while time.monotonic() < end and (found := [pid for pid in _numbers_of_processes() if belongs(pid) and _is_to_end(pid)]):
        killed = [_killed(pid, belongs) for pid in found]  # and then again: one may have been started while the others were killed
        for descriptor in killed:
            if descriptor is None:
                time.sleep(WITHOUT_DESCRIPTOR_S)
            else:
                _wait_for_end(descriptor, max(0.0, end - time.monotonic()))
                os.close(descriptor)


def descriptor_of(pid: int) -> int | None:
    """A descriptor of a process, which can be read when it has ended. None where there are no such descriptors (Linux before 5.3), or no such process."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def is_stopped(pid: int) -> bool:
    """Whether a process of this machine is stopped by a signal. False where it has ended, or where there is no /proc."""
    return _after_name(pid)[:1] == [b"T"]


def _killed(pid: int, belongs: Callable[[int], bool]) -> int | None:
    """Kill a process. Returns its descriptor, if there is one."""
    descriptor = descriptor_of(pid)
    with suppress(ProcessLookupError, PermissionError):
        if belongs(pid):  # asked again: now that it has a descriptor, the number cannot become another process's
            os.kill(pid, signal.SIGKILL) if descriptor is None else signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    return descriptor


def _wait_for_end(descriptor: int, seconds: float) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(1000 * seconds)


def _is_to_end(pid: int) -> bool:
    """Whether a process may be ended at all: it runs, is not this one, and is no resource tracker."""
    return pid != os.getpid() and _after_name(pid)[:1] not in ([], [b"Z"], [b"X"]) and b"multiprocessing.resource_tracker" not in _read(pid, "cmdline")


def _numbers_of_processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208  # thousands of paths would be made for nothing
    except FileNotFoundError:  # not Linux
        return []


def _read(pid: int, name: str) -> bytes:
    """A file of a process in /proc. Empty where it has ended, or belongs to somebody else."""
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return b""


def _after_name(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat after the name, which may hold anything: state, parent, group, session and so on."""
    return _read(pid, "stat").rpartition(b")")[2].split()


def _ticks() -> int:
    """The time since this machine was started, in the unit in which /proc says when a process was started."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")) if sys.platform == "linux" else 0


def _has(pid: int, mark: str) -> bool:
    """Whether a process has `mark`, or a mark that was made of it."""
    name = VARIABLE.encode() + b"="
    given = next((variable for variable in _read(pid, "environ").split(b"\0") if variable.startswith(name)), b"")
    marks = given.removeprefix(name).decode(errors="replace").split()
    return any(found == mark or found.startswith(f"{mark}.") for found in marks)


def _start_guardian(mark: str) -> subprocess.Popen[bytes]:
    """The guardian reads a pipe that only this process can write to, so it hears of its end.

    It is alone in a process group of this session. So a guardian that something has stopped goes on when this process ends: Linux then continues the group.
    """
    command = [sys.executable, "-I", "-S", __file__, mark, str(os.getpid())]
    silent = subprocess.DEVNULL
    variables = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PYTHONHOME") if name in os.environ}  # no mark, and nothing else that is of no use
    before = signal.pthread_sigmask(signal.SIG_BLOCK, UNHEARD)  # it has them blocked from its beginning on
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0, cwd="/", env=variables, stdout=silent, stderr=silent)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _guard(mark: str, parent: int) -> None:
    """Wait until `parent` has ended, and end what it has left."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text("rlvla3 guardian")
    poll = select.poll()
    poll.register(0, select.POLLHUP)  # a forked copy of the parent may keep the pipe open, so the parent itself is watched too
    if (descriptor := descriptor_of(parent)) is not None:
        poll.register(descriptor, select.POLLIN)
    if os.getppid() == parent:
        poll.poll()
    end_tree(mark)


if __name__ == "__main__":
    _guard(sys.argv[1], int(sys.argv[2]))
