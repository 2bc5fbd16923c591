"""WorkerProcess processes of one host: how they start, what they inherit, and how they end.

Invariants:
- processes are spawned and never forked: a renderer that has run in the parent hangs in a forked child;
- a worker ends when its parent ends, however the parent ends;
- the main module of the program is not imported again in a worker: a script needs no `if __name__ == "__main__":`;
- an interrupt reaches only the coordinator, which decides what its workers do;
- an error in a worker reaches the coordinator as a Failed message, with its traceback.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rlvla3.errors import explains_itself
from rlvla3.runtimes.processes.control import Control, Stop, Stopped
from rlvla3.runtimes.processes.main_module import main_module_hidden
from rlvla3.runtimes.processes.messages import Failed

INTERRUPTS = {signal.SIGINT, signal.SIGTERM}
"""Terminals and job schedulers send these signals to every process of a run."""

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


class WorkerProcess:
    """A process that runs `await body(control, *args)`, as its supervisor sees it.

    body: "module:function". It is given by name, so that the supervisor does not import what only the worker uses. log: the file that the process prints to.
    """

    def __init__(self, name: str, body: str, *args: Any, log: Path) -> None:
        self.name, self.log = name, log
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_run, args=(name, theirs, log, body, args), daemon=True)
        with interrupts_blocked(), main_module_hidden():
            self.process.start()
        theirs.close()
        self.control = Control(ours)
        self.control.listen()
        self._released = False

    def on_exit(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the process has ended. It replaces an earlier callback."""
        loop, sentinel = asyncio.get_running_loop(), self.process.sentinel

        def ended() -> None:
            loop.remove_reader(sentinel)
            callback()

        loop.add_reader(sentinel, ended)

    async def stop(self, patience_s: float) -> None:
        """Ask the process to end, kill it if it has not ended after `patience_s` seconds, and release what is held of it."""
        if self._released:
            return
        ended = asyncio.Event()
        self.on_exit(ended.set)
        try:
            self.control.send(Stop())
            await asyncio.wait_for(ended.wait(), patience_s)
        except (Stopped, TimeoutError):
            pass
        finally:
            self.process.kill()  # does nothing to a process that has ended
            self.release()

    def release(self) -> None:
        """Release what the supervisor holds of a process that has ended or was killed."""
        asyncio.get_running_loop().remove_reader(self.process.sentinel)
        self.process.join()
        self.control.close()
        self._released = True

    def last_words(self, lines: int = 5) -> str:
        """The last lines that the process printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""


def _run(name: str, connection: Connection, log: Path, body: str, args: tuple[Any, ...]) -> None:
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
    name_process(name)
    _end_with_parent()
    _print_to(log)
    control = Control(connection)
    try:
        module, _, function = body.partition(":")
        asyncio.run(run_body(control, getattr(importlib.import_module(module), function), *args))
    except Exception as error:
        traceback.print_exc()
        control.send(Failed(type(error).__name__, str(error), traceback.format_exc(), explains_itself(error)))
        sys.exit(1)


async def run_body(control: Control, body: Callable[..., Awaitable[None]], *args: Any) -> None:
    """Run `await body(control, *args)` until it ends, or until the other side asks it to end.

    Raises the error of the body. An error in a message's handler, or in any other callback of the event loop, ends the body and is raised too.
    """
    task, stray = asyncio.ensure_future(body(control, *args)), list[BaseException]()

    def fail(_: Any, context: Mapping[str, Any]) -> None:
        stray.append(context.get("exception") or RuntimeError(context["message"]))
        task.cancel()

    asyncio.get_running_loop().set_exception_handler(fail)
    control.listen(on_stop=task.cancel)
    try:
        await task
    except (asyncio.CancelledError, Stopped):
        if stray and not isinstance(stray[0], Stopped):
            raise stray[0] from None


def name_process(name: str) -> None:
    """Show this process (or thread) as `name` in ps and top."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent.pid:  # the parent ended before the line above
        sys.exit(1)


def _print_to(log: Path) -> None:
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(fd, stream)
    os.close(fd)


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """A child starts with interrupts blocked. It ignores them first and then unblocks them."""
    resource_tracker.ensure_running()  # otherwise the first spawn starts it, and starting it unblocks interrupts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
