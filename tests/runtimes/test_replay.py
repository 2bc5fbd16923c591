"""Record and replay: an asynchronous run is repeated to the same bits, whatever happened to it; and what cannot be repeated is refused, or found out."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rlvla3.cli import main
from rlvla3.config import make_recipe
from rlvla3.observability.continuing import continuation, whole_checkpoint
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.run_record import RecordWriter, RunRecord
from rlvla3.runtimes.session import Session
from rlvla3.scheduling.recorded_run import DECISION, EMITTED
from tests.support.replays import assert_same, replayed
from tests.support.runs import Run, countdown
from tests.support.thorough import thorough

pytestmark = pytest.mark.usefixtures("no_run_outlives_its_test")


def cartpoles(**changes: Any) -> dict[str, Any]:
    """Three shards of two slots and two generators, on an environment that answers to what is done to it."""
    simulator = {"name": "tests.support.troublesome:CartPoles", "shards": 3, "slots": 2, "max_steps": 30}
    engine = {"mode": "full_async", "max_batch": 3, "max_staleness": 1, "generators": 2}
    return countdown(simulator=simulator, policy={"chunk": 1}, engine=engine, **changes)


@pytest.fixture(scope="module")
def recorded_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run. For reading: tests that change it take a copy."""
    return Run(tmp_path_factory.mktemp("recorded"), cartpoles(training={"checkpoint_every": 2})).finished().folder


@pytest.fixture
def copy_of_run(recorded_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded_run, tmp_path / "run"))


@pytest.mark.slow
def test_an_asynchronous_run_is_repeated_bit_for_bit(recorded_run: Path, nothing_left: None) -> None:
    assert_same(recorded_run, 4)
    summary = next((recorded_run / "replays").iterdir()) / "summary.json"
    assert '"ended": "finished"' in summary.read_text()


@pytest.mark.thorough
@pytest.mark.slow
def test_an_asynchronous_run_of_lanes_is_repeated_by_processes(tmp_path: Path, nothing_left: None) -> None:
    recipe = cartpoles()
    recipe["engine"]["share"] = "lanes"
    assert_same(Run(tmp_path, recipe).finished().folder, 4)


def rewrite(path: Path, kind: np.dtype[Any], change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    change(np.fromfile(path, kind)).tofile(path)


def other_company(decisions: NDArray[Any]) -> NDArray[Any]:
    """Every decision in a batch of its own."""
    decisions["at"] = decisions["at"][0] + np.arange(len(decisions))
    return decisions


@pytest.mark.slow
@pytest.mark.parametrize("what", ["company", *thorough("order of emission")])
def test_bits_differ_with_other_batches_and_with_another_order(copy_of_run: Path, what: str) -> None:
    """What is recorded is needed: these are the same decisions, by the same versions and learned from in the same updates."""
    if what == "company":
        for generator in (0, 1):
            rewrite(copy_of_run / "record" / f"generator-{generator}.bin", DECISION, other_company)
    else:
        rewrite(copy_of_run / "record" / "trainer.bin", EMITTED, lambda emitted: emitted[np.lexsort((-emitted["ticket"], emitted["update"]))])
    ran = replayed(copy_of_run)
    assert ran.returncode == 2, ran.stdout
    assert f"tensors are not those of {copy_of_run / 'checkpoints' / '000004'}; the largest difference is" in ran.stderr


@pytest.mark.slow
def test_a_simulator_that_does_not_repeat_itself_is_found_out(copy_of_run: Path, nothing_left: None) -> None:
    recipe = copy_of_run / "record" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("CartPoles", "FickleCartPoles"))
    ran = replayed(copy_of_run, "--trust")  # the recipe was changed, so its signature is no longer good
    assert ran.returncode == 2, ran.stdout
    assert "the simulator did not repeat itself" in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.slow
def test_a_run_whose_simulator_died_is_repeated_even_where_it_dies_again(tmp_path: Path, nothing_left: None) -> None:
    flag = tmp_path / "flag"
    simulator = {"name": "tests.support.troublesome:OnceTroubled", "options": {"kwargs": {"flag": str(flag), "trouble": "die"}}}
    run = Run(tmp_path, countdown(simulator=simulator, policy={"chunk": 1}, engine={"generators": 2, "max_batch": 2})).finished()
    assert run.summary["tickets"]["rerun"] == 1
    flag.unlink()
    assert_same(run.folder, 4, "--json", "--run-dir", str(tmp_path / "elsewhere"))
    assert flag.exists() and (tmp_path / "elsewhere" / "checkpoints" / "000004").exists()


@pytest.mark.thorough
@pytest.mark.slow
def test_a_run_whose_generators_were_killed_is_repeated(tmp_path: Path, nothing_left: None) -> None:
    run = Run(tmp_path, cartpoles(training={"updates": 12, "checkpoint_every": 4}))
    for number in (0, 1):
        run.until(lambda: len(run.records("update")) >= 4 * number + 1)  # noqa: B023  # called within this round
        run.workers(f"generator {number}")[0].send_signal(signal.SIGKILL)
    run.finished()
    assert sum("was lost: it was killed" in notice for notice in run.summary["notices"]) == 2
    assert_same(run.folder, 12)


