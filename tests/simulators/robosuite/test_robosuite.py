"""Real robosuite, and the way through it that RoboCasa takes. Each test runs in a process of its own, as a simulator does.

RoboCasa's own kitchens are 10 GB to download: here stands in for it a package of the same name and shape, whose task is one of robosuite's.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.simulators import drawing
from rlvla3.simulators.base import SimulatorError
from rlvla3.simulators.registry import describe_simulator, make_simulator
from rlvla3.simulators.robosuite.assets import VARIABLE
from rlvla3.simulators.robosuite.simulator import Robosuite
from rlvla3.simulators.robosuite.tasks import INSTRUCTIONS, robosuite_version
from rlvla3.types import INSTRUCTION_BYTES, ActionSpace, Observation, Spaces, Ticket
from tests.support.processes import in_fresh_process

# Found, not imported: mujoco would choose its graphics library here and now.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("robosuite") is None, reason="robosuite is not installed")

CHUNK = 5
DOWN = np.array([0, 0, -1, 0, 0, 0, -1], np.float32)


def config(*tasks: str, name: str = "robosuite", max_steps: int | None = None, **options: Any) -> SimulatorConfig:
    return SimulatorConfig(name=name, tasks=list(tasks), max_steps=max_steps, options=options)


def ticket(task: str, seed: int) -> Ticket:
    return Ticket(index=0, task=task, seed=seed, group=0)


def episode(simulator: Any, task: str, seed: int, last: float = 1) -> list[np.ndarray[Any, Any]]:
    """All that a policy would see of 15 steps, in the last five of which only the gripper moves. last: where to; 1 closes it, -1 opens it."""
    first = simulator.reset(0, ticket(task, seed))
    chunks = [np.random.default_rng(number).uniform(-0.4, 0.4, (CHUNK, 7)).astype(np.float32) for number in range(2)] + [
        np.array([[0, 0, 0, 0, 0, 0, last]] * CHUNK, np.float32)
    ]
    outcomes = [simulator.step({0: chunk})[0] for chunk in chunks]
    observations: list[Observation] = [first, *(outcome.observation for outcome in outcomes)]
    images = [image for seen in observations for image in seen.images.values()]
    return [*images, *(seen.state for seen in observations), *(outcome.rewards for outcome in outcomes)]


def same(one: list[np.ndarray[Any, Any]], other: list[np.ndarray[Any, Any]]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def episodes_alone(tasks: list[str], seeds: list[int]) -> dict[str, list[list[np.ndarray[Any, Any]]]]:
    return {task: [episode(simulator, task, seed) for seed in seeds] for task in tasks for simulator in [Robosuite(config(task, reward="dense"), CHUNK)]}


def episodes_after_others(tasks: list[str], seed: int) -> dict[str, list[np.ndarray[Any, Any]]]:
    """Two tasks are kept: the first is built anew, while others are live."""
    simulator = Robosuite(config(*tasks, reward="dense", live_tasks=2), CHUNK)
    np.random.seed(99)
    for task in tasks:
        episode(simulator, task, seed + 1, last=-1)
    return {task: episode(simulator, task, seed) for task in reversed(tasks)}


@pytest.mark.slow
def test_the_same_ticket_is_the_same_episode_in_any_process_and_after_any_history():
    """The cube's place is part of the state, the door's and the marks' of the model: each is set back in its own way."""
    tasks = ["Lift", "Door", "Wipe"]
    alone, later = in_fresh_process(episodes_alone, tasks, [7, 8]), in_fresh_process(episodes_after_others, tasks, 7)
    for task in tasks:
        seven, eight = alone[task]
        assert same(seven, later[task]), task
        assert not np.array_equal(seven[0], eight[0]) and not np.array_equal(seven[-7], eight[-7]), f"{task}: another seed is another initial state"
        assert not np.array_equal(seven[0], seven[2]), f"{task}: the arm moved"


def what_is_seen() -> None:
    simulator = Robosuite(config("Lift", image_size=96, cameras=["frontview", "robot0_eye_in_hand"]), CHUNK)
    seen = simulator.reset(0, ticket("Lift", 0))
    assert [image.shape for image in seen.images.values()] == [(96, 96, 3)] * 2 and all(image.std() > 10 for image in seen.images.values())
    assert seen.instruction == "lift the red cube"
    red = (seen.images["frontview"] @ np.array([1, -1, -1])) > 20
    assert red.any(), "the cube is to be seen"
    rows = np.flatnonzero(red.any(axis=1))
    gripper = simulator._scene._data.site_xpos[simulator._scene._robot.eef_site_id]
    assert np.allclose(seen.state[:3], gripper) and seen.state.shape == (8,)
    outcome = simulator.step({0: np.tile(DOWN, (CHUNK, 1))})[0]
    assert outcome.observation is not None and outcome.observation.state[2] < seen.state[2], "the hand went down"
    assert 0.5 < rows.mean() / 96 < 1, "the cube lies on the table, in the lower half: the picture is the right way up"
    opened, closed = outcome.observation.state[6], simulator.step({0: np.ones((CHUNK, 7), np.float32)})[0].observation
    assert closed is not None and closed.state[6] < opened, "the last number of an action closes the gripper"


