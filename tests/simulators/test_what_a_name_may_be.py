"""What `simulator.name=module:Class` may name. Nothing else is called: a test of each kind that a file could name."""

from __future__ import annotations

import os
import shutil
from functools import partial, wraps
from pathlib import Path
from subprocess import getoutput
from typing import Any

import gymnasium
import numpy as np
import pytest

from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.simulators.registry import describe_simulator

CALLS: list[str] = []

taken_over = getoutput
built_in = os.system
of_the_system = shutil.rmtree


class Dot(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, size: int = 1) -> None:
        self.size = size

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {}


def make_dot(size: int = 1) -> Dot:
    return Dot(size)


made_small = partial(make_dot, 2)


def twice(function: Any) -> Any:
    @wraps(function)
    def made(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return made


made_again = twice(make_dot)


class Other:
    def __init__(self, **kwargs: Any) -> None:
        CALLS.append("Other")

    def __call__(self, **kwargs: Any) -> Any:
        CALLS.append("an object")


called = Other.__call__.__get__(object.__new__(Other))
an_object = object.__new__(Other)


class Many(gymnasium.vector.VectorEnv):
    def __init__(self) -> None:
        CALLS.append("Many")


@pytest.mark.parametrize("name", ["Dot", "make_dot", "made_small", "made_again"])
def test_a_class_and_a_function_that_make_an_environment_are_taken(name: str) -> None:
    assert describe_simulator(SimulatorConfig(name=f"{__name__}:{name}", max_steps=5)).state == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("os:system", "os is a module of Python itself"),
        ("os.path:join", "os is a module of Python itself"),
        ("builtins:exec", "builtins is a module of Python itself"),
        ("subprocess:Popen", "subprocess is a module of Python itself"),
        ("shutil:rmtree", "shutil is a module of Python itself"),
        ("antigravity:fly", "antigravity is a module of Python itself"),
        ("posix:system", "posix is a module of Python itself"),
        (f"{__name__}:Other", "is a class, and neither a Simulator nor a gymnasium.Env"),
        (f"{__name__}:Path", "is a class, and neither a Simulator nor a gymnasium.Env"),
        (f"{__name__}:Many", "make one environment, because each shard runs one"),
        (f"{__name__}:called", "is a method"),
        (f"{__name__}:an_object", "is a Other"),
        (f"{__name__}:built_in", "is a builtin_function_or_method"),
        (f"{__name__}:taken_over", "is subprocess.getoutput of Python itself"),
        (f"{__name__}:of_the_system", "is shutil.rmtree of Python itself"),
        (f"{__name__}:os", "is a module: name a Simulator"),
    ],
)
def test_nothing_else_is_called(name: str, words: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    kwargs = {"command": f"touch {mark}", "cmd": f"touch {mark}", "args": ["touch", str(mark)], "path": str(tmp_path)}
    for given in ({}, kwargs, *({key: value} for key, value in kwargs.items())):
        with pytest.raises(RecipeError) as refused:
            describe_simulator(SimulatorConfig(name=name, max_steps=5, options={"kwargs": given}))
        assert words in str(refused.value)
    assert not mark.exists() and tmp_path.exists() and not CALLS
