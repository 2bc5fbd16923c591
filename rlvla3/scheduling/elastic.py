"""How many generators are active while a run goes on (D-VLA leaves this as future work). Idle times say which step to try. The pace says whether to keep it.

    one more      is tried if generators work most of the time and shards wait for decisions. It is kept if the pace grows to KEEP_MORE times the one before
    one fewer     is tried otherwise, or if one more did not pay. It is kept if the pace stays above KEEP_FEWER times the one before

The next look compares the pace with the one before the step. A step that did not pay is taken back. It is not tried again until idle times have changed by
CHANGED; nor is the step back from one that was kept. Idle times alone are not enough: a generator that shares cores or a device with other workers looks busy
because of them, and one more generator would make that worse.

Laws kept here:
- there are never fewer than `least` nor more than `most`, and the number changes by one at a time;
- on a constant load it settles. Between n and n + 1, a step is kept in one direction only, because KEEP_MORE * KEEP_FEWER > 1. So the number that is kept only
  rises or only falls. Its two neighbours are then tried once each, and taken back.

It finds a number from which no single step pays. If only two steps together would pay, it does not find that.

Pure decisions: the caller brings what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BUSY = 0.5
"""If generators work for a smaller share of the time, another one is not tried. The limit is not higher, because a generator may be idle for a third of the
time while two shards queue at it, and a second one makes them faster by a sixth."""

WAITING = 0.1
"""If shards wait for decisions for a smaller share of the time, another generator is not tried: it could not gain more than this share."""

KEEP_MORE, KEEP_FEWER = 1.05, 0.97
"""The pace for which one more generator is kept, and one fewer, as multiples of the pace before."""

CHANGED = 0.1
"""If a share of idle time differs by this much, the load has changed."""

assert KEEP_MORE * KEEP_FEWER > 1


@dataclass(frozen=True, slots=True)
class Load:
    """What was measured since the last look.

    busy: the share of the time in which active generators did not wait for requests, on average. waiting: the share in which shards waited for decisions, on
    average. pace: environment steps a second.
    """

    busy: float
    waiting: float
    pace: float

    def is_like(self, other: Load) -> bool:
        """Whether idle times are about the same."""
        return abs(self.busy - other.busy) < CHANGED and abs(self.waiting - other.waiting) < CHANGED


class ActiveGenerators:
    """How many generators are active, from `least` to `most`. It begins with `least`.

    active = ActiveGenerators(least=1, most=4)
    active.look(Load(busy=0.95, waiting=0.6, pace=100.0))      # 2: a trial
    active.look(Load(busy=0.95, waiting=0.6, pace=101.0))      # 1: it was not worth it
    """

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most, self.count = least, most, least
        self._trial: tuple[int, Load] | None = None
        """The step being tried, and the load before it."""
        self._futile: dict[int, Load] = {}
        """Steps from the present number that did not pay, each with the load under which that was measured."""

    def look(self, load: Load) -> int:
        """How many are to be active from now on. load: measured since the last look, or since the change that followed it was complete."""
        if self._trial is not None and not self._is_worth(load):
            return self._take_back()
        step = self._worth_trying(load)
        self._trial = (step, load) if step else None
        self.count += step
        return self.count

    def begin_anew(self) -> None:
        """Other work begins, and earlier measurements say nothing about it. The present number stays, and every step may be tried."""
        self._trial = None
        self._futile.clear()

    def _is_worth(self, load: Load) -> bool:
        assert self._trial is not None
        step, before = self._trial
        if load.pace < before.pace * (KEEP_MORE if step > 0 else KEEP_FEWER):
            return False
        self._futile = {-step: load}  # the step back does not pay: that has just been measured
        return True

    def _take_back(self) -> int:
        assert self._trial is not None
        step, before = self._trial
        self._trial = None
        self._futile[step] = before
        self.count -= step
        return self.count

    def _worth_trying(self, load: Load) -> int:
        """+1, -1, or 0 for neither."""
        short = load.busy >= BUSY and load.waiting >= WAITING
        if short and self.count < self.most and not self._is_futile(1, load):
            return 1
        if self.count > self.least and not self._is_futile(-1, load):
            return -1
        return 0

    def _is_futile(self, step: int, load: Load) -> bool:
        return step in self._futile and self._futile[step].is_like(load)


def share_out(homes: Sequence[int], slots: Sequence[int], active: int) -> list[int]:
    """The generator of each shard if the first `active` generators are active: its home, if that one is active; otherwise the one that serves the fewest
    slots. homes: the generator of each shard if all are active."""
    load = [sum(count for home, count in zip(homes, slots, strict=True) if home == number) for number in range(active)]
    serves = []
    for home, count in zip(homes, slots, strict=True):
        if home >= active:
            home = load.index(min(load))
            load[home] += count
        serves.append(home)
    return serves
