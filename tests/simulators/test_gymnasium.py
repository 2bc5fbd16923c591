"""Gymnasium's environments as simulators."""

from __future__ import annotations

import random
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Sequence

from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.simulators.base import ContractError, SimulatorError
from rlvla3.simulators.gymnasium import GymnasiumSimulator
from rlvla3.simulators.registry import describe_simulator, make_simulator
from rlvla3.types import ActionSpace, Spaces, Ticket
from tests.support.single_environments import begun, stepped, ticket


class Pixels(gymnasium.Env[Any, Any]):
    """Shows a picture of the shape it is given, whose first row counts the steps."""

    instruction = "count"

    def __init__(self, shape: tuple[int, ...] = (16, 18, 3), dtype: Any = np.uint8) -> None:
        self.observation_space, self.action_space = Box(0, 255, shape, dtype), Discrete(3, start=5)
        self.taken: list[int] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.options, self.picture = options, np.zeros_like(self.observation_space.sample())
        return self.picture, {}

    def step(self, action):
        self.taken.append(action)
        self.picture = self.picture.copy()
        self.picture[0] += 1
        return self.picture, 1.0, False, len(self.taken) == 7, {"is_success": len(self.taken) == 3}


class Mixed(gymnasium.Env[Any, Any]):
    """A Dict observation, and a Box of actions bounded in one dimension and not in the other."""

    observation_space = Dict(
        {"wrist": Box(0, 255, (16, 16), np.uint8), "arm": Dict({"joints": Box(-9, 9, (2,)), "mode": Discrete(3)}), "touch": MultiBinary(2)}
    )
    action_space = Box(np.array([0, -np.inf], np.float32), np.array([10, np.inf], np.float32))

    def reset(self, *, seed=None, options=None):
        return self._observe(), {}

    def step(self, action):
        self.action = action
        return self._observe(), float("nan") if action[0] > 9 else 0.0, False, False, {}

    def _observe(self):
        return {"wrist": np.eye(16, dtype=np.uint8), "arm": {"joints": np.array([1.5, -2.5], np.float32), "mode": 2}, "touch": np.array([0, 1], np.int8)}


def own(environment: type, **settings: Any) -> SimulatorConfig:
    return SimulatorConfig(name=f"{__name__}:{environment.__name__}", **settings)


def test_cartpole_is_described_and_run():
    config = SimulatorConfig(name="gymnasium:CartPole-v1")
    assert describe_simulator(config) == Spaces(cameras={}, state=4, action=ActionSpace("discrete", 1, choices=2), max_steps=500)
    outcome = stepped(begun(config, chunk=100), 1.0)
    assert outcome.terminated and not outcome.truncated and outcome.rewards.sum() == len(outcome.rewards) < 20


def test_pendulum_is_described_and_its_torque_rescaled():
    config = SimulatorConfig(name="gymnasium:Pendulum-v1", max_steps=30)
    assert describe_simulator(config) == Spaces(cameras={}, state=3, action=ActionSpace("continuous", 1), max_steps=30)
    simulator = begun(config, chunk=40)
    outcome = stepped(simulator, 5.0)
    assert simulator.environment.unwrapped.last_u == 2.0, "an action beyond 1 is clipped, and 1 is the largest torque"
    assert (len(outcome.rewards), outcome.truncated) == (30, True)


@pytest.mark.parametrize("name", ["gymnasium:CartPole-v1", "gymnasium:Pendulum-v1"])
def test_the_same_ticket_is_the_same_episode_after_any_history(name):
    config = SimulatorConfig(name=name)
    simulator: Any = make_simulator(config, 8)

    def episode(seed):
        return [simulator.reset(0, ticket(seed)).state, stepped(simulator, 1.0).rewards]

    first, other, again = episode(3), episode(4), episode(3)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


class Careless(gymnasium.Env[Any, Any]):
    """Draws from the generators of the whole process."""

    observation_space, action_space = Box(0, 1, (2,), np.float32), Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.array([np.random.random(), random.random()], np.float32), {}

    def step(self, action):
        return np.array([np.random.random(), random.random()], np.float32), 0.0, False, False, {}


def test_an_environment_that_draws_from_the_generators_of_the_process_has_the_same_episodes_too():
    simulator = begun(SimulatorConfig(name=f"{__name__}:Careless", max_steps=5), chunk=1)

    def drawn(seed: int) -> list[Any]:
        first, then = simulator.reset(0, ticket(seed)), stepped(simulator).observation
        assert then is not None
        return [first.state, then.state]

    first, other, again = (drawn(seed) for seed in (2**40, 4, 2**40))
    assert np.array_equal(first, again) and not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(
    ("threshold", "success"), [(-1e6, True), (0.0, False)], ids=["a return above the threshold", "below it, though the return of no steps is not"]
)
def test_success_by_return_is_known_at_the_end_alone(threshold, success):
    simulator = begun(SimulatorConfig(name="gymnasium:Pendulum-v1", max_steps=10, options={"success_return": threshold}), chunk=5)
    assert [stepped(simulator).success, stepped(simulator).success] == [False, success]


