"""Meters that also write a sample for each time in a stage. Samples separate work from waiting. Profiles and traces are made from them.

In a stage, a worker runs on a core, waits for a core that is busy, or sleeps. Linux counts the first two: CPU time of the process, and run-queue delay of the
thread. The rest of the wall time is sleep. A worker writes a sample whenever it leaves a stage, to a file of its own. This takes some microseconds, and happens
only where a run has a SamplingBoard: for a profile or for a trace (tracing.py).
"""

from __future__ import annotations

import errno
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
"""Nanoseconds of the thread that opens the file: on a core, and waiting for a core; then the number of time slices."""

NS = 1e9
TRIES = 2000
_ENTRY = struct.Struct("=iidddd")
SAMPLE = np.dtype([("stage", "i4"), ("size", "i4"), ("end", "f8"), ("wall", "f8"), ("work", "f8"), ("delay", "f8")])
"""One time in a stage. stage: its number in STAGES. size: the number of items, 0 where unknown. end: when it ended (monotonic clock). Seconds: wall: all of
it; work: on cores, of all threads of the process; delay: waiting for a core."""


DROPPED = -1
"""The stage of a sample that says only this: older samples of the worker were dropped."""


class SamplingBoard(MeterBoard):
    """A board whose meters write samples into `folder`. max_bytes: the limit for each file. There, a meter drops the older half of its samples."""

    def __init__(self, workers: Sequence[str], now: Callable[[], float] | None = None, *, folder: Path, max_bytes: float = math.inf) -> None:
        super().__init__(workers, now)
        self._folder, self._max_bytes = folder, max_bytes

    def meter(self, worker: str) -> Meter:
        return SamplingMeter(super().meter(worker), self._folder / f"{worker.replace(' ', '-')}.samples", self._max_bytes)


class SamplingMeter(Meter):
    """One worker's meter, for the thread that creates it. A sample is in the file as soon as the stage ends, even if the worker is killed then.

    max_bytes: the limit of the file; the newest samples are kept. Samples with a limit are those of a trace: where they cannot be written, they end, and the
    worker goes on. A profile needs them all, so without a limit an OSError is raised.
    """

    samples = True

    def __init__(self, meter: Meter, path: Path, max_bytes: float = math.inf) -> None:
        super().__init__(meter._seconds, meter._stage, meter._since, meter._now)
        self._path, self._max_bytes, self._ended = path, max_bytes, False
        self._schedstat = SCHEDSTAT.open("rb", buffering=0)
        try:
            self._open()
        except OSError as error:
            self._end(error)
        self._size = 0
        self._work, self._delay = self._spent()

    def enter(self, stage: str, size: int = 0) -> None:
        left, since = int(self._stage[0]), float(self._since[0])
        super().enter(stage, size)
        if self._ended:
            return
        now, (work, delay) = float(self._since[0]), self._spent()
        self._write(_ENTRY.pack(left, self._size, now, now - since, work - self._work, delay - self._delay))
        self._size, self._work, self._delay = size, work, delay

    def _open(self) -> None:
        self._file = self._path.open("ab", buffering=0)
        self._free = self._max_bytes - self._path.stat().st_size  # a worker that replaces a lost one appends to its file

    def _write(self, entry: bytes) -> None:
        try:
            if self._free < len(entry):
                self._drop_older()
            if self._file.write(entry) != len(entry):  # a reader ignores the part of an entry
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._free -= len(entry)
        except OSError as error:
            self._end(error)

    def _drop_older(self) -> None:
        """Keep the newer half. Whoever reads the file has the old one or the new one, each of them whole."""
        self._file.close()
        samples = read_samples(self._path)
        kept = samples[-int(self._max_bytes // 2 // _ENTRY.size) :].copy()
        kept[0] = (DROPPED, 0, kept["end"][0], 0.0, 0.0, 0.0)
        beside = self._path.with_suffix(".partial")
        beside.write_bytes(kept.tobytes())
        beside.replace(self._path)
        self._open()

    def _end(self, error: OSError) -> None:
        if self._max_bytes == math.inf:
            raise error
        self._ended = True
        print(f"the samples for trace.json end here, because they could not be written: {error.strerror}", flush=True)

    def _spent(self) -> tuple[float, float]:
        """Seconds until now: on cores, and waiting for a core."""
        return time.process_time(), int(os.pread(self._schedstat.fileno(), 64, 0).split()[1]) / NS


@dataclass(frozen=True)
class Samples:
    """The samples of all workers, by kind of worker ("shard", "generator", "trainer"): SAMPLE [n] each, in order for each worker."""

    kinds: Mapping[str, NDArray[Any]]

    @classmethod
    def read(cls, folder: Path) -> Samples:
        """All samples in `folder`. Call it when the workers have ended."""
        found: dict[str, list[NDArray[Any]]] = {}
        for path in sorted(folder.glob("*.samples")):
            found.setdefault(path.stem.split("-")[0], []).append(read_samples(path))
        return cls({kind: np.concatenate(samples) for kind, samples in found.items()})

    def without_overhead(self, seconds: float) -> Samples:
        """The samples without the time that writing each of them took."""
        kinds = {kind: samples.copy() for kind, samples in self.kinds.items()}
        for samples in kinds.values():
            for name in ("wall", "work"):
                samples[name] = np.maximum(samples[name] - seconds, 0.0)
        return Samples(kinds)

    def during(self, begin: float, end: float) -> Samples:
        """The samples that began and ended between two times of the monotonic clock."""
        return Samples({kind: samples[(samples["end"] - samples["wall"] >= begin) & (samples["end"] <= end)] for kind, samples in self.kinds.items()})

    def of(self, kind: str, *stages: str) -> NDArray[Any]:
        """The samples of all workers of a kind in some stages."""
        samples = self.kinds[kind]
        picked: NDArray[Any] = samples[np.isin(samples["stage"], [STAGES.index(stage) for stage in stages])]
        return picked

    def __add__(self, other: Samples) -> Samples:
        kinds = self.kinds.keys() | other.kinds.keys()
        none = np.empty(0, SAMPLE)
        return Samples({kind: np.concatenate([self.kinds.get(kind, none), other.kinds.get(kind, none)]) for kind in kinds})


def read_samples(path: Path) -> NDArray[Any]:
    """SAMPLE [n] of one worker. A sample that was cut off when the worker died is ignored."""
    content = path.read_bytes()
    return np.frombuffer(content, SAMPLE, count=len(content) // SAMPLE.itemsize)


def seconds_per_sample(folder: Path) -> float:
    """CPU seconds that writing a sample takes on this machine, in addition to the time of a plain meter. It is measured with a new file in `folder`."""
    plain, sampling = MeterBoard(["plain"]).meter("plain"), SamplingBoard(["try"], folder=folder).meter("try")
    taken = []
    for meter in (plain, sampling):
        began = time.process_time()
        for _ in range(TRIES):
            meter.enter("overhead")
        taken.append((time.process_time() - began) / TRIES)
    return max(taken[1] - taken[0], 0.0)


def seconds_asleep(samples: NDArray[Any]) -> NDArray[np.float64]:
    """The seconds [n] of each sample in which the worker slept: it neither ran on a core nor waited for one."""
    asleep: NDArray[np.float64] = np.maximum(samples["wall"] - samples["work"] - samples["delay"], 0.0)
    return asleep
