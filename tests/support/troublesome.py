"""Environments that do what real ones sometimes do: take their time, hang, die, or return what is not a number."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from rlvla3.config import SimulatorConfig
from rlvla3.config.section import Section
from rlvla3.simulators.base import Simulator
from rlvla3.simulators.gymnasium import GymnasiumSimulator
from rlvla3.types import ActionSpace, Observation, Outcome, Purpose, Spaces, Ticket


class Countdown(gymnasium.Env):
    """Ends after `length` steps of `step_s` seconds each; the reward of an action is the action."""

    observation_space: Any = Box(-1, 1, (3,), np.float32)
    action_space: Any = Discrete(2)

    def __init__(self, length: int = 6, step_s: float = 0.0) -> None:
        self.length, self.step_s = length, step_s

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.left = self.length
        return self._look(), {}

    def step(self, action):
        time.sleep(self.step_s)
        self.left -= 1
        return self._look(), float(action), self.left == 0, False, {"success": self.left == 0}

    def _look(self):
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


class OnceTroubled(Countdown):
    """Troubled in the third step of the first episode that any process runs, where `flag` is a file that is not there yet. trouble: "hang", "die" or
    "raise"."""

    def __init__(self, flag: str, trouble: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.flag, self.trouble = Path(flag), trouble

    def step(self, action):
        if self.left == self.length - 2 and self.is_first():
            self.run_into_trouble()
        return super().step(action)

    def is_first(self) -> bool:
        try:
            self.flag.touch(exist_ok=False)  # by one process alone, however many come at once
        except FileExistsError:
            return False
        return True

    def run_into_trouble(self):
        if self.trouble == "hang":
            time.sleep(3600)
        if self.trouble == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("the physics blew up")


class Slider(Countdown):
    """A Countdown with a state and actions of given sizes; the reward is the mean of the action."""

    def __init__(self, sizes: tuple[int, int] = (4, 1), **settings: Any) -> None:
        super().__init__(**settings)
        self.observation_space, self.action_space = Box(-1, 1, (sizes[0],), np.float32), Box(-1, 1, (sizes[1],), np.float32)

    def step(self, action):
        assert self.action_space.contains(action)
        return super().step(np.mean(action))

    def _look(self):
        return self.np_random.uniform(-1, 1, self.observation_space.shape).astype(np.float32)


class NotANumber(Countdown):
    """Its third reward is not a number, in every episode."""

    def step(self, action):
        seen, reward, *rest = super().step(action)
        return seen, float("nan") if self.left == self.length - 3 else reward, *rest


class Pair(Simulator):
    """Two slots that step together, each on its own ticket; the episode of ticket i has 2 + i mod 5 steps."""

    slots = 2
    spaces = Spaces({}, 1, ActionSpace("discrete", 1, 2), max_steps=8)

    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        return cls.spaces

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        self.left, self.length = {0: 0, 1: 0}, {0: 0, 1: 0}

    def reset(self, slot: int, ticket: Ticket) -> Observation:
        self.left[slot] = self.length[slot] = 2 + ticket.index % 5
        return self._look(slot)

    def step(self, chunks: Mapping[int, Any]) -> dict[int, Outcome]:
        return {slot: self._step(slot, chunk) for slot, chunk in chunks.items()}

    def _step(self, slot: int, chunk: Any) -> Outcome:
        self.left[slot] -= 1
        over = self.left[slot] == 0
        return Outcome(chunk, np.ones(1, np.float32), None if over else self._look(slot), success=over, terminated=over)

    def _look(self, slot: int) -> Observation:
        return Observation({}, np.array([self.left[slot]], np.float32), elapsed=(self.length[slot] - self.left[slot]) / self.spaces.max_steps)


class DeadlyOptions(Section):
    deadly: list[int]
    purpose: Literal["train", "evaluate"] = "train"


class DeadlyPair(Pair):
    """Tickets of `simulator.options.deadly` and of this purpose kill every process that begins them."""

    Options = DeadlyOptions

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        super().__init__(config, chunk)
        self.slots, self.deadly = config.slots, config.options["deadly"]  # a replay has one slot a process
        self.purpose = Purpose[config.options.get("purpose", "train").upper()]

    def reset(self, slot: int, ticket: Ticket) -> Observation:
        if ticket.purpose is self.purpose and ticket.index in self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().reset(slot, ticket)


class CartPoles(Simulator):
    """A CartPole for each slot; they step together, each on its own ticket."""

    single = "gymnasium:CartPole-v1"

    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        return GymnasiumSimulator.describe(cls._single(config))

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        self.slots = config.slots
        self.poles = [GymnasiumSimulator(self._single(config), chunk) for _ in range(self.slots)]
        self.spaces = self.poles[0].spaces

    def reset(self, slot: int, ticket: Ticket) -> Observation:
        return self.poles[slot].reset(0, ticket)

    def step(self, chunks: Mapping[int, Any]) -> dict[int, Outcome]:
        return {slot: self.poles[slot].step({0: chunk})[0] for slot, chunk in chunks.items()}

    @classmethod
    def _single(cls, config: SimulatorConfig) -> SimulatorConfig:
        return config.model_copy(update={"name": cls.single, "slots": 1})


class SlidingPair(CartPoles):
    """A Slider for each slot."""

    single = "tests.support.troublesome:Slider"


class FickleCartPoles(CartPoles):
    """Starts where chance has it, whatever the ticket says."""

    def reset(self, slot: int, ticket: Ticket) -> Observation:
        return super().reset(slot, replace(ticket, seed=int.from_bytes(os.urandom(4))))
