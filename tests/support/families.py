"""A worker that starts processes as environments do, of every kind that a supervisor might lose sight of."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from rlvla3.runtimes.processes.messages import Ready
from rlvla3.runtimes.processes.process import start_worker

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]


def _sleep() -> None:
    time.sleep(600)


def _program() -> list[int]:
    return [subprocess.Popen(SLEEP).pid]


def _program_in_a_session() -> list[int]:
    return [subprocess.Popen(SLEEP, start_new_session=True).pid]


def _program_without_variables() -> list[int]:
    return [subprocess.Popen(SLEEP, env={}).pid]


def _program_that_is_deaf() -> list[int]:
    return [subprocess.Popen([*SLEEP[:-1], "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"]).pid]


def _grandchild() -> list[int]:
    inner = f"import subprocess, time; print(subprocess.Popen({SLEEP!r}).pid, flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", inner], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    return [child.pid, int(child.stdout.readline())]


def _daemon() -> list[int]:
    """Forked twice, in a session of its own, and holding all that this process has open."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if (pid := os.fork()) == 0:
            time.sleep(600)
        os.write(write, str(pid).encode())
        os._exit(0)
    os.wait()
    return [int(os.read(read, 20))]


def _pool() -> list[int]:
    pool = multiprocessing.get_context("fork").Pool(2)
    KEPT.append(pool)
    return pool.map(_own_number, range(2), chunksize=1)


def _own_number(_: int) -> int:
    return os.getpid()


def _process(kind: Literal["fork", "spawn", "forkserver"]) -> list[int]:
    process: Any = multiprocessing.get_context(kind).Process(target=_sleep)  # type: ignore[attr-defined]  # the stubs' own
    process.start()
    return [process.pid or 0]


KEPT: list[Any] = []
KINDS: dict[str, Callable[[], list[int]]] = {
    "program": _program,
    "program in a session": _program_in_a_session,
    "program without variables": _program_without_variables,
    "program that is deaf": _program_that_is_deaf,
    "grandchild": _grandchild,
    "daemon": _daemon,
    "pool": _pool,
    "forked process": lambda: _process("fork"),
    "spawned process": lambda: _process("spawn"),
    "process of a fork server": lambda: _process("forkserver"),
}


async def start_family(control: Any) -> None:
    """The body of a worker: start processes of every kind, and say their numbers."""
    control.send(Ready())
    control.send({kind: start() for kind, start in KINDS.items()})
    await control.receive()


async def die_in_a_fork(control: Any, number: int) -> None:
    """The body of a worker: how processes that it starts end by signal `number`, one forked and one of another program, and then itself."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with suppress(KeyboardInterrupt):
            os.write(write, b".")
            time.sleep(600)
        os._exit(1)
    os.read(read, 1)
    os.kill(pid, number)
    program = subprocess.Popen(["sleep", "600"])
    program.send_signal(number)
    forked = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.kill(os.getpid(), number)
    control.send([forked, program.wait(60), sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))])
    await control.receive()


async def _coordinate(log: Path) -> None:
    worker = start_worker("family", "tests.support.families:start_family", log=log, own_session=True)
    assert isinstance(await worker.control.receive(), Ready)
    print(json.dumps({"worker": [worker.process.pid]} | await worker.control.receive()), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_coordinate(Path(sys.argv[1])))
