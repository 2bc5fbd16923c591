"""Packages of Gymnasium environments, each with the real package: found by their ID, and run with a few settings.

Each environment runs in a process of its own, as in a run: what another simulator has loaded to draw with could be in its way here.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.simulators import gymnasium_packages
from rlvla3.simulators.gymnasium_packages import registered_id
from rlvla3.simulators.registry import describe_simulator
from rlvla3.types import Observation, Outcome, Spaces
from tests.support.processes import in_fresh_process
from tests.support.single_environments import begun, ticket

CASES: Mapping[str, tuple[str, dict[str, Any], set[str], int, int]] = {
    "gym_pusht": ("gym_pusht/PushT-v0", {"kwargs": {"obs_type": "pixels_agent_pos"}, "instruction": "push the T onto its place"}, {"pixels"}, 2, 2),
    "gym_aloha": (
        "gym_aloha/AlohaTransferCube-v0",
        {"kwargs": {"obs_type": "pixels_agent_pos"}, "image_size": [48, 64]},
        {"pixels.top"},
        14,
        14,
    ),
    "gym_hil": ("gym_hil/PandaPickCubeBase-v0", {"kwargs": {"image_obs": True, "random_block_position": True}}, {"pixels.front", "pixels.wrist"}, 18, 7),
    "gymnasium_robotics": ("FetchReach-v4", {"render": True, "kwargs": {"width": 64, "height": 64}}, {"render"}, 16, 4),
}
"""By module: an ID, the options that it needs, and what it then shows and takes: cameras, numbers of the state, numbers of an action."""


def config(module: str, **settings: Any) -> SimulatorConfig:
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    identifier, options, *_ = CASES[module]
    return SimulatorConfig(name=f"gymnasium:{identifier}", max_steps=3, options=options | settings)


@pytest.mark.slow
@pytest.mark.parametrize("module", CASES)
def test_an_environment_of_the_package_runs_and_a_ticket_is_the_same_episode(module: str):
    _, options, cameras, state, action = CASES[module]
    spaces, seen = in_fresh_process(episodes, config(module))
    assert set(spaces.cameras) == cameras and spaces.state == state and spaces.action.size == action
    for first, outcome in seen:
        assert outcome.truncated and len(outcome.rewards) == 3 and not outcome.success
        assert first.instruction == options.get("instruction", first.instruction)
    for camera in cameras:
        assert all(first.images[camera].std() > 5 for first, _ in seen)
        assert np.array_equal(seen[0][0].images[camera], seen[2][0].images[camera])
    assert np.array_equal(seen[0][0].state, seen[2][0].state)
    shown = [np.concatenate([one.state, *(image.ravel() for image in one.images.values())]) for one, _ in seen[:2]]
    assert not np.array_equal(shown[0], shown[1])  # another seed is another state
    assert np.array_equal(seen[0][1].rewards, seen[2][1].rewards)


def episodes(config: SimulatorConfig) -> tuple[Spaces, list[tuple[Observation, Outcome]]]:
    """What a simulator shows, and the first observation and the first chunk of three tickets, of which the first and the last have one seed."""
    simulator = begun(config, chunk=3)
    try:
        chunk = np.random.default_rng(0).uniform(-1, 1, (3, simulator.spaces.action.size)).astype(np.float32)
        return simulator.spaces, [(simulator.reset(0, ticket(seed=index)), simulator.step({0: chunk})[0]) for index in (1, 2, 1)]
    finally:
        simulator.close()


@pytest.mark.parametrize("name", ["FetchReach-v4", "gymnasium_robotics/FetchReach-v4", "gymnasium_robotics:FetchReach-v4"])
def test_an_id_without_a_namespace_may_be_written_with_its_package(name: str):
    if find_spec("gymnasium_robotics") is None:
        pytest.skip("gymnasium_robotics is not installed")
    spaces = describe_simulator(SimulatorConfig(name=f"gymnasium:{name}"))
    assert (spaces.cameras, spaces.state, spaces.max_steps) == ({}, 16, 50)


def test_a_goal_that_the_robot_reaches_is_a_success():
    """FetchReach says is_success in each step. The hand is moved onto the goal, which the state shows."""
    if find_spec("gymnasium_robotics") is None:
        pytest.skip("gymnasium_robotics is not installed")
    simulator = begun(SimulatorConfig(name="gymnasium:FetchReach-v4", max_steps=50), chunk=1)
    state, succeeded = simulator.reset(0, ticket(seed=3)).state, False
    for _ in range(30):
        way = 10 * (state[3:6] - state[:3])
        outcome = simulator.step({0: np.clip(np.concatenate([way, [0]]), -1, 1)[None].astype(np.float32)})[0]
        assert outcome.observation is not None
        state, succeeded = outcome.observation.state, succeeded or outcome.success
    assert succeeded
    simulator.close()


def test_a_package_that_is_missing_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gymnasium_packages, "find_spec", lambda module: None)
    with pytest.raises(RecipeError, match="needs the package gym-hil: run `pip install gym-hil`"):
        registered_id("gym_hil/NoSuchTask-v0")


@pytest.mark.parametrize("identifier", ["NoSuchTask-v0", "gym_somewhere/Task-v0", "CartPole-v99"])
def test_an_id_that_nobody_registers_is_refused_and_nothing_is_imported_for_it(identifier: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gymnasium_packages, "find_spec", lambda module: None)
    with pytest.raises(RecipeError, match=rf"gymnasium:{identifier} is not registered.*write the module's name before it: gymnasium:MODULE:{identifier}"):
        registered_id(identifier)


@pytest.mark.parametrize("identifier", ["CartPole-v1", "some_module:Task-v0"])
def test_what_gymnasium_finds_by_itself_is_left_to_it(identifier: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rlvla3.simulators.gymnasium_packages.importlib.import_module", lambda name: pytest.fail(f"{name} is imported"))
    assert registered_id(identifier) == identifier