@pytest.mark.slow
def test_a_run_that_was_killed_and_interrupted_and_went_on_is_repeated(tmp_path: Path, nothing_left: None) -> None:
    slow = {"options": {"kwargs": {"step_s": 0.02}}}
    run = Run(tmp_path, countdown(simulator=slow, training={"updates": 1000, "checkpoint_every": 1}))
    run.until(lambda: len(run.records("update")) >= 2)
    run.process.kill()
    run.process.wait()

    resumed_at = len(run.records("update"))
    run = Run(tmp_path, None, run.folder)
    run.until(lambda: len(run.records("update")) >= resumed_at + 2)
    os.killpg(run.process.pid, signal.SIGINT)
    run.wait()
    updates = run.summary["updates"] + 2

    run = Run(tmp_path, None, run.folder, f"training.updates={updates}").finished()
    assert not any("cannot repeat" in notice for notice in run.summary["notices"])
    assert_same(run.folder / "checkpoints" / f"{updates - 1:06d}", updates - 1)


# What is refused before anything starts


@pytest.mark.slow
def test_a_record_with_a_hole_is_refused_before_anything_starts(copy_of_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set((copy_of_run / "replays").glob("*"))
    rewrite(copy_of_run / "record" / "generator-1.bin", DECISION, lambda decisions: decisions[1:])
    assert main(["replay", str(copy_of_run)]) == 2
    assert "the record does not have decision 0 of ticket" in capsys.readouterr().err
    assert set((copy_of_run / "replays").glob("*")) == before


@pytest.mark.slow
def test_a_run_without_a_record_or_a_checkpoint_is_refused(copy_of_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copy_of_run / "record")
    assert main(["replay", str(copy_of_run)]) == 2
    assert f"there is no record in {copy_of_run} to replay. A run has a record if engine.record was true" in capsys.readouterr().err
    shutil.rmtree(copy_of_run / "checkpoints")
    assert main(["replay", str(copy_of_run)]) == 2
    assert "holds no checkpoint yet" in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "nowhere")]) == 2
    assert f"there is no folder {tmp_path / 'nowhere'}" in capsys.readouterr().err


# The record's files


TINY = {"simulator": {"name": "gymnasium:CartPole-v1"}, "policy": {"name": "actor_critic", "chunk": 1}}


def test_a_record_goes_on_where_nothing_that_decides_weights_has_changed(tmp_path: Path) -> None:
    recording = RunRecord(tmp_path / "record")
    assert "was not recorded in this folder" in recording.why_not(make_recipe(TINY), 2)
    recording.begin(make_recipe(TINY))
    with (tmp_path / "record" / "generator-0.bin").open("wb") as file:
        np.array([(1, 0, 0, 0), (2, 1, 0, 1), (3, 2, 0, 2)], DECISION).tofile(file)
        file.write(b"cut short")
    recording.trainer_writer().append([0, 1, 2], update=[0, 1, 2], decisions=1)
    assert recording.why_not(make_recipe(TINY | {"evaluation": {"episodes": 5}, "training": {"updates": 99, "keep_checkpoints": 7}}), 2) == ""
    recording.cut_back(2)
    assert np.fromfile(tmp_path / "record" / "generator-0.bin", DECISION)["version"].tolist() == [0, 1]
    assert np.fromfile(tmp_path / "record" / "trainer.bin", EMITTED)["update"].tolist() == [0, 1]
    assert "algorithm.gamma, seed changed" in recording.why_not(make_recipe(TINY | {"seed": 1, "algorithm": {"gamma": 0.5}}), 2)


def test_a_record_goes_on_where_zero_was_the_spelling_of_no_limit(tmp_path: Path) -> None:
    recording, recipe = RunRecord(tmp_path / "record"), make_recipe(TINY | {"engine": {"mode": "sync"}})
    recording.begin(recipe)
    written = tmp_path / "record" / "recipe.yaml"
    spelled = written.read_text().replace("max_batch: null", "max_batch: 0").replace("cores: null", "cores: 0")
    assert spelled != written.read_text()
    written.write_text(spelled)
    assert recording.recipe() == recipe
    assert recording.why_not(recipe, 0) == ""


def test_the_number_of_updates_decides_weights_where_a_schedule_counts_them(tmp_path: Path) -> None:
    recording, falling = RunRecord(tmp_path / "record"), TINY | {"training": {"schedule": "linear", "updates": 4}}
    recording.begin(make_recipe(falling))
    assert "training.updates changed" in recording.why_not(make_recipe(falling | {"training": {"schedule": "linear", "updates": 8}}), 2)


@pytest.mark.slow
def test_a_run_that_goes_on_with_other_settings_says_that_it_has_no_record_any_more(copy_of_run: Path) -> None:
    run = RunDirectory(copy_of_run)
    recipe, continued = run.recipe(), continuation(run, whole_checkpoint(run))
    faster = recipe.model_copy(update={"training": recipe.training.model_copy(update={"learning_rate": 1.0})})
    assert Session(recipe, run, [], continued).recording() == (RunRecord(run.record), "")
    assert Session(faster, run, [], continued).recording() == (None, "training.learning_rate changed after the run began")
    assert run.record.exists(), "a run that may yet be refused has lost its record"
    RunRecord(run.record).delete()
    assert "was not recorded in this folder" in Session(recipe, run, [], continued).recording()[1]


def test_a_run_that_is_not_to_be_recorded_is_not(tmp_path: Path) -> None:
    recipe = make_recipe(TINY | {"engine": {"record": False}})
    run = RunDirectory.create(tmp_path / "run", recipe)
    assert Session(recipe, run, []).recording() == (None, "")
    assert not run.record.exists()


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(0, 2**40), min_size=1, max_size=5), max_size=5))
def test_what_is_appended_is_there_at_once(tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]]) -> None:
    path = tmp_path_factory.mktemp("record") / "generator-0.bin"
    recorder = RecordWriter(path, DECISION)
    for number, tickets in enumerate(batches):
        recorder.append(tickets, at=number, version=3, row=np.arange(len(tickets)))
        assert np.fromfile(path, DECISION)["ticket"].tolist() == [ticket for batch in batches[: number + 1] for ticket in batch]
