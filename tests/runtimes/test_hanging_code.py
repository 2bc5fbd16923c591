"""Policies and simulators that hang in real workers: the user is told, and the run goes on."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import Run, countdown
from tests.support.thorough import thorough

pytestmark = [pytest.mark.usefixtures("no_run_outlives_its_test"), pytest.mark.slow]

SHORT = {"notice_s": 2, "answer_timeout_s": 5, "stage_timeout_s": 5, "build_timeout_s": 120}


def said(run: Run, *words: str) -> list[str]:
    return [notice for notice in run.summary["notices"] if all(word in notice for word in words)]


def enough_to_build_s() -> int:
    """Seconds in which a worker is built that does not hang, as busy as this machine is now: most of them go into the import of torch."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return max(15, round(8 * (time.monotonic() - began)))


@pytest.mark.parametrize(
    ("where", "worker", "what"),
    [("act", "generator 0", "for one inference"), *thorough(("evaluate", "trainer", "for one pass of training"))],
)
def test_a_policy_that_hangs_is_named_and_its_worker_replaced(tmp_path: Path, where: str, worker: str, what: str, nothing_left: None) -> None:
    policy: dict[str, Any] = {"name": "tests.support.hanging_policy:HangingActorCritic", "options": {"flag": str(tmp_path / "flag"), "where": where}}
    run = Run(tmp_path, countdown(policy=policy, training={"checkpoint_every": 1}, supervision=SHORT)).finished()
    assert said(run, worker, what, "is killed after")
    assert said(run, f"{worker} was lost", what, "supervision.stage_timeout_s=5")
    assert run.summary["tickets"]["trained"] == 32


def test_a_policy_that_hangs_while_it_is_built_is_named(tmp_path: Path, nothing_left: None) -> None:
    limit = enough_to_build_s()
    policy: dict[str, Any] = {"name": "tests.support.hanging_policy:HangingActorCritic", "options": {"flag": str(tmp_path / "flag"), "where": "constructor"}}
    run = Run(tmp_path, countdown(policy=policy, supervision=SHORT | {"build_timeout_s": limit})).finished()
    assert said(run, "still being built, for")
    assert said(run, "was lost", f"to be built and was killed; supervision.build_timeout_s={limit} is the limit", "only slow: it had ", " of CPU time")


def test_a_simulator_that_fails_and_does_not_end_is_replaced(tmp_path: Path, nothing_left: None) -> None:
    options = {"kwargs": {"flag": str(tmp_path / "flag"), "trouble": "raise"}}
    run = Run(tmp_path, countdown(simulator={"name": "tests.support.hanging_environment:OnceUnending", "options": options})).finished()
    assert said(run, "was lost", "the physics blew up")
    assert run.summary["tickets"]["trained"] == 32
