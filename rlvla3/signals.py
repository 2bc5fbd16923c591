"""The signals that a run listens to, and what they mean.

Terminals, shells, batch systems and container engines send them, often to every process of a run. Only the coordinator listens. In workers they do nothing.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)
"""The run is to end: Ctrl-C; `kill`, `scancel` or a container engine; a terminal or an ssh connection that is gone; a limit of CPU time."""

KEEPS = (signal.SIGUSR1, signal.SIGUSR2)
"""The run is to keep a checkpoint and go on. Batch systems warn in this way before they end a job (SLURM's --signal, -notify of Grid Engine)."""

HEARD = frozenset((*ENDS, *KEEPS))

RESPECTED = frozenset(HEARD - {signal.SIGINT, signal.SIGTERM})
"""These signals are not listened to where the caller ignores them, as `nohup` ignores SIGHUP. (A shell makes every background job ignore SIGINT.)"""

_LIBC = ctypes.CDLL(None)


class Interruption(KeyboardInterrupt):
    """Another signal than Ctrl-C's has ended the work. number: the signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = signal.Signals(number)


def interruption(number: int) -> KeyboardInterrupt:
    """The error that says that a signal has ended the work. For Ctrl-C it is Python's own."""
    return KeyboardInterrupt() if number == signal.SIGINT else Interruption(number)


def number_of(interrupt: KeyboardInterrupt) -> signal.Signals:
    """The signal that has ended the work."""
    return interrupt.number if isinstance(interrupt, Interruption) else signal.SIGINT


def how_ended(interrupt: KeyboardInterrupt) -> str:
    """How a run ended, for its summary."""
    return f"interrupted by {interrupt.number.name}" if isinstance(interrupt, Interruption) else "interrupted"


def in_words(number: int) -> str:
    """A signal as the user knows it."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def listened_to() -> list[signal.Signals]:
    """The signals that are to be listened to, sorted. To be called before a handler is set."""
    return sorted(number for number in HEARD if number not in RESPECTED or signal.getsignal(number) is not signal.SIG_IGN)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Afterwards the handlers of interrupts are those from before.

    In other threads than the main one, this holds for the handlers of the process alone, and not for those that Python calls: no other thread can set these.
    """
    of_process = {number: _of_process(number) for number in sorted(HEARD)}
    in_main = current_thread() is main_thread()
    of_python: dict[signal.Signals, Callable[..., Any] | int | None] = {number: signal.getsignal(number) for number in sorted(HEARD)} if in_main else {}
    try:
        yield
    finally:
        for number, handler in of_python.items():
            if handler is not None:  # None: it was not Python that set it, and Python cannot set it again
                signal.signal(number, handler)
        for number, action in of_process.items():
            _LIBC.sigaction(number, action, None)


def _of_process(number: int) -> ctypes.Array[ctypes.c_char]:
    """The handler that the kernel calls, with its flags: a `struct sigaction` of C."""
    action = ctypes.create_string_buffer(1024)  # the structure has 152 bytes on Linux
    _LIBC.sigaction(number, None, action)
    return action


@contextmanager
def heard() -> Iterator[None]:
    """Around the whole of a command, from its first check to its last file: a signal that is to end it raises KeyboardInterrupt, one that warns does nothing.

    While a session is at work, it hears the signals itself (runtimes/running.py). Does nothing in other threads than the main one. A handler of the user's own
    program, or of a notebook, is left in its place.
    """
    if current_thread() is not main_thread():
        yield
        return
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: handler for number in listened_to() if (handler := signal.getsignal(number)) in usual}
    for number in before:
        signal.signal(number, _raise if number in ENDS else _do_nothing)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, _: object) -> None:
    raise interruption(number)


def _do_nothing(*_: object) -> None:
    """Not SIG_IGN: programs that are started meanwhile would inherit it."""
