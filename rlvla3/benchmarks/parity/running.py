"""Trains what is not trained yet: each run by the ordinary command line, in a process of its own, its output in a log file.

A run that is finished is not repeated, and one that was interrupted goes on, so the whole measurement can be interrupted and goes on as well.
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

from rlvla3.benchmarks.parity.plan import ParityError, Plan
from rlvla3.config import Recipe, load_recipe
from rlvla3.observability.run_directory import RunDirectory

PATIENCE_SECONDS = 120.0
"""With a run that was asked to stop: it finishes its update and keeps a checkpoint. Then it is killed."""


def train_all(plan: Plan, jobs: int) -> None:
    """Bring every run of `plan` to its end, `jobs` at a time. Raises ParityError where one fails, KeyboardInterrupt where the user interrupts."""
    if jobs < 1:
        raise ParityError(f"--jobs {jobs}: give 1 or more")
    with _interruptible():
        _clone(plan)
        trials = list(plan.trials())
        waiting = [trial for trial in trials if not _finished(plan.folder(trial), load_recipe(plan.start, plan.settings(trial)))]
        print(f"{len(trials)} runs, {len(waiting)} to be trained", flush=True)
        commands = [Command(trial.name, _train_words(plan, plan.folder(trial), plan.settings(trial)), plan.out) for trial in waiting]
        run_all(commands, jobs)


def _clone(plan: Plan) -> None:
    """The one policy that every run starts from. Cloning cannot be continued: what is unfinished is made again."""
    if not plan.recipe.begins_by_cloning or _finished(plan.clone, plan.recipe):
        return
    if (plan.clone / "config.yaml").is_file():
        with RunDirectory.open(plan.clone).claimed():
            shutil.rmtree(plan.clone)
    run_all([Command("clone", ("clone", str(plan.start), *plan.overrides, "--run-dir", str(plan.clone)), plan.out)], jobs=1)


def _finished(folder: Path, recipe: Recipe) -> bool:
    """Whether the run of `recipe` in `folder` is done. Raises ParityError where the run there is another one."""
    if not (folder / "config.yaml").is_file():
        return False
    run = RunDirectory.open(folder)
    different = _differences(_plain(run.recipe()), _plain(recipe))
    if different:
        raise ParityError(f"{folder} was made with other settings ({', '.join(different)}): give another --out, or remove that run")
    return run.ended() == "finished"


def _plain(recipe: Recipe) -> dict[str, Any]:
    """Without the checkpoint it starts from, whose path changes when the folder is moved."""
    tree = recipe.model_dump(mode="json")
    del tree["policy"]["checkpoint"]
    return tree


def _differences(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> list[str]:
    """Settings that are not the same, as `training.batch=8, now 16`."""
    found = []
    for key in dict.fromkeys((*there, *here)):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}={old}, now {new}")
    return found


def _train_words(plan: Plan, folder: Path, settings: Sequence[str]) -> tuple[str, ...]:
    if (folder / "config.yaml").is_file():
        return ("train", str(folder))
    return ("train", str(plan.start), *settings, "--run-dir", str(folder))


@dataclass(frozen=True, slots=True)
class Command:
    """words: for `rlvla3`. out: the folder of the measurement, where the log goes."""

    name: str
    words: tuple[str, ...]
    out: Path

    @property
    def log(self) -> Path:
        return self.out / "logs" / f"{self.name}.log"

    def start(self) -> subprocess.Popen[bytes]:
        """In a process group of its own: an interrupt reaches it through us, once, whether it came from the terminal or not."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-P", "-m", "rlvla3.cli", *self.words]
        with self.log.open("ab") as log:
            return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, process_group=0)


def run_all(commands: Sequence[Command], jobs: int) -> None:
    """Waits for: every command to end. A run that hangs ends itself, by the limits of its recipe."""
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
                        f"{command.name} ended with status {status}: {_last_line(command.log)} (all of it: {command.log}); the same command goes on"
                    )
                done += 1
                print(f"{done} of {len(commands)}: {command.name}, {time.monotonic() - began:.0f} s", flush=True)
    finally:
        _stop([process for process, _ in running.values()])


def _wait_for_any(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until one of them has ended; an interrupt ends the wait."""
    ends = [os.pidfd_open(process.pid) for process in running]
    try:
        select.select(ends, [], [])
    finally:
        for end in ends:
            os.close(end)


def _stop(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """The way Ctrl-C does: each run finishes its update and keeps a checkpoint, unless a second interrupt comes or PATIENCE_SECONDS are over."""
    if not running:
        return
    print(f"stopping {len(running)} runs: each finishes its update (interrupt again to stop at once)", flush=True)
    for process in running:
        process.send_signal(signal.SIGINT)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
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
    """SIGTERM raises KeyboardInterrupt, so that no run is left behind without its parent; and SIGINT does where a shell had it ignored, as for a job in the
    background: runs hear it there as well."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_line(log: Path) -> str:
    return next((line.strip() for line in reversed(log.read_text(errors="replace").splitlines()) if line.strip()), "it said nothing")
