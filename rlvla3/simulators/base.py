"""The contract of a simulator: what the simulate loop calls.

A simulator has one or more slots. Each slot runs its own ticket, and all slots step together. Nothing here imports torch, so that simulator processes stay
small.

Invariants:
- `reset` with the same ticket gives the same first frame and the same physics, in any process and after any history;
- an observation is rendered only when a decision is due, never inside a chunk;
- a simulator never returns numbers that are not finite, nor frames that the renderer failed to draw: it raises SimulatorError;
- contract.py says what is wrong with what a simulator returns. In a run, guarded.py asks it for every answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import Section, SimulatorConfig
from rlvla3.errors import ExplainedError
from rlvla3.simulators.action_meaning import ActionMeaning
from rlvla3.simulators.contract import LARGEST_REWARD, reward_fault
from rlvla3.types import Observation, Outcome, Spaces, Ticket


class SimulatorError(ExplainedError, RuntimeError):
    """A simulator returned something wrong, or it cannot be built. The message says what it returned, what was expected, and what to do."""


class ContractError(SimulatorError):
    """A simulator breaks its contract, and it would do so again in a new process. It is not replaced: the run ends at once."""


class NoOptions(Section):
    """The options of a simulator that has no settings of its own."""


class RunningSimulator(Protocol):
    """A built simulator, as the simulate loop uses it."""

    slots: int
    spaces: Spaces

    def reset(self, slot: int, ticket: Ticket) -> Observation: ...

    def step(self, chunks: Mapping[int, NDArray[np.float32] | None]) -> dict[int, Outcome]: ...

    def close(self) -> None: ...


def initial_state(ticket: Ticket, count: int) -> int:
    """The number of the initial state of `ticket`, whose task has a fixed set of `count`. Raises SimulatorError where the ticket names none of them."""
    if ticket.initial_state is None or not 0 <= ticket.initial_state < count:
        raise SimulatorError(
            f"{ticket} names initial state {ticket.initial_state}, and its task has {count}, numbered from 0: give Ticket(..., initial_state=NUMBER)"
        )
    return ticket.initial_state


class Simulator(ABC):
    """One shard: `slots` environments that step together.

    `Options` is the schema of `simulator.options` in a recipe. Each shard's process builds its simulator as `cls(config, chunk)`.
    """

    Options: ClassVar[type[Section]] = NoOptions

    draws_with_mujoco: ClassVar[bool] = False
    """Whether frames are drawn by MuJoCo. Then a run finds out where this host can draw (drawing.py) before it starts simulators, and `config.devices` names
    the place of each: `egl:2`, `cpu`, or none where the user's environment decides. Hand it to graphics.prepare_process before mujoco is imported."""

    slots: int = 1
    spaces: Spaces

    @classmethod
    @abstractmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        """What a simulator of `config` shows and accepts.

        It is called before any process starts, takes well under a second, and renders nothing. Raises RecipeError for every mistake that can be found so
        early, such as an unknown task.
        """

    @classmethod
    def action_meaning(cls, config: SimulatorConfig) -> ActionMeaning:
        """What the numbers of an action mean, so that demonstrations of another meaning are found. By default nothing is said."""
        return ActionMeaning()

    @abstractmethod
    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        """Build the environments. chunk: actions per decision. config.devices: at most one device to run on (empty: the simulator's own default)."""

    @abstractmethod
    def reset(self, slot: int, ticket: Ticket) -> Observation:
        """Begin the episode of `ticket` in `slot` and return its first observation."""

    @abstractmethod
    def step(self, chunks: Mapping[int, NDArray[np.float32] | None]) -> dict[int, Outcome]:
        """Execute one chunk, float32 [C, A], in each slot of `chunks`. Where the chunk is None, the simulator's scripted expert acts instead."""

    def close(self) -> None:  # noqa: B027  # many simulators hold nothing to release
        """Release what the simulator holds. Called once, at the end."""


class Step(NamedTuple):
    """The result of one environment step. truncated: the environment's own time limit was reached. SingleEnvironment itself counts to `spaces.max_steps`."""

    reward: float
    success: bool = False
    terminated: bool = False
    truncated: bool = False


class SingleEnvironment(Simulator):
    """A simulator of one environment. It executes chunks and keeps the time limit; subclasses write only small methods.

    A subclass sets `spaces` and `chunk`, and writes `begin`, `act` and `observe`. If it has a scripted expert, it writes `expert_action` too.
    """

    slots = 1
    chunk: int

    @abstractmethod
    def begin(self, ticket: Ticket) -> None:
        """Reset the environment to the initial state of `ticket`."""

    @abstractmethod
    def act(self, action: NDArray[np.float32]) -> Step:
        """Make one environment step with `action` [A]."""

    @abstractmethod
    def observe(self) -> Observation:
        """Render what the environment shows now. The caller fills in `elapsed`."""

    def expert_action(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The scripted expert's actions [A] for the current state: (label, executed). They differ if demonstrations are disturbed."""
        raise SimulatorError(f"{type(self).__name__} has no scripted expert, so it cannot give demonstrations: clone from a simulator that has one")

    def longest(self, ticket: Ticket) -> int:
        """The longest that the episode of `ticket` may be, in environment steps: at most `spaces.max_steps`."""
        return self.spaces.max_steps

    def reset(self, slot: int, ticket: Ticket) -> Observation:
        self._ticket, self._steps, self._limit = ticket, 0, self.longest(ticket)
        self.begin(ticket)
        return self._observed()

    def step(self, chunks: Mapping[int, NDArray[np.float32] | None]) -> dict[int, Outcome]:
        return {slot: self._step(chunk) for slot, chunk in chunks.items()}

    def _step(self, chunk: NDArray[np.float32] | None) -> Outcome:
        labels = np.zeros((self.chunk, self.spaces.action.size), np.float32) if chunk is None else chunk
        rewards: list[float] = []
        success = terminated = truncated = False
        for position in range(self.chunk):
            if chunk is None:
                labels[position], action = self.expert_action()
            else:
                action = chunk[position]
            if not np.isfinite(action).all():
                raise SimulatorError(f"action {action} at step {self._steps + 1} of {self._ticket} is not finite: a policy must return finite actions")
            reward, succeeded, terminated, truncated = self.act(action)
            success = success or succeeded
            if not -LARGEST_REWARD <= reward <= LARGEST_REWARD:  # before the cast: in float32, a reward of 1e300 is infinity
                kind = ContractError if np.isfinite(reward) else SimulatorError
                raise kind(f"at step {self._steps + 1} of ticket {self._ticket.index}: {reward_fault(reward)}")
            rewards.append(reward)
            self._steps += 1
            truncated = not terminated and (truncated or self._steps >= self._limit)
            if terminated or truncated:
                break
        if chunk is None:
            labels[len(rewards) :] = labels[len(rewards) - 1]
        return Outcome(
            actions=labels,
            rewards=np.asarray(rewards, np.float32),
            observation=None if terminated else self._observed(),
            success=success,
            terminated=terminated,
            truncated=truncated,
        )

    def _observed(self) -> Observation:
        observation = self.observe()
        observation.elapsed = self._steps / self._limit
        return observation
