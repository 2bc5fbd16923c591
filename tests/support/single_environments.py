"""Episodes of simulators of one environment, from call to call."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlvla3.config import SimulatorConfig
from rlvla3.simulators.base import SingleEnvironment
from rlvla3.simulators.registry import make_simulator
from rlvla3.types import Outcome, Ticket


def ticket(seed: int = 0, task: str = "") -> Ticket:
    return Ticket(index=0, task=task, seed=seed, group=0)


def stepped(simulator: SingleEnvironment, chunk: Any = 0.0) -> Outcome:
    """What comes of a chunk whose every action is `chunk`; of the expert's where it is None."""
    actions = None if chunk is None else np.full((simulator.chunk, simulator.spaces.action.size), chunk, np.float32)
    return simulator.step({0: actions})[0]


def begun(config: SimulatorConfig, chunk: int = 1, seed: int = 0) -> Any:
    simulator = make_simulator(config, chunk)
    simulator.reset(0, ticket(seed))
    return simulator
