"""What a worker has started ends with it, however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil
import pytest

from rlvla3.process_tree import VARIABLE, end_tree, marked, new_mark
from rlvla3.runtimes.processes.process import start_worker
from rlvla3.signals import HEARD
from tests.support.families import KINDS, SLEEP
from tests.support.repository import ROOT

PATIENCE_S = 60.0


def running(family: Mapping[str, Iterable[int]]) -> list[str]:
    """The kinds of those that have not ended."""
    return [kind for kind, pids in family.items() for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def wait_for_end(family: Mapping[str, Iterable[int]]) -> list[str]:
    """The kinds of those that have not ended after PATIENCE_S."""
    end = time.monotonic() + PATIENCE_S
    while running(family) and time.monotonic() < end:
        time.sleep(0.01)
    return running(family)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["is stopped", "is killed"])
def test_a_family_ends_with_its_worker(tmp_path: Path, how: str):
    async def within() -> Mapping[str, list[int]]:
        worker = start_worker("family", "tests.support.families:start_family", log=tmp_path / "log", own_session=True)
        await worker.control.receive()
        family: Mapping[str, list[int]] = await worker.control.receive()
        assert set(running(family)) == KINDS.keys()
        if how == "is killed":
            ended = asyncio.Event()
            worker.on_exit(ended.set)
            worker.process.kill()
            await asyncio.wait_for(ended.wait(), PATIENCE_S)  # though a child may hold all that the worker had open
            worker.release()
        else:
            await worker.stop(PATIENCE_S)
            assert worker.process.exitcode == 0
        return family

    assert running(asyncio.run(within())) == []


@pytest.mark.slow
def test_a_family_ends_when_the_program_is_killed(tmp_path: Path):
    program = subprocess.Popen([sys.executable, "-m", "tests.support.families", str(tmp_path / "log")], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert program.stdout is not None
        family = json.loads(program.stdout.readline())
        assert set(running(family)) == {"worker", *KINDS}
    finally:
        program.kill()
        program.wait()
    for pid in family.pop("program without variables"):  # only its session tells whose it is, and nobody is left who knows that session
        os.kill(pid, signal.SIGKILL)
    assert wait_for_end(family) == []


def test_a_guardian_ends_with_its_program():
    done = subprocess.run(
        [sys.executable, "-c", "from rlvla3 import process_tree as t; t.new_mark(); print(t._guarded.popitem()[1][1].pid)"], capture_output=True
    )
    assert wait_for_end({"guardian": [int(done.stdout)]}) == []


@pytest.mark.parametrize(
    ("number", "then"), [(signal.SIGSTOP, "os.waitpid(guardian.pid, os.WUNTRACED)"), (signal.SIGKILL, "guardian.wait(); t.keep_guardian()")]
)
def test_a_guardian_that_was_stopped_or_killed_is_no_loss(number: signal.Signals, then: str):
    orphan = subprocess.run(
        [
            sys.executable,
            "-c",
            f"""import os, signal, subprocess
from rlvla3 import process_tree as t
with t.marked(t.new_mark()):
    print(subprocess.Popen({SLEEP!r}, stdout=subprocess.DEVNULL).pid, flush=True)
[(mark, guardian)] = t._guarded.values()
guardian.send_signal({int(number)})
{then}
os.kill(os.getpid(), signal.SIGKILL)""",
        ],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )
    assert wait_for_end({"program": [int(orphan.stdout)]}) == []


def test_only_what_has_the_mark_is_ended():
    mark, other = new_mark(), new_mark()
    with marked(mark):
        mine = subprocess.Popen(SLEEP)
        with_both = subprocess.Popen(SLEEP, env={**os.environ, VARIABLE: f"{os.environ[VARIABLE]} {other}"})
    with marked(other):
        longer = subprocess.Popen(SLEEP, env={**os.environ, VARIABLE: mark + "0"})
        theirs = subprocess.Popen(SLEEP)
    try:
        assert VARIABLE not in os.environ
        end_tree(mark)
        assert [process.wait(PATIENCE_S) for process in (mine, with_both)] == [-signal.SIGKILL] * 2
        assert longer.poll() is None and theirs.poll() is None
    finally:
        for process in (mine, with_both, longer, theirs):
            process.kill()
            process.wait()


@pytest.mark.parametrize("number", sorted(HEARD))
def test_what_a_worker_starts_hears_signals_that_the_worker_does_not(tmp_path: Path, number: int):
    async def within() -> None:
        worker = start_worker("signals", "tests.support.families:die_in_a_fork", number, log=tmp_path / "log", own_session=True)
        try:
            forked, program, blocked = await asyncio.wait_for(worker.control.receive(), PATIENCE_S)
        finally:
            await worker.stop(PATIENCE_S)
        assert program == -number and blocked == []
        assert forked == (1 if number == signal.SIGINT else -number)  # Python's own answer to SIGINT is an error
        assert worker.process.exitcode == 0

    asyncio.run(within())
