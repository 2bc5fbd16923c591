"""What the simulate loop asks of a simulator.

A simulator has one or more slots; each slot runs its own ticket, and slots step together. Nothing here imports torch:
simulator processes stay small.

Invariants:
- `reset` with the same ticket shows the same first frame and follows the same physics, in any process and after any history;
- an observation is rendered only where a decision is due, never inside a chunk;
- numbers that are not finite, and frames that a renderer failed to draw, never leave a simulator: they raise SimulatorError.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import Section, SimulatorConfig
from rlvla3.errors import ExplainedError
from rlvla3.types import Observation, Outcome, Spaces, Ticket


class SimulatorError(ExplainedError, RuntimeError):
    """A simulator that cannot be trusted: what it returned, what was expected, and what to do about it."""


class NoOptions(Section):
    """For simulators without settings of their own."""


class RunningSimulator(Protocol):
    """A simulator once it is built: what the simulate loop asks of it."""

    slots: int
    spaces: Spaces

    def reset(self, slot: int, ticket: Ticket) -> Observation: ...

    def step(self, chunks: Mapping[int, NDArray[np.float32] | None]) -> dict[int, Outcome]: ...

    def close(self) -> None: ...


class Simulator(ABC):
    """One shard: `slots` environments that step together.

    `Options` is the schema of `simulator.options` in a recipe. A simulator is built as `cls(config, chunk)` in its own process.
    """

    Options: ClassVar[type[Section]] = NoOptions
    slots: int = 1
    spaces: Spaces

    @classmethod
    @abstractmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        """What a simulator of `config` shows and accepts, found in well under a second, without rendering and before any process starts.

        Raises RecipeError for all that can be known to be wrong (an unknown task, say).
        """

    @abstractmethod
    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        """Build the environments. chunk: actions a decision. config.devices: where to, at most one (empty: the simulator's own default)."""

    @abstractmethod
    def reset(self, slot: int, ticket: Ticket) -> Observation:
        """Begin the episode of `ticket` in `slot`."""

    @abstractmethod
    def step(self, chunks: Mapping[int, NDArray[np.float32] | None]) -> dict[int, Outcome]:
        """Execute one chunk, float32 [C, A], in each slot named; None asks the simulator's scripted expert to act instead."""

    def close(self) -> None:  # noqa: B027  # many simulators hold nothing to release
        """Release what the simulator holds. Called once, at the end."""


class Step(NamedTuple):
    """What came of one environment step. truncated: the environment's own limit was reached; `spaces.max_steps` is counted by SingleEnvironment."""

    reward: float
    success: bool = False
    terminated: bool = False
    truncated: bool = False


class SingleEnvironment(Simulator):
    """A simulator of one environment, given by four small methods; chunks, limits and checks are done here once.

    Subclasses set `spaces` and `chunk`, and write `begin`, `act`, `observe` and, where there is a scripted expert, `expert_action`.
    """

    slots = 1
    chunk: int

    @abstractmethod
    def begin(self, ticket: Ticket) -> None:
        """Reset the environment to the initial state of `ticket`."""

    @abstractmethod
    def act(self, action: NDArray[np.float32]) -> Step:
        """One environment step with `action` [A]."""

    @abstractmethod
    def observe(self) -> Observation:
        """Render what the environment shows now; `elapsed` is filled in by the caller."""

    def expert_action(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The scripted expert's (label, executed) actions [A] for the current state: they differ where demonstrations are disturbed."""
        raise SimulatorError(f"{type(self).__name__} has no scripted expert, so it cannot give demonstrations: clone from a simulator that has one")

    def reset(self, slot: int, ticket: Ticket) -> Observation:
        self._ticket, self._steps = ticket, 0
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
                raise SimulatorError(f"action {action} at step {self._steps + 1} of {self._ticket}: a policy must ask for finite actions")
            reward, succeeded, terminated, truncated = self.act(action)
            success = success or succeeded
            if not np.isfinite(reward):
                raise SimulatorError(f"reward is {reward} at step {self._steps + 1} of {self._ticket}: a simulator must return finite rewards")
            rewards.append(reward)
            self._steps += 1
            truncated = not terminated and (truncated or self._steps >= self.spaces.max_steps)
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
        observation.elapsed = self._steps / self.spaces.max_steps
        if not np.isfinite(observation.state).all():
            raise SimulatorError(f"state {observation.state} at step {self._steps} of {self._ticket}: a simulator must return finite states")
        return observation
