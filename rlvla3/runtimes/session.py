"""What a command does with a runtime: clone, evaluate or train, in phases. It tells the watchers of everything that happens.

The first interrupt makes the present update the last one and keeps its checkpoint; outside of training it ends the run at once. The second interrupt kills
every worker.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from rlvla3.config import Recipe
from rlvla3.errors import RecipeError
from rlvla3.observability.evaluated_states import EvaluatedStates
from rlvla3.observability.events import (
    EpisodeFilmed,
    EpisodeFinished,
    EvaluationFinished,
    Event,
    Notice,
    PhaseStarted,
    TicketCounts,
    UpdateFinished,
    Watcher,
)
from rlvla3.observability.intervals import success_rate
from rlvla3.observability.run_directory import RunDirectory, version_of
from rlvla3.observability.run_record import RunRecord
from rlvla3.parts import collecting_capacity, demonstration_book, evaluation_book, left_out_in_words, splits_in_words, training_capacity, training_ledger
from rlvla3.policies.trained_on import TrainedOn
from rlvla3.runtimes.processes.messages import Clone, Copied, Demonstrated, Published, Save, Saved
from rlvla3.runtimes.registry import make_runtime
from rlvla3.runtimes.running import run_session
from rlvla3.runtimes.runtime import Runtime, TrainerLost
from rlvla3.runtimes.supervision.losses import Losses
from rlvla3.scheduling.ledger import Ledger
from rlvla3.types import Finished

PATIENCE_WITH_EXPERTS = 10
"""Demonstrations that are tried for each one that is wanted. An expert that fails more often is not used."""


def clone(recipe: Recipe, run: RunDirectory, watchers: Sequence[Watcher]) -> None:
    """Clone a policy from the simulator's experts, keep it as checkpoint 0, and evaluate it."""
    if recipe.clone is None:
        raise RecipeError("this recipe has no clone: section, so there is nothing to clone: add one, for example `clone: {demonstrations: 10, steps: 300}`")
    session = Session(recipe, run, watchers)
    run_session(session, session.clone())


def train(recipe: Recipe, run: RunDirectory, watchers: Sequence[Watcher], resume: Path | None = None) -> None:
    """Train. Clone before that if the recipe says so and no checkpoint is given. resume: a checkpoint of this run to go on from."""
    session = Session(recipe, run, watchers, resume)
    run_session(session, session.train())


def evaluate(recipe: Recipe, run: RunDirectory, watchers: Sequence[Watcher]) -> None:
    """Measure the policy of `recipe.policy.checkpoint`."""
    session = Session(recipe, run, watchers)
    run_session(session, session.evaluate())


