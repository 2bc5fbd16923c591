"""`rlvla3 record`: real runs whose episodes become datasets. Playing the recorded actions again gives every recorded frame, and a clone learns from them."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlvla3.config import DemonstrationLayout, SimulatorConfig, make_recipe
from rlvla3.demonstrations.demonstration_file import DemonstrationError
from rlvla3.demonstrations.lerobot import LeRobotDataset
from rlvla3.demonstrations.selection import select_demonstrations
from rlvla3.demonstrations.writing.dataset_folder import dataset_folder
from rlvla3.demonstrations.writing.dataset_writer import DatasetWriter
from rlvla3.parts import evaluation_book, recording_book, ticket_book
from rlvla3.runtimes.recorder import Recorder, Wanted
from rlvla3.simulators.common_spaces import common_spaces
from rlvla3.simulators.every_step import step_record
from rlvla3.types import Finished, Purpose, Ticket
from tests.support.bare_python import bare_python
from tests.support.filmed import Filmed
from tests.support.repository import python_path
from tests.support.runs import MARK, Run, countdown

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_run_outlives_its_test"), pytest.mark.timeout(600)]

FILMED = "tests.support.filmed:Filmed"
UPDATES, BATCH, CHUNK = 2, 6, 4


def filmed(**changes: Any) -> dict[str, Any]:
    """Two tasks whose episodes end at any step of a chunk, told by one sentence."""
    simulator = {"name": FILMED, "shards": 2, "max_steps": 14, "tasks": ["one", "two"]}
    return countdown(**{"simulator": simulator, "policy": {"chunk": CHUNK}, "training": {"updates": UPDATES, "batch": BATCH, "epochs": 1}} | changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run. Recording adds to it, and changes nothing."""
    return Run(tmp_path_factory.mktemp("trained"), filmed()).finished().folder


def recorded(*words: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rlvla3", "record", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": python_path(), MARK: str(os.getpid())},
    )


def dataset(folder: Path) -> LeRobotDataset:
    return LeRobotDataset(folder, DemonstrationLayout())


def check_played_again(folder: Path, tickets: list[Ticket], **options: Any) -> None:
    """The dataset has the episodes of `tickets`: every frame, state and result is what the simulator gives for the recorded actions."""
    found = dataset(folder)
    simulator = Filmed(SimulatorConfig(name=FILMED, max_steps=14, tasks=["one", "two"], options=options), chunk=1)
    episodes = list(found.episodes())
    assert len(episodes) == len(tickets)
    for episode, ticket in zip(episodes, tickets, strict=True):
        observation = simulator.reset(0, ticket)
        frames = {camera: list(found.frames(episode, f"observation.images.{camera}")) for camera in observation.images}
        states, actions = found.vectors(episode, "observation.state"), found.vectors(episode, "action")
        results = np.concatenate([found.vectors(episode, f"next.{name}") for name in ("reward", "success", "done")], axis=1)
        for step in range(episode.steps):
            assert np.array_equal(states[step], observation.state)
            for camera, image in observation.images.items():
                assert np.array_equal(frames[camera][step], image)
            outcome = simulator.step({0: actions[step][None]})[0]
            assert results[step].tolist() == [outcome.rewards[0], outcome.success, outcome.done]
            observation = outcome.observation or observation


def successes(tickets: list[Ticket]) -> list[Ticket]:
    """Those that succeed, whatever is done in them. An episode that the time limit cuts does not."""
    simulator, found = Filmed(SimulatorConfig(name=FILMED, max_steps=14, tasks=["one", "two"]), chunk=1), []
    for ticket in tickets:
        simulator.reset(0, ticket)
        if simulator.good and simulator.end <= 14:
            found.append(ticket)
    return found


def test_episodes_of_evaluation_are_written_as_they_were(trained: Path, tmp_path: Path) -> None:
    ran = recorded(trained, tmp_path / "dataset", "--from", "evaluation", "--episodes", 8, "--frames", "png")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    recipe = make_recipe(filmed())
    tickets = [evaluation_book(recipe, common_spaces(recipe)).ticket(index) for index in range(8)]
    kept = successes(tickets)
    assert 0 < len(kept) < 8
    check_played_again(tmp_path / "dataset", kept)
    assert f"LeRobotDataset v3.0 of {len(kept)} episodes" in ran.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset"]
    version = dataset(tmp_path / "dataset")
    assert {float(number) for one in version.episodes() for number in version.vectors(one, "policy_version")[:, 0]} == {float(UPDATES)}


