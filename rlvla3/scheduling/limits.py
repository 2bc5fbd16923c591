"""B_max and T_max: as the recipe gives them, or as a generator learns them (`engine.max_batch: auto`).

A generator measures four things as it runs: the time of an inference by its size; the time from an answer to the next request of the same shard; how many
shards run; and how long training uses the same device. From these, a model of its queue (queue_model.py) predicts how fast it would be with other limits. The
limits with the best prediction are used, and are chosen anew when the measurements have changed.

Until enough is known, all that wait go together, at once. A wait for more requests must promise a gain.

Invariants:
- the same requests at the same times give the same limits;
- T_max never exceeds the recipe's (law 4).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rlvla3.scheduling.inference_cost import CostCurve, InferenceCost
from rlvla3.scheduling.queue_model import Limits, Prediction, predict
from rlvla3.scheduling.shared_device import SharedDevice

AT_ONCE = Limits(math.inf, 0.0)
"""All that wait go together, and nobody waits for more."""

KNOWN_TIMES = 512
"""Thinking times that are remembered: the newest ones."""

ROUNDS, FEWEST = 4, 64
"""The measurements are looked at when each shard has asked so often, on average, and not before so many requests."""

CHANGE = 0.1
"""Measurements that have changed by less than this share are the same."""

GAIN = 0.02
"""Other limits than AT_ONCE must promise so much more decisions per second."""

GROWN = 1.5
"""Limits that were chosen in the tail of an update, when few shards ran, are forgotten when so many times more run."""

PARTS = (2, 3, 4, 6, 8, 12, 16, 32)
"""B_max is tried at these parts of all decisions that can be asked for."""

HALF = 0.5
"""T_max is also tried at this part of the time of an inference of one."""


class FixedLimits:
    """Limits that stay as they are. max_batch: B_max in decisions, None for no limit. max_wait: T_max in seconds. Raises ValueError for a B_max below 1."""

    choice: Choice | None = None

    def __init__(self, max_batch: int | None, max_wait: float) -> None:
        if max_batch is not None and max_batch < 1:
            raise ValueError(f"max_batch={max_batch} would make empty batches for ever: give 1 or more, or None for no limit")
        self.present = Limits(math.inf if max_batch is None else max_batch, max_wait)

    def asked(self, shard: int, at: float, running: int) -> None:
        """A shard asks for its next decisions. running: how many shards run."""

    def measured(self, size: int, seconds: float) -> None:
        """An inference of `size` decisions took `seconds`."""

    def answered(self, shards: Sequence[int], seconds: float, now: float) -> None:
        """A batch was answered. shards: who asked for each of its decisions. seconds: of the inference."""

    def forget(self, shard: int) -> None:
        """A shard was lost."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Limits that were chosen, and why: the cost of inference, and what the model predicts with these limits."""

    limits: Limits
    cost: InferenceCost
    prediction: Prediction


@dataclass(slots=True)
class Counts:
    """What has happened since the measurements were looked at. running: the most shards that ran. inferring: seconds of inference."""

    running: int = 0
    asks: int = 0
    decisions: int = 0
    inferring: float = 0.0


class LearnedLimits(FixedLimits):
    """The limits of one generator, as it learns them.

    max_wait: the recipe's T_max in seconds. training_seconds: returns how long training has used the generator's device until now. None if it never does.
    """

    def __init__(self, max_wait: float, training_seconds: Callable[[], float] | None = None) -> None:
        self.present, self._max_wait = AT_ONCE, max_wait
        self._cost, self._device = CostCurve(), SharedDevice(training_seconds)
        self._thinking: deque[float] = deque(maxlen=KNOWN_TIMES)
        self._since: dict[int, float] = {}  # when a shard was answered that thinks now
        self._learned_from: tuple[float, ...] = ()
        self._learned_with = math.inf  # shards that ran then
        self._counts = Counts()

    def asked(self, shard: int, at: float, running: int) -> None:
        self._counts.running = max(self._counts.running, running)
        if running > GROWN * self._learned_with:
            self.present, self._learned_from, self._learned_with = AT_ONCE, (), math.inf
        if shard in self._since:
            self._thinking.append(max(at - self._since.pop(shard), 0.0))

    def measured(self, size: int, seconds: float) -> None:
        self._cost.add(size, seconds)

    def answered(self, shards: Sequence[int], seconds: float, now: float) -> None:
        distinct = set(shards)
        self._since |= dict.fromkeys(distinct, now)
        self.measured(len(shards), seconds)
        counts = self._counts
        counts.asks, counts.decisions, counts.inferring = counts.asks + len(distinct), counts.decisions + len(shards), counts.inferring + seconds
        if counts.asks >= max(ROUNDS * counts.running, FEWEST) and self._thinking:
            self._device.add(now, counts.inferring, counts.decisions)
            self._look(max(counts.running, 1), counts.decisions / counts.asks)
            self._counts = Counts()

    def forget(self, shard: int) -> None:
        self._since.pop(shard, None)

    def _look(self, shards: int, slots: float) -> None:
        """Choose other limits if the measurements have changed. slots: decisions for which a shard asks at once, on average."""
        cost, thinking, known = self._cost.line(), sorted(self._thinking), len(self._thinking)
        quantiles = [thinking[known * tenth // 10] for tenth in (1, 5, 9)]
        found = (cost.of(1), cost.of(shards * slots), shards * slots, sum(thinking) / known, *quantiles, self._device.training_each)
        if self._learned_from and all(abs(new - old) <= CHANGE * old for new, old in zip(found, self._learned_from, strict=True)):
            return
        self._learned_from, self._learned_with = found, shards
        predictions = {limits: predict(limits, cost, thinking, shards, slots) for limits in _candidates(shards * slots, cost)}
        seconds = {limits: self._device.seconds_each(predicted, cost) for limits, predicted in predictions.items()}
        best = min(seconds, key=lambda limits: seconds[limits])
        if seconds[best] * (1 + GAIN) > seconds[AT_ONCE]:
            best = AT_ONCE
        predicted = predictions[best]
        # A wait without a limit gets one, so that a simulator that hangs does not hold up the others for ever. Shards that take turns fall into step only if
        # one group waits for the inference of the other and for its thinking.
        wait = best.max_wait if best.max_wait < math.inf else cost.of(shards * slots) + thinking[-1]
        self.present = Limits(best.max_batch, min(wait, self._max_wait))
        self.choice = Choice(self.present, cost, predicted)


def _candidates(decisions: float, cost: InferenceCost) -> Iterator[Limits]:
    """The limits to try, where so many decisions can be asked for."""
    for wait in (0.0, HALF * cost.of(1), math.inf):
        yield Limits(math.inf, wait)
    for part in PARTS:
        if decisions >= part:
            for wait in (0.0, math.inf):
                yield Limits(math.ceil(decisions / part), wait)
