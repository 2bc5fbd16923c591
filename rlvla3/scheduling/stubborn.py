"""What becomes of tickets that have lost their simulator. The local, the Ray and the virtual runtime ask the same counts.

A ticket that loses its simulator runs again. If it loses a second one, it is suspected: the next time, it runs alone. So a ticket that loses a third simulator
is at fault, and no ticket that only ran beside it. It is stubborn: it is set aside, as often as `engine.max_set_aside` allows, or it ends the run.

Pure decisions: no clock, no process, no I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

MAX_ATTEMPTS = 3
"""How many simulators a ticket may lose."""


class LostTickets:
    """Counts the simulators that each ticket of one ledger has lost. limit: tickets that may be set aside, in all. set_aside: those that were.

    lost.count([3, 4])
    lost.suspected([3, 4])              # those that run alone the next time
    if stubborn := lost.stubborn([3, 4]): ...
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.set_aside = limit, 0
        self._losses: Counter[int] = Counter()

    def begin_anew(self) -> None:
        """Other tickets are run from now on."""
        self._losses.clear()

    def count(self, indices: Iterable[int]) -> None:
        """These tickets were running when their simulator was lost."""
        self._losses.update(indices)

    def forget(self, index: int) -> None:
        """This ticket has ended. An evaluation has the same tickets each time."""
        self._losses.pop(index, None)

    def suspected(self, indices: Iterable[int]) -> list[int]:
        """Those that may be at fault."""
        return [index for index in indices if self._losses[index] >= MAX_ATTEMPTS - 1]

    def stubborn(self, indices: Iterable[int]) -> list[int]:
        """Those that are at fault."""
        return [index for index in indices if self._losses[index] >= MAX_ATTEMPTS]

    def may_set_aside(self, stubborn: int) -> bool:
        """Whether so many more tickets may be set aside."""
        return self.set_aside + stubborn <= self.limit
