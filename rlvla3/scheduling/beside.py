"""An evaluation beside training: its tickets fill slots that training leaves idle, on one version of the weights.

    due at version n  -->  in idle slots  -->  late: training waits for it  -->  over

Laws kept here:
- it has the tickets of any other evaluation of the recipe, and the noise of its decisions is the same. So its results can be compared with those of another
  version, and with `rlvla3 eval`;
- it ends. Where training leaves too few slots idle, it is late after half of the way to the next one. From then on, tickets of training wait until it is over;
- one evaluation goes on at a time. What is due before it is over is left out.

Pure decisions: no clock, no process, no I/O. Docs: docs/engine.md.
"""

from __future__ import annotations

from dataclasses import replace

from rlvla3.scheduling.ledger import Ledger, TicketBook
from rlvla3.types import BESIDE, Finished, Ticket, Version


class BesideLedger:
    """The tickets of one evaluation, for a dispatcher beside its ledger of training.

    room: how many of its episodes the data plane holds. version: of the weights. late_at: the version of training at which it is late.

        ledger = BesideLedger(evaluation_book(recipe, spaces), episodes=96, room=16, version=20, late_at=25)
        dispatcher.serve_beside(ledger)
        ledger.over
    """

    def __init__(self, book: TicketBook, episodes: int, room: int, version: Version, late_at: Version) -> None:
        self._ledger = Ledger(book, batch=1, max_staleness=room - 1, total=episodes)
        self.episodes, self.version, self._late_at = episodes, version, late_at
        self._closed = False
        self.finished: list[Finished] = []
        """The episodes that have ended, in the order in which they did. Tickets that were set aside are among them."""

    @property
    def over(self) -> bool:
        return len(self.finished) == self.episodes

    def is_late(self, version: Version) -> bool:
        """Whether training has come so far that it waits for this evaluation."""
        return version >= self._late_at

    def take(self, simulator: int = 0) -> Ticket | None:
        ticket = None if self._closed else self._ledger.take(simulator)
        return None if ticket is None else replace(ticket, index=BESIDE + ticket.index)

    def lost(self, index: int) -> None:
        """This ticket waits again: its simulator was lost, or training needed it."""
        self._ledger.lost(index - BESIDE)

    def again(self, index: int) -> None:
        self._ledger.again(index - BESIDE)

    def hand_in(self, finished: Finished) -> None:
        own = replace(finished, ticket=replace(finished.ticket, index=finished.ticket.index - BESIDE))
        if not finished.set_aside and (finished.oldest, finished.newest) != (self.version, self.version):
            raise AssertionError(f"{finished} of an evaluation of version {self.version} was decided by versions {finished.oldest} to {finished.newest}")
        self.finished.append(own)
        self._ledger.hand_in(own)
        while self._ledger.version < self.episodes and self._ledger.finished(self._ledger.version):
            self._ledger.advance(self._ledger.version + 1)

    def close(self) -> None:
        """Hand out no more tickets: nobody needs the result."""
        self._closed = True
