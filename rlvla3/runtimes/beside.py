"""Evaluations beside training, one at a time: from the trainer's word that a version is pinned to the last episode of its evaluation.

    Pinned --> tickets in idle slots --> (late: training waits) --> over: Release

The coordinator of every runtime with real workers has one of these while it trains. Which ticket runs where is the dispatcher's; when an evaluation is late is
the ledger's (scheduling/beside.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlvla3.config import Recipe
from rlvla3.observability.events import SuccessRate
from rlvla3.observability.formatting import number_of
from rlvla3.parts import beside_ledger
from rlvla3.policies.trained_on import TrainedOn
from rlvla3.runtimes.processes.messages import Pinned, Release
from rlvla3.runtimes.runtime import Runtime
from rlvla3.scheduling.beside import BesideLedger
from rlvla3.types import Finished, Version

Over = Callable[[Version, Sequence[Finished], TrainedOn], Mapping[str, Any]]


def is_better(success: SuccessRate, best: Mapping[str, Any] | None) -> bool:
    """Whether an evaluation is at least as good as the `best` line of metrics.jsonl: in its success rate, and then in its mean return. Of two that are as good
    as each other, the later one counts. One whose tickets were all set aside says nothing."""
    if not success.episodes:
        return False
    if best is None:
        return True
    rate, rate_of_best = success.successes / success.episodes, best["successes"] / best["episodes"]
    return (rate, success.mean_return) >= (rate_of_best, best["mean_return"] or 0.0)


class EvaluationsBeside:
    """over: called when an evaluation has ended, with its version, its episodes and what the version was trained on. Returns its line of metrics.jsonl.
    notify: called with a sentence for the user.

    beside = EvaluationsBeside(recipe, runtime, over=look_at, notify=print)
    async for published, episodes in runtime.train(ledger, end, beside=beside): ...
    await beside.end(interrupted=False)
    """

    def __init__(self, recipe: Recipe, runtime: Runtime, over: Over, notify: Callable[[str], None]) -> None:
        self._recipe, self._runtime, self._over, self._notify = recipe, runtime, over, notify
        self._present: BesideLedger | None = None
        self._trained_on = TrainedOn()
        self._news = asyncio.Event()
        runtime.trainer.control.handle(Pinned, self._begin)

    def advanced(self, version: Version) -> None:
        """Training has come to `version`. To be called before tickets that have become admissible are handed out."""
        if self._present is not None and self._present.is_late(version):
            self._runtime.server.hold_training(True)

    async def end(self, interrupted: bool) -> None:
        """Training has no more tickets. Wait until the present evaluation is over. interrupted: leave it out, because the user wants the run to end."""
        if (present := self._present) is None:
            return
        done = f"the evaluation of version {present.version} has {len(present.finished)} of {number_of(present.episodes, 'episode')}"
        if interrupted:
            present.close()
            self._notify(f"{done} and is left out: `rlvla3 eval RUN_DIR/checkpoints/{present.version:06d}` makes it")
            return
        self._notify(f"{done}: the run ends when it is over")
        self._runtime.server.hold_training(True)
        while self._present is not None:
            self._news.clear()
            await self._news.wait()

    def _begin(self, pinned: Pinned) -> None:
        ledger = beside_ledger(self._recipe, self._runtime.rollouts.spec.spaces, pinned.version)
        self._present, self._trained_on = ledger, pinned.trained_on
        self._runtime.server.serve_beside(ledger, self._on_finished)
        self.advanced(pinned.version)

    def _on_finished(self, finished: Finished) -> None:
        self._runtime.film(finished)
        if self._present is not None and self._present.over:
            asyncio.get_running_loop().call_soon(self._end, self._present)  # whoever tells of an episode is in the middle of its own work

    def _end(self, ended: BesideLedger) -> None:
        if self._present is not ended:
            return
        self._present = None
        ran = sorted((episode for episode in ended.finished if not episode.set_aside), key=lambda episode: episode.ticket.index)
        if len(ran) < ended.episodes:
            self._notify(f"the evaluation of version {ended.version} has {len(ran)} of {number_of(ended.episodes, 'episode')}: the others were set aside")
        self._runtime.trainer.control.send(Release(self._over(ended.version, ran, self._trained_on)))
        self._runtime.server.serve_beside(None, lambda _: None)
        self._runtime.server.hold_training(False)
        self._news.set()
