"""What a user meets who continues a run: whatever became of its folder, it goes on, or one sentence says why not and nothing is changed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from rlvla3 import commands
from rlvla3.config import make_recipe
from rlvla3.errors import explanation
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.runtimes.session import Session
from tests.support.repository import python_path
from tests.support.runs import LIMIT_S, Run, countdown
from tests.support.thorough import thorough

HANGS_S = 60


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed: four updates, two checkpoints, an evaluation before."""
    evaluation = {"episodes": 2, "before": True, "after": False}
    folder = Run(tmp_path_factory.mktemp("finished"), countdown(training={"checkpoint_every": 2}, evaluation=evaluation)).finished().folder
    summary = folder / "summary.json"
    summary.write_text(summary.read_text().replace('"ended": "finished"', '"ended": "running"'))
    return folder


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def begins(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """Runs that are begun, without their workers."""
    begun: list[Session] = []

    async def train(session: Session) -> bool:
        session._begin(*session.recording())
        await asyncio.sleep(0)
        begun.append(session)
        return False

    monkeypatch.setattr(Session, "_train", train)
    return begun


@contextmanager
def soon() -> Iterator[None]:
    """Whoever waits for a FIFO waits for ever: the test must not."""

    def fail(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(HANGS_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes() or b"\0")
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


DAMAGES: dict[str, Callable[[Path, random.Random], object]] = {
    "a flipped bit": flip,
    "cut": lambda path, rng: os.truncate(path, rng.randrange(path.stat().st_size + 1)),
    "emptied": lambda path, _: path.write_bytes(b""),
    "removed": lambda path, _: path.unlink(),
    "a folder": lambda path, _: replace(path, Path.mkdir),
    "a link to nothing": lambda path, _: replace(path, lambda place: place.symlink_to("nowhere")),
    "a link in a circle": lambda path, _: replace(path, lambda place: place.symlink_to(place.name)),
    "a device": lambda path, _: replace(path, lambda place: place.symlink_to("/dev/zero")),
    "a FIFO": lambda path, _: replace(path, os.mkfifo),
    "another type": lambda path, rng: path.write_text(rng.choice(["[]", "null", "3", '"text"', "{}", '[{"event": 3}]'])),
    "no UTF-8": lambda path, _: path.write_bytes(b"\xff\xfe\x00" * 9),
    "huge": lambda path, _: os.truncate(path, 1 << 32),
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(15), *thorough(*range(15, 60))])
def test_a_damaged_run_directory_goes_on_or_is_refused_in_a_sentence(run: Path, begins: list[Session], seed: int):
    rng = random.Random(seed)
    files = sorted(path for path in run.rglob("*") if path.is_file())
    kinds = sorted({path.name for path in files})
    path = rng.choice([path for path in files if path.name == kinds[seed % len(kinds)]])
    how = list(DAMAGES)[seed % len(DAMAGES)]
    if how == "huge" and path.name in ("metrics.jsonl", "machine.jsonl", "generator-0.bin", "trainer.bin"):
        return  # of an honest run they are as large as this
    DAMAGES[how](path, rng)
    before = content(run)
    with soon():
        try:
            commands.train(run, [], None, "nothing")
        except Exception as error:
            said = explanation(error)
            assert said is not None, f"{path} {how}: {error!r}"
            assert "\n" not in said.strip() or "config.yaml" in said, said
            assert content(run) == before, f"{path} {how}: a run that was refused has changed"
            return
    assert len(begins) == 1
    accounts = begins[0]._accounts
    assert accounts.tickets.trained == 8 * accounts.version and accounts.version in (2, 4)
    assert accounts.evaluated("before")
    assert json.loads((run / "summary.json").read_text())["tickets"]["trained"] == accounts.tickets.trained


MAKERS: dict[str, Callable[[Path], object]] = {
    "removed": lambda place: place,
    "a file": Path.touch,
    "a link to nothing": lambda place: place.symlink_to("nowhere"),
    "empty": Path.mkdir,
    "a FIFO": os.mkfifo,
}
FOLDERS = ("checkpoints", "record", "logs", "checkpoints/000004", "checkpoints/000004/policy", "checkpoints/000004/parameters")


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("how", MAKERS)
def test_a_folder_that_is_gone_is_no_other_run(run: Path, begins: list[Session], name: str, how: str):
    path = run / name
    shutil.rmtree(path)
    makers: dict[str, Callable[[Path], object]] = {
        "a file": Path.touch,
        "a link to nothing": lambda place: place.symlink_to("x"),
        "empty": Path.mkdir,
        "a FIFO": os.mkfifo,
    }
    if how in makers:
        makers[how](path)
    before = content(run)
    with soon():
        try:
            commands.train(run, [], None, "nothing")
        except Exception as error:
            assert explanation(error) is not None and name == "checkpoints", error
            assert content(run) == before
            return
    left = {"checkpoints": 0, "record": 4, "logs": 4}.get(name, 2)  # a run that may have been killed before its first checkpoint begins anew
    assert begins[0]._accounts.version == left


def test_a_resume_that_its_workers_refuse_changes_nothing(run: Path, monkeypatch: pytest.MonkeyPatch):
    """Settings that no weights fit are found out by preflight. What only a worker can find out comes later, and changes nothing either."""

    async def train(session: Session) -> bool:
        session.recording()
        session._notify("the trainer is being built")
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(Session, "_train", train)
    before = content(run)
    with pytest.raises(RuntimeError, match="gone"):
        commands.train(run, ["training.updates=9", "training.learning_rate=0.5"], None, "nothing")
    assert content(run) == before


def test_a_run_that_goes_on_in_another_folder_and_is_killed_before_its_first_checkpoint(run: Path, tmp_path: Path, begins: list[Session]):
    """It began anew, and the updates of the earlier run were lost. Whatever becomes of the earlier run's folder, it goes on."""
    new, earlier = tmp_path / "new", content(run)
    commands.train(run, ["training.updates=9"], new, "nothing")
    assert content(run) == earlier
    shutil.rmtree(run)
    commands.train(new, [], None, "nothing")
    first, second = begins
    assert first._accounts == second._accounts and second._accounts.version == 4
    assert second._resume == new / "checkpoints" / "000004"
    assert [line["update"] for line in RunDirectory(new).metric_lines() if line["event"] == "update"] == [1, 2, 3, 4]
    assert not any("has no line of" in text for text in json.loads((new / "summary.json").read_text())["notices"])


@pytest.mark.parametrize("setting", ["policy.options.hidden=128", "training.updates=nine", "simulator.name=gymnasium:Pendulum-v1", "policy.chunk=3"])
def test_settings_that_do_not_fit_change_nothing(run: Path, setting: str):
    before = content(run)
    with pytest.raises(Exception) as error:  # whichever: it explains itself
        commands.train(run, [setting], None, "nothing")
    assert explanation(error.value) is not None
    assert content(run) == before


def test_a_damaged_checkpoint_and_lines_are_set_aside_when_the_run_goes_on(run: Path, begins: list[Session]):
    (run / "checkpoints/000004/trainer.pt").write_bytes(b"")
    (run / "metrics.jsonl").write_bytes(b"[]\n" + (run / "metrics.jsonl").read_bytes())
    commands.train(run, [], None, "nothing")
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["000002", "000004.damaged"]
    assert (run / "metrics.jsonl.damaged").read_bytes().startswith(b"[]\n")
    notices = json.loads((run / "summary.json").read_text())["notices"]
    assert any("000004 is damaged: trainer.pt has 0 bytes" in text for text in notices)
    assert any("damaged in line 1" in text for text in notices)
    assert [line["update"] for line in RunDirectory(run).metric_lines() if line["event"] == "update"] == [1, 2]


def test_a_record_with_a_damaged_recipe_is_set_aside_with_a_notice(run: Path, begins: list[Session]):
    (run / "record/recipe.yaml").write_text("{{{")
    commands.train(run, [], None, "nothing")
    assert (run / "record.damaged/trainer.bin").is_file() and not (run / "record").exists()
    assert any("`rlvla3 replay` cannot repeat this run" in text for text in json.loads((run / "summary.json").read_text())["notices"])


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path: Path):
    recipe = make_recipe(countdown())
    made: list[RunDirectory] = []
    threads = [threading.Thread(target=lambda: made.append(RunDirectory.create_beside(tmp_path / "runs" / "a-20261127-101500", recipe))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    names = Counter(run.path.name for run in made)
    assert names == Counter(f"a-20261127-101500{end}" for end in ("", *(f"-{number}" for number in range(2, 9))))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *thorough(1)])
