"""`rlvla3 check` passes on every environment that a run accepts, and on none that it refuses."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import numpy as np
import pytest

from rlvla3.checking.finding import Result
from rlvla3.checking.specification import run_checks
from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.scheduling.ledger import TicketBook
from rlvla3.scheduling.mix import Mix
from rlvla3.simulators.base import RunningSimulator
from rlvla3.simulators.guarded import EPISODES_TO_CHANGE, GuardedSimulator
from rlvla3.simulators.registry import describe_simulator, make_simulator
from rlvla3.types import ActionSpace, Purpose
from tests.support import gymnasium_mistakes, mistakes
from tests.support.correct import Correct
from tests.support.examined import CHUNK, config_of, examined
from tests.support.gymnasium_mistakes import FINE, MISTAKES, REFUSED
from tests.support.told import InstructionOnlyAtReset

EPISODES = 2 * EPISODES_TO_CHANGE

END_THEIR_PROCESS = {"Hangs", "HangsInReset", "Dies", "LeavesAThread", "LeavesAProcess", "DescribesWithARenderer"}
"""They need processes of their own: test_check.py has them."""

BASES = {"Sees", "Returns"}


def simulators() -> Iterator[SimulatorConfig]:
    named: list[type] = [kind for _, kind in inspect.getmembers(mistakes, inspect.isclass) if kind.__module__ == mistakes.__name__]
    left_out = END_THEIR_PROCESS | BASES
    yield from (config_of(kind) for kind in [Correct, InstructionOnlyAtReset, *named] if kind.__name__ not in left_out)
    for name in (*MISTAKES, *REFUSED, *FINE):
        yield SimulatorConfig(name=f"{gymnasium_mistakes.__name__}:named", max_steps=6, options={"kwargs": {"name": name}})


SIMULATORS = list(simulators())


def why_refused(config: SimulatorConfig) -> str:
    """Why a run that clones and trains refuses a simulator; "" if it accepts it. As in a shard, each answer is guarded."""
    try:
        simulator = GuardedSimulator(make_simulator(config, CHUNK), config, CHUNK, describe_simulator(config))
        for number, purpose in enumerate([Purpose.DEMONSTRATE] * 4 * (config.name != f"{gymnasium_mistakes.__name__}:named") + [Purpose.TRAIN] * EPISODES):
            run_episode(simulator, TicketBook(Mix((config.share(config.name),)), 0, purpose=purpose), number)
    except Exception as error:  # whatever a simulator raises ends the run
        return f"{type(error).__name__}: {error}"
    return ""


def run_episode(simulator: RunningSimulator, book: TicketBook, number: int) -> None:
    ticket, slot = book.ticket(number), number % simulator.slots
    random = np.random.default_rng(number)
    simulator.reset(slot, ticket)
    done = False
    while not done:
        chunk = None if ticket.purpose is Purpose.DEMONSTRATE else explored(random, simulator.spaces.action)
        done = simulator.step({slot: chunk})[slot].done


def explored(random: np.random.Generator, action: ActionSpace) -> np.ndarray:
    """Actions of a policy that explores: normal numbers, clipped to the bounds."""
    if action.kind == "discrete":
        return random.integers(action.choices, size=(CHUNK, 1)).astype(np.float32)
    return random.normal(0, 1, (CHUNK, action.size)).clip(action.low, action.high).astype(np.float32)


def results(config: SimulatorConfig) -> list[Result] | str:
    try:
        return run_checks(examined(config))
    except RecipeError as error:
        return str(error)


@pytest.mark.parametrize("config", SIMULATORS, ids=[config.options.get("kwargs", {}).get("name") or config.name.partition(":")[2] for config in SIMULATORS])
@pytest.mark.filterwarnings("ignore:overflow")
def test_check_fails_where_a_run_is_refused_and_nowhere_else(config: SimulatorConfig) -> None:
    found = results(config)
    failed = found if isinstance(found, str) else [message for result in found if result.verdict == "failed" for message in result.messages]
    assert bool(failed) == bool(why_refused(config)), (failed, why_refused(config))
