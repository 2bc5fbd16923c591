"""A run as its user has it: started with the `rlvla3` command, read line by line, and continued when it has ended.

Invariants:
- every process of a run inherits a mark, so that it is found wherever it hangs in the tree of processes, and no other run is touched;
- nothing here polls: who waits for a line or for the end of the run is woken by it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import psutil
import yaml

from rlvla3.benchmarks.chaos.orders import FOLDER
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.process_tree import marked, new_mark

MARK = "RLVLA3_CHAOS_RUN"
"""The environment variable that marks every process of a run. Its value is the run's own."""

WORKER = re.compile(r"(shard|generator|host) \d+|trainer( \d+)?")
"""What the threads of workers are called."""

UPDATE = re.compile(r"\] update (\d+)/")


@dataclass(frozen=True, slots=True)
class Line:
    """A line that the run has printed. at: when it was read, on the monotonic clock, in seconds."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the workers of a run on Ray are. mark: of all processes of the cluster. orders: the folder that they look for orders in. address: for the recipe.
    tell: changes the cluster (nodes.py)."""

    mark: str
    orders: Path
    address: str
    tell: Callable[[str], None]


class ObservedRun:
    """A run in `folder`, which is empty at first.

    mark: what its processes are known by. settings: the recipe. cluster: where its workers are, on Ray.

        run = ObservedRun(folder, "mark", settings)
        run.start()
        run.wait_for(lambda: run.updates >= 3, 60)
    """

    def __init__(self, folder: Path, mark: str, settings: Mapping[str, Any], cluster: Cluster | None = None) -> None:
        self.path, self.orders, self.scratch = folder / "run", cluster.orders if cluster else folder / "orders", folder / "scratch"
        self._mark, self.cluster = mark, cluster
        for made in (self.orders, self.scratch):
            made.mkdir(parents=True, exist_ok=True)
        self._recipe = folder / "recipe.yaml"
        self._recipe.write_text(yaml.safe_dump(dict(settings)))
        self.lines: list[Line] = []
        self.updates = 0
        """The newest update that a line spoke of."""
        self._news = Condition()
        self._process: subprocess.Popen[str] | None = None
        self._hung_up = False

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.path)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process that the user has started lives."""
        return self._process is not None and self._process.returncode is None

    @property
    def status(self) -> int:
        """The exit status of the run that has ended. -9: it was killed."""
        assert self._process is not None and self._process.returncode is not None
        return self._process.returncode

    def start(self) -> None:
        """Start the run, or continue it from its newest checkpoint."""
        start = [str(self.path)] if (self.path / "config.yaml").is_file() else [str(self._recipe), "--run-dir", str(self.path)]
        command = [sys.executable, "-m", "rlvla3.benchmarks.chaos.coordinator", "train", *start]
        variables = {MARK: self._mark, FOLDER: str(self.orders), "TMPDIR": str(self.scratch), "PYTHONUNBUFFERED": "1", "RAY_AUTH_MODE": "disabled"}
        with marked(new_mark()):  # so it ends with this process, even by `kill -9`
            self._process = process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True, env=os.environ | variables
            )
        self._hung_up = False
        for target in (self._read, self._await_end):
            Thread(target=target, args=(process,), daemon=True).start()

    def begin(self, patience_s: float, settle_s: float) -> bool:
        """Start the run, wait for its first update, and let it settle. Returns whether it goes on. If it does not, its last lines are printed."""
        self.start()
        if not self.wait_for(lambda: self.updates or not self.alive, patience_s) or not self.alive or self.wait(settle_s):
            print("\n".join(["the run did not start:", *(line.text for line in self.lines[-5:])]))
            return False
        return True

    def wait_for(self, condition: Callable[[], object], timeout_s: float) -> bool:
        """Wait until `condition` is true, which a line or the end of the run may make it. Returns whether it is, after `timeout_s` seconds at the latest."""
        with self._news:
            return bool(self._news.wait_for(condition, timeout_s))

    def wait(self, timeout_s: float) -> bool:
        """Wait until the run has ended. Returns whether it has."""
        return self.wait_for(lambda: not self.alive, timeout_s)

    def said(self, pattern: str, since: int = 0) -> Line | None:
        """The first line from number `since` on that has what the regular expression `pattern` describes."""
        return next((line for line in self.lines[since:] if re.search(pattern, line.text)), None)

    def hang_up(self) -> None:
        """Close the pipe that the run prints to, as `head` does: as soon as the next line is read."""
        self._hung_up = True

    def processes(self) -> list[psutil.Process]:
        """The living processes of this run, the coordinator among them. On Ray: those of its own, and its workers in the cluster."""
        there = {process.pid: process for process in marked_processes(self._mark)}
        if self.cluster is not None:
            there |= {process.pid: process for process in marked_processes(self.cluster.mark) if any(map(WORKER.fullmatch, names(process)))}
        return list(there.values())

    def workers(self, role: str) -> dict[str, psutil.Process]:
        """The living workers of a role, by their names: shard, generator, or trainer (with all its ranks). On Ray also host."""
        found: dict[str, psutil.Process] = {}
        for process in self.processes():
            for name in names(process):
                if WORKER.fullmatch(name) and name.split()[0] == role:
                    found[name if name not in found else f"{name} of another host"] = process
        return dict(sorted(found.items()))

    def send(self, number: signal.Signals) -> None:
        """Send the run a signal, as its user would."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill_all(self) -> None:
        """Kill every process of the run."""
        kill(self.processes())
        self.wait(30.0)

    def metrics(self, event: str) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl of one event, read without the code that is tried here. A line that was cut off is left out."""
        found = []
        for line in self.directory.metrics.read_text(errors="replace").splitlines():
            with suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return [record for record in found if record.get("event") == event]

    @property
    def summary(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.directory.summary.read_text())
        return content

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for text in process.stdout:
                with self._news:
                    self.lines.append(Line(time.monotonic(), text.rstrip("\n")))
                    if found := UPDATE.search(text):
                        self.updates = int(found[1])
                    self._news.notify_all()
                if self._hung_up:
                    break

    def _await_end(self, process: subprocess.Popen[str]) -> None:
        process.wait()
        with self._news:
            self._news.notify_all()


def marked_processes(mark: str) -> Iterator[psutil.Process]:
    """The living processes with this mark, whatever their parent is."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def names(process: psutil.Process) -> set[str]:
    """The names of its threads. A lane names its own thread, and so does an actor of Ray, whose process has Ray's name."""
    with suppress(OSError):
        return {path.read_text().strip() for path in Path(f"/proc/{process.pid}/task").glob("*/comm")}
    return set()


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kill processes, and wait until they are gone. A child of this process is left to whoever has started it: only one can learn its exit status."""
    others = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            others += [process] if process.ppid() != os.getpid() else []
            process.kill()
    psutil.wait_procs(others, timeout=10.0)
