"""Who was in which stage, from when to when: a meter board that remembers spans while it is asked to.

It is for the virtual clock only, where remembering takes no measured time. The meters of a real run only add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rlvla3.observability.meter import STAGES, Meter, MeterBoard


@dataclass(frozen=True, slots=True)
class Span:
    """A worker was in a stage, busy or waiting, from `begin` to `end`: virtual seconds since the run began."""

    worker: str
    stage: str
    begin: float
    end: float


class SpanBoard(MeterBoard):
    """Remembers the spans of the workers in `watched`, from `begin_recording` to `end_recording`. Spans are cut at both."""

    def __init__(self, workers: Sequence[str], now: Callable[[], float], watched: Iterable[str]) -> None:
        super().__init__(workers, now)
        self.watched = tuple(watched)
        self.spans: list[Span] = []
        self.begin = self.end = float("inf")
        self._recording = False

    def meter(self, worker: str) -> Meter:
        meter = super().meter(worker)
        return SpanMeter(meter, lambda stage, since: self._remember(worker, stage, since)) if worker in self.watched else meter

    def begin_recording(self) -> None:
        self.begin, self._recording = self._now(), True

    def end_recording(self) -> None:
        for worker in self.watched:
            self._remember(worker, self.stage(worker)[0], float(self._arrays["since"][self.workers.index(worker)]))
        self.end, self._recording = self._now(), False

    def _remember(self, worker: str, stage: str, since: float) -> None:
        """The worker leaves `stage`, in which it has been since `since`."""
        begin, now = max(since, self.begin), self._now()
        if self._recording and begin < now:
            self.spans.append(Span(worker, stage, begin, now))


class SpanMeter(Meter):
    """The meter of one worker. When a stage ends, it calls `on_leave` with the name of the stage and the time since when the worker was in it."""

    def __init__(self, meter: Meter, on_leave: Callable[[str, float], None]) -> None:
        super().__init__(meter._seconds, meter._stage, meter._since, meter._now)
        self._on_leave = on_leave

    def enter(self, stage: str, size: int = 0) -> None:
        self._on_leave(STAGES[int(self._stage[0])], float(self._since[0]))
        super().enter(stage, size)