def test_new_episodes_are_none_of_evaluation(trained: Path, tmp_path: Path) -> None:
    ran = recorded(trained, tmp_path / "dataset", "--episodes", 4, "--all", "--frames", "png", "--fps", 30)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    recipe = make_recipe(filmed())
    tickets = [recording_book(recipe, common_spaces(recipe)).ticket(index) for index in range(4)]
    check_played_again(tmp_path / "dataset", tickets)
    assert {ticket.seed for ticket in tickets}.isdisjoint(evaluation_book(recipe, common_spaces(recipe)).ticket(index).seed for index in range(1000))
    assert json.loads((tmp_path / "dataset/meta/info.json").read_text())["fps"] == 30


def test_a_simulator_in_another_interpreter_keeps_its_steps(trained: Path, tmp_path: Path) -> None:
    bare = bare_python(tmp_path / "bare")
    ran = recorded(trained, tmp_path / "dataset", "--episodes", 2, "--all", "--frames", "png", f"simulator.python={bare}")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    recipe = make_recipe(filmed())
    check_played_again(tmp_path / "dataset", [recording_book(recipe, common_spaces(recipe)).ticket(index) for index in range(2)])


def test_episodes_of_training_are_repeated_with_the_versions_that_made_them(trained: Path, tmp_path: Path) -> None:
    ran = recorded(trained, tmp_path / "dataset", "--from", "training", "--episodes", 9, "--all", "--frames", "png")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    recipe = make_recipe(filmed())
    check_played_again(tmp_path / "dataset", [ticket_book(recipe, None).ticket(index) for index in range(UPDATES * BATCH - 9, UPDATES * BATCH)])
    found = dataset(tmp_path / "dataset")
    versions = [found.vectors(one, "policy_version")[:, 0] for one in found.episodes()]
    assert {float(number) for one in versions for number in one} <= {0.0, 1.0}
    assert all((np.diff(one) >= 0).all() and (one[: len(one) // CHUNK * CHUNK].reshape(-1, CHUNK).std(axis=1) == 0).all() for one in versions)


def test_a_recorded_dataset_is_cloned_from(trained: Path, tmp_path: Path) -> None:
    assert recorded(trained, tmp_path / "dataset", "--episodes", 12, "--frames", "png").returncode == 0
    found = Counter(one.tasks[0] for one in dataset(tmp_path / "dataset").episodes())
    count = min(found.values())
    recipe = make_recipe(filmed(clone={"files": [str(tmp_path / "dataset")], "demonstrations": count, "steps": 2, "batch": 8}))
    demonstrations = select_demonstrations(recipe)
    assert Counter(one.task for one in demonstrations) == {"one": count, "two": count}  # told apart by name: both have one sentence
    for one in demonstrations:
        rows = {"state": np.zeros((one.decisions, 3), np.float32), "elapsed": np.zeros(one.decisions, np.float32)}
        rows |= {"actions": np.zeros((one.decisions, CHUNK, 2), np.float32)}
        rows |= {f"image.{camera}": np.zeros((one.decisions, *shape), np.uint8) for camera, shape in common_spaces(recipe).cameras.items()}
        one.fill(rows)
        assert np.array_equal(rows["actions"][:, 0], one.file.vectors(one.episode, "action"))
        assert np.array_equal(rows["image.wrist"], list(one.file.frames(one.episode, "observation.images.wrist")))


def test_a_run_that_is_interrupted_keeps_a_whole_dataset_or_none(trained: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "rlvla3", "record", str(trained), str(tmp_path / "dataset"), "--all", "--episodes", "100000", "--frames", "png", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": python_path(), MARK: str(os.getpid())},
    )
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if '"evaluate"' in line:
            break
    while not list((tmp_path / ".partial.dataset/data").glob("*/*")):
        assert process.poll() is None, printed + process.stdout.read()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate()
    assert process.returncode == 130, printed + rest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset"]
    found = dataset(tmp_path / "dataset")
    assert json.loads((tmp_path / "dataset/meta/info.json").read_text())["total_episodes"] == len(list(found.episodes())) > 0


def test_a_run_that_fails_keeps_the_episodes_before_as_a_whole_dataset(trained: Path, tmp_path: Path) -> None:
    ran = recorded(trained, tmp_path / "dataset", "--all", "--episodes", 50, "--frames", "png", "simulator.shards=1", "simulator.options.fails_from=3")
    assert ran.returncode == 2 and "the physics blew up" in ran.stderr
    assert "the run failed, and the episodes before are kept" in ran.stdout and "LeRobotDataset v3.0 of 3 episodes" in ran.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset"]
    recipe = make_recipe(filmed())
    check_played_again(tmp_path / "dataset", [recording_book(recipe, common_spaces(recipe)).ticket(index) for index in range(3)])


@pytest.mark.parametrize("where", ["add", "close"])
def test_where_a_dataset_cannot_be_written_the_error_says_what_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    recipe = make_recipe(filmed())
    book, versions = recording_book(recipe, common_spaces(recipe)), np.zeros(1, np.int64)

    async def record(recorder: Recorder) -> None:
        for index in range(3):
            np.zeros(2, step_record(common_spaces(recipe))).tofile(recorder.steps.file(index))
            if index == 2:
                monkeypatch.setattr(DatasetWriter, where, no_room)
            await recorder.take(Finished(book.ticket(index), 1, 2, True, 0.0), versions)
        await recorder.finish()

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "data.parquet")

    lost = 2 if where == "add" else 3
    with dataset_folder(tmp_path / "dataset") as new, closing(Recorder(recipe, new, Wanted(encoding="png"), Purpose.RECORD)) as recorder:
        with pytest.raises(DemonstrationError, match=f"No space left.*{lost} episodes of this dataset are lost with it"):
            asyncio.run(record(recorder))
        assert recorder.whole_episodes == 0
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_leaves_no_dataset_and_the_next_one_has_its_place(trained: Path, tmp_path: Path) -> None:
    left = tmp_path / ".partial.dataset/steps"
    left.mkdir(parents=True)
    (left / "000000.steps").write_bytes(b"half")
    ran = recorded(trained, tmp_path / "dataset", "--episodes", 2, "--all")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset"]
    assert len(list((tmp_path / "dataset").rglob("*.mp4"))) == 2


def test_what_cannot_be_recorded_is_one_sentence(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for words, said in {
        (str(trained), str(tmp_path / "there")): "exists already",
        (str(trained), "a", "b"): "name one",
        (str(trained), "--from", "training", "seed=3"): "no settings",
        (str(trained), str(tmp_path / "none"), "--episodes", "3", "simulator.options.succeeds=1000000"): "none of 3 episodes succeeded",
        (str(trained), str(tmp_path / "none"), "simulator.name=gymnasium:CartPole-v1"): "this recipe has {}",
    }.items():
        ran = recorded(*words)
        assert ran.returncode == 2, ran.stdout + ran.stderr
        assert said in ran.stderr
        assert "Traceback" not in ran.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


def test_a_run_without_a_record_has_no_episodes_of_training(trained: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("recordings")))
    shutil.rmtree(copy / "record")
    ran = recorded(copy, tmp_path / "dataset", "--from", "training")
    assert ran.returncode == 2
    assert "there is no record" in ran.stderr


def test_each_simulator_of_a_mix_has_a_dataset_of_its_own(tmp_path: Path) -> None:
    """Discrete actions cannot be mixed with others; two discrete simulators with other cameras and states can."""
    first = {"name": FILMED, "shards": 1, "max_steps": 8, "options": {"choices": 2, "cameras": {}, "told": ["", "ünï"]}}
    second = {"name": "gymnasium:CartPole-v1", "shards": 1, "max_steps": 8}
    recipe = filmed(simulators={"one": first, "poles": second})
    del recipe["simulator"]
    folder = Run(tmp_path, recipe).finished().folder
    ran = recorded(folder, tmp_path / "datasets", "--all", "--episodes", 4)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    one, poles = dataset(tmp_path / "datasets/one"), dataset(tmp_path / "datasets/poles")
    assert [episode.sentences for episode in one.episodes()] == [("", "ünï")] * 2
    for episode in poles.episodes():
        assert poles.vectors(episode, "observation.state").shape == (episode.steps, 4)
        assert set(poles.vectors(episode, "action").ravel()) <= {0.0, 1.0}
