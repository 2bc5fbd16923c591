"""Workers that are lost: whether they are replaced, and what becomes of their tickets. Nothing here imports torch."""

from __future__ import annotations

from rlvla3.observability.formatting import number_of

IN_VAIN = 5
"""How often in a row a worker may be lost without having got any further. Its next successor would be lost too."""


def run_again(tickets: int) -> str:
    """What becomes of the tickets that a lost worker was running."""
    return f"its {number_of(tickets, 'running ticket')} {'is' if tickets == 1 else 'are'} run again" if tickets else "it was running no ticket"


class Replacements:
    """Counts how often one worker was lost, and says whether it is replaced. limit: how often it may be replaced.

    replacements = Replacements(limit=20)
    if why_not := replacements.why_not_replaced(progress=answers): ...
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._count, self._in_vain, self._progress = limit, 0, 0, -1

    def why_not_replaced(self, progress: int) -> str:
        """The worker is lost once more. Returns why there is no successor, as the end of a sentence; empty if there is one.

        progress: grows with the work that the worker and its predecessors have done.
        """
        self._count += 1
        self._in_vain = 1 if progress > self._progress else self._in_vain + 1
        self._progress = max(progress, self._progress)
        if self._count > self._limit:
            return f"it is not replaced, because engine.max_restarts={self._limit} is used up"
        if self._in_vain >= IN_VAIN:
            return f"it is not replaced, because it was lost {IN_VAIN} times in a row and got no further in between"
        return ""
