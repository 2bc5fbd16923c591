"""Runs whose workers are killed: each has a successor, and the run ends as if nothing had happened."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.replays import assert_same
from tests.support.runs import Run, countdown
from tests.support.thorough import thorough

pytestmark = pytest.mark.usefixtures("no_run_outlives_its_test")

SLOW = {"options": {"kwargs": {"step_s": 0.02}}}


def notices(run: Run, about: str) -> list[str]:
    return [notice for notice in run.summary["notices"] if about in notice]


def kill_when(run: Run, worker: str, updates: int) -> None:
    """Kill a worker when the run has made so many updates."""
    run.until(lambda: any(record["update"] >= updates for record in run.records("update")))
    run.until(lambda: run.workers(worker))
    run.workers(worker)[0].send_signal(signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, *thorough(1)])
def test_a_killed_trainer_costs_updates_and_changes_no_weight(tmp_path: Path, nothing_left: None, ranks: int) -> None:
    recipe = countdown(simulator=SLOW, engine={"mode": "sync"}, training={"updates": 7, "checkpoint_every": 2, "ranks": ranks})
    whole = Run(tmp_path / "whole", recipe).finished()
    run = Run(tmp_path / "killed", recipe)
    run.until((run.folder / "checkpoints" / "000002").exists)
    kill_when(run, "trainer" if ranks == 1 else "trainer 1", 3)
    run.finished()
    (said,) = notices(run, "was lost")
    assert "it was killed (SIGKILL)" in said and "logs/trainer" in said
    assert re.search(r"The run goes on from checkpoint [246], and update", said)  # it may have made another update before it was killed
    assert run.summary["tickets"]["trained"] == 7 * 8
    assert run.weights(7) == whole.weights(7)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_killed_process_of_lanes_is_both_and_the_run_goes_on(tmp_path: Path, nothing_left: None) -> None:
    run = Run(tmp_path, countdown(simulator=SLOW, training={"updates": 6, "checkpoint_every": 2}, engine={"share": "lanes"}))
    kill_when(run, "trainer and gen", 3)  # of a process's name, Linux shows 15 letters
    run.finished()
    (said,) = notices(run, "was lost")
    assert "the process of trainer and generator 0 was lost: it was killed (SIGKILL)" in said
    assert run.summary["tickets"]["trained"] == 6 * 8


@pytest.mark.slow
def test_a_trainer_that_is_lost_before_any_checkpoint_begins_anew(tmp_path: Path, nothing_left: None) -> None:
    run = Run(tmp_path, countdown(simulator=SLOW, training={"updates": 4, "checkpoint_every": 100}))
    run.until(lambda: run.workers("trainer"))
    run.workers("trainer")[0].send_signal(signal.SIGKILL)  # perhaps while it is built
    kill_when(run, "trainer", 1)
    run.finished()
    assert len(notices(run, "The run goes on from the beginning")) == 2
    assert run.summary["tickets"]["trained"] == 4 * 8


@pytest.mark.slow
def test_a_trainer_without_a_successor_ends_the_run_with_a_sentence(tmp_path: Path, nothing_left: None) -> None:
    run = Run(tmp_path, countdown(simulator=SLOW, training={"updates": 1000}, engine={"max_restarts": 0}))
    kill_when(run, "trainer", 1)
    printed = run.wait()
    assert run.process.returncode == 2 and "Traceback" not in printed
    words = " ".join(printed.split())
    assert "engine.max_restarts=0 is used up" in words and "goes on from the beginning" in words


@pytest.mark.slow
def test_a_generator_that_is_killed_again_and_again_changes_no_weight(tmp_path: Path, nothing_left: None) -> None:
    """The requests that it leaves are asked again in the same batch, and its successor has the newest version."""
    recipe = countdown(simulator=SLOW, engine={"mode": "sync"}, training={"updates": 6}, evaluation={"after": True})
    whole = Run(tmp_path / "whole", recipe).finished()
    run = Run(tmp_path / "killed", recipe)
    run.until(lambda: run.workers("generator"))
    run.workers("generator")[0].send_signal(signal.SIGKILL)  # perhaps while it is built
    for updates in (1, 3):
        kill_when(run, "generator", updates)
    run.until(lambda: "evaluate" in [record["phase"] for record in run.records("phase")])
    run.workers("generator")[0].send_signal(signal.SIGKILL)
    run.finished()
    said = notices(run, "the generator 0 was lost: it was killed (SIGKILL)")
    assert len(said) == 4 and all("Another process takes its place" in notice and "logs/generator-0.log" in notice for notice in said)
    assert run.summary["tickets"] == {"issued": 48, "trained": 48, "rerun": 0, "set_aside": 0}
    assert run.weights(6) == whole.weights(6)
    assert run.summary["success_after"] == whole.summary["success_after"]


@pytest.mark.thorough
@pytest.mark.slow
def test_a_generator_and_its_shards_are_killed_together(tmp_path: Path, nothing_left: None) -> None:
    run = Run(tmp_path, countdown(simulator=SLOW, training={"updates": 6}, engine={"generators": 2}))
    for updates, first in ((1, "generator 0"), (3, "shard 0")):
        run.until(lambda: any(record["update"] >= updates for record in run.records("update")))  # noqa: B023  # called within this round
        victims = [*run.workers(first), *run.workers("generator 0"), *run.workers("shard 0"), *run.workers("shard 2")]
        for victim in dict.fromkeys(victims):
            victim.send_signal(signal.SIGKILL)
    run.finished()
    assert run.summary["tickets"]["trained"] == 48 and run.summary["tickets"]["rerun"] >= 1


@pytest.mark.slow
def test_a_generator_that_can_never_answer_ends_the_run_with_a_sentence(tmp_path: Path, nothing_left: None) -> None:
    policy = {"name": "tests.support.failing_policy:CrashesWhereItActs", "options": {}}
    run = Run(tmp_path, countdown(policy=policy))
    printed = " ".join(run.wait().split())
    assert run.process.returncode == 2 and "Traceback" not in printed
    assert "it crashed, because native code used memory that it does not have (SIGSEGV)" in printed
    assert "it was lost 5 times in a row and got no further in between" in printed


def deadly(*tickets: int, **changes: Any) -> dict[str, Any]:
    simulator = {"name": "tests.support.troublesome:DeadlyPair", "slots": 2, "shards": 2, "max_steps": 8, "options": {"deadly": list(tickets)}}
    algorithm = {"advantage": "grpo", "group_size": 4}
    return countdown(simulator=simulator, policy={"chunk": 1}, algorithm=algorithm, training={"critic": {}}, **changes)


@pytest.mark.slow
def test_tickets_that_kill_their_simulators_are_set_aside_and_the_run_is_repeated(tmp_path: Path, nothing_left: None) -> None:
    """Ticket 9 leaves its group one episode less; of the group of 20 nothing is left. Each of its tickets may cost two simulators before one is set aside."""
    run = Run(tmp_path, deadly(9, 20, 21, 22, 23, engine={"max_set_aside": 5, "max_restarts": 8})).finished()
    assert run.summary["tickets"]["trained"] == 32 and run.summary["tickets"]["set_aside"] == 5
    assert len(notices(run, "It is set aside: nothing is learned from it")) == 5
    assert sorted(int(said.split("; ticket ")[1].split()[0]) for said in notices(run, "It is set aside")) == [9, 20, 21, 22, 23]
    assert [update["rollouts"]["episodes"] for update in run.records("update")] == [8, 7, 4, 8]
    assert_same(run.folder, 4)


@pytest.mark.slow
def test_the_simulators_that_set_aside_tickets_have_cost_do_not_count_as_replacements(tmp_path: Path, nothing_left: None) -> None:
    """One such ticket in each update, one update after the other: 12 simulators are lost, and only 3 may be replaced."""
    run = Run(tmp_path, deadly(1, 9, 17, 25, engine={"mode": "sync", "max_set_aside": 4, "max_restarts": 3})).finished()
    assert run.summary["tickets"]["trained"] == 32 and run.summary["tickets"]["set_aside"] == 4


@pytest.mark.slow
def test_a_ticket_more_than_may_be_set_aside_ends_the_run_and_is_named(tmp_path: Path, nothing_left: None) -> None:
    run = Run(tmp_path, deadly(9, 12, engine={"max_set_aside": 1}))
    printed = " ".join(run.wait().split())
    assert run.process.returncode == 2 and "Traceback" not in printed
    assert "has now failed 3 times (engine.max_set_aside=1 is how many tickets may be set aside" in printed


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("worker", ["generator", "trainer"])
def test_an_error_in_a_worker_still_ends_the_run_at_once(tmp_path: Path, nothing_left: None, worker: str) -> None:
    policy: dict[str, Any] = {"name": "tests.support.failing_policy:FailingPolicy", "options": {"error": "builtins:RuntimeError", "worker": worker}}
    run = Run(tmp_path, countdown(policy=policy))
    printed = run.wait()
    assert run.process.returncode == 2
    assert "was lost" not in printed
