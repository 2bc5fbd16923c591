"""`rlvla3 check`: a simulator that keeps its contract passes, and each mistake is found by the check that is for it and by no other."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest

from rlvla3.checking.commands import examine
from rlvla3.checking.evidence import Evidence
from rlvla3.checking.png import write_png
from rlvla3.checking.specification import CHECKS, run_checks
from rlvla3.cli import main
from rlvla3.config import SimulatorConfig
from tests.support import mistakes
from tests.support.correct import Correct
from tests.support.examined import CHUNK, config_of, examined
from tests.support.examples import write_examples
from tests.support.repository import ROOT, python_path
from tests.support.runs import is_guard
from tests.support.told import InstructionOnlyAtReset

TIMEOUT_S = 4.0


def wrong(evidence: Evidence) -> dict[str, str]:
    return {result.check.name: result.verdict for result in run_checks(evidence) if result.verdict in ("failed", "warning")}


def words(evidence: Evidence, check: str) -> str:
    return next("\n".join(result.messages) for result in run_checks(evidence) if result.check.name == check)


def test_a_simulator_that_keeps_its_contract_passes_every_check():
    assert {result.check.name: result.verdict for result in run_checks(examined(config_of(Correct)))} == {check.name: "passed" for check in CHECKS}


FOUND: list[tuple[type, str, str]] = [
    (mistakes.DescribesAnother, "describe", "set `spaces` to what describe() returns"),
    (mistakes.AnotherNumberOfSlots, "describe", "has slots=3, but the recipe has simulator.slots=2"),
    (mistakes.DoubleState, "observations", "state is float64 [2], expected float32 [2]"),
    (mistakes.StateAsList, "observations", "state is a list, expected float32 [2]"),
    (mistakes.FloatImages, "observations", "the image of front is float32 [32, 32, 3], expected uint8"),
    (mistakes.ChannelsFirst, "observations", "the image of front is uint8 [3, 32, 32], expected uint8 [32, 32, 3]"),
    (mistakes.AnotherCamera, "observations", "images are of cameras ['front', 'wrist'], but described are ['front']"),
    (mistakes.ElapsedInSteps, "observations", "elapsed is 5.0: it must be the share"),
    (mistakes.ElapsedForgotten, "observations", "it must rise from 0 to 1"),
    (mistakes.LongInstruction, "observations", "instruction has 257 bytes, but at most 256"),
    (mistakes.StateNotANumber, "numbers", "NaN in state"),
    (mistakes.InfiniteReward, "numbers", "infinity in rewards"),
    (mistakes.BlackFrames, "frames", "frames of front are black"),
    (mistakes.BlackFramesNowAndThen, "frames", "frames of front are black"),
    (mistakes.FrozenFrames, "frames", "never change within an episode, although the state changes"),
    (mistakes.DoubleRewards, "outcomes", "rewards are float64 [5], expected float32"),
    (mistakes.RewardsAsList, "outcomes", "rewards are a list"),
    (mistakes.OneRewardAChunk, "outcomes", "1 rewards for a chunk of 5 actions, expected 5"),
    (mistakes.NothingSeenAtTheLimit, "outcomes", "at a time limit the last observation"),
    (mistakes.EndsTwice, "outcomes", "terminated and truncated at once"),
    (mistakes.SuccessAsNumber, "outcomes", "success is 0.0, a float"),
    (mistakes.OtherActions, "outcomes", "actions are not the chunk that was given"),
    (mistakes.ForgetsSuccess, "success", "keep it true from the first success on"),
    (mistakes.NeverEnds, "limit", "expected an end by spaces.max_steps=18"),
    (mistakes.RefusesBounds, "actions", "actions at the bounds, -1 and 1: step of slots [0] raised AssertionError"),
    (mistakes.WildExpert, "expert", "but the space from -1 to 1"),
    (mistakes.BrokenExpert, "expert", "KeyError: 'gripper'"),
    (mistakes.Raises, "calls", "ZeroDivisionError: the physics blew up"),
    (mistakes.CannotBeBuilt, "calls", "build() raised FileNotFoundError: no meshes"),
    (mistakes.ForgetsASlot, "calls", "slots [0] were stepped, but it returned {}"),
    (mistakes.ReturnsATuple, "calls", "step returned a tuple for slot 0"),
]


@pytest.mark.parametrize(("simulator", "check", "said"), FOUND, ids=[simulator.__name__ for simulator, _, _ in FOUND])
def test_a_mistake_is_found_by_the_check_that_is_for_it(simulator: type, check: str, said: str):
    evidence = examined(config_of(simulator))
    assert wrong(evidence) == {check: "failed"}
    assert said in words(evidence, check)


WARNED: list[tuple[type, str, str]] = [
    (mistakes.SlowToDescribe, "describe", "describe() took 1"),
    (mistakes.NeverSucceeds, "success", "4 episodes of the expert and no success"),
    (mistakes.DrawsFromTheSystem, "processes", "at the reset, state differs in 2 of 2 values"),
    (mistakes.DependsOnTheProcess, "processes", "Within a process it repeats"),
    (mistakes.DrawsOn, "leaks", "a second time: at the reset, state differs in 1 of 2 values"),
    (mistakes.KeepsTheTask, "leaks", "after other episodes: at the reset"),
    (mistakes.SharesWithNeighbours, "neighbours", "while another process steps in turn: after decision 1"),
    (mistakes.ShowsAnotherSlot, "slots", "after decision 1, the image of front differs"),
    (mistakes.ResetsAllSlots, "slots", "reset and step only the slots that are named"),
    (mistakes.DependsOnTheSlot, "slots", "an episode must not depend on the slot it is in"),
    (mistakes.DrawsFromTheIndex, "groups", "Draw from ticket.seed alone"),
    (mistakes.RaisesAtClose, "close", "close() raised ValueError: closed twice"),
    (mistakes.NearlyFlatFrames, "frames", "nearly flat"),
    (mistakes.UnknownInstruction, "instructions", "is not among spaces.instructions"),
    (InstructionOnlyAtReset, "instructions", "give every observation its instruction"),
    (mistakes.DoesNotClip, "actions", "np.clip(action, low, high)"),
    (mistakes.IgnoresTheSeed, "seeds", "are initial states drawn from ticket.seed?"),
    (mistakes.IgnoresTheTask, "tasks", "does reset() read ticket.task?"),
]


@pytest.mark.parametrize(("simulator", "check", "said"), WARNED, ids=[simulator.__name__ for simulator, _, _ in WARNED])
def test_what_a_run_accepts_is_a_warning(simulator: type, check: str, said: str):
    evidence = examined(config_of(simulator))
    assert wrong(evidence) == {check: "warning"}
    assert said in words(evidence, check)


@pytest.mark.parametrize(
    ("name", "states", "said"),
    [
        ("Maze", 5, ""),
        ("Maze", 1, ""),
        ("AlwaysTheSame", 1, ""),
        ("IgnoresTheNumber", 5, "looks different with another seed: let its number alone decide it"),
        ("IgnoresTheNumber", 1, "looks different with another seed"),
        ("AlwaysTheSame", 5, "does reset() read the number of the initial state?"),
    ],
)
def test_the_number_of_a_fixed_initial_state_decides_it_alone(name: str, states: int, said: str):
    settings = SimulatorConfig(name=f"tests.support.fixed_states:{name}", max_steps=6, options={"kwargs": {"states": states}})
    evidence = examined(settings)
    assert wrong(evidence) == ({"seeds": "warning"} if said else {})
    assert said in words(evidence, "seeds")


# In processes of their own


def examined_in_processes(simulator: type, slots: int = 1) -> Evidence:
    return examine(config_of(simulator, slots), CHUNK, TIMEOUT_S)


def test_a_simulator_that_keeps_its_contract_passes_in_processes_too():
    assert wrong(examined_in_processes(Correct, slots=2)) == {}


def test_describing_with_a_renderer_is_found():
    assert "describe() imported sapien" in words(examined_in_processes(mistakes.DescribesWithARenderer), "describe")


@pytest.mark.slow
@pytest.mark.parametrize("simulator", [mistakes.Hangs, mistakes.HangsInReset])
def test_a_hang_is_killed_at_its_limit_with_all_that_it_started_and_says_where_it_was(simulator: type):
    before = set(psutil.Process().children(recursive=True))
    evidence = examined_in_processes(simulator)
    assert wrong(evidence) == {"calls": "failed"}
    said = words(evidence, "calls")
    assert f"did not return within {TIMEOUT_S:g} s" in said
    assert "tests/support/mistakes.py" in said
    new = set(psutil.Process().children(recursive=True)) - before
    assert not [process for process in new if not is_guard(process)]


def test_a_process_that_dies_is_reported_with_its_last_words():
    evidence = examined_in_processes(mistakes.Dies)
    assert wrong(evidence) == {"calls": "failed"}
    assert "step of slots [0] lost its process: it crashed, because native code used memory that it does not have (SIGSEGV)" in words(evidence, "calls")
    assert "the driver says goodbye" in words(evidence, "calls")


def test_what_close_leaves_is_found_and_killed():
    evidence = examined_in_processes(mistakes.LeavesAProcess)
    assert wrong(evidence) == {"close": "warning"}
    assert "close() leaves processes: sleep" in words(evidence, "close")
    assert evidence.left is not None
    (left,) = evidence.left.processes
    ended = [psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD]
    number = int(re.findall(r"\d+", left)[0])
    while psutil.pid_exists(number) and psutil.Process(number).status() not in ended:  # it was told to die before we were told of it
        time.sleep(0.01)


@pytest.mark.slow
def test_a_thread_that_keeps_the_process_alive_is_found():
    evidence = examined_in_processes(mistakes.LeavesAThread)
    assert wrong(evidence) == {"close": "warning"}
    assert "close() leaves threads that keep the process alive: camera stream" in words(evidence, "close")


# The command


def test_the_command_says_what_it_found_and_fails_where_a_check_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found, frames = tmp_path / "found.json", tmp_path / "frames"
    command = ["check", "--simulator", "tests.support.mistakes:DoubleState", "tasks=[near]", "--json", str(found), "--frames", str(frames)]
    assert main(command) == 1
    said = capsys.readouterr().out
    assert len([line for line in said.splitlines() if re.match(r"(passed|warning|FAILED|not applicable) +\w+ ", line)]) == len(CHECKS)
    assert re.search(r"^FAILED +observations", said, re.M)
    assert "state is float64 [2], expected float32 [2]: return what describe() says" in said
    (simulator,) = json.loads(found.read_text()).values()
    assert not simulator["passed"]
    assert [check["check"] for check in simulator["checks"] if check["verdict"] == "failed"] == ["observations"]
    assert sorted(path.name for path in frames.rglob("*.png"))


@pytest.mark.parametrize(("words", "code"), [([], 0), (["--strict"], 1)])
def test_a_warning_fails_only_where_it_is_asked_to(words: list[str], code: int, capsys: pytest.CaptureFixture[str]):
    assert main(["check", "--simulator", "tests.support.mistakes:DrawsOn", "tasks=[near]", *words]) == code
    assert re.search(r"^warning +leaks", capsys.readouterr().out, re.M)


@pytest.mark.slow
def test_a_recipe_is_checked_with_its_simulators_and_still_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import yaml

    recipe = tmp_path / "recipe.yaml"
    simulators = {"one": {"name": "tests.support.correct:Correct", "tasks": ["near"]}, "two": {"name": "gymnasium:Pendulum-v1"}}
    recipe.write_text(yaml.safe_dump({"simulators": simulators, "policy": {"name": "actor_critic", "chunk": 5}}))
    assert main(["check", str(recipe), "seed=3"]) == 0
    said = capsys.readouterr().out
    assert yaml.safe_load(said)["seed"] == 3
    assert re.findall(r"^# (\w+): name=", said, re.M) == ["one", "two"]
    assert "FAILED" not in said


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["--simulator", "metaworld"], "simulator.tasks is empty"),
        (["--simulator", "metaworld", "tasks=[reach-v3]", "optoins.image_size=64"], "optoins: unknown key, did you mean options?"),
        (["--simulator", "metaworld", "simulator.slots=2"], "write slots=2"),
        (["--simulator", "nowhere:Nothing"], "simulator.name=nowhere:Nothing cannot be loaded"),
        (["--simulator", "shutil:rmtree"], "simulator.name=shutil:rmtree cannot be loaded"),
        (["seed=1"], "nothing to check: name a recipe"),
    ],
)
def test_settings_that_are_wrong_are_refused_in_their_own_words(command: list[str], complaint: str, capsys: pytest.CaptureFixture[str]):
    assert main(["check", *command]) == 2
    said = capsys.readouterr().err
    assert complaint in said and "Error" not in said


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_frames_are_written_as_they_are(tmp_path: Path, channels: int):
    image = np.random.default_rng(0).integers(256, size=(3, 5, channels), dtype=np.uint8)
    write_png(tmp_path / "frame.png", image)
    content = (tmp_path / "frame.png").read_bytes()
    shown = 3 if channels == 6 else channels
    assert struct.unpack(">II", content[16:24]) == (5, 3)
    start = content.index(b"IDAT")
    (length,) = struct.unpack(">I", content[start - 4 : start])
    rows = np.frombuffer(zlib.decompress(content[start + 4 : start + 4 + length]), np.uint8).reshape(3, -1)
    assert np.array_equal(rows[:, 1:].reshape(3, 5, shown), image[:, :, :shown])


# The example simulator of docs/extending.md


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A folder with the page's files."""
    write_examples(tmp_path)
    return tmp_path


def rlvla3_in(folder: Path, *words: str) -> str:
    """What the command prints, run there as a user would."""
    command, env = [sys.executable, "-m", "rlvla3", *words], os.environ | {"PYTHONPATH": python_path()}
    ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_check_says_of_the_example_what_the_page_shows(example: Path):
    page = (ROOT / "docs" / "extending.md").read_text()
    (shown,) = re.findall(r"\$ rlvla3 (check --simulator reach:Reach)\n(.*?)```", page, re.S)
    assert rlvla3_in(example, *shown[0].split()) == shown[1]


@pytest.mark.slow
def test_the_example_is_cloned_and_trained_on(example: Path):
    tiny = ("clone.demonstrations=2", "clone.steps=2", "training.updates=1", "training.batch=8", "evaluation.episodes=2")
    rlvla3_in(example, "train", "reach.yaml", "--run-dir", "run", *tiny)
    assert json.loads((example / "run" / "summary.json").read_text())["ended"] == "finished"
