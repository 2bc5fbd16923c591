"""Progress of a command that is no run: one line on a terminal for each thing that takes more than two seconds, with the time that is left.

    with progress("rehearsing", total=40, unit="plan") as work:
        for plan in plans:
            rehearse(plan)
            work.advance()

Invariants:
- pipes, files and notebooks get nothing: lines stand on stderr, and only where it is a terminal;
- the lines are gone when the work is over, and what is printed meanwhile stands above them;
- a terminal that is gone costs nothing: the work goes on.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO, cast

from rlvla3.observability.formatting import duration, number_of

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

SHOWN_AFTER_S = 2.0
"""What is done sooner is not shown."""

REFRESHES_A_SECOND = 4
BAR = 16
"""Characters of a bar."""


@dataclass
class Work:
    """One thing that takes time.

    doing: what it is, for the user. total: how many units it has, 0 where that is not known. unit: what they are. expected_s: seconds that it takes in all,
    where that is known instead. now: what is being done now.
    """

    doing: str
    total: float = 0
    unit: str = ""
    expected_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    done: float = 0
    now: str = ""
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def advance(self, units: float = 1, now: str = "") -> None:
        """So many units more are done."""
        self.reach(self.done + units, now=now or self.now)

    def reach(self, done: float, total: float | None = None, now: str = "") -> None:
        """So many units are done in all, of `total` (None: as before)."""
        self.done, self.now = done, now
        self.total = self.total if total is None else total

    def share(self) -> float | None:
        """How much of it is done, from 0 to 1. None where nobody knows."""
        if self.expected_s:
            return min((self.clock() - self.began) / self.expected_s, 1.0)
        return min(self.done / self.total, 1.0) if self.total else None

    def seconds_left(self) -> float | None:
        """Seconds until it is done, at its present speed. None where there is no estimate yet."""
        elapsed = self.clock() - self.began
        if self.expected_s:
            return max(self.expected_s - elapsed, 0.0)
        share = self.share()
        return elapsed * (1 - share) / share if share else None

    def what(self) -> str:
        """What is being done."""
        return f"{self.doing}: {self.now}" if self.now else self.doing

    def how_far(self) -> str:
        """ "12 of 40 plans, 8 s, 19 s left"."""
        parts = [f"{self.done:g} of {number_of(int(self.total), self.unit)}"] if self.total and self.unit else []
        parts.append(duration(self.clock() - self.began))
        if (left := self.seconds_left()) is not None and left >= 1:
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)


@contextmanager
def progress(doing: str, total: float = 0, unit: str = "", expected_s: float = 0.0) -> Iterator[Work]:
    """Show that this block is at work, if it takes long. Parameters as in Work. Blocks may stand within one another: each has a line."""
    work = Work(doing, total, unit, expected_s)
    with _LINES.showing(work):
        yield work


class _Lines:
    """The lines of all work that is under way, on one terminal."""

    def __init__(self) -> None:
        self._lock, self._works = threading.Lock(), list[Work]()
        self._live: Live | None = None
        self._timer: threading.Timer | None = None

    @contextmanager
    def showing(self, work: Work) -> Iterator[None]:
        with self._lock:
            self._works.append(work)
            if self._timer is None and _is_terminal(sys.stderr):
                self._timer = threading.Timer(SHOWN_AFTER_S, self._show)
                self._timer.daemon = True
                self._timer.start()
        try:
            yield
        finally:
            with self._lock:
                self._works.remove(work)
                if not self._works:
                    self._hide()

    def _show(self) -> None:
        from rich.console import Console
        from rich.live import Live

        with self._lock:
            if self._works and self._live is None:
                console = Console(file=cast(TextIO, _Outlived(sys.stderr)), force_terminal=True)
                prints_above = _is_terminal(sys.stdout)
                self._live = Live(
                    console=console, get_renderable=self._table, transient=True, refresh_per_second=REFRESHES_A_SECOND, redirect_stdout=prints_above
                )
                self._live.start()

    def _hide(self) -> None:
        """The last work is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))  # where the terminal is narrow, what is being done is cut, and how far it is stays whole
        table.add_column()
        table.add_column()
        table.add_column(no_wrap=True)
        for work in [*self._works]:
            share = work.share()
            bar = ProgressBar(total=1.0, completed=share or 0.0, width=BAR, pulse=share is None)
            table.add_row(bar, Text(work.what(), no_wrap=True, overflow="ellipsis"), work.how_far())
        return table


class _Outlived:
    """A terminal that may be gone: what is written to it is lost then."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: it was closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _is_terminal(stream: TextIO) -> bool:
    with suppress(ValueError):  # it was closed
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    return False


_LINES = _Lines()
