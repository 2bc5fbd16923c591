"""Real Meta-World. Each test runs in a process of its own, as a simulator does: what a process did before is part of what is tested."""

from __future__ import annotations

import importlib.util
import os
import time
from typing import Any

import numpy as np
import pytest

from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.simulators.base import SimulatorError
from rlvla3.simulators.metaworld.simulator import Disturbance, MetaWorld
from rlvla3.simulators.metaworld.tasks import INSTRUCTIONS
from rlvla3.simulators.registry import describe_simulator
from rlvla3.types import INSTRUCTION_BYTES, ActionSpace, InitialStates, Outcome, Purpose, Spaces, Ticket
from tests.support.processes import in_fresh_process

# Found, not imported: mujoco would choose its graphics library here and now.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="metaworld is not installed")

BUTTON, DOOR, REACH = "button-press-topdown-v3", "door-open-v3", "reach-v3"
CHUNK = 5


def config(*tasks: str, max_steps: int | None = None, **options: Any) -> SimulatorConfig:
    return SimulatorConfig(name="metaworld", tasks=list(tasks), max_steps=max_steps, options=options)


def ticket(task: str, seed: int) -> Ticket:
    return Ticket(index=0, task=task, seed=seed, group=0, purpose=Purpose.DEMONSTRATE)


def episode(simulator: MetaWorld, task: str, seed: int) -> list[np.ndarray[Any, Any]]:
    """All that a policy would see of 20 fixed steps."""
    first = simulator.reset(0, ticket(task, seed))
    outcomes = [simulator.step({0: np.full((CHUNK, 4), push, np.float32)})[0] for push in (0.6, -0.8, -0.3, 0.9)]
    observations = [first, *(outcome.observation for outcome in outcomes if outcome.observation)]
    assert len(observations) == 5
    return [array for seen in observations for array in (seen.images["corner3"], seen.state)] + [outcome.rewards for outcome in outcomes]


def demonstration(simulator: MetaWorld, task: str, seed: int) -> list[Outcome]:
    simulator.reset(0, ticket(task, seed))
    outcomes: list[Outcome] = []
    while not outcomes or not outcomes[-1].done:
        outcomes.append(simulator.step({0: None})[0])
    return outcomes


def episodes_in_a_row(task: str, *seeds: int) -> list[list[np.ndarray[Any, Any]]]:
    simulator = MetaWorld(config(task, reward="dense"), CHUNK)
    return [episode(simulator, task, seed) for seed in seeds]


def episode_after_others(task: str, seed: int) -> list[np.ndarray[Any, Any]]:
    simulator = MetaWorld(config(DOOR, task, reward="dense"), CHUNK)
    demonstration(simulator, task, seed + 1)
    demonstration(simulator, DOOR, seed)
    return episode(simulator, task, seed)


@pytest.mark.slow
def test_the_same_ticket_is_the_same_episode_in_any_process_and_after_any_history():
    alone, other = in_fresh_process(episodes_in_a_row, BUTTON, 7, 8)
    later = in_fresh_process(episode_after_others, BUTTON, 7)
    assert all(np.array_equal(a, b) for a, b in zip(alone, later, strict=True))
    assert not np.array_equal(alone[0], other[0]), "another seed is another initial state"
    assert not np.array_equal(alone[0], alone[2]), "the arm moved"


def frames_of_tasks_in_turn(tasks: list[str], rounds: int) -> list[list[np.ndarray[Any, Any]]]:
    simulator = MetaWorld(config(*tasks, live_tasks=2), CHUNK)
    return [[simulator.reset(0, ticket(task, seed=1)).images["corner3"] for task in tasks] for _ in range(rounds)]


@pytest.mark.slow
def test_tasks_in_turn_give_the_frames_they_give_alone():
    """Three tasks where two are kept: each is built again in every round, while others are live."""
    tasks = [BUTTON, DOOR, REACH]
    first, second = in_fresh_process(frames_of_tasks_in_turn, tasks, 2)
    alone = in_fresh_process(frames_of_tasks_in_turn, [DOOR], 1)[0][0]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert np.array_equal(first[1], alone)
    assert all(frame.std() > 10 for frame in first)
    assert all((a != b).mean() > 0.01 for a, b in [(first[0], first[1]), (first[1], first[2]), (first[0], first[2])])


