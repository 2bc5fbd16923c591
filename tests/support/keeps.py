"""A simulator that writes down what it shows and what it is asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlvla3.config import SimulatorConfig
from rlvla3.simulators.base import Simulator
from rlvla3.types import Observation, Outcome, Spaces, Ticket
from tests.support.correct import Correct


class Keeps(Simulator):
    """A Correct with images of 64 pixels, whose every decision becomes a file in options.folder: the observation, and the chunk that was decided for it."""

    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        spaces = Correct.describe(config)
        return Spaces({"front": (64, 64, 3)}, spaces.state, spaces.action, spaces.max_steps, spaces.instructions)

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        self.spaces, self.slots = self.describe(config), config.slots
        self.inner, self.folder = Correct(config, chunk), Path(config.options["folder"])
        self.seen: dict[int, tuple[Ticket, int, Observation]] = {}

    def reset(self, slot: int, ticket: Ticket) -> Observation:
        return self._remember(slot, ticket, 0, self.inner.reset(slot, ticket))

    def step(self, chunks: Mapping[int, Any]) -> dict[int, Outcome]:
        outcomes = {}
        for slot, chunk in chunks.items():
            ticket, row, seen = self.seen[slot]
            about = json.dumps([ticket.purpose.value, ticket.index, row, seen.instruction])
            np.savez(self.folder / f"{ticket.index}-{row}.npz", chunk=chunk, image=seen.images["front"], state=seen.state, elapsed=seen.elapsed, about=about)
            outcome = outcomes[slot] = self.inner.execute(slot, chunk)
            if outcome.observation is not None:
                outcome.observation = self._remember(slot, ticket, row + 1, outcome.observation)
        return outcomes

    def _remember(self, slot: int, ticket: Ticket, row: int, seen: Observation) -> Observation:
        seen.images = {"front": np.repeat(np.repeat(seen.images["front"], 2, 0), 2, 1)}
        self.seen[slot] = ticket, row, seen
        return seen
