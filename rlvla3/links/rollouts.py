"""The memory of the data plane: every episode that runs or is not trained on yet. Episodes are written and trained from in the same place.

A simulator writes an observation once. The generator reads it there and writes its decision beside it. The learner gathers micro-batches from the same rows.
Nothing is sent, copied into a queue or serialised.

Invariants:
- ticket i lives in block i mod capacity. Admission (scheduling/ledger.py) hands ticket i out only after ticket i - capacity was trained on. So a block is
  always free when its ticket comes, and no allocator is needed: the staleness bound is also the memory bound;
- the episodes of an evaluation beside training have blocks of their own, behind those of training;
- a row has one writer at a time. The simulator writes the observation and the outcome; between these two, the generator writes the decision;
- a decision reads the instruction of its own observation. A text is written once, when it changes, and the rows that read it name it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.instructions import InstructionError, decode_instructions, encode_instruction
from rlvla3.shared_memory import SharedArrays
from rlvla3.types import (
    BESIDE,
    EPISODE_LAYOUT,
    Field,
    Finished,
    Layout,
    Observation,
    Outcome,
    Purpose,
    Spaces,
    Ticket,
    decision_layout,
    instruction_layout,
    observation_layout,
    outcome_layout,
)


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """The shape of the data plane. capacity: episodes. chunk: actions of a decision. trace: the arrays that the policy keeps of a decision. beside: more
    episodes, of an evaluation beside training."""

    spaces: Spaces
    chunk: int
    trace: Layout
    capacity: int
    beside: int = 0

    @property
    def blocks(self) -> int:
        """Episodes in all."""
        return self.capacity + self.beside

    def block(self, ticket: int) -> int:
        """Where the episode of a ticket is."""
        return ticket % self.capacity if ticket < BESIDE else self.capacity + (ticket - BESIDE) % self.beside

    def blocks_of(self, tickets: NDArray[np.int64]) -> NDArray[np.int64]:
        """`block` of many tickets."""
        places = tickets % self.capacity
        return np.where(tickets < BESIDE, places, self.capacity + (tickets - BESIDE) % self.beside) if self.beside else places

    @property
    def rows(self) -> int:
        """The largest number of decisions of an episode, and one more row for the last observation of an episode that a time limit cut."""
        return self.spaces.decisions(self.chunk) + 1

    def arrays(self) -> dict[str, Field]:
        decision = decision_layout(self.spaces.action.size, self.chunk, self.trace)
        per_row = observation_layout(self.spaces) | instruction_layout() | decision | outcome_layout(self.chunk)
        rows = {name: Field((self.blocks, self.rows, *field.shape), field.dtype) for name, field in per_row.items()}
        return rows | {f"episode.{name}": Field((self.blocks, *field.shape), field.dtype) for name, field in EPISODE_LAYOUT.items()}


class Rollouts:
    """The episodes of the data plane, addressed by ticket index."""

    def __init__(self, spec: RolloutSpec, arrays: SharedArrays | None = None) -> None:
        """arrays: those of another process. None makes new ones."""
        self.spec, self._row_count = spec, spec.rows
        self._arrays = SharedArrays(spec.arrays(), what="rollouts") if arrays is None else arrays
        if arrays is None:
            self._arrays["episode.ticket"][:] = -1  # no block holds an episode yet
        # The arrays of decisions, with the rows of all blocks one after another: [capacity * rows, ...].
        of_rows = {name: array for name, array in self._arrays.items() if not name.startswith("episode.")}
        self._flat = {name: array.reshape(spec.blocks * spec.rows, *array.shape[2:]) for name, array in of_rows.items()}
        self.observation_names = tuple(observation_layout(spec.spaces))
        self.trace_names = tuple(f"trace.{name}" for name in spec.trace)

    def begin(self, ticket: Ticket, observation: Observation) -> Episode:
        """Begin to write the episode of `ticket` into its block."""
        return Episode(self, ticket, observation)

    def set_aside(self, ticket: Ticket) -> None:
        """`ticket` is completed without an episode: its block holds an episode of no decisions. To be called where nobody else writes this block."""
        block = self.spec.block(ticket.index)
        for name, value in {"ticket": ticket.index, "decisions": 0, "steps": 0, "success": False, "terminated": True}.items():
            self._arrays[f"episode.{name}"][block] = value
        self._arrays["instruction.number"][block, 0] = 0

    def gather(
        self, tickets: NDArray[np.int64], rows: NDArray[np.int64], names: Iterable[str], out: Mapping[str, NDArray[Any]] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The named arrays at n (ticket, row) pairs, copied out: {name: [n, ...]}.

        out: arrays to copy into, of n rows or more, such as page-locked ones that are used again. What is returned are views of their first n rows. None means
        new arrays. Raises IndexError if a row is none of the spec's, and TypeError if an array of `out` has another type.
        """
        places, n = self._places(tickets, rows), len(rows)
        into = {name: None if out is None else out[name][:n] for name in names}
        for name, array in into.items():
            if array is not None and array.dtype != self._flat[name].dtype:
                raise TypeError(f"{name} is {self._flat[name].dtype}, and it is to be gathered into {array.dtype}: give an array of the same type")
        # "clip" copies directly: "raise" would copy twice. The places have been checked already.
        return {name: np.take(self._flat[name], places, axis=0, out=array, mode="clip") for name, array in into.items()}

    def scatter(
        self, tickets: NDArray[np.int64], rows: NDArray[np.int64], values: dict[str, NDArray[Any]], kept: NDArray[np.int64] | EllipsisType = ...
    ) -> None:
        """Write {name: [n, ...], or one value for all} at (ticket, row) pairs. kept: the positions, out of n, to be written (...: all)."""
        places = self._places(tickets[kept], rows[kept])
        for name, value in values.items():
            self._flat[name][places] = value[kept] if np.ndim(value) else value

    def episode(self, ticket: int, name: str) -> NDArray[Any]:
        """One array of one episode, over its decisions: [decisions, ...]. It is a view, and changes when the next ticket of the block begins."""
        return self.rows(ticket, name)[: self.decisions(ticket)]

    def parcel(self, ticket: int) -> dict[str, NDArray[Any]]:
        """A copy of an episode that has ended, to be sent: its decisions, the observation after the last one, and the entries of EPISODE_LAYOUT."""
        block, rows = self.spec.block(ticket), self.decisions(ticket) + 1
        texts = int(self._arrays["instruction.number"][block, :rows].max()) + 1
        lengths = {"instruction.text": texts}
        return {name: (array[block] if name.startswith("episode.") else array[block, : lengths.get(name, rows)]).copy() for name, array in self._arrays.items()}

    def unpack(self, ticket: int, parcel: Mapping[str, NDArray[Any]]) -> None:
        """Write an episode that was sent into its block."""
        block = self.spec.block(ticket)
        for name, array in parcel.items():
            if name.startswith("episode."):
                self._arrays[name][block] = array
            else:
                self._arrays[name][block, : len(array)] = array

    def rows(self, ticket: int, name: str) -> NDArray[Any]:
        """One array of one block, over all its rows."""
        view: NDArray[Any] = self._arrays[name][self.spec.block(ticket)]
        return view

    def about(self, ticket: int, name: str) -> Any:
        """One entry of EPISODE_LAYOUT for one episode. Raises LookupError if the block holds another ticket by now."""
        block = self.spec.block(ticket)
        held = int(self._arrays["episode.ticket"][block])
        if held != ticket:
            raise LookupError(f"ticket {ticket} is no longer in the data plane: its block holds ticket {held}")
        return self._arrays[f"episode.{name}"][block]

    def decisions(self, ticket: int) -> int:
        return int(self.about(ticket, "decisions"))

    def instructions(self, tickets: NDArray[np.int64], rows: NDArray[np.int64]) -> list[str]:
        """The instruction of the decision at each (ticket, row) pair. Raises LookupError if the block of one of them holds another ticket by now."""
        blocks = self.spec.blocks_of(tickets)
        lost = np.flatnonzero(self._arrays["episode.ticket"][blocks] != tickets)
        if len(lost):
            self.about(int(tickets[lost[0]]), "ticket")  # raises
        numbers = self._flat["instruction.number"][self._places(tickets, rows)]
        return decode_instructions(self._arrays["instruction.text"][blocks, numbers])

    def _places(self, tickets: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where (ticket, row) pairs lie among all rows of all blocks."""
        if len(rows) and not 0 <= rows.min() <= rows.max() < self._row_count:
            raise IndexError(f"rows {rows.min()} to {rows.max()} are asked for, and an episode has rows 0 to {self._row_count - 1}")
        return self.spec.blocks_of(tickets) * self._row_count + rows

    def __reduce__(self) -> tuple[Any, ...]:
        return Rollouts, (self.spec, self._arrays)


class Episode:
    """The writer of one episode: it writes an observation, the generator decides, it records the outcome, and so on to the end."""

    def __init__(self, rollouts: Rollouts, ticket: Ticket, observation: Observation) -> None:
        self.ticket, self.row, self.steps, self.success, self.return_ = ticket, 0, 0, False, 0.0
        self.done = self.truncated = False
        block = rollouts.spec.block(ticket.index)
        self._rows = {name: array[block] for name, array in rollouts._arrays.items() if not name.startswith("episode.")}
        self._about = {name: rollouts._arrays[f"episode.{name}"] for name in EPISODE_LAYOUT}
        self._block = block
        self._about["ticket"][block] = ticket.index
        self._about["decisions"][block] = 0
        self._instruction, self._texts = "", 0
        self._instruct(observation.instruction)
        self._observe(observation)

    @property
    def actions(self) -> NDArray[np.float32]:
        """The chunk [C, A] that was decided for the present observation."""
        chunk: NDArray[np.float32] = self._rows["actions"][self.row]
        return chunk

    def record(self, outcome: Outcome) -> None:
        """Write the outcome of the present decision, and the next observation."""
        rows, row, executed = self._rows, self.row, len(outcome.rewards)
        rows["actions"][row] = outcome.actions
        rows["rewards"][row, :executed] = outcome.rewards
        rows["rewards"][row, executed:] = 0
        rows["executed"][row] = executed
        rows["dimensions"][row] = outcome.actions.shape[1] if outcome.dimensions is None else outcome.dimensions
        self.row += 1
        self.steps += executed
        self.return_ += float(outcome.rewards.sum())
        self.success |= outcome.success
        self.done, self.truncated = outcome.done, outcome.truncated
        if outcome.observation is not None:
            self._observe(outcome.observation)
        if outcome.done:
            for name, value in {"decisions": self.row, "steps": self.steps, "success": self.success, "terminated": outcome.terminated}.items():
                self._about[name][self._block] = value

    def finish(self) -> Finished:
        """The message that the episode has ended."""
        decided = self.ticket.purpose is not Purpose.DEMONSTRATE
        versions = self._rows["version"][: self.row] if decided else np.array([-1])
        return Finished(self.ticket, self.row, self.steps, self.success, self.return_, oldest=int(versions.min()), newest=int(versions.max()))

    def _observe(self, observation: Observation) -> None:
        for camera, image in observation.images.items():
            self._rows[f"image.{camera}"][self.row] = image
        self._rows["state"][self.row] = observation.state
        self._rows["elapsed"][self.row] = observation.elapsed
        if observation.instruction is not self._instruction:
            self._instruct(observation.instruction)
        self._rows["instruction.number"][self.row] = self._texts - 1

    def _instruct(self, instruction: str) -> None:
        """Write the instruction that the next decisions read, where it is not the same text as before. Raises InstructionError."""
        try:
            text = encode_instruction(instruction)
        except InstructionError as error:
            raise InstructionError(f"at decision {self.row} of {self.ticket}: {error}") from error
        if instruction != self._instruction or not self._texts:
            self._rows["instruction.text"][self._texts] = text
            self._texts += 1
        self._instruction = instruction