def large_frames_and_small() -> None:
    cameras = ["corner3", "gripperPOV"]
    large = MetaWorld(config(REACH, image_size=224, cameras=cameras), CHUNK)
    seen = large.reset(0, ticket(REACH, 1))
    assert [seen.images[camera].shape for camera in cameras] == [(224, 224, 3)] * 2
    assert all(image.std() > 10 for image in seen.images.values())
    small = MetaWorld(config(REACH), CHUNK).reset(0, ticket(REACH, 1)).images["corner3"]
    shrunk = seen.images["corner3"].reshape(32, 7, 32, 7, 3).mean((1, 3))
    assert np.abs(shrunk - small.reshape(32, 2, 32, 2, 3).mean((1, 3))).mean() < 10, "the same scene in either size"


@pytest.mark.slow
def test_frames_of_224_pixels_and_several_cameras():
    in_fresh_process(large_frames_and_small)


def near_and_far() -> None:
    simulator = MetaWorld(config(REACH, cameras=["corner2", "corner2_near"]), CHUNK)
    shown = simulator.reset(0, ticket(REACH, 0)).images
    assert np.abs(shown["corner2_near"].astype(float) - shown["corner2"]).mean() > 10, "another place"
    assert (simulator.observe().images["corner2"] == shown["corner2"]).all(), "it was put back"


@pytest.mark.slow
def test_the_moved_camera_leaves_the_others_where_they_are():
    in_fresh_process(near_and_far)


def drawing_seconds() -> list[float]:
    """CPU time of a few frames: as the default draws them, and with all that it leaves out."""
    seconds = []
    for options in ({}, {"fast_rendering": False}):
        simulator = MetaWorld(config(REACH, **options), CHUNK)
        simulator.reset(0, ticket(REACH, 0))
        start = time.process_time()
        for _ in range(5):
            simulator.observe()
        seconds.append(time.process_time() - start)
    return seconds


@pytest.mark.slow
def test_fast_rendering_is_the_default_and_is_fast():
    fast, full = in_fresh_process(drawing_seconds)
    assert fast < full / 4


def demonstrations_of_the_button() -> None:
    simulator = MetaWorld(config(BUTTON), CHUNK)
    for seed in range(5):
        outcomes = demonstration(simulator, BUTTON, seed)
        last = outcomes[-1]
        assert last.success and last.terminated and last.observation is None
        rewards = np.concatenate([outcome.rewards for outcome in outcomes])
        assert rewards.sum() == rewards[-1] == 1.0 and len(rewards) < 100
        assert all(np.abs(outcome.actions).max() <= 1 for outcome in outcomes)
    assert simulator.reset(0, ticket(BUTTON, 0)).instruction == "press the button down from above"


@pytest.mark.slow
def test_the_expert_succeeds_for_a_reward_of_one_and_success_ends_the_episode():
    in_fresh_process(demonstrations_of_the_button)


def other_endings() -> None:
    limited = MetaWorld(config(BUTTON, max_steps=12), CHUNK)
    outcomes = demonstration(limited, BUTTON, 0)
    assert [len(outcome.rewards) for outcome in outcomes] == [5, 5, 2]
    assert outcomes[-1].truncated and outcomes[-1].observation is not None and outcomes[-1].observation.elapsed == 1.0
    endless = MetaWorld(config(BUTTON, end_on_success=False), CHUNK)
    outcomes = demonstration(endless, BUTTON, 0)
    assert outcomes[-1].truncated and outcomes[-1].success and sum(outcome.rewards.sum() for outcome in outcomes) == 1.0
    dense = demonstration(MetaWorld(config(BUTTON, reward="dense"), CHUNK), BUTTON, 0)
    rewards = np.concatenate([outcome.rewards for outcome in dense])
    assert 0 <= rewards.min() < 0.1 and 0.5 < rewards.max() <= 1


@pytest.mark.slow
def test_a_time_limit_success_that_does_not_end_and_dense_rewards():
    in_fresh_process(other_endings)


def disturbed_demonstrations() -> None:
    clean, disturbed = (MetaWorld(config(BUTTON, max_steps=150, demonstration_noise=noise), CHUNK) for noise in (0.0, 0.4))
    straight, pushed, again = (demonstration(simulator, BUTTON, 3) for simulator in (clean, disturbed, disturbed))
    assert np.array_equal(straight[0].actions[0], pushed[0].actions[0]), "the first label is the expert's own"
    assert straight[0].observation is not None and pushed[0].observation is not None
    assert not np.array_equal(straight[0].observation.state, pushed[0].observation.state), "but what was executed is not"
    assert pushed[-1].success, "an expert sees where it was pushed to"
    assert all(np.array_equal(a.actions, b.actions) for a, b in zip(pushed, again, strict=True))