def test_accounts_are_exact_after_the_coordinator_was_held_up_and_all_was_killed(tmp_path: Path, seed: int, nothing_left: None):
    """The weights of several updates are on disk before the lines of these updates: a missing line counted as zero."""
    training = {"updates": 10, "batch": 4, "steps": 1, "epochs": 1, "micro_batch": 64, "checkpoint_every": 1, "keep_checkpoints": 3}
    recipe = countdown(training=training, engine={"max_staleness": 5}, evaluation={"episodes": 2, "before": True, "after": True})
    recipe["policy"]["name"] = "tests.support.slow_policy:SlowToLearn"
    first = Run(tmp_path, recipe)
    first.until(lambda: len(first.records("update")) > seed)
    os.kill(first.process.pid, signal.SIGSTOP)
    told = len(first.records("update"))
    deadline = time.monotonic() + LIMIT_S
    while max((int(path.name) for path in (first.folder / "checkpoints").glob("[0-9]*")), default=0) < told + 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = first.workers()
    for process in (psutil.Process(first.process.pid), *workers):
        process.kill()
    first.process.wait()
    resumed = Run(tmp_path, None, first.folder).finished()
    summary, updates = resumed.summary, resumed.records("update")
    assert (summary["tickets"]["issued"], summary["tickets"]["trained"], summary["rollouts"]["episodes"]) == (40, 40, 40)
    assert summary["environment_steps"] == 40 * 6, "every episode of Countdown has as many steps"
    assert sum(summary["staleness"].values()) == 40
    assert [(line["when"], line["version"]) for line in resumed.records("evaluation")] == [("before", 0), ("after", 10)]
    numbers = [line["update"] for line in updates]
    lost = set(range(1, 11)) - set(numbers)
    assert lost and len(numbers) == len(set(numbers))
    assert any(f"metrics.jsonl has no line of {len(lost)} updates, from {min(lost)} to {max(lost)}" in text for text in summary["notices"])


def test_three_seeds_of_the_same_second_all_begin(tmp_path: Path):
    """As users start them, from one shell: `for seed in 0 1 2; do rlvla3 train RECIPE seed=$seed & done`."""
    script = "import sys, pathlib; from rlvla3 import commands; from rlvla3.observability.run_directory import RunDirectory\n"
    script += "from tests.support.runs import countdown\nprint(RunDirectory.create_beside(pathlib.Path('runs/x'), commands.make_recipe(countdown())).path)"
    env = os.environ | {"PYTHONPATH": python_path()}
    started = [subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=env) for _ in range(3)]
    assert sorted(process.communicate(timeout=LIMIT_S)[0].strip() for process in started) == ["runs/x", "runs/x-2", "runs/x-3"]
