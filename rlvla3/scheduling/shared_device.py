"""How inference and training share a device, and what a decision costs there.

Where nothing else uses the device, only the queue of requests counts: the more decisions per second, the better. Where training uses the same device and is the
bottleneck, each second of inference is one that training does not have. Then fewer, larger batches are better, even if simulators wait longer for them.
"""

from __future__ import annotations

from collections.abc import Callable

from rlvla3.scheduling.inference_cost import InferenceCost
from rlvla3.scheduling.queue_model import Prediction

MEMORY = 0.9
"""The weight of a measurement is so many times smaller after each later one."""

SATURATION = 4
"""The power of training's share of the time that says how far training is the bottleneck: a trainer that is busy half of the time is none (1/16), one that is
busy for 98 % is one (0.92)."""


class SharedDevice:
    """Measures one device. training_seconds: returns how long training has used it until now. None if it never does."""

    def __init__(self, training_seconds: Callable[[], float] | None) -> None:
        self._training_seconds = training_seconds
        self._seconds = self._training = self._inferring = self._decisions = 0.0
        self._last: tuple[float, float] | None = None
        self.training_share = self.training_each = 0.0
        """The share of the time in which training uses the device, and the seconds of training for each decision, if it had the device for itself."""

    def add(self, now: float, inferring: float, decisions: int) -> None:
        """Since the last call, `decisions` were made in `inferring` seconds of inference. The first call only says when the measurement begins."""
        if self._training_seconds is None:
            return
        training, last = self._training_seconds(), self._last
        self._last = now, training
        if last is None:
            return
        earlier, trained = last
        self._seconds = self._seconds * MEMORY + now - earlier
        self._training = self._training * MEMORY + training - trained
        self._inferring = self._inferring * MEMORY + inferring
        self._decisions = self._decisions * MEMORY + decisions
        self.training_share = min(self._training / self._seconds, 1.0)
        alone = 1 - min(self._inferring / self._seconds, 1.0) / 2  # while both compute, each has half of the device
        self.training_each = alone * self._training / self._decisions

    def seconds_each(self, predicted: Prediction, cost: InferenceCost) -> float:
        """What a decision costs: the seconds of the queue, so far as training waits for it, and those of the device, so far as training is the bottleneck."""
        bottleneck = self.training_share**SATURATION
        device = self.training_each + cost.of(predicted.batch) / predicted.batch / (1 + self.training_share)
        return (1 - bottleneck) / predicted.rate + bottleneck * device
