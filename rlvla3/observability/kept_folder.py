"""A run directory that is removed or moved while its run goes on is made again."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

from rlvla3.config import Recipe
from rlvla3.observability.events import EvaluationFinished, Event, Notice, UpdateFinished
from rlvla3.observability.run_directory import RunDirectory


class KeptFolder:
    """The watcher that looks whether the run directory is still there. If not, it is made again with the settings, and locked: its next checkpoints can be
    continued from.

    tell: called with a sentence for the user.
    """

    def __init__(self, run: RunDirectory, recipe: Recipe, tell: Callable[[str], None]) -> None:
        self._run, self._recipe, self._tell = run, recipe, tell
        self._began_in = run.path.stat()
        self._lock: int | None = None

    def on(self, event: Event) -> None:
        if not isinstance(event, UpdateFinished | EvaluationFinished | Notice):
            return
        self._run.path.mkdir(parents=True, exist_ok=True)
        if not self._run.config.is_file():
            self._run.write_recipe(self._recipe)
            (self._run.path / "logs").mkdir(exist_ok=True)
            self._tell(
                f"{self._run.path} or its config.yaml was removed or moved while the run goes on: it was made again with the settings of the run, and gets "
                f"what the run writes from now on"
            )
        if not os.path.samestat(self._began_in, self._run.path.stat()):
            self._lock_again()

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def _lock_again(self) -> None:
        """Lock the new folder, as RunDirectory.locked does with the one that is gone."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock, self._began_in = os.open(self._run.path, os.O_RDONLY), self._run.path.stat()
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._tell(f"{self._run.path} was removed, and another run has begun there: both write to it, so stop one of them")
