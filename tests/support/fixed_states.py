"""Simulators with fixed initial states, which write down where each episode began."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from rlvla3.config import SimulatorConfig
from rlvla3.simulators.base import SingleEnvironment, Step, initial_state
from rlvla3.types import ActionSpace, InitialStates, Observation, Spaces, Ticket

LOG = "RLVLA3_TEST_STATES"
"""An environment variable: the file in which episodes are written down."""


def write_down(**about: Any) -> None:
    if file := os.environ.get(LOG):
        with Path(file).open("a") as log:
            log.write(json.dumps(about) + "\n")


class Starts(SingleEnvironment):
    """A point stands at one of 20 places, and every step is a success. Its expert stands still. The task `unnumbered` draws its place from the seed."""

    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        tasks = config.tasks or [config.name]
        states = {task: InitialStates(20) for task in tasks if task != "unnumbered"}
        return Spaces({}, 1, ActionSpace("continuous", 1), config.max_steps or 4, initial_states=states)

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        self.spaces, self.chunk = self.describe(config), chunk

    def begin(self, ticket: Ticket) -> None:
        states = self.spaces.initial_states
        self.at = np.random.default_rng(ticket.seed).uniform() if ticket.task not in states and self.has_tasks(states) else initial_state(ticket, 20) / 20
        write_down(task=ticket.task, purpose=ticket.purpose.value, group=ticket.group, index=ticket.index, state=ticket.initial_state)

    def has_tasks(self, states: Any) -> bool:
        return not any(":" in task for task in states)

    def act(self, action: Any) -> Step:
        return Step(1.0, success=True)

    def observe(self) -> Observation:
        return Observation({}, np.array([self.at], np.float32), "stand still")

    def expert_action(self) -> tuple[Any, Any]:
        return np.zeros(1, np.float32), np.zeros(1, np.float32)


class Maze(gymnasium.Env[Any, Any]):
    """An environment of Gymnasium, with as many initial states as it is told."""

    observation_space, action_space = Box(-1000, 1000, (1,), np.float32), Box(-1, 1, (1,), np.float32)

    def __init__(self, states: Any = 5) -> None:
        self.fixed_initial_states = states

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.options = options
        state = (options or {}).get("initial_state")
        write_down(task=(options or {}).get("task"), state=state)
        self.at = float(self.np_random.integers(100) if state is None else state)
        return np.array([self.at], np.float32), {}

    def step(self, action: Any) -> Any:
        return np.array([self.at], np.float32), 0.0, False, False, {"success": True}


class Undecided(Starts):
    """It declares something else than fixed sets, as its option says."""

    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        declared = {
            "none": InitialStates(0),
            "negative": InitialStates(-1),
            "many": InitialStates(10**9),
            "true": InitialStates(True),
            "float": InitialStates(2.0),  # type: ignore[arg-type]
            "number": 5,
        }[config.tasks[0]]
        return replace(Starts.describe(config), initial_states={config.tasks[0]: declared})  # type: ignore[dict-item]


class Elsewhere(Starts):
    """It declares the states of a task that the recipe does not have."""

    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        return replace(Starts.describe(config), initial_states={"other": InitialStates(5)})


class IgnoresTheNumber(Maze):
    """It draws its initial state from the seed, although it declares a fixed set."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)


class AlwaysTheSame(Maze):
    """It has one initial state, although it declares more."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed, options={"initial_state": 0})
