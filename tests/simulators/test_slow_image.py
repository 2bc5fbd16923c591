"""The benchmark's environment: it takes as long as it says."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from rlvla3.config import SimulatorConfig
from rlvla3.simulators.slow_image import SlowImageEnv, expected_step_seconds
from tests.support.single_environments import begun, stepped


def test_the_slow_environment_takes_its_time_and_no_cpu():
    simulator: Any = begun(SimulatorConfig(name="slow_image", max_steps=1000), chunk=60)
    wall, cpu = time.perf_counter(), time.process_time()
    outcome = stepped(simulator)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert outcome.observation is not None and outcome.observation.images["image"].shape == (84, 84, 3)
    assert len(outcome.rewards) == 60 and not outcome.done
    assert 0.7 * wall < 60 * simulator.environment.mean_step_seconds <= wall
    assert cpu < 0.1 * wall


def test_the_slow_environment_sleeps_as_long_as_it_says(monkeypatch):
    asked: list[float] = []
    monkeypatch.setattr(time, "sleep", asked.append)
    environment = SlowImageEnv()
    environment.reset(seed=0)
    rewards = [environment.step(np.int64(step % 6))[1] for step in range(20_000)]
    assert np.mean(asked) == pytest.approx(expected_step_seconds(), rel=0.03) and expected_step_seconds() == pytest.approx(0.0169, rel=0.01)
    assert min(asked) > 0.005 and max(asked) == 0.250
    assert np.mean(rewards) == pytest.approx(0.1 / 6, rel=0.05)


def test_the_same_seed_makes_the_slow_environment_sleep_and_show_the_same(monkeypatch):
    asked: list[float] = []
    monkeypatch.setattr(time, "sleep", asked.append)
    environment = SlowImageEnv()
    shown = []
    for _ in range(2):
        shown.append([environment.reset(seed=5)[0]] + [environment.step(np.int64(0))[0] for _ in range(9)])
    assert asked[:9] == asked[9:]
    assert all(np.array_equal(a, b) for a, b in zip(*shown, strict=True))
