"""A recorded run, in the order in which it is repeated.

Beside the recipe, three things decide the weights of an asynchronous run: which version made each decision; with which other decisions it shared a batch (the
shape of a matrix product decides its last bits); and in which order the tickets of an update came to the learner. A record holds these three. A RecordedRun is
a record that is cleaned up, checked and put in order.

Replay order is by version, then by time. A generator looks for the newest version when it has a batch. So of two batches, the requests of the batch with the
older version were made before the newer version came, even where that batch was inferred last. Three things follow from this order:
- every decision comes after the earlier decisions of its episode;
- at any batch, the episodes that have begun and not ended are no more than the slots of the recorded run;
- an update learns from decisions of versions up to its own.
A replay has one simulator process for each slot, hands tickets out in the order of their first decisions, and makes update v when all batches of version v are
made. Then there is always a batch or an update that can be made: a replay never waits for ever.

Void decisions are those that nothing was learned from: of an attempt that was lost (the same ticket begins anew later); of an inference that a lost generator
has not answered (its successor makes the same decision later); of a ticket that was set aside; or of a ticket whose update came after the last one that is
repeated. Nobody asks for them. Another decision of the batch stands in, so that the last bits of the others stay the same.

A ticket that was set aside was emitted without decisions. A replay sets it aside too, before the first decision of its update.

Pure decisions on arrays: files are read in observability/run_record.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.errors import ExplainedError
from rlvla3.types import Version

DECISION = np.dtype([("at", "<i8"), ("version", "<i4"), ("row", "<i4"), ("ticket", "<i8")])
"""One decision of a training episode. at: when it was inferred, in nanoseconds. Neighbours in a file with the same `at` were one batch."""

EMITTED = np.dtype([("update", "<i4"), ("decisions", "<i4"), ("ticket", "<i8")])
"""One ticket of an update, with the number of decisions of its episode. Entries stand in the order in which the learner got the tickets."""


class ReplayError(ExplainedError, RuntimeError):
    """A run that cannot be repeated, or was not repeated exactly: what is missing or different, and the likely reasons."""


@dataclass(frozen=True, slots=True)
class RecordedBatch:
    """An inference to be repeated. tickets, rows: int64 [B], stand-ins among them. kept: which of the B positions are not stand-ins."""

    version: Version
    tickets: NDArray[np.int64]
    rows: NDArray[np.int64]
    kept: NDArray[np.int64]


@dataclass(frozen=True)
class RecordedRun:
    """What to repeat, up to version `end`.

    decisions: DECISION [n] in replay order, stand-ins for the void ones. live: bool [n], False where a stand-in stands. starts: where each batch begins.
    order: tickets, in the order of their first decisions. emitted: EMITTED, by update.
    """

    end: Version
    decisions: NDArray[Any]
    live: NDArray[np.bool_]
    starts: NDArray[np.int64]
    order: Sequence[int]
    emitted: NDArray[Any]

    @property
    def batches(self) -> int:
        """How many there are."""
        return len(self.starts)

    @property
    def largest(self) -> int:
        """The decisions of the largest one, stand-ins among them."""
        return int(np.diff([*self.starts, len(self.decisions)]).max(initial=1))

    def batch(self, number: int) -> RecordedBatch:
        end = self.starts[number + 1] if number + 1 < self.batches else len(self.decisions)
        part = slice(self.starts[number], end)
        decisions = self.decisions[part]
        return RecordedBatch(
            int(decisions["version"][0]), decisions["ticket"].astype(np.int64), decisions["row"].astype(np.int64), np.flatnonzero(self.live[part])
        )

    def lengths(self) -> dict[int, int]:
        """How many decisions were asked for in the episode of each ticket, including the value of a last observation."""
        tickets, counts = np.unique(self.decisions["ticket"][self.live], return_counts=True)
        return dict(zip(tickets.tolist(), counts.tolist(), strict=True))

    def versions(self, ticket: int) -> NDArray[np.int64]:
        """The version that made each decision of one episode, the value of a last observation included."""
        own = self.decisions[self.live & (self.decisions["ticket"] == ticket)]
        versions: NDArray[np.int64] = own["version"][np.argsort(own["row"])].astype(np.int64)
        return versions

    def set_aside(self, update: int) -> list[int]:
        """The tickets of one update that were set aside."""
        tickets: list[int] = self.emitted["ticket"][(self.emitted["update"] == update) & (self.emitted["decisions"] == 0)].tolist()
        return tickets

    def emission(self, update: int) -> list[int]:
        """The tickets of one update in the order in which the learner got them."""
        tickets: list[int] = self.emitted["ticket"][self.emitted["update"] == update].tolist()
        return tickets


def recorded_run(generators: Sequence[NDArray[Any]], emitted: NDArray[Any], batch: int, end: Version) -> RecordedRun:
    """The first `end` updates, of `batch` tickets each, of a recorded run. generators: DECISION arrays, one a generator, as they were written.

    Raises ReplayError where the record lacks something, naming what.
    """
    emitted = emitted[emitted["update"] < end]
    _refuse_unless_emitted(emitted, batch, end)
    decisions, batches = _in_replay_order(generators)
    live = _live(decisions, end * batch) & ~np.isin(decisions["ticket"], emitted["ticket"][emitted["decisions"] == 0])
    used = np.isin(batches, batches[live])
    decisions, batches, live = decisions[used], batches[used], live[used]
    _refuse_unless_decided(decisions[live], emitted, batch, end)

    starts = _starts(batches)
    stand_in = np.flatnonzero(live)[np.searchsorted(np.flatnonzero(live), starts)]  # the first live decision of each batch
    of_batch = np.repeat(stand_in, np.diff([*starts, len(decisions)]))
    order = decisions["ticket"][live & (decisions["row"] == 0)].tolist()
    return RecordedRun(end, decisions[np.where(live, np.arange(len(decisions)), of_batch)], live, starts, order, emitted)


def _in_replay_order(generators: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """All decisions in replay order, and for each the number of its batch; a batch's own order stays."""
    numbers, first = [], 0
    for decisions in generators:
        begins = np.zeros(len(decisions), np.int64)
        begins[_starts(decisions[["at", "version"]])] = 1
        numbers.append(first + np.cumsum(begins))
        first += int(begins.sum())
    decisions, batches = np.concatenate([np.empty(0, DECISION), *generators]), np.concatenate([np.empty(0, np.int64), *numbers])
    order = np.lexsort((batches, decisions["at"], decisions["version"]))
    return decisions[order], batches[order]


