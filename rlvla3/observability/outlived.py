"""Watchers that a run outlives: what goes wrong in one of them is said once, and the run goes on.

Invariants:
- `on` neither waits nor raises. Each watcher has a thread of its own, and gets all events in their order;
- an error of a watcher becomes one notice to all the others. The watcher gets the next event all the same, and may succeed with it;
- if a watcher takes too long for an event, the user is told once. One that does not end is left behind;
- memory is bounded: a watcher that does not follow loses events, and this is said.
"""

from __future__ import annotations

import contextvars
import queue
import signal
import threading
import time
from collections.abc import Callable

from rlvla3.errors import described, explanation
from rlvla3.observability.events import Event, Notice, Watcher
from rlvla3.signals import HEARD

SLOW_S = 30.0
"""If a watcher has been busy with one event for so long, the user is told."""

CLOSING_S = 600.0
"""The longest that a watcher may take to come to its end. A trace of many workers takes minutes."""

HANGING_S = 5.0
"""How long the end of a watcher that hangs already is waited for."""

WELL_AGAIN_S = 10.0
"""A watcher that had an error and has had none for so long is well again. So a disk that is full now and then gives few notices."""

MOST_WAITING = 20_000
"""Events that wait for one watcher."""

REFRESH_S = 0.25
"""A watcher that can be refreshed is refreshed so long after its last event: a table shows the time that passes."""

THREAD = "watcher of "
"""What the names of these threads begin with."""


class OutlivedWatchers:
    """All watchers of a run, as one. `add` each of them, and `close` them together."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._members = clock, list[_Member]()

    def add(self, what: str, make: Callable[[], Watcher]) -> None:
        """Make a watcher now, and give it the events from now on. what: what it writes or shows, for notices. An error of `make` is handled as one of `on`:
        the watcher is made again with the next event."""
        self._members.append(_Member(what, make, self.tell, self._clock))

    def on(self, event: Event) -> None:
        for member in self._members:
            member.take(event)

    def tell(self, text: str, but: object = None) -> None:
        """Give a notice to all watchers, except for the one that it is about."""
        for member in self._members:
            if member is not but:
                member.take(Notice(text))

    def close(self) -> None:
        """Close the watchers, one after another: a later one still hears what goes wrong when an earlier one is closed.

        Waits for: each watcher, until CLOSING_S or until the user interrupts. One that is not ready then is left behind.
        """
        patience_s = CLOSING_S
        for member in self._members:
            try:
                ended = member.close(patience_s)
            except KeyboardInterrupt:
                ended, patience_s = False, HANGING_S
            if not ended:
                self.tell(f"{member.what}: its end was not waited for any longer, so it may be incomplete", but=member)


def left_behind() -> bool:
    """Whether a watcher still hangs, so that the end of this process must not wait for it."""
    return any(thread.name.startswith(THREAD) for thread in threading.enumerate())


class _Member:
    """One watcher, with its thread and the events that wait for it."""

    def __init__(self, what: str, make: Callable[[], Watcher], tell: Callable[..., None], clock: Callable[[], float]) -> None:
        self.what = what
        self._make, self._tell, self._clock = make, tell, clock
        self._watcher: Watcher | None = None
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._busy_since: float | None = None
        self._told_slow, self._lost = False, 0
        self._failed_at: float | None = None
        self._attempt(self._begin)
        # With this thread's context, so that what is printed goes to the notebook's present cell.
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._run,), name=THREAD + what, daemon=True)
        self._thread.start()

    def take(self, event: Event) -> None:
        """Put `event` into the queue of this watcher."""
        since, now = self._busy_since, self._clock()
        if since is not None and now - since > SLOW_S and not self._told_slow:
            self._told_slow = True
            self._tell(f"{self.what}: nothing could be written for {now - since:.0f} s, because the disk or the reader does not answer. The run goes on", self)
        if self._events.qsize() >= MOST_WAITING:
            self._lost += 1
        else:
            self._events.put(event)

    def close(self, patience_s: float) -> bool:
        """Close the watcher after its last event. Returns whether it is closed. One that hangs already is hardly waited for."""
        since = self._busy_since
        if since is not None and self._clock() - since > SLOW_S:
            patience_s = min(patience_s, HANGING_S)
        self._events.put(None)
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        # Signals wake the main thread. Programs that a watcher starts, such as a video encoder, do not hear them either.
        signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
        while (event := self._next()) is not None:
            self._attempt(self._on, event)
            if not self._events.qsize():
                self._say_what_is_lost()
        self._say_what_is_lost()
        self._attempt(self._end, then="It was the last try, so this may be missing or incomplete")

    def _next(self) -> Event | None:
        """The next event; None at the end. Until it comes, the watcher is refreshed, if it can be."""
        while True:
            refresh = getattr(self._watcher, "refresh", None)
            try:
                return self._events.get(timeout=REFRESH_S if refresh else None)
            except queue.Empty:
                assert refresh is not None
                self._attempt(refresh)

    def _say_what_is_lost(self) -> None:
        self._told_slow = False
        if self._lost:
            self._tell(f"{self.what}: {self._lost} events were left out, because it could not follow", self)
            self._lost = 0

    def _begin(self) -> Watcher:
        if self._watcher is None:
            self._watcher = self._make()
        return self._watcher

    def _on(self, event: Event) -> None:
        self._begin().on(event)

    def _end(self) -> None:
        if self._watcher is not None:
            self._watcher.close()

    def _attempt(self, act: Callable[..., object], *args: Event, then: str = "The run goes on, and this is tried again") -> None:
        """Do it, and tell of an error. then: what becomes of it, for the notice."""
        self._busy_since = self._clock()
        try:
            act(*args)
        except Exception as error:  # whatever a watcher raises, also one of the user or of a library: the run is worth more
            if self._failed_at is None:
                self._tell(f"{self.what}: {explanation(error) or described(error)}. {then}", self)
            self._failed_at = self._clock()
        else:
            if self._failed_at is not None and self._clock() - self._failed_at > WELL_AGAIN_S:
                self._failed_at = None
                self._tell(f"{self.what}: it can be written again", self)
        finally:
            self._busy_since = None
