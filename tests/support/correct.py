"""A simulator that keeps its contract, small enough to see that it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlvla3.config import SimulatorConfig
from rlvla3.simulators.base import Simulator
from rlvla3.types import ActionSpace, Observation, Outcome, Spaces, Ticket

SENTENCES = {"near": "go to the goal nearby", "far": "go to the goal far away"}


@dataclass
class Line:
    """A point and its goal on a line."""

    ticket: Ticket
    at: float
    goal: float
    steps: int = 0


class Correct(Simulator):
    """A point is to be moved to a goal on a line, which a camera sees; as many lines as there are slots."""

    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        return Spaces({"front": (32, 32, 3)}, 2, ActionSpace("continuous", 1), max_steps=18, instructions=tuple(SENTENCES.values()))

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        self.spaces, self.slots = Correct.describe(config), config.slots
        self.lines: dict[int, Line] = {}

    def reset(self, slot: int, ticket: Ticket) -> Observation:
        self.lines[slot] = self.begin(ticket)
        return self.look(slot)

    def step(self, chunks: Mapping[int, Any]) -> dict[int, Outcome]:
        return {slot: self.execute(slot, chunk) for slot, chunk in chunks.items()}

    def begin(self, ticket: Ticket) -> Line:
        random = np.random.default_rng(ticket.seed)
        return Line(ticket, at=random.uniform(-0.1, 0.1), goal=random.choice([-1, 1]) * random.uniform(0.3, 0.5) * (2 if ticket.task == "far" else 1))

    def execute(self, slot: int, chunk: Any) -> Outcome:
        line, asked = self.lines[slot], chunk is not None
        actions = np.array(chunk) if asked else np.zeros((5, 1), np.float32)
        rewards: list[float] = []
        for position in range(len(actions)):
            if not asked:
                actions[position] = self.expert(line)
            rewards.append(self.act(line, float(actions[position, 0])))
            if self.is_there(line) or line.steps >= self.spaces.max_steps:
                break
        there = self.is_there(line)
        over = line.steps >= self.spaces.max_steps
        return Outcome(actions, np.array(rewards, np.float32), None if there else self.look(slot), bool(there), bool(there), bool(over and not there))

    def act(self, line: Line, action: float) -> float:
        line.at += 0.1 * np.clip(action, -1, 1)
        line.steps += 1
        return float(self.is_there(line))

    def expert(self, line: Line) -> float:
        return float(np.clip((line.goal - line.at) / 0.1, -1, 1))

    def is_there(self, line: Line) -> bool:
        return abs(line.at - line.goal) < 0.04

    def look(self, slot: int) -> Observation:
        line = self.lines[slot]
        state = np.array([line.at, line.goal], np.float32)
        return Observation({"front": self.draw(line)}, state, SENTENCES[line.ticket.task], line.steps / self.spaces.max_steps)

    def draw(self, line: Line) -> Any:
        image = np.full((32, 32, 3), 60, np.uint8)
        for value, colour in ((line.at, (250, 0, 0)), (line.goal, (0, 250, 0))):
            image[:, int(np.clip(16 + 12 * value, 0, 31))] = colour
        return image
