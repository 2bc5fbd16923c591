"""Trackers: what reaches them, how a run that goes on continues theirs, and that nothing of a tracker reaches the run."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.config import Recipe, make_recipe
from rlvla3.errors import RecipeError
from rlvla3.observability.code_names import code_names
from rlvla3.observability.events import CloneStep, EvaluationFinished, Notice, PhaseStarted
from rlvla3.observability.intervals import success_rate
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.trackers import program, sending
from rlvla3.observability.trackers.sending import TrackerError, TrackerProcess, check_trackers
from tests.support.events import episodes, update

FAKE = '''
"""In the place of trackio. It writes down what it is told, and has the trouble that TROUBLE names."""
import json, os, pathlib, signal, time

def _note(**what):
    with open(os.environ["NOTED"], "a") as file:
        file.write(json.dumps(what) + "\\n")

def _trouble(at):
    trouble = os.environ.get("TROUBLE", "")
    if trouble == f"hang in {at}":
        time.sleep(3600)
    if trouble == f"die in {at}":
        os.kill(os.getpid(), signal.SIGKILL)
    if trouble == f"exit in {at}":
        os._exit(3)
    if trouble == f"refuse in {at}":
        raise ConnectionError("no route to host\\nand more")
    if trouble == f"refuse once in {at}" and not pathlib.Path(os.environ["NOTED"] + ".refused").exists():
        pathlib.Path(os.environ["NOTED"] + ".refused").touch()
        raise ConnectionError("no route to host")
    if trouble == f"print in {at}":
        print("a banner " * 10000)

def init(**given):
    _trouble("init")
    _note(init=given)

def log(values, step=None):
    _trouble("log")
    _note(values=values)

def finish():
    _trouble("finish")
    _note(finish=True)
'''


class Fake:
    """A tracker that writes down what it is told. tell: hears notices."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, trouble: str = "") -> None:
        (folder / "modules").mkdir(exist_ok=True)
        (folder / "modules" / "trackio.py").write_text(FAKE)
        self._noted, self.notices = folder / "noted.jsonl", list[str]()
        monkeypatch.setenv("PYTHONPATH", f"{folder / 'modules'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        monkeypatch.setenv("NOTED", str(self._noted))
        monkeypatch.setenv("TROUBLE", trouble)

    def watcher(self, run: RunDirectory, clock: Callable[[], float] = time.monotonic) -> TrackerProcess:
        return TrackerProcess("trackio", tracked("trackio"), run, self.notices.append, clock)

    def noted(self, what: str) -> list[Any]:
        lines = map(json.loads, self._noted.read_text().splitlines()) if self._noted.exists() else []
        return [line[what] for line in lines if what in line]


def tracked(*names: str, **settings: Any) -> Recipe:
    return make_recipe({"trackers": {"names": list(names), **settings}})


def children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = children()
    yield
    assert children() <= before


def test_the_names_alone_are_enough_in_a_recipe():
    assert make_recipe({"trackers": "wandb"}).trackers.names == ["wandb"]
    assert make_recipe({"trackers": ["wandb", "mlflow"]}).trackers.names == ["wandb", "mlflow"]
    assert make_recipe({}, ["trackers.names=trackio", "trackers.project=arm"]).trackers.names == ["trackio"]
    assert make_recipe({}).trackers.names == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("wandbb", "trackers.names"),
        (["wandb", "wandb"], "names a tracker twice"),
        ({"names": ["mlflow"], "project": "a/b"}, "trackers.project"),
    ],
)
def test_what_is_no_tracker_is_refused(given: Any, said: str):
    with pytest.raises(RecipeError, match=said):
        make_recipe({"trackers": given})


def test_a_missing_package_and_a_wrong_interpreter_are_refused_before_anything_starts(tmp_path: Path):
    empty = tmp_path / "python"
    empty.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    empty.chmod(0o755)
    with pytest.raises(RecipeError, match=r"trackers=swanlab needs a package that .*python does not have: pip install swanlab, or leave it out"):
        check_trackers(tracked("swanlab", python=str(empty)).trackers)
    with pytest.raises(RecipeError, match=r"trackers.python=.*nothing is no Python interpreter that answers"):
        check_trackers(tracked("swanlab", python=str(tmp_path / "nothing")).trackers)
    check_trackers(tracked(python=str(tmp_path / "nothing")).trackers)