@pytest.mark.slow
def test_disturbed_demonstrations_are_labelled_with_what_the_expert_would_do():
    in_fresh_process(disturbed_demonstrations)


def test_a_disturbance_is_held_for_some_steps_and_zero_is_none():
    pushes = np.array([Disturbance(0, 1.0).next() for _ in range(3)])
    assert (pushes == pushes[0]).all(), "it depends on the seed alone"
    disturbance = Disturbance(1, 0.5)
    changes = np.flatnonzero(np.diff([disturbance.next()[0] for _ in range(500)]))
    assert np.diff(changes).min() >= 3 and np.diff(changes).max() <= 9
    assert not np.any([Disturbance(1, 0.0).next() for _ in range(20)])


def black_frames() -> list[str]:
    simulator = MetaWorld(config(BUTTON), CHUNK)
    from rlvla3.simulators.metaworld.scene import MetaWorldScene

    messages = []
    real_draw, simulator_failures = MetaWorldScene.draw, [lambda: simulator.reset(0, ticket(BUTTON, 0)), lambda: MetaWorld(config(REACH), CHUNK)]
    still = simulator.reset(0, ticket(BUTTON, 0)).images["corner3"]
    for draw in (lambda self, camera: np.zeros((64, 64, 3), np.uint8), lambda self, camera: still):
        MetaWorldScene.draw = draw  # type: ignore[method-assign]
        for provoke in simulator_failures:
            try:
                provoke()
            except SimulatorError as error:
                messages.append(str(error))
    MetaWorldScene.draw = real_draw  # type: ignore[method-assign]
    return messages


@pytest.mark.slow
def test_frames_that_are_black_or_stand_still_are_refused_with_the_way_out():
    at_a_decision, at_the_start, standing_still = in_fresh_process(black_frames)
    assert "a single colour" in at_a_decision and "flat frames" in at_the_start and "while the arm moves" in standing_still
    assert all("libosmesa6" in message for message in (at_a_decision, at_the_start, standing_still))


def without_graphics() -> str:
    os.environ["MUJOCO_GL"] = "none-such"
    with pytest.raises(SimulatorError) as refused:
        MetaWorld(config(BUTTON), CHUNK)
    return str(refused.value)


@pytest.mark.slow
def test_a_graphics_library_that_cannot_be_loaded_is_named_with_its_packages():
    message = in_fresh_process(without_graphics)
    assert "none-such" in message and "apt-get install libosmesa6" in message


def mujoco_first() -> str:
    os.environ.pop("MUJOCO_GL", None)
    import mujoco  # noqa: F401

    with pytest.raises(SimulatorError) as refused:
        MetaWorld(config(BUTTON), CHUNK)
    return str(refused.value)


@pytest.mark.slow
def test_a_mujoco_that_was_imported_before_is_named_as_the_cause():
    assert "mujoco was imported" in in_fresh_process(mujoco_first)


def names_in_the_package() -> tuple[set[str], set[str]]:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.policies import ENV_POLICY_MAP

    return set(ALL_V3_ENVIRONMENTS), set(ENV_POLICY_MAP)


@pytest.mark.slow
def test_every_task_of_the_package_has_a_sentence_and_an_expert():
    environments, experts = in_fresh_process(names_in_the_package)
    assert set(INSTRUCTIONS) == environments == experts and len(INSTRUCTIONS) == 50
    assert len(set(INSTRUCTIONS.values())) == 50, "a policy of several tasks can tell them apart by their sentences"
    assert all(len(sentence.encode()) <= INSTRUCTION_BYTES for sentence in INSTRUCTIONS.values())


def test_what_metaworld_shows_and_accepts():
    spaces = describe_simulator(config(REACH, DOOR, image_size=96, cameras=["corner", "topview"]))
    cameras = {"corner": (96, 96, 3), "topview": (96, 96, 3)}
    sentences = ("move the gripper to the goal", "open the door by its handle")
    assert spaces == Spaces(cameras, state=4, action=ActionSpace("continuous", 4), max_steps=100, instructions=sentences)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (config(), "simulator.tasks is empty"),
        (config("button-press-topdwn-v3"), "did you mean button-press-topdown-v3"),
        (config("juggle"), "sweep-into-v3"),
        (config(REACH, max_steps=501), "set 500 or less"),
        (config(REACH, image_size=32), "image_size"),
        (config(REACH, cameras=["corner9"]), "corner3"),
        (config(REACH, cameras=[]), "at least 1"),
        (config(REACH, rewards="dense"), "did you mean reward"),
        (SimulatorConfig(name="metaworld", tasks=[REACH], slots=2), "raise simulator.shards"),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_way_out(wrong, words):
    with pytest.raises(RecipeError) as refused:
        describe_simulator(wrong)
    assert words in str(refused.value)