@pytest.mark.slow
def test_cameras_are_the_right_way_up_and_the_state_is_the_hand():
    in_fresh_process(what_is_seen)


def lift(simulator: Robosuite, seed: int) -> list[Any]:
    """Grasp the cube, whose place the test may know, and lift it."""
    simulator.reset(0, ticket("Lift", seed))
    environment = simulator._scene._environment
    outcomes: list[Any] = []
    while not outcomes or not outcomes[-1].done:
        cube, hand = environment.sim.data.body_xpos[environment.cube_body_id], simulator._scene.state()[:3]
        away, action = cube - hand, np.zeros(7, np.float32)
        near = np.abs(away).max() < 0.012
        action[:3] = np.clip(away * 10, -1, 1) if not near else 0
        if np.abs(away[:2]).max() > 0.02:
            action[2] = 0
        action[6] = 1 if near or (outcomes and outcomes[-1].actions[0, 6] > 0) else -1
        if action[6] > 0 and len(outcomes) > 1 and outcomes[-2].actions[0, 6] > 0:
            action[:3] = [0, 0, 1]
        outcomes.append(simulator.step({0: np.tile(action, (CHUNK, 1))})[0])
    return outcomes


def rewards_and_endings() -> None:
    outcomes = lift(Robosuite(config("Lift", max_steps=150), CHUNK), seed=1)
    rewards = np.concatenate([outcome.rewards for outcome in outcomes])
    assert outcomes[-1].success and outcomes[-1].terminated and outcomes[-1].observation is None
    assert rewards.sum() == rewards[-1] == 1, "1 at the first success, which ends the episode"
    outcomes = lift(Robosuite(config("Lift", max_steps=100, reward="dense", end_on_success=False), CHUNK), seed=1)
    rewards = np.concatenate([outcome.rewards for outcome in outcomes])
    assert outcomes[-1].success and outcomes[-1].truncated and len(rewards) == 100
    assert 0 <= rewards.min() < 0.2 and rewards.max() == 1, "shaped, within 0 and 1"
    assert outcomes[-1].observation.elapsed == 1


@pytest.mark.slow
def test_a_lifted_cube_is_a_success_with_either_reward():
    in_fresh_process(rewards_and_endings)


def frames_that_cannot_be_trusted() -> list[str]:
    simulator = Robosuite(config("Lift"), CHUNK)
    from rlvla3.simulators.robosuite.scene import RobosuiteScene

    messages = []
    RobosuiteScene.draw = lambda self, camera: np.zeros((64, 64, 3), np.uint8)  # type: ignore[method-assign]
    for provoke in (lambda: simulator.reset(0, ticket("Lift", 0)), lambda: Robosuite(config("Lift"), CHUNK)):
        with pytest.raises(SimulatorError) as refused:
            provoke()
        messages.append(str(refused.value))
    with pytest.raises(SimulatorError) as refused:
        Robosuite(config("Lift", cameras=["robot0_agentview_left"]), CHUNK)
    return [*messages, str(refused.value)]


@pytest.mark.slow
def test_black_frames_and_cameras_that_are_not_there_are_refused():
    at_a_decision, at_the_start, no_camera = in_fresh_process(frames_that_cannot_be_trusted)
    assert "a single colour" in at_a_decision and "flat frames" in at_the_start
    assert "robot0_agentview_left" in no_camera and "robot0_eye_in_hand" in no_camera


def frames_by_egl_where_cuda_shows_another_number(number: int) -> float:
    os.environ["CUDA_VISIBLE_DEVICES"] = str(number + 1)
    simulator = Robosuite(SimulatorConfig(name="robosuite", tasks=["Lift"], devices=[f"egl:{number}"]), CHUNK)
    assert (os.environ["MUJOCO_GL"], os.environ["MUJOCO_EGL_DEVICE_ID"]) == ("egl", str(number))
    return float(simulator.reset(0, ticket("Lift", 0)).images["agentview"].std())