class Session:
    """The run of one command. Its three coroutines return whether they were interrupted."""

    def __init__(self, recipe: Recipe, run: RunDirectory, watchers: Sequence[Watcher], resume: Path | None = None) -> None:
        self._recipe, self._run, self._watchers, self._resume = recipe, run, watchers, resume
        self._interrupts = 0
        self._runtime: Runtime | None = None
        self._ledger: Ledger | None = None  # while training

    async def clone(self) -> bool:
        self.recording()
        async with self._interruptible(make_runtime(self._recipe, self._run, capacity=collecting_capacity(self._recipe), notify=self._notify)) as runtime:
            await runtime.guard(self._make_clone(runtime))
            await runtime.guard(runtime.ready())
            await runtime.guard(self._measure(runtime, "after"))
        return self._interrupts > 0

    async def train(self) -> bool:
        losses = Losses(self._recipe.engine.max_restarts)
        while True:
            try:
                return await self._train()
            except TrainerLost as lost:
                self._go_on_after(lost, losses)

    def _go_on_after(self, lost: TrainerLost, losses: Losses) -> None:
        """Go on from the newest checkpoint after the trainer was lost. Raises TrainerLost where that makes no sense."""
        reached = self._ledger.version if self._ledger is not None else 0
        self._ledger, newest = None, self._run.latest_checkpoint() or self._resume
        begin = version_of(newest) if newest else 0
        place = f"checkpoint {begin}" if newest else "the beginning"
        if self._interrupts:
            raise TrainerLost(f"{lost}. The run was interrupted before, so it ends here; `rlvla3 train {self._run.path}` goes on from {place}") from lost
        if why_not := losses.why_not_replaced(progress=max(reached, begin)):
            raise TrainerLost(f"{lost}. The run ends, as {why_not}; `rlvla3 train {self._run.path}` goes on from {place}") from lost
        self._resume, again = newest, f"update {reached}" if reached == begin + 1 else f"updates {begin + 1} to {reached}"
        self._notify(f"{lost}. The run goes on from {place}" + (f", and {again} are made again" if reached > begin else ""))

    async def _train(self) -> bool:
        recipe = self._recipe.resumed_from(self._resume) if self._resume else self._recipe
        runtime = make_runtime(recipe, self._run, capacity=training_capacity(recipe), notify=self._notify, resume=self._resume, record=self.recording())
        async with self._interruptible(runtime):
            for said in (*splits_in_words(recipe, runtime.rollouts.spec.spaces, only_shared=True), *left_out_in_words(recipe, trains=True)):
                self._notify(said)
            if self._recipe.begins_by_cloning and self._resume is None:
                await runtime.guard(self._make_clone(runtime))
            await runtime.guard(runtime.ready())
            if self._recipe.evaluation.before and not self._evaluated_before():
                await runtime.guard(self._measure(runtime, "before"))
            await runtime.guard(self._improve(runtime))
            if self._recipe.evaluation.after and not self._interrupts:
                await runtime.guard(self._measure(runtime, "after"))
        return self._interrupts > 0

    async def evaluate(self) -> bool:
        async with self._interruptible(
            make_runtime(self._recipe, self._run, capacity=collecting_capacity(self._recipe), notify=self._notify, trainer=False)
        ) as runtime:
            for said in left_out_in_words(self._recipe, trains=False):
                self._notify(said)
            await runtime.guard(runtime.ready())
            await runtime.guard(self._measure(runtime, "eval"))
        return self._interrupts > 0

    @asynccontextmanager
    async def _interruptible(self, runtime: Runtime) -> AsyncIterator[Runtime]:
        """Start `runtime`, and end it afterwards. The user may interrupt it at any time between."""
        self._runtime = runtime
        self._emit(PhaseStarted("start"))
        with suppress(Interrupted):
            async with runtime:
                if self._interrupts:  # before there was a runtime
                    runtime.fail(Interrupted())
                yield runtime

    def interrupt(self) -> None:
        """The user wants the work to end: after the present update, or at once where there is none or this is the second time."""
        self._interrupts += 1
        runtime = self._runtime
        if runtime is None:
            return  # `_interruptible` ends the first one as soon as it has started
        if self._interrupts == 1 and self._ledger is not None:
            runtime.finish_update(self._ledger)
            self._notify(f"interrupted: update {self._ledger.version + 1} is finished and kept, then the run stops (interrupt again to stop at once)")
            return
        if self._interrupts > 1:
            runtime.kill()
        runtime.fail(Interrupted())

    def _evaluated_before(self) -> bool:
        """Whether the evaluation before training is done. A run that goes on from version 0 may have been interrupted before or after it."""
        if self._resume is None or version_of(self._resume) == 0:
            return any(record["event"] == "evaluation" and record["when"] == "before" for record in self._run.metric_lines())
        return True

    def recording(self) -> RunRecord | None:
        """Where this run is recorded from its beginning on. None if it is not to be recorded or cannot be."""
        recording = RunRecord(self._run.record)
        if self._recipe.runtime != "local":
            recording.delete()
            return None
        if self._resume is None:
            recording.delete()
            if self._recipe.engine.record:
                recording.begin(self._recipe)
        elif why_not := recording.cut_back(self._recipe, version_of(self._resume)):
            if self._recipe.engine.record:
                self._notify(f"`rlvla3 replay` cannot repeat this run: {why_not}")
            return None
        return recording if self._recipe.engine.record else None

    async def _make_clone(self, runtime: Runtime) -> None:
        """Clone, and keep the policy. Simulators are needed only if their experts demonstrate."""
        assert self._recipe.clone is not None
        if self._recipe.clone.files:
            await runtime.trainer_ready()
        else:
            await runtime.ready()
            await self._demonstrate(runtime)
        self._emit(PhaseStarted("clone", self._recipe.clone.steps))
        control = runtime.trainer.control
        control.send(Clone())
        while not isinstance(event := await control.receive(), Published):
            self._emit(event)
        await self._save(runtime)

    async def _demonstrate(self, runtime: Runtime) -> None:
        """Have the simulators' experts act, and the trainer copy their episodes."""
        assert self._recipe.clone is not None
        control = runtime.trainer.control

        async def copy(finished: Finished) -> bool:
            self._emit(EpisodeFinished(finished))
            control.send(Demonstrated(finished))
            copied: Copied = await control.receive()
            return copied.complete

        wanted = self._recipe.clone.demonstrations * len(self._recipe.tasks)
        self._emit(PhaseStarted("demonstrate", wanted))
        await runtime.collect(demonstration_book(self._recipe, runtime.rollouts.spec.spaces), PATIENCE_WITH_EXPERTS * wanted, copy)

    async def _measure(self, runtime: Runtime, when: str) -> None:
        evaluation = self._recipe.evaluation
        finished: list[Finished] = []
        videos: list[tuple[Finished, list[Any]]] = []
        filmed: Counter[str] = Counter()

        async def look_at(episode: Finished) -> bool:
            finished.append(episode)
            self._emit(EpisodeFinished(episode))
            filmed[episode.ticket.task] += 1
            if filmed[episode.ticket.task] <= evaluation.videos and self._cameras(runtime):
                videos.append((episode, list(runtime.rollouts.episode(episode.ticket.index, f"image.{self._cameras(runtime)[0]}").copy())))
            return False

        self._emit(PhaseStarted("evaluate", evaluation.episodes))
        spaces = runtime.rollouts.spec.spaces
        book = evaluation_book(self._recipe, spaces)
        await runtime.collect(book, evaluation.episodes, look_at)
        trained_on = self._trained_on()
        states = EvaluatedStates.of(finished, spaces.initial_states, book.states, trained_on.states, trained_on.complete)
        self._emit(EvaluationFinished(when, self._version(finished), success_rate(finished), states))
        if states:
            self._notify(f"initial states ({when}): {states}")
        for episode, frames in videos:
            self._emit(EpisodeFilmed(when, episode, frames))

    def _trained_on(self) -> TrainedOn:
        """What the present policy was trained on. Whenever it is evaluated, it is the policy of a checkpoint, or the one that the run starts from."""
        checkpoint = self._run.latest_checkpoint() or self._resume
        return TrainedOn.read(checkpoint / "policy" if checkpoint else self._recipe.policy.starts_from)

    def _version(self, finished: Sequence[Finished]) -> int:
        """The version that was evaluated: the published one, or else the one of the policy's checkpoint."""
        newest = max(episode.newest for episode in finished)
        folder = self._recipe.policy.checkpoint
        return newest if newest >= 0 else int(folder.parent.name) if folder is not None and folder.parent.name.isdigit() else 0

    def _cameras(self, runtime: Runtime) -> list[str]:
        """The cameras whose frames a video can show."""
        return [camera for camera, shape in runtime.rollouts.spec.spaces.cameras.items() if shape[2] == 3]

    async def _improve(self, runtime: Runtime) -> None:
        training = self._recipe.training
        ledger = self._ledger = training_ledger(self._recipe, runtime.rollouts.spec.spaces, version=version_of(self._resume) if self._resume else 0)
        progress = TrainingProgress(self._recipe, runtime, ledger, self._run)
        self._emit(PhaseStarted("train", training.updates))
        runtime.trainer.control.handle(Notice, self._emit)
        async for published, episodes in runtime.train(ledger, end=training.updates):
            self._emit(progress.update(published, episodes))
        self._ledger = None
        await self._save(runtime)
        left = ledger.issued - ledger.trained
        if left:
            self._emit(
                Notice(
                    f"stopped after update {ledger.version}: {left} tickets of later updates were handed out and not trained on; a resumed run runs them again"
                )
            )

    async def _save(self, runtime: Runtime) -> None:
        runtime.trainer.control.send(Save())
        saved: Saved = await runtime.trainer.control.receive()
        self._emit(Notice(f"checkpoint {saved.version} kept in {self._run.checkpoints}"))

    def _emit(self, event: Event) -> None:
        for watcher in self._watchers:
            watcher.on(event)

    def _notify(self, text: str) -> None:
        self._emit(Notice(text))


