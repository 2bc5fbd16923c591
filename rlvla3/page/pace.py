"""How often a browser asks for a run that goes on."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from statistics import median

SHARE = 0.003
"""Of all cores of the machine, for the answers to one browser."""

SHORTEST_S, LONGEST_S = 2.0, 30.0

REMEMBERED = 5
"""A long file is read once, and reading it would slow the page down for long. So the median of the last times counts."""


class Pace:
    """How long a browser waits before it asks again: so long that its answers take at most SHARE of the cores.

    A browser asks for several things at a time, and for the list of runs first. Call `again_s` then. What this process has worked since the last call is what
    that time has cost.
    """

    def __init__(self, cores: int | None = None, worked: Callable[[], float] = time.process_time) -> None:
        self._cores, self._worked = cores or len(os.sched_getaffinity(0)), worked
        self._before: float | None = None
        self._costs: deque[float] = deque(maxlen=REMEMBERED)

    def again_s(self) -> float:
        """Seconds until a browser is to ask again."""
        now = self._worked()
        if self._before is not None:
            self._costs.append(now - self._before)
        self._before = now
        if len(self._costs) < REMEMBERED:
            return SHORTEST_S
        return min(max(median(self._costs) / (SHARE * self._cores), SHORTEST_S), LONGEST_S)
