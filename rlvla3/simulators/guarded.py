"""A simulator whose every answer is checked before anything of it is kept. Every run has its simulators guarded.

Invariants:
- nothing wrong reaches the data plane: numpy would cast and broadcast it without a word;
- a mistake that every new process would repeat is a ContractError, which ends the run at once; a number or a frame that may be right next time is a
  SimulatorError, and the simulator is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import SimulatorConfig
from rlvla3.simulators import contract
from rlvla3.simulators.base import ContractError, Simulator, SimulatorError, SingleEnvironment
from rlvla3.types import Observation, Outcome, Spaces, Ticket

EPISODES_TO_CHANGE = 8
"""If no frame of any camera has changed within so many episodes, the camera is frozen."""

FIRST_TRY = -1
"""The index of the ticket with which a simulator is tried out."""


@dataclass
class _Progress:
    """How far the episode of one slot is. first: what frames are compared with, None if they are known to change."""

    ticket: Ticket
    first: Observation | None
    decisions: int = 0
    steps: int = 0
    elapsed: float = 0.0
    success: bool = False

    def __str__(self) -> str:
        where = f"decision {self.decisions}" if self.decisions else "the reset"
        if self.ticket.index == FIRST_TRY:
            return f"at {where} of a first try"
        return f"at {where} of ticket {self.ticket.index} (task {self.ticket.task}, seed {self.ticket.seed})"


class GuardedSimulator:
    """`simulator`, built from `config`. described: what it must show and accept, if that is known."""

    def __init__(self, simulator: Simulator, config: SimulatorConfig, chunk: int, described: Spaces | None = None) -> None:
        self.simulator, self.spaces, self.slots = simulator, simulator.spaces, simulator.slots
        self._name, self._check_frames = config.name, config.check_frames
        self._shape = (chunk, self.spaces.action.size)
        self._running: dict[int, _Progress] = {}
        self._frozen, self._episodes, self._first_reset = contract.FrozenCameras(self.spaces), 0, True
        self._refuse(contract.built_faults(self.spaces, described or self.spaces, self.slots, config.slots), "")

    def try_out(self, task: str) -> None:
        """Begin an episode, and make one step in it if the simulator can make one alone. So a run hears of most mistakes before it loads its policy."""
        states, space = self.spaces.initial_states.get(task), self.spaces.action
        self.reset(0, Ticket(FIRST_TRY, task, seed=0, group=FIRST_TRY, initial_state=None if states is None else 0))
        if isinstance(self.simulator, SingleEnvironment):
            middle = space.choices // 2 if space.kind == "discrete" else (space.low + space.high) / 2
            step, progress = self.simulator.act(np.full(space.size, middle, np.float32)), replace(self._running[0], decisions=1)
            self._check_rewards(step.reward, progress)
            self._check_observation(self.simulator.observe(), progress)

    def reset(self, slot: int, ticket: Ticket) -> Observation:
        observation = self.simulator.reset(slot, ticket)
        self._running[slot] = progress = _Progress(ticket, None)
        self._refuse((contract.reset_kind_fault(observation),), progress)
        self._check_observation(observation, progress)
        self._refuse((contract.elapsed_fault(observation.elapsed, None),), progress)
        progress.first = self._frozen.begin(observation) if self._check_frames else None
        self._first_reset = False
        return observation

    def step(self, chunks: Mapping[int, NDArray[np.float32] | None]) -> dict[int, Outcome]:
        outcomes = self.simulator.step(chunks)
        self._refuse((contract.step_kind_fault(outcomes, chunks),), f"of {self.slots} slots" if self.slots > 1 else "")
        for slot, outcome in outcomes.items():
            self._check_outcome(outcome, chunks[slot], self._running[slot])
        return outcomes

    def close(self) -> None:
        self.simulator.close()

    def _check_outcome(self, outcome: Outcome, chunk: NDArray[np.float32] | None, progress: _Progress) -> None:
        progress.decisions += 1
        self._refuse(contract.outcome_faults(outcome, chunk, self._shape), progress)
        if chunk is None:
            self._refuse((contract.expert_fault(outcome.actions, self.spaces),), progress)
        self._check_rewards(outcome.rewards, progress)
        progress.steps += len(outcome.rewards)
        if fault := contract.limit_fault(progress.steps, outcome.done, self.spaces) or contract.success_fault(outcome.success, progress.success):
            raise ContractError(self._words(fault, progress))
        progress.success = bool(outcome.success)
        if outcome.observation is not None:
            self._check_observation(outcome.observation, progress)
            self._refuse((contract.elapsed_fault(outcome.observation.elapsed, progress.elapsed),), progress)
            progress.elapsed = outcome.observation.elapsed
            self._frozen.see(progress.first, outcome.observation)
        if outcome.done:
            self._episodes += 1
            if self._check_frames and self._episodes == EPISODES_TO_CHANGE:
                self._refuse((self._frozen.fault(len(self.spaces.cameras)),), progress)

    def _check_rewards(self, rewards: NDArray[np.float32] | float, progress: _Progress) -> None:
        if fault := contract.reward_fault(rewards):
            kind = ContractError if np.isfinite(rewards).all() else SimulatorError
            raise kind(self._words(fault, progress))

    def _check_observation(self, observation: Observation, progress: _Progress) -> None:
        self._refuse(contract.observation_faults(observation, self.spaces), progress)
        if fault := contract.number_fault("state", observation.state):
            raise SimulatorError(self._words(fault, progress))
        if self._check_frames:
            for camera, image in observation.images.items():
                if contract.shows_one_colour(image):
                    kind = ContractError if self._first_reset else SimulatorError
                    raise kind(self._words(f"the frame of {camera} is {contract.one_colour_words(image)}: {contract.ONE_COLOUR_HELP}", progress))

    def _refuse(self, faults: Iterable[str], place: _Progress | str) -> None:
        """Raise ContractError for the first fault, if there is one."""
        for fault in faults:
            if fault:
                raise ContractError(self._words(fault, place))

    def _words(self, fault: str, place: _Progress | str) -> str:
        return f"simulator {self._name}{f', {place}' if str(place) else ''}: {fault}"
