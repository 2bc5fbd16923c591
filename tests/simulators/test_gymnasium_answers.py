"""What environments of users return: mistakes are named at once, before anything is cast, and whatever is right is accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit, TransformReward

from rlvla3.config import Recipe, SimulatorConfig, make_recipe
from rlvla3.errors import RecipeError
from rlvla3.scheduling.sharding import ShardSpec
from rlvla3.simulators.base import RunningSimulator, SimulatorError
from rlvla3.simulators.common_spaces import common_spaces, make_run_simulator
from rlvla3.simulators.description import describe_here, key, remember
from rlvla3.simulators.guarded import EPISODES_TO_CHANGE
from rlvla3.simulators.registry import describe_simulator
from tests.support import gymnasium_mistakes
from tests.support.gymnasium_mistakes import FINE, MISTAKES, REFUSED, Walk, spoiled
from tests.support.single_environments import ticket

CHUNK = 2


def recipe_of(case: str, **settings: Any) -> Recipe:
    simulator = {"name": f"{gymnasium_mistakes.__name__}:named", "max_steps": 6, "options": {"kwargs": {"name": case}}, **settings}
    return make_recipe({"simulator": simulator, "policy": {"name": "actor_critic", "chunk": CHUNK}})


def built(recipe: Recipe) -> RunningSimulator:
    remember({key(recipe.simulator): describe_here(recipe.simulator)})  # here, because a process for each of so many takes a while
    return make_run_simulator(recipe, ShardSpec(0, 0, range(1), generator=0), common_spaces(recipe))


def run(simulator: RunningSimulator, episodes: int = EPISODES_TO_CHANGE) -> None:
    """Some episodes of random actions, as a shard of a run makes them."""
    random, action = np.random.default_rng(0), simulator.spaces.action
    for number in range(episodes):
        simulator.reset(0, ticket(seed=number))
        done = False
        while not done:
            shape = (CHUNK, action.size)
            chunk = random.integers(action.choices, size=shape) if action.kind == "discrete" else random.uniform(-1, 1, shape)
            done = simulator.step({0: chunk.astype(np.float32)})[0].done


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_mistake_is_named(name: str) -> None:
    with pytest.raises(SimulatorError) as refused:
        run(built(recipe_of(name)))
    assert MISTAKES[name][1] in str(refused.value)


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_be_known_before_a_run_is_refused_there(name: str) -> None:
    with pytest.raises(RecipeError) as refused:
        describe_simulator(recipe_of(name).simulator)
    assert REFUSED[name][1] in str(refused.value)


@pytest.mark.parametrize("name", FINE)
def test_what_is_right_is_accepted(name: str) -> None:
    run(built(recipe_of(name)))


@pytest.mark.parametrize("name", ["black frames", "red frames", "frozen frames"])
def test_frames_that_are_meant_so_are_accepted(name: str) -> None:
    run(built(recipe_of(name, check_frames=False)))


# Time limits


def walk(**parts: Any) -> gymnasium.Env[Any, Any]:
    environment: gymnasium.Env[Any, Any] = spoiled(Walk, terminated=lambda self: False, **parts)()
    return environment


LIMITED: dict[str, tuple[Callable[[], gymnasium.Env[Any, Any]], int | None, int]] = {
    "TimeLimit": (lambda: TimeLimit(walk(), 9), None, 9),
    "TimeLimit inside another wrapper": (lambda: TransformReward(TimeLimit(walk(), 9), float), None, 9),
    "TimeLimit around another wrapper": (lambda: TimeLimit(TransformReward(walk(), float), 9), None, 9),
    "two TimeLimits": (lambda: TimeLimit(TimeLimit(walk(), 9), 7), None, 7),
    "a shorter max_steps": (lambda: TimeLimit(walk(), 9), 5, 5),
    "a longer max_steps": (lambda: TimeLimit(walk(), 9), 50, 9),
    "gymnasium.make": (lambda: gymnasium.make("CartPole-v1"), None, 500),
    "gymnasium.make with a limit": (lambda: gymnasium.make("CartPole-v1", max_episode_steps=30), None, 30),
    "gymnasium.make in a TimeLimit": (lambda: TimeLimit(gymnasium.make("CartPole-v1"), 30), None, 30),
    "max_steps alone": (walk, 4, 4),
}


def limited(name: str) -> gymnasium.Env[Any, Any]:
    return LIMITED[name][0]()


@pytest.mark.parametrize("name", LIMITED)
def test_an_environment_s_own_time_limit_is_found(name: str) -> None:
    _, max_steps, expected = LIMITED[name]
    config = SimulatorConfig(name=f"{__name__}:limited", options={"kwargs": {"name": name}}, max_steps=max_steps)
    assert describe_simulator(config).max_steps == expected


@pytest.mark.parametrize("name", ["step of four", "reset without info"])
def test_an_older_environment_inside_a_wrapper_of_gymnasium_is_named_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITED, "older", (lambda: gymnasium.wrappers.TimeAwareObservation(TimeLimit(MISTAKES[name][0](), 9)), None, 9))
    with pytest.raises(SimulatorError, match=r"as in Gym before|info is a dict"):
        run(built(recipe_of("older", name=f"{__name__}:limited", max_steps=None)))
