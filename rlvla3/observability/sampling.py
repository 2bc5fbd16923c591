"""Meters that also keep each stage's work apart from its waiting: what a profile is made from.

A worker in a stage works on a core, waits for a core that others have, or sleeps. Linux counts the first two (CPU time of the process, run-queue delay of the
thread); what is left of the wall time it slept. Noted whenever a worker leaves a stage, in a file of its own: some microseconds each, and only where a run is
given a SamplingBoard, to be profiled or traced (tracing.py).
"""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.observability.meter import STAGES, Meter, MeterBoard

SCHEDSTAT = Path("/proc/thread-self/schedstat")
"""Of the thread that opens it, in nanoseconds: on a core, waiting for one; and how often it was given one."""

NS = 1e9
TRIES = 2000
_ENTRY = struct.Struct("=iidddd")
SAMPLE = np.dtype([("stage", "i4"), ("size", "i4"), ("end", "f8"), ("wall", "f8"), ("work", "f8"), ("delay", "f8")])
"""One stay in a stage: its number in STAGES, its size (0: not said), when it ended (monotonic clock), and seconds: all, on cores (all threads of the process),
and waiting for one."""


class SamplingBoard(MeterBoard):
    """Its workers' meters write their samples into `folder`. most_bytes: of each one's file, where noting stops."""

    def __init__(self, workers: Sequence[str], now: Callable[[], float] | None = None, *, folder: Path, most_bytes: float = math.inf) -> None:
        super().__init__(workers, now)
        self._folder, self._most_bytes = folder, most_bytes

    def meter(self, worker: str) -> Meter:
        return SamplingMeter(super().meter(worker), self._folder / f"{worker.replace(' ', '-')}.samples", self._most_bytes)


class SamplingMeter(Meter):
    """One worker's meter, of the thread that makes it. A stay is in the file as soon as it is over, whatever becomes of the worker."""

    def __init__(self, meter: Meter, path: Path, most_bytes: float = math.inf) -> None:
        super().__init__(meter._seconds, meter._stage, meter._since, meter._now)
        self._file, self._schedstat = path.open("ab", buffering=0), SCHEDSTAT.open("rb", buffering=0)
        self._free = most_bytes - path.stat().st_size  # a worker that takes a lost one's place goes on with its file
        self._size = 0
        self._work, self._delay = self._spent()

    def enter(self, stage: str, size: int = 0) -> None:
        left, since = int(self._stage[0]), float(self._since[0])
        super().enter(stage, size)
        if self._free < _ENTRY.size:
            return
        self._free -= _ENTRY.size
        now, (work, delay) = float(self._since[0]), self._spent()
        self._file.write(_ENTRY.pack(left, self._size, now, now - since, work - self._work, delay - self._delay))
        self._size, self._work, self._delay = size, work, delay

    def _spent(self) -> tuple[float, float]:
        """Seconds until now: on cores, and waiting for one."""
        return time.process_time(), int(os.pread(self._schedstat.fileno(), 64, 0).split()[1]) / NS


@dataclass(frozen=True)
class Samples:
    """What workers noted, by their kind ("shard", "generator", "trainer"): SAMPLE [n] each, a worker's own in order."""

    kinds: Mapping[str, NDArray[Any]]

    @classmethod
    def read(cls, folder: Path) -> Samples:
        """All that is in `folder`, once the workers have ended."""
        found: dict[str, list[NDArray[Any]]] = {}
        for path in sorted(folder.glob("*.samples")):
            found.setdefault(path.stem.split("-")[0], []).append(read_samples(path))
        return cls({kind: np.concatenate(samples) for kind, samples in found.items()})

    def without(self, seconds: float) -> Samples:
        """What they would have been if noting one had not taken so long."""
        kinds = {kind: samples.copy() for kind, samples in self.kinds.items()}
        for samples in kinds.values():
            for name in ("wall", "work"):
                samples[name] = np.maximum(samples[name] - seconds, 0.0)
        return Samples(kinds)

    def during(self, begin: float, end: float) -> Samples:
        """Those that began and ended between two moments of the monotonic clock."""
        return Samples({kind: samples[(samples["end"] - samples["wall"] >= begin) & (samples["end"] <= end)] for kind, samples in self.kinds.items()})

    def of(self, kind: str, *stages: str) -> NDArray[Any]:
        """The stays of all workers of a kind in some stages."""
        samples = self.kinds[kind]
        picked: NDArray[Any] = samples[np.isin(samples["stage"], [STAGES.index(stage) for stage in stages])]
        return picked

    def __add__(self, other: Samples) -> Samples:
        kinds = self.kinds.keys() | other.kinds.keys()
        none = np.empty(0, SAMPLE)
        return Samples({kind: np.concatenate([self.kinds.get(kind, none), other.kinds.get(kind, none)]) for kind in kinds})


def read_samples(path: Path) -> NDArray[Any]:
    """SAMPLE [n] of one worker; one that a dying worker left unfinished is passed over."""
    content = path.read_bytes()
    return np.frombuffer(content, SAMPLE, count=len(content) // SAMPLE.itemsize)


def seconds_a_sample(folder: Path) -> float:
    """CPU seconds that noting a sample takes here, beyond what any meter takes; found by trying, in a new file in `folder`."""
    plain, sampling = MeterBoard(["plain"]).meter("plain"), SamplingBoard(["try"], folder=folder).meter("try")
    taken = []
    for meter in (plain, sampling):
        began = time.process_time()
        for _ in range(TRIES):
            meter.enter("overhead")
        taken.append((time.process_time() - began) / TRIES)
    return max(taken[1] - taken[0], 0.0)


def slept(samples: NDArray[Any]) -> NDArray[np.float64]:
    """Seconds [n] of each stay in which the worker neither worked nor waited for a core."""
    asleep: NDArray[np.float64] = np.maximum(samples["wall"] - samples["work"] - samples["delay"], 0.0)
    return asleep
