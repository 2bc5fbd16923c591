"""How many generators are active while a run goes on (D-VLA leaves it as future work): idle times say what to try, the pace says whether it is kept.

    one more      is tried where generators work rather than wait for requests, and shards wait for decisions; it is kept if the run is faster by KEEP_MORE
    one fewer     is tried otherwise, or where one more has not paid; it is kept if the run is not slower than KEEP_FEWER

The next look compares the pace with that before. A step that has not paid is taken back. Neither that nor the way back from one that was kept is tried again
until idle times have changed by CHANGED. Idle times alone would not do: a generator that shares its cores or its device with others looks busy because of
them, and one more would make it worse.

Laws kept here:
- never fewer than `least` nor more than `most`, and one step at a time;
- on a constant load it settles: between n and n + 1 a step is kept in one direction only, as KEEP_MORE * KEEP_FEWER > 1, so the number kept goes up or
  down but never both, and what is then tried of its neighbours is taken back, once each.

It finds a number from which no single step pays. Where only two steps together would, it stays.

Pure decisions: the caller brings what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BUSY = 0.5
"""Where generators work for less of the time, more of them are not what is missing. Not more: two shards queue at a generator that is idle for a third of the
time, and a second one makes them faster by a sixth."""

WAITING = 0.1
"""A shard that waits for decisions for less of the time hardly waits: more generators could not win more than this."""

KEEP_MORE, KEEP_FEWER = 1.05, 0.97
"""The pace that is worth keeping one more for, and one fewer, as multiples of the pace before."""

CHANGED = 0.1
"""A share of idle time that differs by as much is of another load."""

assert KEEP_MORE * KEEP_FEWER > 1


@dataclass(frozen=True, slots=True)
class Load:
    """What was measured since the last look. busy: the share of the time that active generators did not wait for requests, in the mean. waiting: the share that
    shards waited for decisions, in the mean. pace: environment steps a second."""

    busy: float
    waiting: float
    pace: float

    def is_like(self, other: Load) -> bool:
        """Whether idle times are about the same."""
        return abs(self.busy - other.busy) < CHANGED and abs(self.waiting - other.waiting) < CHANGED


class ActiveGenerators:
    """How many are active, from `least` to `most`. It begins with the least.

    active = ActiveGenerators(least=1, most=4)
    active.look(Load(busy=0.95, waiting=0.6, pace=100.0))      # 2: a trial
    active.look(Load(busy=0.95, waiting=0.6, pace=101.0))      # 1: it was not worth it
    """

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most, self.count = least, most, least
        self._trial: tuple[int, Load] | None = None
        """The step being tried, and the load before it."""
        self._futile: dict[int, Load] = {}
        """Steps from the present number that are known not to be worth it, each with the load that this was seen under."""

    def look(self, load: Load) -> int:
        """How many are to be active from now on. load: since the last look, or since the change that came of it was complete."""
        if self._trial is not None and not self._is_worth(load):
            return self._take_back()
        step = self._worth_trying(load)
        self._trial = (step, load) if step else None
        self.count += step
        return self.count

    def begin_anew(self) -> None:
        """What comes now has nothing to do with what was measured before: the present number stays, untried."""
        self._trial = None
        self._futile.clear()

    def _is_worth(self, load: Load) -> bool:
        assert self._trial is not None
        step, before = self._trial
        if load.pace < before.pace * (KEEP_MORE if step > 0 else KEEP_FEWER):
            return False
        self._futile = {-step: load}  # back would be too slow, or not fast enough: that has just been seen
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
    """The generator of each shard where the first `active` of them are: the shard's own (homes), if that is one of them, else whoever serves the fewest
    slots."""
    load = [sum(count for home, count in zip(homes, slots, strict=True) if home == number) for number in range(active)]
    serves = []
    for home, count in zip(homes, slots, strict=True):
        if home >= active:
            home = load.index(min(load))
            load[home] += count
        serves.append(home)
    return serves