def test_an_image_environment_of_ones_own():
    config = own(Pixels, max_steps=50)
    assert describe_simulator(config) == Spaces(cameras={"image": (16, 18, 3)}, state=0, action=ActionSpace("discrete", 1, choices=3), max_steps=50)
    simulator = make_simulator(config, 4)
    first = simulator.reset(0, ticket(task="any"))
    assert isinstance(simulator, GymnasiumSimulator)
    assert first.images["image"].shape == (16, 18, 3) and first.images["image"].dtype == np.uint8 and first.instruction == "count"
    outcome = stepped(simulator, 2.0)
    environment: Any = simulator.environment
    assert environment.taken == [7] * 4, "choice 2 of Discrete(3, start=5)"
    assert environment.options is None, "a recipe without tasks"
    assert outcome.success and outcome.observation is not None and outcome.observation.images["image"][0, 0, 0] == 4
    assert stepped(simulator).truncated, "the environment's own truncation is kept"


def test_a_ticket_tells_an_environment_its_task_where_the_recipe_has_tasks():
    simulator: Any = make_simulator(own(Pixels, max_steps=50, tasks=["left", "right"]), 1)
    simulator.reset(0, ticket(task="right"))
    assert simulator.environment.options == {"task": "right"}


@pytest.mark.parametrize(("shape", "shown"), [((16, 18), (16, 18, 1)), ((4, 16, 18), (16, 18, 4)), ((16, 18, 4), (16, 18, 4))])
def test_images_are_shown_channels_last(shape, shown):
    simulator = make_simulator(own(Pixels, max_steps=50, options={"kwargs": {"shape": shape}, "instruction": "told"}), 1)
    first = simulator.reset(0, ticket())
    assert simulator.spaces.cameras["image"] == first.images["image"].shape == shown
    assert first.instruction == "told"


def test_a_dict_becomes_cameras_and_one_state():
    config = own(Mixed, max_steps=5)
    assert describe_simulator(config) == Spaces(cameras={"wrist": (16, 16, 1)}, state=7, action=ActionSpace("continuous", 2), max_steps=5)
    simulator = make_simulator(config, 1)
    first = simulator.reset(0, ticket())
    assert first.images["wrist"][..., 0].tolist() == np.eye(16).tolist()
    assert first.state.tolist() == [1.5, -2.5, 0, 0, 1, 0, 1] and first.state.dtype == np.float32  # joints, mode, touch
    simulator.step({0: np.array([[0.5, 0.5]], np.float32)})
    assert simulator.environment.action.tolist() == [7.5, 0.5]  # type: ignore[attr-defined]
    with pytest.raises(SimulatorError, match="NaN in rewards"):
        simulator.step({0: np.ones((1, 2), np.float32)})


class Doubled(Mixed):
    action_space = Dict({"a": Discrete(2)})  # type: ignore[assignment]


class Endless(Mixed):
    observation_space = Dict({"told": Sequence(Discrete(2))})


NOT_AN_ENVIRONMENT = 3


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (SimulatorConfig(name="metawrold"), "libero, maniskill, metaworld, robocasa, robosuite, slow_image, gymnasium:ID"),
        (SimulatorConfig(name="nowhere:Env"), "there is no module nowhere"),
        (SimulatorConfig(name=f"{__name__}:Absent"), "has no Absent"),
        (SimulatorConfig(name=f"{__name__}:NOT_AN_ENVIRONMENT"), "is a int: name a Simulator"),
        (SimulatorConfig(name="builtins:dict", max_steps=5), "builtins is a module of Python itself"),
        (SimulatorConfig(name="gymnasium:CartPoll-v1"), "CartPole"),
        (own(Pixels), "set simulator.max_steps"),
        (own(Pixels, max_steps=5, options={"kwargs": {"size": 3}}), "unexpected keyword argument 'size'"),
        (own(Pixels, max_steps=5, options={"kwargz": {}}), "did you mean kwargs"),
        (own(Pixels, max_steps=5, options={"kwargs": {"shape": (16, 18, 3), "dtype": np.float32}}), "uint8 images"),
        (own(Endless, max_steps=5), "shows Sequence("),
        (own(Doubled, max_steps=5), "supported are Discrete and Box"),
        (own(Mixed, max_steps=5, slots=2), "raise simulator.shards"),
    ],
    ids=lambda value: value.name if isinstance(value, SimulatorConfig) else None,
)
def test_what_cannot_be_run_is_refused_with_the_way_out(config, words):
    with pytest.raises(RecipeError) as refused:
        describe_simulator(config)
    assert words in str(refused.value)


class Clock(gymnasium.Env):
    """Shows whole numbers: the time of the step, `start` seconds after 1970."""

    observation_space = gymnasium.spaces.Box(0, 2**62, (1,), np.int64)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, start: int) -> None:
        self.start = start

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([self.start]), {}

    def step(self, action):
        return np.array([self.start + 1]), 0.0, True, False, {}


@pytest.mark.parametrize("start", [2**24 - 1, 2**24 + 1, 1_700_000_000, 2**60])
def test_whole_numbers_that_float32_cannot_tell_apart_are_refused(start):
    def episode():
        simulator = GymnasiumSimulator(SimulatorConfig(name=f"{__name__}:Clock", max_steps=5, options={"kwargs": {"start": start}}), 1)
        simulator.reset(0, Ticket(0, "", 0, 0))
        simulator.step({0: np.zeros((1, 1), np.float32)})

    if start < 2**24:
        episode()
    else:
        with pytest.raises(ContractError, match=r"cannot tell whole numbers above 16,777,216 from"):
            episode()
