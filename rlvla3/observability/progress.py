"""The progress of a run, which the live table (live_table.py) and the plain lines show."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean
from typing import TextIO

from rlvla3.observability.event_json import rate_json
from rlvla3.observability.events import (
    CloneStep,
    EpisodeFilmed,
    EpisodeFinished,
    EvaluationFinished,
    Event,
    Notice,
    PhaseStarted,
    Resumed,
    SuccessRate,
    UpdateFinished,
)
from rlvla3.observability.formatting import Rate, clock_time, duration, episodes_of, evaluation_result, judged_by_return, percent, quantity, success_of_episodes
from rlvla3.observability.intervals import success_rate, wilson
from rlvla3.observability.summary import RECENT_UPDATES
from rlvla3.observability.worker_times import by_kind, mean_of

SHOWN_UPDATES = 24
"""Updates of which the success rate is kept, and shown as a line of small bars."""


@dataclass
class Progress:
    """The state of a run. `on` updates it with an event. Times are seconds of `clock`."""

    clock: Callable[[], float] = time.monotonic
    phase: str = "start"
    done: int = 0
    total: int = 0
    loss: float | None = None
    successes: int = 0
    episodes: int = 0
    latest: UpdateFinished | None = None
    rollouts: deque[SuccessRate] = field(default_factory=lambda: deque(maxlen=SHOWN_UPDATES))
    """Of the last updates: a run of a million updates must not remember them all."""
    evaluations: dict[str, SuccessRate] = field(default_factory=dict)
    notices: deque[str] = field(default_factory=lambda: deque(maxlen=3))

    def __post_init__(self) -> None:
        self.began = self._phase_began = self.clock()
        self._paces: deque[float] = deque(maxlen=5)
        self._last_update = self.began
        self._successes, self._rewards = 0, 0.0  # of all updates

    def on(self, event: Event) -> None:
        match event:
            case PhaseStarted():
                self.phase, self.done, self.total, self.loss = event.phase, 0, event.total, None
                self.successes = self.episodes = 0
                self._phase_began = self._last_update = self.clock()
            case EpisodeFinished(finished):
                self.episodes += not finished.set_aside
                self.successes += finished.success
                self.done += self.phase in ("demonstrate", "evaluate")
            case CloneStep():
                self.done, self.total, self.loss = event.step, event.total, event.loss
            case UpdateFinished():
                self._add_update(event)
            case EvaluationFinished():
                self.evaluations[event.when] = event.success
                if event.best:
                    self.evaluations["best"] = event.success
            case Notice():
                self.notices.append(event.text)

    def _add_update(self, event: UpdateFinished) -> None:
        now = self.clock()
        self._paces.append(now - self._last_update)
        self._last_update = now
        self.done, self.total, self.latest = event.update, event.updates, event
        rollouts = success_rate(event.episodes)
        self.rollouts.append(rollouts)
        self._successes += rollouts.successes
        self._rewards += abs(rollouts.mean_return)

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self.clock() - self.began

    def seconds_left(self) -> float | None:
        """Seconds until this phase ends, at its present speed. None where there is no estimate yet."""
        if self.total == 0 or self.done == 0:
            return None
        if self.phase == "train":
            left = fmean(self._paces) * (self.total - self.done) - (self.clock() - self._last_update) if self._paces else 0.0
        else:
            left = (self.clock() - self._phase_began) / self.done * (self.total - self.done)
        return max(left, 0.0)

    def by_return(self) -> bool:
        """Whether to show the mean return instead of the success rate: no rollout succeeded, but there were rewards."""
        return judged_by_return(self._successes, self._rewards)

    def recent_success(self) -> Rate:
        """The success rate over the last updates, with its episodes and its interval."""
        recent = [*self.rollouts][-RECENT_UPDATES:]
        successes, episodes = sum(rollouts.successes for rollouts in recent), sum(rollouts.episodes for rollouts in recent)
        low, high = wilson(successes, episodes)
        return {"successes": successes, "episodes": episodes, "low": low, "high": high}

    def recent_return(self) -> float:
        """The mean return over the last updates."""
        recent = [rollouts.mean_return for rollouts in [*self.rollouts][-RECENT_UPDATES:]]
        return fmean(recent) if recent else 0.0


class PlainProgress:
    """Progress as plain lines, for pipes and log files: one for each phase, evaluation, update and notice, and a few within phases without updates."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._progress = stream, Progress(clock)

    def on(self, event: Event) -> None:
        self._progress.on(event)
        line = self._line(event)
        if line:
            print(f"[{clock_time(self._progress.elapsed()):>7}] {line}", file=self._stream, flush=True)

    def close(self) -> None:
        """Does nothing: every line is already flushed."""

    def _line(self, event: Event) -> str | None:
        match event:
            case PhaseStarted():
                return event.phase + (f": {event.total} {UNITS.get(event.phase, 'steps')}" if event.total else "")
            case EpisodeFinished() | CloneStep():
                return self._quarter()
            case UpdateFinished():
                return self._update(event)
            case EvaluationFinished():
                which = f"of version {event.version}" if event.when == "during" else f"({event.when})"
                rate = rate_json(event.success)
                episodes = episodes_of({**rate, "planned": event.planned})
                return f"evaluation {which}: {evaluation_result(rate)}{' of ' if event.planned is None else ', with '}{episodes}"
            case Notice():
                return event.text
            case EpisodeFilmed() | Resumed():
                return None

    def _quarter(self) -> str | None:
        """A line at each quarter of a phase that has no updates."""
        progress = self._progress
        quarter = max(progress.total // 4, 1)
        if progress.phase == "train" or not progress.total or progress.done % quarter or progress.done >= progress.total:
            return None
        loss = f", loss {progress.loss:.4f}" if progress.loss is not None else ""
        left = progress.seconds_left()
        return f"{progress.phase} {progress.done}/{progress.total}{loss}" + (f", {duration(left)} left" if left and left >= 1 else "")

    def _update(self, event: UpdateFinished) -> str:
        progress, rollouts = self._progress, self._progress.rollouts[-1]
        if progress.by_return():
            did = f"return {rollouts.mean_return:.1f} (last {RECENT_UPDATES}: {progress.recent_return():.1f})"
        else:
            recent = success_of_episodes(progress.recent_success())
            did = f"success {success_of_episodes(rate_json(rollouts))} (last {RECENT_UPDATES}: {recent})"
        busy = " ".join(f"{kind} {percent(sum(mean_of(kind, workers).busy.values()))}" for kind, workers in by_kind(event.workers).items())
        parts = [f"update {event.update}/{event.updates}", did, f"{quantity(event.throughput)} steps/s", f"staleness {staleness(event)}"]
        parts += [f"busy: {busy}"] if busy else []
        left = progress.seconds_left()
        return ", ".join(parts + ([f"{duration(left)} left"] if left and left >= 1 else []))


UNITS = {"clone": "steps", "demonstrate": "episodes", "evaluate": "episodes", "train": "updates"}
"""What each phase counts."""


def staleness(event: UpdateFinished) -> str:
    """The episodes of an update by staleness: "0: 60 1: 4"."""
    return " ".join(f"{lag}: {episodes}" for lag, episodes in sorted(event.staleness.items()))
