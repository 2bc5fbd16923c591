"""Real workers that hang or are stopped, in every role: the user is told, and the run goes on."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import Run, countdown

pytestmark = [pytest.mark.usefixtures("no_run_outlives_its_test"), pytest.mark.slow]

SHORT = {"notice_s": 2, "answer_timeout_s": 5, "stage_timeout_s": 5, "build_timeout_s": 60}


def said(run: Run, *words: str) -> list[str]:
    return [notice for notice in run.summary["notices"] if all(word in notice for word in words)]


@pytest.mark.parametrize("worker", ["shard 1", "generator 0", "trainer", "trainer 1"])
def test_a_stopped_worker_is_told_of_and_replaced(tmp_path: Path, worker: str, nothing_left: None) -> None:
    slow = {"options": {"kwargs": {"step_s": 0.02}}}
    training = {"updates": 8, "checkpoint_every": 1, "ranks": 2 if worker == "trainer 1" else 1}
    run = Run(tmp_path, countdown(simulator=slow, training=training, supervision=SHORT))
    run.until(lambda: len(run.records("update")) >= 2)
    (process,) = [child for child in run.workers(worker) if child.name() == worker]
    process.send_signal(signal.SIGSTOP)
    run.finished()
    assert said(run, f"{worker} is stopped", f"`kill -CONT {process.pid}`")
    assert said(run, f"{worker} was lost", "supervision.answer_timeout_s=5")
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


@pytest.mark.parametrize(("where", "worker", "what"), [("act", "generator 0", "for one inference"), ("evaluate", "trainer", "for one pass of training")])
def test_a_policy_that_hangs_is_named_and_its_worker_replaced(tmp_path: Path, where: str, worker: str, what: str, nothing_left: None) -> None:
    policy: dict[str, Any] = {"name": "tests.support.hanging_policy:HangingActorCritic", "options": {"flag": str(tmp_path / "flag"), "where": where}}
    run = Run(tmp_path, countdown(policy=policy, training={"checkpoint_every": 1}, supervision=SHORT)).finished()
    assert said(run, worker, what, "is killed after")
    assert said(run, f"{worker} was lost", what, "supervision.stage_timeout_s=5")
    assert run.summary["tickets"]["trained"] == 32


def test_a_policy_that_hangs_while_it_is_built_is_named(tmp_path: Path, nothing_left: None) -> None:
    policy: dict[str, Any] = {"name": "tests.support.hanging_policy:HangingActorCritic", "options": {"flag": str(tmp_path / "flag"), "where": "constructor"}}
    run = Run(tmp_path, countdown(policy=policy, supervision=SHORT | {"build_timeout_s": 25})).finished()
    assert said(run, "still being built, for")
    assert said(run, "was lost", "to be built and was killed; supervision.build_timeout_s=25 is the limit")


def test_a_simulator_that_fails_and_does_not_end_is_replaced(tmp_path: Path, nothing_left: None) -> None:
    options = {"kwargs": {"flag": str(tmp_path / "flag"), "trouble": "raise"}}
    run = Run(tmp_path, countdown(simulator={"name": "tests.support.hanging_environment:OnceUnending", "options": options})).finished()
    assert said(run, "was lost", "the physics blew up")
    assert run.summary["tickets"]["trained"] == 32
