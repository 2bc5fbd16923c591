"""How often browsers ask for a run that goes on."""

from __future__ import annotations

import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import pairwise
from statistics import median

SHARE = 0.003
"""Of all cores of the machine, for the answers to all browsers together."""

SHORTEST_S, LONGEST_S = 2.0, 30.0

MOST_TABS = 100
"""Tabs that are remembered. The one that asked longest ago is forgotten first."""

REMEMBERED = 5
"""A long file is read once, and reading it would slow the page down for long. So the median of the last times counts."""


class Pace:
    """How long a tab of a browser waits before it asks again: so long that the answers to all tabs take at most SHARE of the cores.

    A tab asks for several things at a time, and for the list of runs first. Call `again_s` then. What this process has worked since the same tab called last
    is what all tabs together have cost in the time that this one has waited.
    """

    def __init__(self, cores: int | None = None, worked: Callable[[], float] = time.process_time) -> None:
        self._cores, self._worked = cores or len(os.sched_getaffinity(0)), worked
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()

    def again_s(self, tab: str) -> float:
        """Seconds until `tab` is to ask again."""
        worked = self._seen.setdefault(tab, deque(maxlen=REMEMBERED + 1))
        worked.append(self._worked())
        self._seen.move_to_end(tab)
        while len(self._seen) > MOST_TABS:
            self._seen.popitem(last=False)
        if len(worked) <= REMEMBERED:
            return SHORTEST_S
        cost = median(after - before for before, after in pairwise(worked))
        return min(max(cost / (SHARE * self._cores), SHORTEST_S), LONGEST_S)
