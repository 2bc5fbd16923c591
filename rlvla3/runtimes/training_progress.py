"""What the user is told about each update of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rlvla3.config import Recipe
from rlvla3.observability.events import UpdateFinished
from rlvla3.runtimes.processes.messages import Published
from rlvla3.runtimes.runtime import Runtime
from rlvla3.scheduling.ledger import Ledger
from rlvla3.types import Finished


class TrainingProgress:
    """What the user is told about each update: the accounts of the run, and how its workers spent their time since the last update."""

    def __init__(self, recipe: Recipe, runtime: Runtime, ledger: Ledger) -> None:
        self._updates, self._runtime, self._ledger = recipe.training.updates, runtime, ledger
        self._spent = runtime.board.read()

    def update(self, published: Published, episodes: Sequence[Finished]) -> UpdateFinished:
        workers, self._spent = self._runtime.board.shares(self._spent), self._runtime.board.read()
        accounts = published.accounts
        return UpdateFinished(
            update=published.version,
            updates=self._updates,
            episodes=episodes,
            learner=published.metrics,
            environment_steps=accounts.environment_steps,
            throughput=accounts.environment_steps / accounts.seconds,
            staleness=Counter(published.version - 1 - episode.oldest for episode in episodes if not episode.set_aside),
            tickets=self._ledger.tickets,
            workers=workers,
            batching=self._runtime.batching(),
            wall_seconds=accounts.seconds,
        )
