"""The live table of a run in a Jupyter notebook: one output of the cell, which is replaced by a newer one."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable

from rlvla3.observability.events import EvaluationFinished, Event, Notice, PhaseStarted
from rlvla3.observability.live_table import ProgressTable

LEAST_INTERVAL_S = 0.5
"""Episodes, updates and cloning steps can be many a second, and every drawing is a message to the browser."""


class NotebookProgress(ProgressTable):
    """The watcher that draws the table when there is news, and a last time at `close`. title, place: as ProgressTable has them."""

    def __init__(self, title: str, place: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(title, place, clock)
        self._clock, self._drawn = clock, clock()
        # Only a notebook comes here, and it has IPython.
        self._display = importlib.import_module("IPython.display").display(self.table(), display_id=True)

    def on(self, event: Event) -> None:
        super().on(event)
        if isinstance(event, (PhaseStarted, EvaluationFinished, Notice)) or self._clock() - self._drawn >= LEAST_INTERVAL_S:
            self._draw()

    def close(self) -> None:
        self._draw()

    def _draw(self) -> None:
        self._drawn = self._clock()
        self._display.update(self.table())
