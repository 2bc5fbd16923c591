"""`rlvla3 record`: run episodes of a policy, and write them as a dataset. (Episodes of training are repeated by a replay: replay_session.py.)

An interrupt ends the run at once. The episodes that have ended by then are kept, as a whole dataset. So are those before an error, unless the dataset itself
could not be written.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlvla3.config import Recipe
from rlvla3.demonstrations.demonstration_file import DemonstrationError
from rlvla3.observability.events import EpisodeFinished, EvaluationFinished, PhaseStarted, Watcher
from rlvla3.observability.intervals import success_rate
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.parts import collecting_capacity, evaluation_book, left_out_in_words, recording_book
from rlvla3.runtimes.local import LocalRuntime
from rlvla3.runtimes.recorder import Recorder
from rlvla3.runtimes.running import run_session
from rlvla3.runtimes.session import Session
from rlvla3.types import Finished, Purpose


def record(recipe: Recipe, run: RunDirectory, watchers: Sequence[Watcher], recorder: Recorder) -> None:
    """Run recipe.evaluation.episodes episodes of the policy of recipe.policy.checkpoint, without exploration noise, and let `recorder` write them: those of
    evaluation, or new ones in initial states of training, as the recorder's purpose says."""
    session = RecordSession(recipe, run, watchers)
    run_session(session, session.record(recorder))


class RecordSession(Session):
    """A session that writes the episodes it runs."""

    async def record(self, recorder: Recorder) -> bool:
        capacity = collecting_capacity(self._recipe)
        runtime = LocalRuntime(self._recipe, self._run, capacity=capacity, notify=self._notify, trainer=False, keep=recorder.steps)
        try:
            async with self._interruptible(runtime):
                for said in left_out_in_words(self._recipe, trains=False):
                    self._notify(said)
                await runtime.guard(runtime.ready())
                await runtime.guard(self._run_episodes(runtime, recorder))
        except Exception:
            if recorder.whole_episodes:
                await self._keep(recorder)
            raise
        if not self._interrupts or recorder.counts["kept"]:
            self._notify(await recorder.finish())
        return self._interrupts > 0

    async def _keep(self, recorder: Recorder) -> None:
        """After an error, which is raised again: keep the episodes before it, or say why they are lost."""
        try:
            self._notify(f"the run failed, and the episodes before are kept: {await recorder.finish()}")
        except DemonstrationError as error:
            self._notify(f"the run failed, and the dataset could not be completed: {error}")

    async def _run_episodes(self, runtime: LocalRuntime, recorder: Recorder) -> None:
        total, spaces, finished = self._recipe.evaluation.episodes, runtime.rollouts.spec.spaces, list[Finished]()
        of_policy = self._version([])

        async def take(episode: Finished) -> bool:
            self._emit(EpisodeFinished(episode))
            if not episode.set_aside:
                finished.append(episode)
                versions = runtime.rollouts.episode(episode.ticket.index, "version").astype(np.int64)
                await recorder.take(episode, np.where(versions < 0, of_policy, versions))
            return False

        self._emit(PhaseStarted("evaluate", total))
        make_book = evaluation_book if recorder.steps.purpose is Purpose.EVALUATE else recording_book
        await runtime.collect(make_book(self._recipe, spaces), total, take)
        self._emit(EvaluationFinished("eval", of_policy, success_rate(finished)))
