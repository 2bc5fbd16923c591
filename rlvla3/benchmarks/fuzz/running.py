"""Runs cases in a worker process, and says what came of each.

The worker says when it has made a case, and then has `limit_s` seconds to read it. A worker that is late is killed, and one that dies has crashed: the next
case has a new worker. A case that is late is tried a second time, so that a busy machine is not taken for a slow reader.
"""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Literal

import psutil

from rlvla3.benchmarks.fuzz.subject import make_subject
from rlvla3.errors import ExplainedError

Kind = Literal["accepted", "refused", "escaped", "slow", "crashed"]

LIMIT_S = 2.0
"""What can be known of a file is said within this time."""

END_S = 10.0
"""How long a worker that was killed is waited for. One that hangs in the kernel takes longer."""

START_S = 120.0
"""How long a worker may take for its imports, and for making one case."""

MEMORY_BYTES = 4 * 2**30
"""Address space that a worker may take after its imports. A case that wants more gets a MemoryError."""

WORDS = 300
"""Letters that are kept of an error's message."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case. change: what was broken. words: the error's type and message, or the exit code. place: where in this package it was raised."""

    number: int
    change: str
    kind: Kind
    seconds: float
    words: str = ""
    place: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it was accepted, or refused in words, in time."""
        return self.kind in ("accepted", "refused")


def run_cases(subject: str, numbers: Iterable[int], seed: int, folder: Path, limit_s: float = LIMIT_S, keep: Path | None = None) -> Iterator[Outcome]:
    """Make and read the cases with these numbers. folder: an empty folder for the work. keep: where the files of cases go that are not good."""
    worker = _Worker(subject, seed, folder, limit_s)
    try:
        for number in numbers:
            outcome = worker.run(number)
            if not worker.lives:
                worker = _Worker(subject, seed, folder, limit_s)
                if outcome.kind == "slow":
                    outcome = worker.run(number)
            if keep is not None and not outcome.is_good:
                shutil.copytree(folder / "case", keep / f"{subject}-{seed}-{number}", symlinks=True, dirs_exist_ok=True)
            yield outcome
            if not worker.lives:
                worker = _Worker(subject, seed, folder, limit_s)
    finally:
        worker.end()


class _Worker:
    """The worker process, as the benchmark sees it. It lives until a case is late or crashes."""

    def __init__(self, subject: str, seed: int, folder: Path, limit_s: float) -> None:
        self._limit_s = limit_s
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, subject, seed, folder), daemon=True)
        self._process.start()
        theirs.close()
        self.lives = True
        self._receive(START_S)

    def run(self, number: int) -> Outcome:
        """Run one case. Raises RuntimeError if it cannot be made: that is a mistake of the subject."""
        self._pipe.send(number)
        try:
            change: str = self._receive(START_S)
        except (EOFError, TimeoutError) as error:
            self.end()
            raise RuntimeError(f"case {number} cannot be made; the worker's traceback is above") from error
        began = time.monotonic()
        try:
            found: dict[str, Any] = self._receive(self._limit_s)
        except TimeoutError:
            self.end()
            return Outcome(number, change, "slow", time.monotonic() - began, f"took more than {self._limit_s:g} s")
        except EOFError:
            self.end()
            return Outcome(number, change, "crashed", time.monotonic() - began, f"the process ended with exit code {self._process.exitcode}")
        return Outcome(number, change, **found)

    def end(self) -> None:
        """Kill the process, if it still lives."""
        self._process.kill()
        self._process.join(END_S)
        self._pipe.close()
        self.lives = False

    def _receive(self, timeout_s: float) -> Any:
        """Raises TimeoutError if the worker is late, and EOFError if it has died."""
        if not self._pipe.poll(timeout_s):
            raise TimeoutError
        try:
            return self._pipe.recv()
        except ConnectionResetError as error:
            raise EOFError from error


def _work(pipe: Connection, subject_name: str, seed: int, folder: Path) -> None:
    """What the worker process does: it makes and reads the cases whose numbers come through `pipe`."""
    good, case = folder / "good", folder / "case"
    shutil.rmtree(good, ignore_errors=True)
    good.mkdir(parents=True)
    subject = make_subject(subject_name, good)
    most = psutil.Process().memory_info().vms + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    pipe.send("ready")
    while True:
        number: int = pipe.recv()
        shutil.rmtree(case, ignore_errors=True)
        case.mkdir()
        pipe.send(subject.make(Random(f"{subject_name} {seed} {number}"), case))
        began = time.monotonic()
        kind, words, place = _outcome(subject.read, case)
        pipe.send({"kind": kind, "words": words, "place": place, "seconds": time.monotonic() - began})


def _outcome(read: Any, case: Path) -> tuple[Kind, str, str]:
    try:
        read(case)
    except BaseException as error:  # a case may raise anything, even what is no Exception: to tell which is the purpose
        said = f"{type(error).__name__}: {error}"[:WORDS]
        return ("refused", said, "") if isinstance(error, ExplainedError) else ("escaped", said, _place(error.__traceback__))
    return "accepted", "", ""


def _place(raised: TracebackType | None) -> str:
    """The last line of this package that the error went through, such as config/loading.py:60."""
    package = Path(__file__).parents[2]
    frames = [frame for frame in traceback.extract_tb(raised) if Path(frame.filename).is_relative_to(package)]
    inner = [frame for frame in frames if not Path(frame.filename).is_relative_to(Path(__file__).parent)] or frames
    return f"{Path(inner[-1].filename).relative_to(package)}:{inner[-1].lineno}" if inner else ""