def lerobots_states(task: str, seeds: list[int]) -> list[np.ndarray[Any, Any]]:
    """The first observation vectors of episodes as lerobot begins them: MT1's environment, drawn by a seed."""
    import metaworld

    benchmark = metaworld.MT1(task, seed=42)
    environment = benchmark.train_classes[task]()
    environment.set_task(benchmark.train_tasks[0])
    environment.reset()
    environment._freeze_rand_vec, environment.seeded_rand_vec = False, True
    seen = []
    for seed in seeds:
        environment.seed(seed)
        vector, _ = environment.reset(seed=seed)
        seen.append(np.asarray(vector))
    return seen


def lerobots_frame(task: str, seed: int) -> np.ndarray[Any, Any]:
    """What lerobot and RLinf show a policy first: corner2 from nearer, with both axes turned."""
    os.environ["MUJOCO_GL"] = os.environ.get("MUJOCO_GL", "osmesa")
    import metaworld

    benchmark = metaworld.MT1(task, seed=42)
    environment = benchmark.train_classes[task](render_mode="rgb_array", camera_name="corner2")
    environment.set_task(benchmark.train_tasks[0])
    environment.model.cam_pos[2] = [0.75, 0.075, 0.7]
    environment.reset()
    environment._freeze_rand_vec, environment.seeded_rand_vec = False, True
    environment.seed(seed)
    environment.reset(seed=seed)
    return np.flip(np.asarray(environment.render()), (0, 1)).copy()


def our_frame(task: str, number: int, options: dict[str, Any]) -> np.ndarray[Any, Any]:
    simulator = MetaWorld(config(task, **options), CHUNK)
    return simulator.reset(0, Ticket(index=0, task=task, seed=5, group=0, initial_state=number)).images["corner2_near"]


@pytest.mark.slow
def test_a_policy_sees_the_frames_of_lerobot_bit_for_bit():
    theirs = in_fresh_process(lerobots_frame, DOOR, 1003)
    options = {"first_seed": 1000, "seeds": 10, "cameras": ["corner2_near"], "image_size": 480, "fast_rendering": False}
    np.testing.assert_array_equal(in_fresh_process(our_frame, DOOR, 3, options), theirs)


def numbered_states(task: str, numbers: list[int], options: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    simulator = MetaWorld(config(task, **options), CHUNK)
    seen = []
    for number in numbers:
        simulator.reset(0, Ticket(index=0, task=task, seed=5, group=0, initial_state=number))
        seen.append(np.asarray(simulator._scene._environment._get_obs()))
    return seen


@pytest.mark.slow
def test_numbered_states_are_those_that_lerobot_begins_from():
    theirs = in_fresh_process(lerobots_states, DOOR, [1000, 1001, 1007])
    ours = in_fresh_process(numbered_states, DOOR, [7, 0, 1], {"first_seed": 1000, "seeds": 10})
    # the last three numbers are the goal, which lerobot hides. The object stands where the goal of this task depends on it.
    for state, number in ((ours[1], 0), (ours[2], 1), (ours[0], 2)):
        np.testing.assert_array_equal(state[:36], theirs[number][:36])
    assert not np.array_equal(ours[0], ours[1])


@pytest.mark.slow
def test_warm_up_steps_come_before_an_episode():
    still = in_fresh_process(numbered_states, DOOR, [3], {"first_seed": 0})[0]
    settled = in_fresh_process(numbered_states, DOOR, [3], {"first_seed": 0, "warmup_steps": 16})[0]
    assert not np.array_equal(still, settled)


def test_numbered_states_are_a_fixed_set():
    spaces = describe_simulator(config(DOOR, BUTTON, first_seed=1000, seeds=12))
    assert spaces.initial_states == {task: InitialStates(12, f"{task}, seeds", first=1000) for task in (DOOR, BUTTON)}
    assert describe_simulator(config(DOOR)).initial_states == {}


def test_warm_up_counts_towards_the_steps_that_meta_world_makes():
    with pytest.raises(RecipeError, match=r"max_steps=490 and 16 steps before, .* set 484 or less"):
        describe_simulator(config(DOOR, max_steps=490, warmup_steps=16))
