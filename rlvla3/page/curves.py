"""Curves of bounded size, however long a run is.

Invariants:
- a curve has at most MOST points, whatever is added to it;
- a curve of values keeps its smallest and its largest value: a spike stays visible for ever;
- a curve of success rates sums successes and episodes, so that its intervals are those of all episodes at a point;
- a curve of times sums seconds, so that its shares still sum to 100 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")

MOST = 1000
"""Points of a curve."""


RATE_POINTS = 50
"""Points of a curve of success that is shown. Each sums some updates, so that its interval says something."""


class Place(NamedTuple):
    """Where a point lies: after so many updates, so many environment steps, and so many seconds of the run."""

    update: int
    steps: int
    seconds: float


class Point(NamedTuple):
    place: Place
    value: float


class Rate(NamedTuple):
    """Successes among episodes, and the sum of their returns."""

    place: Place
    successes: int
    episodes: int
    returns: float


class Seconds(NamedTuple):
    """Seconds by stage."""

    place: Place
    spent: Mapping[str, float]


class Buckets(Generic[Item]):
    """Items in order, at most `most`. Where there are more, two neighbours become one by `merge`, and from then on each bucket takes twice as many items."""

    def __init__(self, merge: Callable[[Item, Item], Item], most: int) -> None:
        self._merge, self._most = merge, most
        self._items: list[Item] = []
        self._width, self._in_last = 1, 0

    def add(self, item: Item) -> None:
        if self._items and self._in_last < self._width:
            self._items[-1] = self._merge(self._items[-1], item)
            self._in_last += 1
            return
        if len(self._items) == self._most:
            pairs = zip(self._items[::2], self._items[1::2], strict=True)  # `most` is even
            self._items = [self._merge(*pair) for pair in pairs]
            self._width *= 2
        self._items.append(item)
        self._in_last = 1

    def replace(self, items: list[Item]) -> None:
        """Have these buckets instead. There are no more of them than before. The next item begins a new one."""
        self._items, self._in_last = items, self._width

    @property
    def width(self) -> int:
        """Items in a bucket."""
        return self._width

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)


class Curve:
    """A curve of values. Each bucket has its smallest and its largest value."""

    def __init__(self) -> None:
        self._buckets: Buckets[tuple[Point, Point]] = Buckets(_extremes, MOST // 2)

    def add(self, point: Point) -> None:
        self._buckets.add((point, point))

    @property
    def empty(self) -> bool:
        return not len(self._buckets)

    def cut(self, seconds: float) -> None:
        """Leave out all points after this second of the run. A bucket with points on both sides of it keeps only those that are known to lie before it."""
        kept = ([point for point in bucket if point.place.seconds <= seconds] for bucket in self._buckets)
        self._buckets.replace([(points[0], points[-1]) for points in kept if points])

    def points(self) -> list[Point]:
        return [point for bucket in self._buckets for point in (sorted(set(bucket), key=lambda point: point.place))]


def rates() -> Buckets[Rate]:
    """A curve of success rates."""
    return Buckets(_pooled, MOST // 2)


def times(most: int = 240) -> Buckets[Seconds]:
    """A curve of how time was spent."""
    return Buckets(_summed, most)


def pooled(found: list[Rate], most: int) -> list[Rate]:
    """At most `most` rates: neighbours are summed, so that each has more episodes and a narrower interval."""
    width = max(-(-len(found) // most), 1)
    return [_pool(found[begin : begin + width]) for begin in range(0, len(found), width)]


def _pool(rates: list[Rate]) -> Rate:
    whole = rates[0]
    for rate in rates[1:]:
        whole = _pooled(whole, rate)
    return whole


def _extremes(one: tuple[Point, Point], other: tuple[Point, Point]) -> tuple[Point, Point]:
    return min(one[0], other[0], key=lambda point: point.value), max(one[1], other[1], key=lambda point: point.value)


def _pooled(one: Rate, other: Rate) -> Rate:
    return Rate(other.place, one.successes + other.successes, one.episodes + other.episodes, one.returns + other.returns)


def _summed(one: Seconds, other: Seconds) -> Seconds:
    stages = dict.fromkeys((*one.spent, *other.spent))
    return Seconds(other.place, {stage: one.spent.get(stage, 0.0) + other.spent.get(stage, 0.0) for stage in stages})
