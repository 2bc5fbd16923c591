"""The contract of simulators, kept by the base class, and what may be imported to check and run one."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from rlvla3.config import SimulatorConfig
from rlvla3.simulators.base import SimulatorError, SingleEnvironment, Step
from rlvla3.simulators.registry import simulator_class
from rlvla3.types import ActionSpace, Observation, Spaces
from tests.support.single_environments import stepped, ticket


class Counter(SingleEnvironment):
    """Counts its steps; says whatever `saying` overrides of a step's result."""

    def __init__(self, config: SimulatorConfig, chunk: int, **saying: Any) -> None:
        self.spaces, self.chunk, self.saying, self.count = self.describe(config), chunk, saying, 0

    @classmethod
    def describe(cls, config):
        return Spaces(cameras={}, state=1, action=ActionSpace("continuous", 2), max_steps=config.max_steps or 12)

    def begin(self, ticket):
        self.count = 0

    def act(self, action):
        self.count += 1
        return Step(**{"reward": 1.0, **{name: value(self.count) for name, value in self.saying.items()}})

    def observe(self):
        return Observation(images={}, state=np.array([self.count], np.float32))


class ExpertCounter(Counter):
    def expert_action(self):
        label = np.full(2, self.count, np.float32)
        return label, label + 0.5


def test_a_chunk_ends_early_at_success():
    simulator = Counter(SimulatorConfig(), 5, success=lambda count: count == 7, terminated=lambda count: count == 7)
    simulator.reset(0, ticket())
    first, last = stepped(simulator), stepped(simulator)
    assert (len(first.rewards), first.done, first.success) == (5, False, False)
    assert (len(last.rewards), last.terminated, last.truncated, last.success, last.observation) == (2, True, False, True, None)


def test_a_chunk_ends_early_at_the_time_limit_and_shows_where_it_ended():
    simulator = Counter(SimulatorConfig(max_steps=7), 5)
    assert simulator.reset(0, ticket()).elapsed == 0
    first, last = stepped(simulator), stepped(simulator)
    assert first.observation is not None and first.observation.elapsed == pytest.approx(5 / 7)
    assert (len(last.rewards), last.terminated, last.truncated) == (2, False, True)
    assert last.observation is not None and (last.observation.elapsed, last.observation.state[0]) == (1.0, 7)


def test_an_expert_chunk_holds_labels_and_repeats_the_last_where_the_episode_ended():
    simulator = ExpertCounter(SimulatorConfig(max_steps=3), 5)
    simulator.reset(0, ticket())
    assert stepped(simulator, None).actions[:, 0].tolist() == [0, 1, 2, 2, 2]


def test_a_simulator_without_an_expert_says_so():
    simulator = Counter(SimulatorConfig(), 5)
    simulator.reset(0, ticket())
    with pytest.raises(SimulatorError, match="no scripted expert"):
        stepped(simulator, None)


def test_rewards_that_are_not_finite_are_refused():
    simulator = Counter(SimulatorConfig(), 5, reward=lambda count: float("inf") if count == 3 else 0.0)
    simulator.reset(0, ticket())
    with pytest.raises(SimulatorError, match=r"at step 3 of .*infinity in rewards"):
        stepped(simulator)


def test_actions_that_are_not_finite_are_refused():
    simulator = Counter(SimulatorConfig(), 2)
    simulator.reset(0, ticket())
    with pytest.raises(SimulatorError, match="finite actions"):
        stepped(simulator, float("nan"))


def test_a_simulator_of_ones_own_is_used_as_it_is():
    assert simulator_class(f"{__name__}:Counter") is Counter


def test_recipes_are_checked_and_simulators_run_without_torch_and_metaworld_is_described_without_mujoco():
    code = """
import sys
from rlvla3.config import SimulatorConfig
from rlvla3.simulators.registry import describe_simulator, make_simulator
import time
start = time.perf_counter()
describe_simulator(SimulatorConfig(name="metaworld", tasks=["reach-v3"]))
assert time.perf_counter() - start < 1
assert not {"mujoco", "metaworld", "gymnasium"} & set(sys.modules)
make_simulator(SimulatorConfig(name="slow_image", max_steps=9), 1)
make_simulator(SimulatorConfig(name="metaworld", tasks=["reach-v3"]), 1)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
