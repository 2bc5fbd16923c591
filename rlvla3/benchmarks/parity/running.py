"""Trains the runs that are not finished. Each run uses the ordinary command line in a process of its own, and its output goes to a log file.

A finished run is not repeated, and an interrupted run is continued. So the whole measurement can be interrupted and continued too.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvla3.benchmarks.parity.trials import ParityError, ParityMeasurement
from rlvla3.config import Recipe, load_recipe
from rlvla3.observability.run_directory import RunDirectory

STOP_TIMEOUT_S = 120.0
"""How long a run may take to stop: it finishes its update and writes a checkpoint. After this time it is killed."""


def train_all(measurement: ParityMeasurement, jobs: int) -> None:
    """Train every run of `measurement` to its end, `jobs` at a time. Raises ParityError if one fails, and KeyboardInterrupt if the user interrupts."""
    if jobs < 1:
        raise ParityError(f"--jobs {jobs}: give 1 or more")
    with _interruptible():
        _clone(measurement)
        trials = list(measurement.trials())
        waiting = [trial for trial in trials if not _finished(measurement.folder(trial), load_recipe(measurement.start, measurement.settings(trial)))]
        print(f"{len(trials)} runs, {len(waiting)} to train", flush=True)
        commands = [
            Command(trial.name, _train_words(measurement, measurement.folder(trial), measurement.settings(trial)), measurement.out) for trial in waiting
        ]
        run_all(commands, jobs)


def _clone(measurement: ParityMeasurement) -> None:
    """Make the cloned policy from which every run starts. Cloning cannot be continued, so an unfinished clone is made again."""
    if not measurement.recipe.begins_by_cloning or _finished(measurement.clone, measurement.recipe):
        return
    if (measurement.clone / "config.yaml").is_file():
        with RunDirectory.open(measurement.clone).locked():
            shutil.rmtree(measurement.clone)
    run_all([Command("clone", _clone_words(measurement), measurement.out)], jobs=1)


def _finished(folder: Path, recipe: Recipe) -> bool:
    """Whether the run of `recipe` in `folder` is finished. Raises ParityError if the run there has other settings."""
    if not (folder / "config.yaml").is_file():
        return False
    run = RunDirectory.open(folder)
    different = _differences(_plain(run.recipe()), _plain(recipe))
    if different:
        raise ParityError(f"{folder} was made with other settings ({', '.join(different)}): give another --out, or remove that run")
    return run.ended() == "finished"


def _plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe without the checkpoint from which it starts, because the checkpoint's path changes when the folder is moved."""
    tree = recipe.model_dump(mode="json")
    del tree["policy"]["checkpoint"]
    return tree


def _differences(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> list[str]:
    """The settings that differ, such as "training.batch=8, now 16"."""
    found = []
    for key in dict.fromkeys((*there, *here)):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}={old}, now {new}")
    return found


def _clone_words(measurement: ParityMeasurement) -> tuple[str, ...]:
    return ("clone", str(measurement.start), *measurement.overrides, "--run-dir", str(measurement.clone), *_trust(measurement))


def _train_words(measurement: ParityMeasurement, folder: Path, settings: Sequence[str]) -> tuple[str, ...]:
    if (folder / "config.yaml").is_file():
        return ("train", str(folder), *_trust(measurement))
    return ("train", str(measurement.start), *settings, "--run-dir", str(folder), *_trust(measurement))


def _trust(measurement: ParityMeasurement) -> tuple[str, ...]:
    return ("--trust",) if measurement.trust else ()


@dataclass(frozen=True, slots=True)
class Command:
    """A call of `rlvla3`. words: its arguments. out: the folder of the measurement, where the log goes."""

    name: str
    words: tuple[str, ...]
    out: Path

    @property
    def log(self) -> Path:
        return self.out / "logs" / f"{self.name}.log"

    def start(self) -> subprocess.Popen[bytes]:
        """Start the command in a process group of its own. So an interrupt reaches it only once, from this process, even if it came from the terminal."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-P", "-m", "rlvla3", *self.words]
        with self.log.open("ab") as log:
            return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, process_group=0)


def run_all(commands: Sequence[Command], jobs: int) -> None:
    """Run all commands, `jobs` at a time. Waits for: the end of every command. A run that hangs ends by the limits of its recipe.

    Raises ParityError if a command fails.
    """
    running: dict[Command, tuple[subprocess.Popen[bytes], float]] = {}
    waiting, done = list(commands), 0
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                command = waiting.pop(0)
                running[command] = command.start(), time.monotonic()
            _wait_for_any([process for process, _ in running.values()])
            for command, (process, began) in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                del running[command]
                if status:
                    raise ParityError(
                        f"{command.name} ended with status {status}: {_last_line(command.log)} (whole log: {command.log}). "
                        f"Give the same command again to continue"
                    )
                done += 1
                print(f"{done} of {len(commands)}: {command.name}, {time.monotonic() - began:.0f} s", flush=True)
    finally:
        _stop([process for process, _ in running.values()])


def _wait_for_any(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until one of the processes has ended. An interrupt ends the wait."""
    ends = [os.pidfd_open(process.pid) for process in running]
    try:
        select.select(ends, [], [])
    finally:
        for end in ends:
            os.close(end)


def _stop(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Stop the runs as Ctrl-C does: each finishes its update and writes a checkpoint. A second interrupt, or the end of STOP_TIMEOUT_S, stops them at once."""
    if not running:
        return
    print(f"stopping {len(running)} runs: each finishes its update (interrupt again to stop at once)", flush=True)
    for process in running:
        process.send_signal(signal.SIGINT)
    try:
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for process in running:
            process.wait(max(deadline - time.monotonic(), 0.1))
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        for process in running:
            process.send_signal(signal.SIGINT)
    finally:
        for process in running:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Within this context, SIGTERM and SIGINT raise KeyboardInterrupt.

    SIGTERM: so that no run goes on without its parent. SIGINT: a shell makes background jobs ignore it; here it interrupts them too, and runs inherit this.
    """
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_line(log: Path) -> str:
    return next((line.strip() for line in reversed(log.read_text(errors="replace").splitlines()) if line.strip()), "it printed nothing")