@pytest.mark.slow
def test_a_number_of_egl_is_not_taken_for_one_of_cuda():
    """robosuite refuses to be imported if MUJOCO_EGL_DEVICE_ID is not in CUDA_VISIBLE_DEVICES. They are numbers of different things."""
    if not (software := [device.number for device in drawing._look().egl if device.software]):
        pytest.skip("EGL has no device here that draws in software (Debian's package libegl-mesa0)")
    assert in_fresh_process(frames_by_egl_where_cuda_shows_another_number, software[0]) > 30


def names_in_the_package() -> set[str]:
    from rlvla3.simulators.graphics import prepare_process

    prepare_process("robosuite")
    importlib.import_module("rlvla3.simulators.robosuite.scene")
    import robosuite

    assert "torch" not in sys.modules
    return set(robosuite.ALL_ENVIRONMENTS)


@pytest.mark.slow
def test_every_sentence_is_of_a_task_that_robosuite_has():
    assert set(INSTRUCTIONS) <= in_fresh_process(names_in_the_package)
    assert len(set(INSTRUCTIONS.values())) == len(INSTRUCTIONS), "a policy of several tasks can tell them apart by their sentences"
    assert all(len(sentence.encode()) <= INSTRUCTION_BYTES for sentence in INSTRUCTIONS.values())


def described() -> tuple[Spaces, list[str]]:
    """What a recipe's simulator shows, and what was imported to say it."""
    return describe_simulator(config("Lift", "Door", image_size=96)), [name for name in ("robosuite", "mujoco") if name in sys.modules]


@pytest.mark.slow
def test_what_robosuite_shows_and_accepts():
    spaces, imported = in_fresh_process(described)
    cameras = {"agentview": (96, 96, 3), "robot0_eye_in_hand": (96, 96, 3)}
    assert spaces == Spaces(cameras, state=8, action=ActionSpace("continuous", 7), max_steps=500, instructions=("lift the red cube", "open the door"))
    assert not imported, "a recipe is checked without them"


OLD = (robosuite_version() or (0,)) < (1, 5)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (config(), "simulator.tasks is empty"),
        (config("Lfit"), "did you mean Lift"),
        (config("TwoArmLift"), "for one arm"),
        (config("PickPlaceSingle"), "PickPlaceMilk"),
        (config("Lift", image_size=32), "image_size"),
        (config("Lift", cameras=[]), "at least 1"),
        (config("Lift", cameras=["leftview"]), "agentview"),
        (config("Lift", moves="arm_and_base"), "does not drive"),
        pytest.param(config("Lift", robot="PandaOmron"), "1.5 or later", marks=pytest.mark.skipif(not OLD, reason="this robosuite has robots that drive")),
        (SimulatorConfig(name="robosuite", tasks=["Lift"], slots=2), "raise simulator.shards"),
        pytest.param(
            config("PnPCounterToCab", name="robocasa", robot="Panda"),
            "environment of its own",
            marks=pytest.mark.skipif(importlib.util.find_spec("robocasa") is not None, reason="robocasa is installed"),
        ),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_way_out(wrong, words):
    with pytest.raises(RecipeError) as refused:
        describe_simulator(wrong)
    assert words in str(refused.value)


KITCHENS = """
import xml.etree.ElementTree as ET
from robosuite.environments.manipulation.lift import Lift
import robocasa.models

READ = robocasa.models.assets_root  # while it is imported, as RoboCasa does

class PnPCounterToCab(Lift):
    def __init__(self, layout_ids=None, reward_shaping=False, **others):
        self.layouts = layout_ids or [1, 2, 3]
        super().__init__(**others)

    def _load_model(self):
        import numpy as np
        self.layout = np.random.choice(self.layouts)
        self.object = np.random.choice(["apple", "cup", "can"])
        super()._load_model()
        self.model.worldbody.append(ET.Element("camera", name="robot0_agentview_left", pos="0.5 0 1.35", quat="0.653 0.271 0.271 0.653"))
        colour = ["1 0 0 1", "0 1 0 1", "0 0 1 1"][self.layout - 1]
        for number in range(self.layout):
            self.model.worldbody.append(ET.Element("geom", type="box", size=".1 .1 .01", pos=f"0.1 0 {0.9 + 0.05 * number}", rgba=colour, group="1"))

    def get_ep_meta(self):
        return {"lang": f"pick the {self.object} from the counter and place it in the cabinet", "layout_id": self.layout}

    def _check_success(self):
        return self.sim.data.time > 0.32
"""


PACKAGE = """
try:
    raise RuntimeError("it was answered " + input("Download 10 GB? (y/n) "))
except EOFError:
    pass
from robocasa.environments.kitchen import tasks
"""