def _starts(values: NDArray[Any]) -> NDArray[np.int64]:
    """Where runs of equal values begin."""
    return np.flatnonzero(np.concatenate([np.ones(min(1, len(values)), bool), values[1:] != values[:-1]]))


def _live(decisions: NDArray[Any], tickets: int) -> NDArray[np.bool_]:
    """Which decisions, in replay order, were learned from: of a ticket below `tickets`, from the last time on that it began, and the last one of each row."""
    places, wanted = np.arange(len(decisions)), (decisions["ticket"] >= 0) & (decisions["ticket"] < tickets)
    began, first = np.zeros(tickets, np.int64), wanted & (decisions["row"] == 0)
    np.maximum.at(began, decisions["ticket"][first], places[first])
    live: NDArray[np.bool_] = wanted.copy()
    live[wanted] = places[wanted] >= began[decisions["ticket"][wanted]]
    backwards = places[live][::-1]
    _, last = np.unique(decisions["ticket"][backwards] << 32 | decisions["row"][backwards].astype(np.uint32), return_index=True)
    live[:] = False
    live[backwards[last]] = True
    return live


def _refuse_unless_emitted(emitted: NDArray[Any], batch: int, end: Version) -> None:
    """Every update has all of its tickets. It is asked first: a damaged record may name any number of updates, and only as many as it holds take memory."""
    count = end * batch
    tickets = emitted["ticket"]
    whole = len(tickets) == count and np.array_equal(np.sort(tickets), np.arange(count)) and not np.any(tickets // batch != emitted["update"])
    if not whole:
        expected = np.arange(min(count, len(tickets) + 1))
        update = min(np.setdiff1d(expected, tickets).tolist(), default=0) // batch
        raise ReplayError(f"the record does not say in which order the tickets of update {update} were learned from, and only a whole record can be replayed")


def _refuse_unless_decided(live: NDArray[Any], emitted: NDArray[Any], batch: int, end: Version) -> None:
    """Every ticket has all of its decisions, each by a version that its update could use."""
    rows = live[np.argsort(live["ticket"], kind="stable")]
    counts = np.bincount(rows["ticket"], minlength=end * batch)
    expected = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    if wrong := np.flatnonzero(rows["row"] != expected).tolist():
        raise _lacks(int(rows["ticket"][wrong[0]]), int(expected[wrong[0]]))
    for ticket, decisions in emitted[["ticket", "decisions"]].tolist():
        # One more where a time limit cut the episode: the value of its last observation is asked for as well.
        if counts[ticket] not in (decisions, decisions + 1):
            raise _lacks(ticket, int(min(counts[ticket], decisions)))
    if wrong := np.flatnonzero(rows["version"] > rows["ticket"] // batch).tolist():
        ticket, row, version = rows[wrong[0]][["ticket", "row", "version"]].tolist()
        raise ReplayError(f"the record is damaged: decision {row} of ticket {ticket} was made by version {version}, after update {ticket // batch} was over")


def _lacks(ticket: int, row: int) -> ReplayError:
    return ReplayError(
        f"the record does not have decision {row} of ticket {ticket} where it should be, and only a whole record can be replayed: part of it was lost, "
        f"as when files are removed or a machine loses power"
    )
