"""The lanes of a worker process: the workers that it runs, each with an event loop, a control channel and a thread of its own. Nearly always there is one.

Generator and trainer that share a GPU may be two lanes of one process (engine.share). Then the GPU sees one program, which can say whose work goes first.

Invariants:
- lanes are built one after another: a lane begins when the one before is ready. So only one at a time sets and uses torch's seed, which a process has once;
- when a lane ends, for whatever reason, the other lanes are asked to end, and the process ends with the last one;
- an error in a lane goes to the coordinator on the lane's own channel;
- an object that several lanes are given is one object in their process.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from threading import Event, Thread
from typing import Any

from rlvla3.runtimes.processes.control import Control, Stopped
from rlvla3.runtimes.processes.messages import Failed, Ping, Pong, Ready

SWITCH_S = 0.0005
"""How long a lane may run Python while another one waits to. Python's own 5 ms are as long as an inference."""

_PR_SET_NAME = 15


@dataclass(frozen=True, slots=True)
class Lane:
    """A worker that is to be started: it runs `await body(control, *args)`.

    body: "module:function". It is given by name, so that the supervisor does not import what only the worker uses.
    """

    name: str
    body: str
    args: tuple[Any, ...]


def run_lanes(lanes: Sequence[Lane], connections: Sequence[Connection]) -> bool:
    """Run all lanes until they have ended. Returns whether all of them ended without an error."""
    running = [RunningLane(lane, connection) for lane, connection in zip(lanes, connections, strict=True)]
    if len(running) == 1:
        running[0].run()
    else:
        _run_side_by_side(running)
    return all(lane.succeeded for lane in running)


def _run_side_by_side(lanes: Sequence[RunningLane]) -> None:
    sys.setswitchinterval(SWITCH_S)
    threads, one_has_ended = list[Thread](), Event()
    for lane in lanes:
        lane.on_end = one_has_ended.set
        threads.append(Thread(target=lane.run, name=lane.name, daemon=True))
        threads[-1].start()
        lane.built.wait()
        if one_has_ended.is_set():
            break
    one_has_ended.wait()
    for lane, thread in zip(lanes, threads, strict=False):
        lane.end()
        thread.join()


class RunningLane:
    """A lane, in the thread that calls `run`.

    built: set when the lane has reported Ready, or has ended. succeeded: it has ended without an error. on_end: called in its thread when it has ended.
    """

    def __init__(self, lane: Lane, connection: Connection) -> None:
        self.name, self.built, self.succeeded = lane.name, Event(), False
        self.on_end: Callable[[], None] = lambda: None
        self._lane, self._control = lane, _AnnouncingControl(connection, self.built)
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None

    def run(self) -> None:
        name_process(self.name)
        try:
            _run_to_its_end(self._loop, self._run_body())
            self.succeeded = True
        except (Exception, SystemExit) as error:  # code of the user may call sys.exit
            with suppress(Stopped):  # nobody is there to be told
                self._control.send(Failed.with_error(error))
            with suppress(ValueError, OSError):  # code of the user may have closed stderr
                traceback.print_exc()
        finally:
            self.built.set()
            self.on_end()

    def end(self) -> None:
        """Ask the lane to end. Any thread may call this."""
        with suppress(RuntimeError):  # it has ended, and its loop is closed
            self._loop.call_soon_threadsafe(self._cancel)

    async def _run_body(self) -> None:
        self._task = asyncio.current_task()
        module, _, function = self._lane.body.partition(":")
        await run_body(self._control, getattr(importlib.import_module(module), function), *self._lane.args)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


class _AnnouncingControl(Control):
    """Sets `built` when the worker says that it is ready."""

    def __init__(self, connection: Connection, built: Event) -> None:
        super().__init__(connection)
        self._built = built

    def send(self, message: Any) -> None:
        super().send(message)
        if isinstance(message, Ready):
            self._built.set()


def _run_to_its_end(loop: asyncio.AbstractEventLoop, body: Coroutine[Any, Any, None]) -> None:
    """What asyncio.Runner does, which Python 3.10 has not: run `body`, then end what it has left running, and close `loop`."""
    try:
        loop.run_until_complete(body)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True) if left else asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def run_body(control: Control, body: Callable[..., Awaitable[None]], *args: Any) -> None:
    """Run `await body(control, *args)` until it ends, or until the other side asks it to end.

    Raises the error of the body. An error in a message's handler, or in any other callback of the event loop, ends the body and is raised too.
    """
    task, stray = asyncio.ensure_future(body(control, *args)), list[BaseException]()

    def fail(_: Any, context: Mapping[str, Any]) -> None:
        stray.append(context.get("exception") or RuntimeError(context["message"]))
        task.cancel()

    asyncio.get_running_loop().set_exception_handler(fail)
    control.handle(Ping, lambda message: control.send(Pong(message.number)))
    control.listen(on_stop=task.cancel)
    try:
        await task
    except (asyncio.CancelledError, Stopped):
        if stray and not isinstance(stray[0], Stopped):
            raise stray[0] from None


def name_process(name: str) -> None:
    """Show this thread as `name` in ps and top. The main thread's name is that of the process. Linux shows 15 letters."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())
