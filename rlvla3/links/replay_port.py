"""A generator's side of the data plane in a replay: it makes every recorded inference again, in replay order, of the same decisions by the same version.

Invariants:
- a batch is due when the version that made it is the newest one, and all its decisions have been asked for;
- a decision that was made already is answered at once and not made again. Its simulator was lost, and its episode runs again. The decision still stands in the
  data plane, beside the observation that is written again;
- a replay that cannot go on ends with an error: at once if a decision is asked for that was not recorded; or if a recorded one is missing and no shard is left
  that could ask for it (`stuck` is called, and the shard supervisor knows whether a simulator is being replaced).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from rlvla3.links.data_plane import RECOUNT, Batch, DataPlane
from rlvla3.observability.meter import Meter
from rlvla3.scheduling.recorded_run import RecordedBatch, RecordedRun, ReplayError
from rlvla3.types import Version

Decision = tuple[int, int]
"""(ticket, row)."""

NOT_ALIKE = "the simulator did not repeat itself, and a replay needs one that does: the same ticket and actions, the same episode"


class ReplayPort:
    """Takes the place of a GeneratorPort, for the only generator of a data plane with one slot for each shard.

    It begins when `proceed` is called. done: called when all recorded inferences of that version are made, and the next version is due. stuck: called when
    every shard that runs a ticket waits and a recorded decision is missing, with the number of waiting requests and that decision.
    """

    def __init__(
        self,
        plane: DataPlane,
        replay: RecordedRun,
        meter: Meter,
        *,
        take_in: Callable[[], None],
        done: Callable[[], None],
        stuck: Callable[[int, Decision], None],
    ) -> None:
        self._plane, self._replay, self._meter, self._take_in, self._done, self._stuck = plane, replay, meter, take_in, done, stuck
        self._bell = plane.requests[0]
        self._asked: dict[Decision, int] = {}
        self._recorded = replay.lengths()
        self._decided = dict.fromkeys(self._recorded, 0)
        self._version: Version = -1
        self._told_done = True
        self._number = -1
        self._step_on()

    async def batch(self) -> Batch:
        """The next batch, as soon as it is due."""
        with self._meter("requests"):
            self._take_in()
            while (batch := self._take()) is None:
                await self._bell.wait()
        return batch

    def due(self, like: Batch) -> Batch | None:
        """The batch that is due now, or None. All batches of a replay belong to training."""
        return self._take()

    def _take(self) -> Batch | None:
        if not self._is_due():
            return None
        assert self._next is not None
        batch, decisions = self._next, self._decisions
        self._step_on()
        for ticket, row in decisions:
            self._decided[ticket] = row + 1
        slots = tuple(self._asked.pop(decision) for decision in decisions)
        return Batch(batch.tickets, batch.rows, np.ones(len(batch.tickets), bool), slots, batch.kept)

    def answer(self, batch: Batch) -> None:
        self._plane.answer(batch.slots)

    def heard_by(self, call: Callable[[], None]) -> AbstractContextManager[None]:
        """Within the block, `call` is called at once, and then whenever something was rung that `waiting` may not have seen."""
        return self._bell.heard_by(call)

    def waiting(self) -> dict[int, Decision]:
        """The decisions that are asked for, by slot."""
        self._collect()
        return {slot: decision for decision, slot in self._asked.items()}

    def proceed(self, version: Version) -> None:
        """`version` is on the weight plane."""
        self._version, self._told_done = version, False
        self._bell.ring(RECOUNT)

    def forget(self, shard: int) -> None:
        """Drop the requests of a lost shard."""
        self._collect()
        self._asked = {decision: slot for decision, slot in self._asked.items() if slot not in self._plane.shards[shard].slots}
        self._bell.ring(RECOUNT)

    def _step_on(self) -> None:
        """Go on to the next recorded batch and its decisions."""
        self._number += 1
        self._next: RecordedBatch | None = self._replay.batch(self._number) if self._number < self._replay.batches else None
        self._decisions: list[Decision] = []
        if self._next is not None:
            kept = self._next.kept
            self._decisions = list(zip(self._next.tickets[kept].tolist(), self._next.rows[kept].tolist(), strict=True))

    def _is_due(self) -> bool:
        self._collect()
        if self._next is None or self._next.version > self._version:
            if not self._told_done:
                self._told_done = True
                self._done()
            return False
        missing = [decision for decision in self._decisions if decision not in self._asked]
        if missing and len(self._asked) >= self._plane.counts["running"][0]:
            self._stuck(len(self._asked), missing[0])
        return not missing

    def _collect(self) -> None:
        asked = self._plane.asked
        for slot in self._bell.collect():
            if slot == RECOUNT:
                continue
            ticket, row = int(asked["ticket"][slot]), int(asked["row"][slot])
            if row < self._decided.get(ticket, 0):
                self._plane.answer([slot])
            elif row < self._recorded.get(ticket, 0):
                self._asked[ticket, row] = slot
            else:
                raise ReplayError(f"ticket {ticket} asks for its decision {row}, and {self._recorded.get(ticket, 0)} of it were recorded: {NOT_ALIKE}")
