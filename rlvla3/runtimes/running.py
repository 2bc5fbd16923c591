"""How the work of a session is run, whatever the program around it does, and how interrupts reach the session.

Invariants:
- the session hears of signals (signals.py) in its own event loop, and nobody else does until it has ended: the handlers from before are back afterwards;
- when `run_session` returns or raises, the session has ended.
"""

from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from typing import Any, Protocol

from rlvla3.runtimes.processes.process import interrupts_blocked
from rlvla3.signals import HEARD, KEEPS, handlers_kept, interruption, listened_to

REPEATED_S = 3.0
"""SIGTERM often comes twice: a batch system sends it to every process of a job, and the job's script passes it on. So soon, it is not meant as a second one.
(SIGHUP comes from the terminal and again from the shell, and SIGXCPU every second: these are never a second one.)"""


class Interruptible(Protocol):
    """A session. Both are called in its event loop, with the signal that has come."""

    def interrupt(self, number: int) -> None: ...

    def keep(self, number: int) -> None:
        """Keep a checkpoint, and go on."""


def run_session(session: Interruptible, work: Coroutine[Any, Any, bool]) -> None:
    """Do the work of `session`, which returns whether it was interrupted. Raises KeyboardInterrupt if it was, which says the first signal
    (signals.py).

    An event loop that runs already, as in a notebook, cannot run a second one: the session then gets a thread of its own. Only the main thread can be
    interrupted, so a session that another thread runs is not.
    """
    heard = _Signals(session)
    if _in_own_thread(heard, work) if _loop_is_running() else asyncio.run(_in_this_thread(heard, work)):
        raise interruption(heard.first or signal.SIGINT)


class _Signals:
    """Passes signals on to a session. first: the first one that asked it to end."""

    def __init__(self, session: Interruptible, clock: Callable[[], float] = time.monotonic) -> None:
        self._session, self._clock, self.first, self._first_at = session, clock, 0, 0.0

    def hear(self, number: int) -> None:
        if number in KEEPS:
            self._session.keep(number)
        elif not self.first:
            self.first, self._first_at = number, self._clock()
            self._session.interrupt(number)
        elif number == signal.SIGINT or (number == signal.SIGTERM and self._clock() - self._first_at > REPEATED_S):
            self._session.interrupt(number)


async def _in_this_thread(heard: _Signals, work: Coroutine[Any, Any, bool]) -> bool:
    if threading.current_thread() is not threading.main_thread():
        return await work
    loop = asyncio.get_running_loop()
    numbers = listened_to()
    with ExitStack() as stack:
        stack.enter_context(handlers_kept())
        for number in numbers:
            loop.add_signal_handler(number, heard.hear, number)
        try:
            return await work
        finally:
            # A signal between the two sets of handlers would end this process: it has to wait.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
            for number in numbers:
                loop.remove_signal_handler(number)
            stack.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_own_thread(heard: _Signals, work: Coroutine[Any, Any, bool]) -> bool:
    """Run `work` in a thread and wait for its end. The main thread, which waits, passes interrupts on."""
    ended: Future[bool] = Future()
    loop = asyncio.new_event_loop()  # here, so that an interrupt that comes before the thread has begun finds it

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                ended.set_result(runner.run(work))
        except BaseException as error:
            ended.set_exception(error)

    def interrupt(number: int, _: object) -> None:
        with suppress(RuntimeError):  # the session has just ended, and its loop is closed
            loop.call_soon_threadsafe(heard.hear, number)

    # With this thread's context, so that what is printed goes to the notebook's present cell.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="rlvla3 session", daemon=True)
    with handlers_kept():
        if threading.current_thread() is threading.main_thread():
            for number in listened_to():
                signal.signal(number, interrupt)
        with interrupts_blocked():  # the new thread inherits this, so that interrupts wake the main thread, which waits for it
            thread.start()
        try:
            return ended.result()
        finally:
            thread.join()


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
