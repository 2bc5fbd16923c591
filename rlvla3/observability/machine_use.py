"""The machine of a run while the run goes on: RUN_DIR/machine.jsonl has its cores, its memory and its GPUs, every EVERY_S seconds.

The figures are of what the run may use, because that is what runs out: its cores, the memory of the machine or of its container, the GPUs that it can see.
Other programs are in them too. Of a Ray run, they are of the coordinator's host.

Invariant: no more cores are in use than there are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from rlvla3.metadata import Metadata
from rlvla3.observability.appended_file import AppendedFile
from rlvla3.observability.continuing import Continuation, last_second
from rlvla3.observability.events import Event, Resumed
from rlvla3.observability.run_directory import RunDirectory

FILE = "machine.jsonl"
EVERY_S = 10.0
PATIENCE_S = 5.0
"""nvidia-smi is not waited for any longer. A driver that is in trouble may not answer."""

MIB = 2**20
QUERY = "name,memory.total,memory.used,utilization.gpu"
CONTROL_GROUP = Path("/sys/fs/cgroup")
"""The limits of this container, where it has some (version 2 of control groups)."""

VISIBLE = "CUDA_VISIBLE_DEVICES"


class GpuUse(Metadata):
    """memory, memory_used: bytes. busy: the share of time in which a kernel ran."""

    name: str
    memory: float
    memory_used: float
    busy: float | None = None


class MachineUse(Metadata):
    """A line of the file.

    seconds: since the run's start, as in metrics.jsonl. cores: those that this process may use. cores_used: how many of them were busy since the last line, on
    average. Of a quota of 1.5 or 0.5 cores, `cores` is 1, and `cores_used` the share of the quota. memory, memory_left: bytes of the machine, or of its
    control group where that has less.
    """

    seconds: float
    cores: int
    cores_used: float
    memory: float
    memory_left: float
    gpus: list[GpuUse] = []


class MachineFile:
    """The watcher that writes the lines: one with the first event, and then with the next event after EVERY_S seconds. Every episode that ends is an event.

    continued: what the run goes on from. Then nothing is written before the run is Resumed: it may be refused.
    """

    def __init__(self, run: RunDirectory, continued: Continuation | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._file, self._clock = AppendedFile(run.path / FILE), clock
        self._began, self._last = clock() - (last_second(continued) if continued else 0.0), float("-inf")
        self._waits = continued is not None
        self._smi, self._knows_ids = shutil.which("nvidia-smi"), True
        self._cores = Cores(clock)

    def on(self, event: Event) -> None:
        self._waits = self._waits and not isinstance(event, Resumed)
        now = self._clock()
        if self._waits or now - self._last < EVERY_S:
            return
        self._last = now
        use = machine_use(now - self._began, self._cores, self._gpus())
        self._file.append(use.model_dump_json().encode() + b"\n")

    def close(self) -> None:
        if not self._waits:
            self._file.close()

    def _gpus(self) -> list[GpuUse]:
        """What nvidia-smi says. It is not asked again where it has failed once: training does not depend on it."""
        visible = os.environ.get(VISIBLE)
        if self._smi is None or visible in ("", "-1"):
            return []
        if visible and self._knows_ids and (of_the_run := _ask_driver(self._smi, f"--id={visible}")) is not None:
            return gpus_of(of_the_run)
        self._knows_ids = False  # CUDA takes names that nvidia-smi does not know, such as those of parts of a GPU (MIG)
        if (of_all := _ask_driver(self._smi)) is None:
            self._smi = None
        return gpus_of(of_all or [])


def _ask_driver(smi: str, *further: str) -> list[str] | None:
    """The lines that nvidia-smi answers with. None where it fails."""
    try:
        words = [smi, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits", *further]
        return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None


class Cores:
    """The cores that this process may use, and how many of them are busy. Ask with `busy`, which tells of the time since it was asked last."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, group: Path = CONTROL_GROUP) -> None:
        self._clock, self._group = clock, group
        psutil.cpu_percent(percpu=True)  # its next call tells of the time since this one
        self._before = clock(), self._seconds_of_group()

    def busy(self) -> tuple[int, float]:
        """How many cores there are, and how many of them were busy, on average."""
        mine = os.sched_getaffinity(0)
        shares = psutil.cpu_percent(percpu=True)
        numbered = max(mine) < len(shares)  # not where some cores are off, or where a container shows its own alone
        count, used = len(mine), sum(share for core, share in enumerate(shares) if core in mine or not numbered) / 100
        (began, before), (now, spent) = self._before, (self._clock(), self._seconds_of_group())
        self._before = now, spent
        if (quota := self._quota()) < count:  # others may use the same cores, and what they use is not in this quota
            count = max(int(quota), 1)
            used = count * (spent - before) / (now - began) / quota if now > began else 0.0  # a quota may be a part of a core
        return count, min(max(used, 0.0), float(count))

    def _quota(self) -> float:
        """The cores that this container may use at a time. Infinite without a limit."""
        quota, _, period = self._read("cpu.max").strip().partition(" ")
        return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else float("inf")

    def _seconds_of_group(self) -> float:
        """The seconds of cores that this container has used so far."""
        return next((int(line.split()[1]) / 1e6 for line in self._read("cpu.stat").splitlines() if line.startswith("usage_usec ")), 0.0)

    def _read(self, name: str) -> str:
        try:
            return (self._group / name).read_text()
        except OSError:  # not this system
            return ""


def machine_use(seconds: float, cores: Cores, gpus: list[GpuUse]) -> MachineUse:
    """The machine now. seconds: since the run's start."""
    count, busy = cores.busy()
    memory = psutil.virtual_memory()
    limit, used = _control_group()
    total = min(limit, memory.total)
    return MachineUse(
        seconds=round(seconds, 3),
        cores=count,
        cores_used=round(busy, 2),
        memory=total,
        memory_left=max(min(memory.available, limit - used), 0.0),
        gpus=gpus,
    )


def gpus_of(lines: Iterable[str]) -> list[GpuUse]:
    """From nvidia-smi's lines "name, MiB in all, MiB used, percent busy". A GPU that does not tell its memory is left out."""
    found = []
    for line in lines:
        name, *figures = (part.strip() for part in line.rsplit(",", 3))
        if len(figures) == 3 and figures[0].isdigit() and figures[1].isdigit():
            total, used, busy = figures
            found.append(GpuUse(name=name, memory=MIB * float(total), memory_used=MIB * float(used), busy=float(busy) / 100 if busy.isdigit() else None))
    return found


def _control_group() -> tuple[float, float]:
    """The limit of memory of this container, and what is used of it, in bytes. Without a limit, (inf, 0). Files that the system can drop from memory at once
    are not counted as used."""
    try:
        limit, used, parts = ((CONTROL_GROUP / f"memory.{name}").read_text() for name in ("max", "current", "stat"))
    except OSError:  # not this system
        return float("inf"), 0.0
    if not limit.strip().isdigit() or not used.strip().isdigit():
        return float("inf"), 0.0
    files = [int(line.split()[1]) for line in parts.splitlines() if line.startswith("inactive_file ")]
    return float(limit), float(used) - sum(files)
