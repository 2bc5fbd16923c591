"""The trace of a run. Every worker writes its samples to a file of its own (sampling.py). When the run ends, RUN_DIR/trace.json is made from them.

    RUN_DIR/stays/trainer.samples          of workers on the coordinator's host, and of trainers
    RUN_DIR/stays/host-1/shard-0.samples   of the hosts of a Ray run; the files are copied back when the hosts end

Invariants:
- a sample is in its file as soon as the stage ends. So the samples of a killed worker are there too;
- a file never grows beyond MAX_BYTES. The newest samples are kept, and the trace says so;
- the times of at most MAX_UPDATES updates are kept in memory. The trace says how many later ones it leaves out.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rlvla3.config import Recipe
from rlvla3.observability import trace_events
from rlvla3.observability.events import Event, UpdateFinished
from rlvla3.observability.meter import STAGES, MeterBoard
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.sampling import DROPPED, SamplingBoard, read_samples
from rlvla3.observability.trace_events import TraceEvent

MAX_BYTES = 16 << 20
"""The limit for a worker's file. It holds 420,000 samples: an hour of a shard that makes ten decisions a second. As JSON they are three times as long."""

MAX_UPDATES = 50_000
"""The limit for updates. Each takes about a kilobyte of memory. A run of seconds per update makes fewer in a day."""

KINDS = ("trainer", "weights", "generator", "shard")
"""The kinds of workers, from the top of a trace to its bottom."""


@dataclass(frozen=True, slots=True)
class WallClock:
    """Seconds since 1970. The wall clock is read once, when the object is created; the monotonic clock gives the time since. So a step of the wall clock has no
    effect.

    All processes of a host that receive the same object agree exactly. Hosts agree as well as their wall clocks do.
    """

    epoch: float = field(default_factory=lambda: time.time() - time.monotonic())

    def __call__(self) -> float:
        return self.epoch + time.monotonic()


def make_board(recipe: Recipe, folder: Path) -> Callable[[Sequence[str]], MeterBoard]:
    """Makes the board that a run of `recipe` needs: one that only sums times, or with engine.trace one whose meters also write samples into `folder`."""
    if not recipe.engine.trace:
        return MeterBoard
    folder.mkdir(parents=True, exist_ok=True)
    return partial(SamplingBoard, now=WallClock(), folder=folder, max_bytes=MAX_BYTES)


@dataclass(frozen=True)
class TraceLane:
    """The samples of one worker, SAMPLE [n].

    host: the name of its host's folder, "" for workers of the run's own host. cut_off: whether older samples were dropped.
    """

    host: str
    worker: str
    samples: NDArray[Any]
    cut_off: bool


@dataclass(frozen=True, slots=True)
class _Update:
    """What a trace shows of an update that finished at a time in seconds."""

    at: float
    number: int
    staleness: Mapping[int, int]
    batching: Sequence[Mapping[str, float]]


class TraceFile:
    """The watcher that notes the time of each version, and writes trace.json when it is closed. Then the samples are removed.

    Create it before the workers start, and close it after they have ended.
    """

    def __init__(self, run: RunDirectory, now: Callable[[], float] | None = None) -> None:
        self._run, self._now = run, now or WallClock()
        self._updates: list[_Update] = []
        self._left_out = 0
        shutil.rmtree(run.samples, ignore_errors=True)  # of an earlier run that was killed

    def on(self, event: Event) -> None:
        if not isinstance(event, UpdateFinished):
            return
        if len(self._updates) < MAX_UPDATES:
            self._updates.append(_Update(self._now(), event.update, event.staleness, event.batching))
        else:
            self._left_out += 1

    def close(self) -> None:
        lanes = read_lanes(self._run.samples)
        if lanes:
            begin = min(float((lane.samples["end"] - lane.samples["wall"]).min()) for lane in lanes)
            trace_events.write_events(self._run.trace, self._events(lanes, begin), _about(self._run, lanes, begin, self._left_out))
        shutil.rmtree(self._run.samples, ignore_errors=True)

    def _events(self, lanes: Sequence[TraceLane], begin: float) -> Iterator[TraceEvent]:
        hosts = sorted({lane.host for lane in lanes})
        for number, name in enumerate(hosts):
            yield from trace_events.host(number, name.replace("-", " ") or self._run.path.name)
        for thread, lane in enumerate(lanes, 1):
            yield from _lane_events(lane, hosts.index(lane.host), thread, begin)
        for update in self._updates:
            if update is self._updates[0]:
                yield trace_events.version(update.number - 1, 0.0)
            at = update.at - begin
            yield trace_events.version(update.number, at)
            yield trace_events.episodes(update.staleness, at)
            yield from (trace_events.batching(number, figures, at) for number, figures in enumerate(update.batching) if figures)


def read_lanes(folder: Path) -> list[TraceLane]:
    """The samples in the folder, in the order in which they are shown. A worker without samples has no lane."""
    return sorted(filter(None, (_read_lane(path, folder) for path in folder.rglob("*.samples"))), key=_sort_key)


def _read_lane(path: Path, folder: Path) -> TraceLane | None:
    samples = read_samples(path)
    kept = samples[samples["stage"] != DROPPED]
    host = path.parent.name if path.parent != folder else ""
    return TraceLane(host, path.stem.replace("-", " "), kept, cut_off=len(kept) < len(samples)) if len(kept) else None


def _sort_key(lane: TraceLane) -> tuple[list[int], int, list[int]]:
    """The sort key of a lane: host, then kind of worker, then the worker's numbers."""
    return _numbers(lane.host), KINDS.index(lane.worker.split()[0]), _numbers(lane.worker)


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _lane_events(lane: TraceLane, on: int, thread: int, begin: float) -> Iterator[TraceEvent]:
    yield from trace_events.lane(on, thread, lane.worker)
    if lane.cut_off:
        first = float(lane.samples["end"][0] - lane.samples["wall"][0])
        yield trace_events.mark(on, thread, f"earlier samples are left out: a worker keeps the newest {MAX_BYTES >> 20} MiB at most", first - begin)
    for stage, size, end, wall, _, _ in lane.samples.tolist():
        if wall > 0:
            yield trace_events.stage_time(on, thread, STAGES[stage], end - wall - begin, end - begin, size)


def _about(run: RunDirectory, lanes: Sequence[TraceLane], begin: float, left_out: int) -> Mapping[str, Any]:
    """Data about the trace. begin_late: the workers whose older samples were dropped. updates_left_out: those after MAX_UPDATES."""
    cut_off = [" ".join(filter(None, (lane.host.replace("-", " "), lane.worker))) for lane in lanes if lane.cut_off]
    return {"run": run.path.name, "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begin)), "begin_late": cut_off, "updates_left_out": left_out}
