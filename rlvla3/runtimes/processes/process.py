"""Worker processes of one host: how they start, what they inherit, and how they end. Several workers may be lanes of one process (lanes.py).

Invariants:
- processes are spawned and never forked: a renderer that has run in the parent hangs in a forked child. A simulator may have an interpreter of its own
  (other_interpreter.py);
- a worker ends when its parent ends, however the parent ends;
- the main module of the program is not imported again in a worker: a script needs no `if __name__ == "__main__":`;
- an interrupt reaches only the coordinator, which decides what its workers do. Programs that a worker starts hear signals as any other program does;
- a worker may start processes of its own. They end with it, however it ends (process_tree.py);
- an error in a worker reaches the coordinator as a Failed message, with its traceback.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import io
import multiprocessing
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NoReturn

from rlvla3.process_tree import descriptor_of, end_tree, marked, new_mark
from rlvla3.runtimes.processes.control import Control, Stop, Stopped
from rlvla3.runtimes.processes.lanes import Lane, name_process, run_lanes
from rlvla3.runtimes.processes.main_module import let_programs_search_their_folder, main_module_hidden, working_folder_unsearched
from rlvla3.runtimes.processes.other_interpreter import OtherProcess
from rlvla3.signals import HEARD

START_TIMEOUT_S = 180.0
"""A worker that has not started after this time counts as hung, where no setting says otherwise."""

END_S = 10.0
"""How long a process that was killed may take to end."""

_PR_SET_PDEATHSIG = 1


def start_worker(name: str, body: str, *args: Any, log: Path, own_session: bool = False, python: str = "") -> WorkerProcess:
    """Start a process that runs `await body(control, *args)`. body: "module:function". log: the file that the process prints to.

    own_session: whether it leads a session of its own, as a process with an environment does. What a terminal sends, such as Ctrl-Z, does not reach it.
    python: as `simulator.python`, where it runs in another interpreter. Raises RecipeError where that is none.
    """
    (worker,) = start_lanes([Lane(name, body, args)], log, own_session, python)
    return worker


def start_lanes(lanes: Sequence[Lane], log: Path, own_session: bool = False, python: str = "") -> list[WorkerProcess]:
    """Start one process that runs all `lanes`. Returns its workers, in the same order."""
    spawn, mark = multiprocessing.get_context("spawn"), new_mark()
    pipes = [spawn.Pipe() for _ in lanes]
    arguments = (lanes, [theirs for _, theirs in pipes], log, own_session, os.getpid())
    process: SpawnProcess | OtherProcess = OtherProcess(python, _run, arguments) if python else spawn.Process(target=_run, args=arguments, daemon=True)
    with working_folder_unsearched(), interrupts_blocked(), main_module_hidden(), marked(mark):
        process.start()
    for _, theirs in pipes:
        theirs.close()
    return [WorkerProcess(lane.name, process, Control(ours, supervises=True), log, mark) for lane, (ours, _) in zip(lanes, pipes, strict=True)]


class WorkerProcess:
    """A worker, as its supervisor sees it: its control channel, and the process that it is alone in or shares with other workers.

    log: the file that the process prints to. mark: of the process and all that it starts. killed: why its supervisor has killed it, as "it had not ...". Empty
    if it has not.
    """

    def __init__(self, name: str, process: SpawnProcess | OtherProcess, control: Control, log: Path, mark: str) -> None:
        self.name, self.process, self.control, self.log, self._mark = name, process, control, log, mark
        self.killed = ""
        self.control.listen()
        self._end = _end_of(process)
        self._released = False

    heard = None
    """Nobody listens to it all the time."""

    @property
    def pid(self) -> int | None:
        return self.process.pid

    def on_exit(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the process has ended. It replaces an earlier callback."""
        loop, end = asyncio.get_running_loop(), self._end

        def ended() -> None:
            loop.remove_reader(end)
            callback()

        loop.add_reader(end, ended)

    def kill(self, why: str = "") -> None:
        """Kill the process. Its end is handled like any other one. why: what the user is told, as "it had not ..."."""
        self.killed = why
        self.process.kill()

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
        """Release what the supervisor holds of a process that has ended or was killed, and end what that process has started."""
        asyncio.get_running_loop().remove_reader(self._end)
        end_tree(self._mark, leader=self.process.pid)
        self.reap()
        os.close(self._end)
        self.control.close()
        self._released = True

    def reap(self) -> None:
        """Take note of the end of a process that has ended or was killed. A process that hangs in the kernel (a dead network disk) ends later or never: after
        END_S nobody waits for it any more."""
        poll = select.poll()  # not select.select, which takes no descriptor above 1023
        poll.register(self._end, select.POLLIN)
        if poll.poll(1000 * END_S):
            self.process.join()

    def last_words(self, lines: int = 5) -> str:
        """The last lines that the process printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""


def _end_of(process: SpawnProcess | OtherProcess) -> int:
    """A descriptor that can be read when `process` has ended. It is a new one: an event loop watches a descriptor for one worker only, and several may share
    the process."""
    if (descriptor := descriptor_of(process.pid or 0)) is not None:
        return descriptor
    return os.dup(process.sentinel)  # the end of a pipe: children of the process that were forked hold it open, even when the process has ended


def _run(lanes: Sequence[Lane], connections: Sequence[Connection], log: Path, own_session: bool, parent: int) -> None:
    let_programs_search_their_folder()
    if own_session:
        os.setsid()
    _let_interrupts_pass()
    multiprocessing.current_process().daemon = False  # a daemonic process may have no children, and environments may need some
    name_process(" and ".join(lane.name for lane in lanes))
    _end_with(parent)
    _print_to(log)
    succeeded = run_lanes(lanes, connections)
    for child in multiprocessing.active_children():
        if not child.daemon:  # this process would wait for its end
            child.kill()
    _leave(0 if succeeded else 1)


def _leave(status: int) -> NoReturn:
    """End this process as Python does, but free no module: that takes a second of processor time where torch is loaded, and 2.5 s where its compiler is."""
    atexit._run_exitfuncs()  # what environments and policies have registered
    for stream in (sys.stdout, sys.stderr):
        with suppress(ValueError, OSError, AttributeError):  # code of the user may have closed or replaced it
            stream.flush()
    os._exit(status)


def _let_interrupts_pass() -> None:
    """Interrupts do nothing here. They are not ignored, because programs that are started here would inherit that."""
    for number in HEARD:
        signal.signal(number, _pass)
        signal.siginterrupt(number, False)
    held, ending = threading.local(), HEARD - {signal.SIGINT}  # SIGINT raises an error, which would be lost in a function that is called at a fork
    os.register_at_fork(
        before=lambda: setattr(held, "mask", signal.pthread_sigmask(signal.SIG_BLOCK, ending)),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, held.mask),
        after_in_child=lambda: _hear_interrupts(held.mask),
    )
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)


def _pass(*_: object) -> None:
    """The handler of interrupts in a worker."""


def _hear_interrupts(mask: set[signal.Signals]) -> None:
    """In a process that a worker has forked, interrupts do what they do in any program. mask: what was blocked before the fork."""
    for number in HEARD:
        if signal.getsignal(number) is _pass:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _end_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the line above
        sys.exit(1)


def _print_to(log: Path) -> None:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)  # it may have been removed while the run goes on
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        print(f"rlvla3: {log} could not be opened ({error.strerror}): what this worker prints is lost", file=sys.stderr, flush=True)
        fd = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(fd, stream)
    os.close(fd)
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.BufferedWriter(_Log(stream)), errors="backslashreplace", line_buffering=stream == 2) for stream in (1, 2))


class _Log(io.FileIO):
    """Standard output or standard error of a worker. What a full disk does not take is dropped: code that prints is worth more than its lines."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, content: Any) -> int:
        try:
            return super().write(content) or 0
        except OSError:
            return memoryview(content).nbytes


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """A child starts with interrupts blocked. It first gives them a handler that does nothing, and then unblocks them."""
    resource_tracker.ensure_running()  # otherwise the first spawn starts it, and starting it unblocks interrupts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