class Interrupted(Exception):
    """The user wants the run to end now."""


class TrainingProgress:
    """Counts over the updates of a run, including those before it was resumed."""

    def __init__(self, recipe: Recipe, runtime: Runtime, ledger: Ledger, run: RunDirectory) -> None:
        self._updates, self._runtime, self._ledger = recipe.training.updates, runtime, ledger
        # If the run has lost its trainer, there are records of updates after the checkpoint that it goes on from.
        before = next((record for record in reversed(run.metric_lines()) if record.get("update") == ledger.version), None) if ledger.version else None
        self._steps = before["environment_steps"] if before else 0
        self._seconds = before["wall_seconds"] if before else 0.0
        self._tickets = TicketCounts(**before["tickets"]) if before else TicketCounts()
        self._began = time.monotonic()
        self._spent = runtime.board.read()

    def update(self, published: Published, episodes: Sequence[Finished]) -> UpdateFinished:
        self._steps += sum(episode.steps for episode in episodes)
        seconds = self._seconds + time.monotonic() - self._began
        workers, self._spent = self._runtime.board.shares(self._spent), self._runtime.board.read()
        ledger, earlier = self._ledger, self._tickets
        return UpdateFinished(
            update=published.version,
            updates=self._updates,
            episodes=episodes,
            learner=published.metrics,
            environment_steps=self._steps,
            throughput=self._steps / seconds,
            staleness=Counter(published.version - 1 - episode.oldest for episode in episodes),
            # Tickets that were running when the run was stopped are handed out again, so only trained ones count for the past.
            tickets=TicketCounts(earlier.trained + ledger.issued, earlier.trained + ledger.trained, earlier.rerun + ledger.rerun),
            workers=workers,
            batching=self._runtime.batching(),
            wall_seconds=seconds,
        )
