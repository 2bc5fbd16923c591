"""Real workers that a signal stops, in every role: the user is told, and the run goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.runs import Run, countdown
from tests.support.thorough import thorough

pytestmark = [pytest.mark.usefixtures("no_run_outlives_its_test"), pytest.mark.slow]

SHORT = {"notice_s": 2, "answer_timeout_s": 5, "stage_timeout_s": 5, "build_timeout_s": 120}


def said(run: Run, *words: str) -> list[str]:
    return [notice for notice in run.summary["notices"] if all(word in notice for word in words)]


@pytest.mark.parametrize(("workers", "lost"), [(("shard 1", "generator 0"), 2), *thorough((("trainer", "trainer 1"), 1))])
def test_stopped_workers_are_told_of_and_replaced(tmp_path: Path, workers: tuple[str, str], lost: int, nothing_left: None) -> None:
    """Two at the same time. lost: how many of them are replaced. Where one rank is lost, all ranks begin anew."""
    slow = {"options": {"kwargs": {"step_s": 0.02}}}
    run = Run(tmp_path, countdown(simulator=slow, training={"updates": 8, "checkpoint_every": 1, "ranks": 3 - lost}, supervision=SHORT))
    run.until(lambda: len(run.records("update")) >= 2)
    stopped = {process.name(): process for process in run.workers() if process.name() in workers}
    for process in stopped.values():
        process.send_signal(signal.SIGSTOP)
    run.finished()
    for worker in workers:
        assert said(run, f"{worker} is stopped", f"`kill -CONT {stopped[worker].pid}`")
    assert sum(bool(said(run, f"{worker} was lost", "supervision.answer_timeout_s=5")) for worker in workers) >= lost
    assert run.summary["tickets"]["trained"] == 8 * 8


def test_a_stopped_worker_that_goes_on_costs_nothing(tmp_path: Path, nothing_left: None) -> None:
    slow = {"options": {"kwargs": {"step_s": 0.02}}}
    run = Run(tmp_path, countdown(simulator=slow, training={"updates": 8}, supervision=SHORT | {"answer_timeout_s": 60, "stage_timeout_s": 60}))
    run.until(lambda: len(run.records("update")) >= 2)
    (process,) = run.workers("trainer")
    process.send_signal(signal.SIGSTOP)
    run.until(lambda: [notice for notice in run.records("notice") if "trainer is stopped" in notice["text"]])
    process.send_signal(signal.SIGCONT)
    run.finished()
    assert said(run, "trainer goes on")
    assert not said(run, "was lost")
