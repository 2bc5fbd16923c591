"""A simulator that keeps every environment step of its episodes in files, for `rlvla3 record`.

    FOLDER/000012.steps    the steps of ticket 12: one `step_record` after another

A run looks at an environment only when a decision is due. A dataset shows every environment step. So the simulator is built for chunks of one action, and a
chunk is executed one action at a time.

Invariants:
- to the run, it is the same simulator: the same outcome of every chunk, where looking at an environment does not change it;
- an observation is copied when it is returned: the simulator may use its arrays again;
- an episode that begins again, because its simulator was lost, replaces its file. So the file of an episode that was handed in is whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.instructions import encode_instruction
from rlvla3.simulators.base import ContractError, RunningSimulator
from rlvla3.types import INSTRUCTION_BYTES, Observation, Outcome, Purpose, Spaces, Ticket


@dataclass(frozen=True, slots=True)
class StepsToKeep:
    """Which episodes are kept, and where: those of tickets with this purpose, from ticket `first` on."""

    folder: Path
    purpose: Purpose
    first: int = 0

    def file(self, ticket: int) -> Path:
        return self.folder / f"{ticket:06d}.steps"


def step_record(spaces: Spaces) -> np.dtype[Any]:
    """One environment step: what was observed before it, the action within the bounds of the space, and its result."""
    images = [(f"image.{camera}", np.uint8, tuple(shape)) for camera, shape in spaces.cameras.items()]
    observation = [*images, ("state", np.float32, (spaces.state,)), ("instruction", np.uint8, (INSTRUCTION_BYTES,))]
    result = [("reward", np.float32), ("success", np.bool_), ("terminated", np.bool_), ("truncated", np.bool_)]
    return np.dtype([*observation, ("action", np.float32, (spaces.action.size,)), *result])


def read_steps(path: Path, spaces: Spaces) -> NDArray[Any]:
    """The steps of one episode, step_record [steps]. They stay on disk until they are looked at."""
    return np.memmap(path, step_record(spaces), "r")


class EveryStep:
    """`simulator`, which was built for chunks of one action, as a simulator for chunks of `chunk` actions. Raises ContractError where a file cannot be written:
    a new process could not write it either."""

    def __init__(self, simulator: RunningSimulator, chunk: int, keep: StepsToKeep) -> None:
        self.spaces, self.slots = simulator.spaces, simulator.slots
        self._simulator, self._chunk, self._keep = simulator, chunk, keep
        self._episodes: dict[int, _KeptEpisode] = {}

    def reset(self, slot: int, ticket: Ticket) -> Observation:
        observation = self._simulator.reset(slot, ticket)
        if (unfinished := self._episodes.pop(slot, None)) is not None:
            unfinished.close()
        if ticket.purpose is self._keep.purpose and ticket.index >= self._keep.first:
            self._episodes[slot] = _KeptEpisode(self._keep.file(ticket.index), self.spaces, observation)
        return observation

    def step(self, chunks: Mapping[int, NDArray[np.float32] | None]) -> dict[int, Outcome]:
        made: dict[int, list[Outcome]] = {slot: [] for slot in chunks}
        for position in range(self._chunk):
            going = [slot for slot, outcomes in made.items() if not (outcomes and outcomes[-1].done)]
            if not going:
                break
            outcomes = self._simulator.step({slot: _part(chunks[slot], position) for slot in going})
            for slot, outcome in outcomes.items():
                made[slot].append(outcome)
                self._add(slot, outcome)
        return {slot: self._together(chunks[slot], outcomes) for slot, outcomes in made.items()}

    def close(self) -> None:
        for episode in self._episodes.values():
            episode.close()
        self._simulator.close()

    def _add(self, slot: int, outcome: Outcome) -> None:
        if (episode := self._episodes.get(slot)) is None:
            return
        episode.add(outcome)
        if outcome.done:
            del self._episodes[slot]

    def _together(self, chunk: NDArray[np.float32] | None, outcomes: Sequence[Outcome]) -> Outcome:
        """The outcome of a chunk, from those of its actions. chunk: None where the expert acted."""
        last = outcomes[-1]
        if chunk is None:
            labels = [outcome.actions[0] for outcome in outcomes]
            chunk = np.stack([*labels, *[labels[-1]] * (self._chunk - len(labels))])
        return Outcome(
            actions=chunk,
            rewards=np.concatenate([outcome.rewards for outcome in outcomes]),
            observation=last.observation,
            success=any(outcome.success for outcome in outcomes),
            terminated=last.terminated,
            truncated=last.truncated,
            dimensions=last.dimensions,
        )


class _KeptEpisode:
    """The episode that one slot runs, and its file."""

    def __init__(self, path: Path, spaces: Spaces, observation: Observation) -> None:
        self._path, self._bounds = path, spaces.action.bounds
        self._row = np.zeros(1, step_record(spaces))
        self._see(observation)
        try:
            self._file = FileIO(path, "w")
        except OSError as error:
            raise _not_written(path, error) from error

    def add(self, outcome: Outcome) -> None:
        row = self._row[0]
        row["action"] = outcome.actions[0].clip(*self._bounds)
        row["reward"], row["success"] = outcome.rewards[0], outcome.success
        row["terminated"], row["truncated"] = outcome.terminated, outcome.truncated
        content = memoryview(self._row.tobytes())
        try:
            while content:  # a full disk takes a part of it, and refuses the rest
                content = content[self._file.write(content) :]
            if outcome.done:
                self._file.close()
        except OSError as error:
            raise _not_written(self._path, error) from error
        if outcome.observation is not None:
            self._see(outcome.observation)

    def close(self) -> None:
        self._file.close()

    def _see(self, observation: Observation) -> None:
        row = self._row[0]
        for camera, image in observation.images.items():
            row[f"image.{camera}"] = image
        row["state"], row["instruction"] = observation.state, encode_instruction(observation.instruction)


def _part(chunk: NDArray[np.float32] | None, position: int) -> NDArray[np.float32] | None:
    return None if chunk is None else chunk[position : position + 1]


def _not_written(path: Path, error: OSError) -> ContractError:
    return ContractError(f"{path}, which keeps the steps of an episode, could not be written ({error.strerror}): free some space, or name another folder")