@pytest.fixture
def kitchens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package like RoboCasa, found by this process and those it starts. It asks a question as it is imported."""
    package = tmp_path / "robocasa"
    (package / "models" / "assets").mkdir(parents=True)
    (package / "environments" / "kitchen").mkdir(parents=True)
    (package / "__init__.py").write_text(PACKAGE)
    (package / "models" / "__init__.py").write_text("import os\nassets_root = os.path.join(os.path.dirname(__file__), 'assets')\n")
    for folder in (package / "environments", package / "environments" / "kitchen"):
        (folder / "__init__.py").touch()
    (package / "environments" / "kitchen" / "tasks.py").write_text(KITCHENS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    return package


def kitchen_config(**options: Any) -> SimulatorConfig:
    return config("PnPCounterToCab", name="robocasa", **{"robot": "Panda", **options})


def kitchen_episodes(path: Path, seeds: list[int]) -> list[tuple[str, list[np.ndarray[Any, Any]]]]:
    sys.path.insert(0, str(path.parent))
    sys.stdin = io.StringIO("y\n")
    simulator: Any = make_simulator(kitchen_config(end_on_success=False), CHUNK)
    episodes = [(episode(simulator, "PnPCounterToCab", seed), simulator.observe().instruction) for seed in seeds]
    return [(said, seen) for seen, said in episodes]


def assets_that_are_read(path: Path, assets: Path) -> list[str]:
    sys.path.insert(0, str(path.parent))
    make_simulator(kitchen_config(assets=str(assets)), CHUNK)
    tasks = importlib.import_module("robocasa.environments.kitchen.tasks")
    with pytest.raises(SimulatorError) as refused:
        make_simulator(kitchen_config(), CHUNK)
    return [str(tasks.READ), str(refused.value)]


def _colour(image: np.ndarray[Any, Any]) -> int:
    """0 for red, 1 for green, 2 for blue: whichever colour most pixels have, of those that have one."""
    strong = image.max(axis=2).astype(int) - image.min(axis=2) > 100
    assert strong.sum() > 50
    return int(np.bincount(image[strong].argmax(axis=1), minlength=3).argmax())


@pytest.mark.slow
def test_every_kitchen_episode_is_built_for_its_ticket_and_told_in_its_own_sentence(kitchens):
    (kitchens / "models" / "assets" / "textures").mkdir()
    (apple, green), (cup, blue) = in_fresh_process(kitchen_episodes, kitchens, [1, 6])
    ((said, alone),) = in_fresh_process(kitchen_episodes, kitchens, [6])
    assert cup == said and same(blue, alone), "the ticket alone says which kitchen it is"
    assert [apple, cup] == [f"pick the {what} from the counter and place it in the cabinet" for what in ("apple", "cup")]
    assert [_colour(first) for first in (green[0], blue[0])] == [1, 2], "what is drawn is the kitchen as it was built for this episode"
    rewards = np.concatenate(alone[-3:])
    assert rewards.sum() == rewards[6] == 1, "success is the task's own, after more than 0.32 of its seconds of 20 steps"


def test_what_robocasa_shows_and_accepts(kitchens):
    (kitchens / "models" / "assets" / "textures").mkdir()
    spaces = describe_simulator(kitchen_config())
    assert list(spaces.cameras) == ["robot0_agentview_left", "robot0_eye_in_hand"] and spaces.max_steps == 320 and spaces.state == 8
    for wrong, words in [
        (config("PnPCounterToCbb", name="robocasa", robot="Panda"), "did you mean PnPCounterToCab"),
        (kitchen_config(reward="dense"), "no dense reward"),
    ]:
        with pytest.raises(RecipeError, match=words):
            describe_simulator(wrong)


@pytest.mark.slow
def test_assets_are_looked_for_in_the_recipe_the_environment_and_the_package(kitchens, tmp_path, monkeypatch):
    with pytest.raises(RecipeError) as refused:
        describe_simulator(kitchen_config())
    for place in ("simulator.options.assets", VARIABLE, str(kitchens / "models" / "assets"), "download_kitchen_assets"):
        assert place in str(refused.value)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "empty"))
    with pytest.raises(RecipeError, match="must hold textures"):
        describe_simulator(kitchen_config())
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "textures").mkdir(parents=True)
    monkeypatch.setenv(VARIABLE, str(elsewhere))
    describe_simulator(kitchen_config())
    monkeypatch.delenv(VARIABLE)
    (kitchens / "models" / "assets" / "textures").mkdir()
    read, refusal = in_fresh_process(assets_that_are_read, kitchens, elsewhere)
    assert read == str(elsewhere), "RoboCasa itself reads them there, from its first import on"
    assert str(elsewhere) in refusal and "process of its own" in refusal