def test_the_interpreter_of_somebody_elses_run_needs_trust(tmp_path: Path):
    assert code_names(tracked("wandb", python=str(tmp_path / "python"))) == {"trackers.python": str(tmp_path / "python")}
    assert code_names(tracked("wandb")) == {}


def test_a_tracker_hears_of_all_that_has_a_curve(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake = Fake(tmp_path, monkeypatch)
    watcher = fake.watcher(run)
    before = children()
    watcher.on(PhaseStarted("train", 2))
    assert children() <= before, "a run that is refused begins nothing"
    for event in (CloneStep(50, 50, 0.25), update(1), Notice("no curve"), EvaluationFinished("during", 1, success_rate(episodes(3, 4))), update(2, 64)):
        watcher.on(event)
    watcher.close()
    (begun,) = fake.noted("init")
    assert begun["project"] == "rlvla3" and begun["name"].startswith(f"{run.path.name}-") and begun["config"]["training"]["updates"] == 20
    cloned, first, evaluated, second = fake.noted("values")
    assert cloned == {"clone/step": 50, "clone/loss": 0.25}
    assert first["update"] == 1 and first["rollouts/success"] == 0.625 and first["busy/shard"] == 0.75
    assert evaluated["update"] == 1 and evaluated["evaluation/success"] == 0.75
    assert second["update"] == 2 and second["rollouts/success"] == 1.0
    assert fake.noted("finish") == [True] and fake.notices == []


def test_a_run_that_goes_on_continues_the_trackers_run_and_sends_nothing_twice(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake = Fake(tmp_path, monkeypatch)
    for numbers in ((1, 2), (2, 3)):
        watcher = fake.watcher(run)
        for number in numbers:
            watcher.on(update(number))
            watcher.on(EvaluationFinished("during", number, success_rate(episodes(3, 4))))
        watcher.close()
    first, second = fake.noted("init")
    assert first["name"] == second["name"] and second["resume"] == "allow"
    assert [values["update"] for values in fake.noted("values") if "rollouts/success" in values] == [1, 2, 3]
    assert [values["update"] for values in fake.noted("values") if "evaluation/success" in values] == [1, 2, 3]
    kept = json.loads((run.path / "trackers" / "trackio.json").read_text())
    assert kept["id"] == first["name"] and kept["sent"] == {"update": 3, "evaluation": 3}


def test_what_is_done_again_after_the_trainer_was_lost_is_not_sent_again(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake = Fake(tmp_path, monkeypatch)
    watcher = fake.watcher(run)
    for number in (1, 2, 3, 4, 2, 3, 4, 5):
        watcher.on(update(number))
        watcher.on(EvaluationFinished("during", number, success_rate(episodes(3, 4))))
    watcher.close()
    for kind in ("rollouts/success", "evaluation/success"):
        assert [values["update"] for values in fake.noted("values") if kind in values] == [1, 2, 3, 4, 5]


def test_runs_of_one_name_are_two_runs_for_a_tracker_that_knows_runs_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake = Fake(tmp_path, monkeypatch)
    for folder in ("a", "b", "a"):
        run = RunDirectory(tmp_path / folder / "demo")
        run.path.mkdir(parents=True, exist_ok=True)
        watcher = fake.watcher(run)
        watcher.on(update(1))
        watcher.close()
    first, second, again = (given["name"] for given in fake.noted("init"))
    assert first == again != second


@given(st.lists(st.tuples(st.sampled_from(["update", "evaluation"]), st.integers(0, 6), st.booleans()), max_size=30))
def test_every_point_is_sent_once_and_in_order_whatever_is_done_again_and_refused(told: list[tuple[str, int, bool]]):
    """A part of a run counts upwards, and goes back to an earlier step. A point that is no more than one before it was told of."""
    sent: list[tuple[str, int]] = []

    class Refusing:
        id, place, refuses = "one", None, False

        def __init__(self, *_: object) -> None:
            """It takes any run."""

        def send(self, axis: str, step: int, values: dict[str, str]) -> None:
            if Refusing.refuses:
                raise ConnectionError("no route to host")
            sent.append((values["of"], step))

        def finish(self) -> None:
            """It has nothing to end."""

    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setitem(program.TRACKERS, "refusing", Refusing)
        about = {"tracker": "refusing", "folder": folder, "project": "arm"}
        sender = program.Sender(about, lambda text: None)
        for number, (of, step, Refusing.refuses) in enumerate(told):
            sender.take({"of": of, "axis": "update", "step": step, "values": {"of": of}})
            if number == len(told) // 2 and not Refusing.refuses:  # the run goes on later
                sender = program.Sender(about, lambda text: None)
        Refusing.refuses = False
        sender.finish()
    expected: list[tuple[str, int]] = []
    for of, step, _ in told:
        if all(step > before for other, before in expected if other == of):
            expected.append((of, step))
    assert sent == expected


@pytest.mark.parametrize("damaged", ["", "[]", '{"id": 3, "sent": [1]}', "\0"])
def test_a_damaged_id_gives_another_run_and_no_error(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str):
    (run.path / "trackers").mkdir()
    (run.path / "trackers" / "trackio.json").write_text(damaged)
    fake = Fake(tmp_path, monkeypatch)
    watcher = fake.watcher(run)
    watcher.on(update(1))
    watcher.close()
    assert len(fake.noted("values")) == 1 and fake.notices == []


@pytest.mark.parametrize("at", ["init", "log", "finish"])
@pytest.mark.parametrize(
    ("trouble", "said"), [("die", "it was killed"), ("exit", "ended by itself with exit code 3"), ("refuse", "ConnectionError: no route to host")]
)
def test_a_tracker_that_fails_is_one_notice(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, at: str, said: str):
    fake = Fake(tmp_path, monkeypatch, f"{trouble} in {at}")
    watcher = fake.watcher(run)
    watcher.on(update(1))
    assert watcher._process is not None
    if trouble != "refuse" and at != "finish":
        watcher._process.wait(60)
    for number in (2, 3):
        watcher.on(update(number))
    watcher.close()
    assert [notice for notice in fake.notices if said in notice] == fake.notices[:1]
    assert fake.notices[1:] == (["trackio: 3 points could not be sent; metrics.jsonl has them"] if trouble == "refuse" and at != "finish" else [])


@pytest.mark.parametrize("at", ["init", "log"])
def test_a_network_that_comes_back_loses_nothing(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str):
    fake = Fake(tmp_path, monkeypatch, f"refuse once in {at}")
    watcher = fake.watcher(run)
    for number in (1, 2, 3):
        watcher.on(update(number))
    watcher.close()
    assert [values["update"] for values in fake.noted("values")] == [1, 2, 3]
    assert len(fake.notices) == 1


@pytest.mark.parametrize("at", ["init", "log", "finish"])
def test_nobody_waits_for_a_tracker_that_hangs(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str):
    monkeypatch.setattr(sending, "ENDING_S", 0.5)
    monkeypatch.setattr(sending, "HANGING_END_S", 0.5)
    now = [0.0]
    fake = Fake(tmp_path, monkeypatch, f"hang in {at}")
    watcher = fake.watcher(run, lambda: time.monotonic() + now[0])
    for number in range(1, 400):  # more than a pipe holds
        watcher.on(update(number, workers=3))
    now[0] = 2 * sending.HANGING_S
    watcher.on(update(400))
    watcher.on(update(401))
    with pytest.raises(TrackerError, match="did not come to its end"):
        watcher.close()
    assert [notice for notice in fake.notices if "has not taken a point for" in notice] == fake.notices
    assert len(fake.notices) <= 1


def test_what_a_tracker_prints_goes_to_a_log(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake = Fake(tmp_path, monkeypatch, "print in init")
    watcher = fake.watcher(run)
    watcher.on(update(1))
    watcher.close()
    assert fake.notices == [] and "a banner" in (run.path / "logs" / "tracker-trackio.log").read_text()
