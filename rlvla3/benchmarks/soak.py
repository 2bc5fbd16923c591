"""Whether a run that lasts grows: the memory and the open files of every process, over a run of very quick updates that nothing disturbs (`bench soak`).

What grows by a kilobyte in each update is seen here in minutes: a real run makes fewer updates in a day.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from rlvla3.benchmarks.chaos.observed_run import ObservedRun
from rlvla3.benchmarks.chaos.settings import recipe
from rlvla3.observability.figures import write_figures

EVERY_S = 5.0
WARM_UP = 1 / 3
"""The share of the time that does not count: caches fill, and the first of everything is made."""

MOST_KB = 50.0
"""Kilobytes a minute. A process that grows by more than this grows."""

START_S, END_S = 180.0, 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A process at one moment. seconds: since the first update. kilobytes: of memory that is no file's and shared with nobody. files: open descriptors."""

    seconds: float
    kilobytes: float
    files: int


@dataclass(frozen=True, slots=True)
class Growth:
    """How one process grew after the warm-up. slope: kilobytes a minute, by least squares. files: the usual number of descriptors early and late."""

    process: str
    megabytes: float
    slope: float
    files: tuple[int, int]

    @property
    def is_flat(self) -> bool:
        return self.slope < MOST_KB and self.files[0] == self.files[1]


def main(minutes: float, figures: Path) -> bool:
    """Make a run of so many minutes, and print how each process grew. Returns whether all are flat."""
    with tempfile.TemporaryDirectory(prefix="rlvla3-soak-", ignore_cleanup_errors=True) as folder:
        settings = recipe("async")
        settings["simulator"]["delay"]["step"] = 0.0
        run = ObservedRun(Path(folder), f"soak-{os.getpid()}", settings)
        try:
            run.start()
            if not run.wait_for(lambda: run.updates or not run.alive, START_S) or not run.alive:
                print("\n".join(["the run did not start:", *(line.text for line in run.lines[-5:])]))
                return False
            samples = _sampled(run, 60 * minutes)
            updates, ended_itself = run.updates, not run.alive
            run.send(signal.SIGINT)
            run.wait(END_S)
        finally:
            run.kill_all()
    grown = [growth(process, of) for process, of in samples.items()]
    for line in report(grown, minutes, updates):
        print(line)
    write_figures({"minutes": minutes, "updates": updates, "processes": [asdict(one) for one in grown]}, figures)
    return all(one.is_flat for one in grown) and not ended_itself


def report(grown: Sequence[Growth], minutes: float, updates: int) -> Iterator[str]:
    """The table."""
    yield f"{minutes:g} minutes, {updates:,} updates; growth after the first {100 * WARM_UP:.0f} % of the time"
    yield f"  {'process':<16} {'MB':>7} {'kB a minute':>12} {'B an update':>12} {'open files':>11}"
    for one in grown:
        an_update = one.slope * 1000 * minutes / max(updates, 1)
        yield f"  {one.process:<16} {one.megabytes:>7.1f} {one.slope:>12.1f} {an_update:>12.1f} {one.files[0]:>4} to {one.files[1]:>3}" + (
            "" if one.is_flat else "  GROWS"
        )


def growth(process: str, samples: Sequence[Sample]) -> Growth:
    """How a process grew, from its samples."""
    kept = samples[int(len(samples) * WARM_UP) :]
    slope = float(np.polyfit([sample.seconds / 60 for sample in kept], [sample.kilobytes for sample in kept], 1)[0]) if len(kept) > 1 else 0.0
    third = max(len(kept) // 3, 1)
    early, late = (int(median(sample.files for sample in part)) for part in (kept[:third], kept[-third:]))
    return Growth(process, kept[-1].kilobytes / 1000, slope, (early, late))


def _sampled(run: ObservedRun, seconds: float) -> Mapping[str, Sequence[Sample]]:
    """Samples of every process of a run, by its name, every few seconds until the time is over or the run has ended."""
    samples: dict[str, list[Sample]] = defaultdict(list)
    began = time.monotonic()
    while run.alive and time.monotonic() - began < seconds:
        for process in run.processes():
            with suppress(psutil.Error, OSError):
                sample = Sample(time.monotonic() - began, _kilobytes(process), process.num_fds())
                samples[_name(run, process)].append(sample)
        run.wait(EVERY_S)
    return dict(sorted(samples.items()))


def _kilobytes(process: psutil.Process) -> float:
    """Pages of libraries do not count: whether they are shared depends on the other programs of this machine."""
    line = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("RssAnon"))
    return float(line.split()[1]) * 1.024


def _name(run: ObservedRun, process: psutil.Process) -> str:
    """The name of a worker; Python's own processes have none, and are told by their number."""
    if process.pid == run.pid:
        return "coordinator"
    name: str = process.name()
    return f"python {process.pid}" if name.startswith("python") else name
