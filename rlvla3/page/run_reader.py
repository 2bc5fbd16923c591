"""A run directory as plain data, read again and again while the run goes on.

Invariants:
- it is only read. Its lock is shared for a moment, to see whether the run goes on; a run that starts in this moment tries again (at_work.py);
- what is new is read, not the whole file again, and for at most PATIENCE_S at a time. A long file is looked at here and there first, so that it is shown at
  once. Until all of it is read, `complete` is False, and `metrics` has only what was seen: it does not tell what did not happen;
- damaged and missing files are left out. Nothing that is in a run directory raises anything but OSError.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from rlvla3.errors import RecipeError
from rlvla3.metadata import Metadata, checked, read_json
from rlvla3.observability.metrics_lines import read_line
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.page.appended_lines import AppendedLines, lines_here_and_there, tail
from rlvla3.page.at_work import Signs, signs
from rlvla3.page.run_metrics import RunMetrics
from rlvla3.page.run_settings import RunSettings, read_settings

PATIENCE_S = 1.0
LOOKS, LOOK_BYTES = 120, 32 << 10
"""How many places of a long file are looked at first, and how much of each."""

FEWER, ENDS = 4, 2
"""Where these are too short for its lines, so many times fewer places are looked at, and so many times more of each. The two ends are always looked at."""

TAIL_BYTES = 128 << 10
"""What is read of a run that is only listed."""

State = Literal["running", "ended", "lost"]
"""lost: it has said nothing of its end, and there is no sign that it is at work (at_work.py)."""


class _Summary(Metadata):
    ended: str = "running"


class RunReader:
    """One run. Call `refresh`, and read the fields.

    metrics: what its lines say. settings: its recipe. complete: whether all lines are read. damaged: how many cannot be read. ended: as summary.json says it.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.run, self._clock = RunDirectory(path), clock
        self._begin()
        self.settings, self._settings_read = RunSettings(), 0
        self.ended = "running"

    def _begin(self) -> None:
        self._lines = AppendedLines(self.run.metrics)
        self._whole, self._glance = RunMetrics(), RunMetrics()
        self.complete, self.damaged = False, 0
        self.read_share = 0.0
        self._looked = False

    @property
    def metrics(self) -> RunMetrics:
        return self._whole if self.complete else self._glance

    def refresh(self, patience_s: float = PATIENCE_S) -> None:
        """Read what is new, for about so long. Raises OSError where a file is there and cannot be read."""
        self._read_settings()
        self.ended = self._how_ended()
        until = self._clock() + patience_s
        while True:
            new = self._lines.read()
            if new.anew:  # the run goes on from an earlier update, or another one is made in this folder
                self._begin()
                continue
            self._add(new.lines)
            if not new.left:
                self.complete, self.read_share = True, 1.0
                return
            self.read_share = self._lines.offset / (self._lines.offset + new.left)
            if self._clock() >= until:
                self._look()
                return

    def read_whole(self, tell: Callable[[float], None]) -> None:
        """Read until all is read. tell: called with the share that is read. Raises OSError as `refresh` does."""
        self.refresh()
        while not self.complete:
            tell(self.read_share)
            self.refresh()

    def brief(self) -> dict[str, Any]:
        """What a list of runs says of it, from the end of its file. Raises OSError where a file is there and cannot be read."""
        self.ended = self._how_ended()
        lines = (read_line(text) for text in reversed(tail(self.run.metrics, TAIL_BYTES).split(b"\n")) if b'"update"' in text)
        last = next((line for line in lines if line is not None and line["event"] == "update"), {})
        return {"state": self.state(), "ended": self.ended, "update": last.get("update", 0), "updates": last.get("updates"), "rollouts": last.get("rollouts")}

    def state(self) -> State:
        """Whether the run goes on."""
        if self.ended != "running":
            return "ended"
        return "running" if self.signs().of_work else "lost"

    def signs(self) -> Signs:
        """The signs that it is at work."""
        return signs(self.run)

    def _add(self, lines: list[bytes]) -> None:
        for text in lines:
            line = read_line(text) if text.strip() else None
            if line is not None:
                self._whole.add(line)
            elif text.strip():
                self.damaged += 1

    def _look(self) -> None:
        """Have something to show of a long file, before all of it is read."""
        if self._looked or self.complete:
            return
        self._looked = True
        places, size = LOOKS, LOOK_BYTES
        while len(found := lines_here_and_there(self.run.metrics, places, size)) < places > ENDS:
            places, size = max(places // FEWER, ENDS), size * FEWER
        for text in found:
            if line := read_line(text):
                self._glance.add(line)

    def _read_settings(self) -> None:
        try:
            written = self.run.config.stat().st_mtime_ns
        except OSError:
            written = -1
        if written != self._settings_read:
            self._settings_read = written
            self.settings = read_settings(self.run.config)

    def _how_ended(self) -> str:
        try:
            return checked(_Summary, read_json(self.run.summary, ""), "", "").ended
        except RecipeError:  # there is none yet, or it is damaged: the next update writes it anew
            return "running"
