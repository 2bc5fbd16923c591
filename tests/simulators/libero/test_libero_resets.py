"""A reset of ours begins the episode that scripts of published evaluations begin. They reset hard, which takes seconds, and draw fixtures their own way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.simulators.libero.package import assets_folder
from rlvla3.simulators.libero.simulator import Libero
from rlvla3.simulators.libero.tasks import find_task
from rlvla3.simulators.registry import describe_simulator
from tests.support.libero import config, installed, ticket
from tests.support.processes import in_fresh_process
from tests.support.thorough import thorough

pytestmark = installed

CABINET = "libero_goal/0"
"""Its cabinet stands elsewhere in each draw."""

Moved = list[NDArray[np.float64]]
"""Where the fixtures stand, and then the positions after each step."""


def actions() -> NDArray[np.float32]:
    return np.random.default_rng(3).uniform(-1, 1, (15, 7)).astype(np.float32)


def scripts_episodes(task: str, states: int, seed: int, anew: bool, gripper: float) -> list[Moved]:
    """Episodes from initial states 0, 1, ... as scripts make them: a hard reset, the initial state, ten steps of standing still. anew: whether the seed is set
    anew for each episode, one higher each time, as lerobot does. openpi and OpenVLA set it once."""
    from rlvla3.simulators.graphics import prepare_process

    prepare_process("LIBERO")
    from robosuite import load_controller_config

    from rlvla3.simulators.libero import scene

    definition = str(find_task(task).definition)
    with scene._imported_libero(assets_folder(None)) as libero:
        environment = libero.TASK_MAPPING[libero.bddl_utils.get_problem_info(definition)["problem_name"]](
            definition,
            robots=["Panda"],
            controller_configs=load_controller_config(default_controller="OSC_POSE"),
            initialization_noise=None,
            use_camera_obs=False,
            has_offscreen_renderer=False,
            control_freq=20,
            horizon=1000,
            hard_reset=True,
        )
    initial = find_task(task).initial_states()
    environment.seed(seed)
    episodes = []
    for state in range(states):
        if anew:
            environment.seed(seed + state)
        environment.reset()
        environment.sim.set_state_from_flattened(initial[state])
        environment.sim.forward()
        environment._check_success()
        environment._post_process()
        for _ in range(10):
            environment.step([0.0] * 6 + [gripper])
        model, data = environment.sim.model._model, environment.sim.data._data
        moved = [model.body_pos.copy(), model.body_quat.copy()]
        for action in actions():
            environment.step(action)
            moved.append(data.qpos.copy())
        episodes.append(moved)
    return episodes


def our_episodes(given: SimulatorConfig, states: list[int]) -> list[Moved]:
    simulator = Libero(given, 1)
    scene = simulator._scene
    episodes = []
    for state in states:
        simulator.reset(0, ticket(given.tasks[0], state))
        moved = [scene._model.body_pos.copy(), scene._model.body_quat.copy()]
        for action in actions():
            simulator.step({0: action[None]})
            moved.append(scene._data.qpos.copy())
        episodes.append(moved)
    return episodes


def same(ours: Moved, theirs: Moved) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("anew", "seed", "gripper", "draws"),
    [(False, 7, -1.0, "in_turn"), (True, 1000, -1.0, "by_state"), *thorough((False, 0, 0.0, "in_turn"))],
    ids=["openpi", "lerobot", "a gripper that is let be"],
)
def test_our_reset_begins_the_episode_of_a_hard_reset_bit_for_bit(anew: bool, seed: int, gripper: float, draws: str):
    theirs = in_fresh_process(scripts_episodes, CABINET, 2, seed, anew, gripper)
    given = config(CABINET, fixture_seed=seed, fixture_draws=draws, warmup_gripper=gripper)
    second, first = in_fresh_process(our_episodes, given, [1, 0])  # in an order of our own: shards do not run states in turn
    assert same(first, theirs[0])
    assert same(second, theirs[1])
    assert not np.array_equal(first[0], second[0])  # the fixtures do stand elsewhere


Seen = list[NDArray[Any]]
"""Frames and states that a policy would get."""

CAMERAS = ("agentview", "robot0_eye_in_hand")
PUSH = [0.5, 0.2, -0.3, 0, 0, 0.1, 1]


def scripts_observations(task: str, seed: int, steps: int) -> Seen:
    """What openpi's client sends to a policy: before the first action, and after so many steps."""
    from rlvla3.simulators.graphics import prepare_process

    prepare_process("LIBERO")
    from rlvla3.simulators.libero import scene

    seen: Seen = []
    with scene._imported_libero(assets_folder(None)) as libero:
        environment = libero.OffScreenRenderEnv(bddl_file_name=str(find_task(task).definition), camera_heights=128, camera_widths=128)
        environment.seed(seed)
        environment.reset()
        environment.set_init_state(find_task(task).initial_states()[0])
        for actions in ([[0] * 6 + [-1]] * 10, [PUSH] * steps):
            for action in actions:
                observation = environment.step(action)[0]
            seen += [observation[f"{camera}_image"][::-1, ::-1].copy() for camera in CAMERAS]
            seen.append(np.concatenate([observation["robot0_eef_pos"], observation["robot0_gripper_qpos"]]).astype(np.float32))
    return seen


def our_observations(given: SimulatorConfig, steps: int) -> Seen:
    simulator = Libero(given, steps)
    observations = [simulator.reset(0, ticket(given.tasks[0], 0)), simulator.step({0: np.array([PUSH] * steps, np.float32)})[0].observation]
    seen: Seen = []
    for observation in observations:
        assert observation is not None
        seen += [observation.images[camera][:, ::-1] for camera in CAMERAS]  # the preset of pretrained policies mirrors
        seen.append(observation.state[[0, 1, 2, 6, 7]])
    return seen


@pytest.mark.slow
def test_a_policy_sees_the_frames_and_the_state_of_the_scripts_bit_for_bit():
    theirs = in_fresh_process(scripts_observations, CABINET, 7, 5)
    settings: dict[str, Any] = {"image_size": 128, "fast_rendering": False, "fixture_seed": 7, "fixture_draws": "in_turn"}
    ours = in_fresh_process(our_observations, config(CABINET, observation_lag=1, **settings), 5)
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        np.testing.assert_array_equal(a, b, err_msg=f"part {number} of what is seen")


def lengths(given: SimulatorConfig) -> list[int]:
    simulator = Libero(given, 4)
    found = []
    for task in given.tasks:
        simulator.reset(0, ticket(task, 0))
        steps, outcome = 0, None
        while outcome is None or not outcome.done:
            outcome = simulator.step({0: np.zeros((4, 7), np.float32)})[0]
            steps += len(outcome.rewards)
        found.append(steps)
        assert outcome.truncated and outcome.observation is not None and outcome.observation.elapsed == 1
    return found


@pytest.mark.slow
def test_each_suite_may_have_a_limit_of_its_own():
    given = config("libero_goal/0", "libero_spatial/0", max_steps=14, suite_max_steps={"libero_goal": 6, "libero_spatial": 300})
    assert in_fresh_process(lengths, given) == [6, 14]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"suite_max_steps": {"libero_gaol": 100}}, "libero_gaol, which is no suite"),
        ({"suite_max_steps": {"libero_goal": 0}}, "greater than 0"),
        ({"warmup_gripper": -2}, "greater than or equal to -1"),
        ({"fixture_draws": "sometimes"}, "'by_state' or 'in_turn'"),
        ({"image_size": 1024}, "less than or equal to 512"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], words: str):
    with pytest.raises(RecipeError, match=words):
        describe_simulator(config("libero_goal/0", **options))
