"""Evaluations beside training, with real processes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from rlvla3.observability.event_json import event_json
from rlvla3.observability.events import EvaluationFinished
from rlvla3.observability.intervals import success_rate
from rlvla3.observability.run_directory import RunDirectory, version_of
from rlvla3.runtimes.beside import is_better
from tests.support.events import episodes
from tests.support.replays import replayed
from tests.support.runs import Run, countdown
from tests.support.thorough import thorough

SYNC = {"mode": "sync", "max_staleness": 0, "record": True}


def rates(run: Run) -> dict[int, tuple[int, int]]:
    """{version: successes and episodes} of the evaluations beside training."""
    return {line["version"]: (line["successes"], line["episodes"]) for line in run.records("evaluation") if line["when"] == "during"}


def newest_checkpoint(run: Run) -> int:
    """Its version; 0 before the first."""
    newest = RunDirectory(run.folder).latest_checkpoint()
    return version_of(newest) if newest else 0


def test_the_best_evaluation_has_the_highest_success_rate_and_of_equal_ones_it_is_the_last() -> None:
    best = event_json(EvaluationFinished("during", 2, success_rate(episodes(3, 6))))
    assert [is_better(success_rate(episodes(successes, 6)), best) for successes in (2, 3, 4)] == [False, True, True]
    assert is_better(success_rate(episodes(1, 6)), None)
    assert not is_better(success_rate([]), None)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full_async", *thorough("sync")])
def test_every_second_version_is_evaluated_and_the_best_checkpoint_is_kept(tmp_path: Path, mode: str, nothing_left: None) -> None:
    recipe = countdown(engine={"mode": mode}, evaluation={"every": 2}, training={"updates": 9, "checkpoint_every": 1, "keep_checkpoints": 1})
    run = Run(tmp_path, recipe).finished()
    found = rates(run)
    assert {*found} >= {2} and {*found} <= {2, 4, 6, 8}
    assert {episodes for _, episodes in found.values()} == {6}
    best = run.folder / "checkpoints" / "best"
    named = [line["version"] for line in run.records("evaluation") if line.get("best")]
    assert best.readlink() == Path(f"{named[-1]:06d}") and (best / "policy" / "model.safetensors").is_file()
    assert {path.name for path in best.parent.iterdir()} <= {"best", "000009", *(f"{version:06d}" for version in named)}
    assert not [line["text"] for line in run.records("notice") if "does not lead" in line["text"]]
    assert run.summary["best"]["version"] == named[-1]
    assert [record["version"] for record in run.summary["evaluations"]] == sorted(found)


@pytest.mark.slow
def test_in_sync_the_weights_are_those_of_a_run_without_evaluations(tmp_path: Path) -> None:
    alone, beside = (Run(tmp_path / str(every), countdown(engine=SYNC, evaluation={"every": every, "episodes": 20})) for every in (0, 1))
    assert rates(beside.finished())
    assert beside.weights(4) == alone.finished().weights(4)


@pytest.mark.slow
def test_a_run_with_evaluations_beside_it_is_replayed_bit_for_bit(tmp_path: Path) -> None:
    run = Run(tmp_path, countdown(engine={"mode": "full_async"}, evaluation={"every": 1})).finished()
    assert rates(run)
    ran = replayed(run.folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.slow
def test_a_killed_run_goes_on_with_its_evaluations(tmp_path: Path, nothing_left: None) -> None:
    recipe = countdown(evaluation={"every": 3}, training={"updates": 400, "checkpoint_every": 1})
    run = Run(tmp_path, recipe)
    run.until(lambda: len(rates(run)) >= 2 and newest_checkpoint(run) >= max(rates(run)))
    run.process.send_signal(signal.SIGKILL)
    run.process.wait()
    before = rates(run)
    again = Run(tmp_path, None, run.folder)
    again.until(lambda: len(rates(again)) >= len(before) + 2)
    again.process.send_signal(signal.SIGINT)
    again.wait()
    after = rates(again)
    assert before.items() <= after.items()
