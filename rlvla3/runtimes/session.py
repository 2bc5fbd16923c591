"""What a command does with a runtime: clone, evaluate or train, in phases. It tells the watchers of everything that happens.

The first interrupt makes the present update the last one and keeps its checkpoint; outside of training it ends the run at once. The second interrupt kills
every worker. SIGUSR1 and SIGUSR2 keep a checkpoint after the present update, and the run goes on (signals.py).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from rlvla3.config import Recipe
from rlvla3.errors import RecipeError, WorkerError, described
from rlvla3.observability.accounts import Accounts
from rlvla3.observability.continuing import Continuation, went_back, whole_checkpoint
from rlvla3.observability.evaluated_states import EvaluatedStates
from rlvla3.observability.event_json import event_json
from rlvla3.observability.events import (
    EpisodeFinished,
    EvaluationFinished,
    Event,
    Notice,
    PhaseStarted,
    Resumed,
    Watcher,
)
from rlvla3.observability.formatting import number_of
from rlvla3.observability.intervals import success_rate
from rlvla3.observability.run_directory import RunDirectory, rename_damaged, version_of
from rlvla3.observability.run_record import RunRecord
from rlvla3.parts import (
    beside_capacity,
    collecting_capacity,
    demonstration_book,
    evaluation_book,
    left_out_in_words,
    splits_in_words,
    training_capacity,
    training_ledger,
)
from rlvla3.policies.trained_on import TrainedOn
from rlvla3.runtimes.beside import EvaluationsBeside, is_better
from rlvla3.runtimes.filming import Filming
from rlvla3.runtimes.processes.messages import Clone, Copied, Demonstrated, KeepBest, NotSaved, Published, Save, Saved
from rlvla3.runtimes.registry import make_runtime
from rlvla3.runtimes.running import run_session
from rlvla3.runtimes.runtime import Runtime, TrainerLost
from rlvla3.runtimes.supervision.replacements import Replacements
from rlvla3.runtimes.training_progress import TrainingProgress
from rlvla3.scheduling.ledger import Ledger
from rlvla3.signals import in_words
from rlvla3.types import Finished, Version

TRY_AGAIN_S = 5.0
"""A last checkpoint that could not be written is tried again after so long."""

PATIENCE_WITH_EXPERTS = 10
"""Demonstrations that are tried for each one that is wanted. An expert that fails more often is not used."""


def clone(recipe: Recipe, run: RunDirectory, watchers: Sequence[Watcher]) -> None:
    """Clone a policy from the simulator's experts, keep it as checkpoint 0, and evaluate it."""
    if recipe.clone is None:
        raise RecipeError("this recipe has no clone: section, so there is nothing to clone: add one, for example `clone: {demonstrations: 10, steps: 300}`")
    session = Session(recipe, run, watchers)
    run_session(session, session.clone())


def train(recipe: Recipe, run: RunDirectory, watchers: Sequence[Watcher], continued: Continuation | None = None) -> None:
    """Train. Clone before that if the recipe says so and no checkpoint is given. continued: what the run goes on from (None: it is new)."""
    session = Session(recipe, run, watchers, continued)
    run_session(session, session.train())


def evaluate(recipe: Recipe, run: RunDirectory, watchers: Sequence[Watcher]) -> None:
    """Measure the policy of `recipe.policy.checkpoint`."""
    session = Session(recipe, run, watchers)
    run_session(session, session.evaluate())


class Session:
    """The run of one command. Its three coroutines return whether they were interrupted."""

    def __init__(self, recipe: Recipe, run: RunDirectory, watchers: Sequence[Watcher], continued: Continuation | None = None) -> None:
        self._recipe, self._run, self._watchers, self._continued = recipe, run, watchers, continued
        self._accounts = self._began = continued.accounts if continued else Accounts()
        self._interrupts = 0
        self._runtime: Runtime | None = None
        self._ledger: Ledger | None = None  # while training
        self._best: Mapping[str, Any] | None = None
        """The evaluation of the best checkpoint, in a run that keeps it."""

    @property
    def _resume(self) -> Path | None:
        """The checkpoint that training goes on from."""
        return self._continued.checkpoint if self._continued else None

    async def clone(self) -> bool:
        self._begin(*self.recording())
        async with self._interruptible(make_runtime(self._recipe, self._run, capacity=collecting_capacity(self._recipe), notify=self._notify)) as runtime:
            await runtime.guard(self._make_clone(runtime))
            await runtime.guard(runtime.ready())
            await runtime.guard(self._measure(runtime, "after"))
        return self._interrupts > 0

    async def train(self) -> bool:
        replacements = Replacements(self._recipe.engine.max_restarts)
        while True:
            try:
                return await self._train()
            except TrainerLost as lost:
                self._go_on_after(lost, replacements)

    def _go_on_after(self, lost: TrainerLost, replacements: Replacements) -> None:
        """Go on from the newest checkpoint after the trainer was lost. Raises TrainerLost where that makes no sense."""
        reached = self._ledger.version if self._ledger is not None else 0
        self._ledger, newest = None, whole_checkpoint(self._run)
        begin = version_of(newest.checkpoint) if newest.checkpoint else 0
        place = f"checkpoint {begin}" if newest.checkpoint else "the beginning"
        if self._interrupts:
            raise TrainerLost(f"{lost}. The run was interrupted before, so it ends here; `rlvla3 train {self._run.path}` goes on from {place}") from lost
        if why_not := replacements.why_not_replaced(progress=max(reached, begin)):
            raise TrainerLost(f"{lost}. The run ends, as {why_not}; `rlvla3 train {self._run.path}` goes on from {place}") from lost
        self._continued = went_back(newest, self._began, self._accounts.evaluations)
        again = f"update {reached} is" if reached == begin + 1 else f"updates {begin + 1} to {reached} are"
        self._notify(f"{lost}. The run goes on from {place}" + (f", and {again} made again" if reached > begin else ""))

    async def _train(self) -> bool:
        recipe = self._recipe.resumed_from(self._resume) if self._resume else self._recipe
        record, why_not = self.recording()
        capacity, beside = training_capacity(recipe), beside_capacity(recipe)
        runtime = make_runtime(recipe, self._run, capacity=capacity, beside=beside, notify=self._notify, resume=self._resume, record=record)
        async with self._interruptible(runtime):
            for said in (*splits_in_words(recipe, runtime.rollouts.spec.spaces, only_shared=True), *left_out_in_words(recipe, trains=True)):
                self._notify(said)
            clones = self._recipe.begins_by_cloning and self._resume is None
            await runtime.guard(runtime.trainer_ready() if clones else runtime.ready())
            self._begin(record, why_not)
            if clones:
                await runtime.guard(self._make_clone(runtime))
            await runtime.guard(runtime.ready())
            if self._recipe.evaluation.before and not self._accounts.version and not self._accounts.evaluated("before"):
                await runtime.guard(self._measure(runtime, "before"))
            await runtime.guard(self._improve(runtime))
            if self._recipe.evaluation.after and not self._interrupts and not self._accounts.evaluated("after", self._accounts.version):
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

    def interrupt(self, number: int) -> None:
        """The user wants the work to end: after the present update, or at once where there is none or this is the second time."""
        self._interrupts += 1
        runtime = self._runtime
        if runtime is None:
            return  # `_interruptible` ends the first one as soon as it has started
        if self._interrupts == 1 and self._ledger is not None:
            runtime.finish_update(self._ledger)
            newest = self._run.latest_checkpoint()
            left = (
                f"{newest} is the newest checkpoint then, and what came after it is lost"
                if newest
                else "nothing is kept then, because there is no checkpoint yet"
            )
            self._notify(
                f"interrupted by {in_words(number)}: the run finishes update {self._ledger.version + 1}, if simulators and trainer can finish it, keeps a "
                f"checkpoint and stops. Interrupt again to stop at once; {left}"
            )
            return
        if self._interrupts > 1:
            runtime.kill()
        runtime.fail(Interrupted())

    def keep(self, number: int) -> None:
        """A batch system warns, or the user wants a checkpoint: keep one after the present update, and go on."""
        if self._runtime is not None and self._ledger is not None:
            self._runtime.keep_checkpoint()
            self._notify(f"{in_words(number)}: a checkpoint is kept after update {self._ledger.version + 1}, and the run goes on")
        else:
            newest = self._run.latest_checkpoint()
            there = f". {newest} is the newest checkpoint" if newest else ""
            self._notify(f"{in_words(number)}: nothing new to keep, because no update is under way{there}")

    def _begin(self, record: RunRecord | None, why_not: str) -> None:
        """All workers are built, so nothing can refuse the run any more: from here on, its folder changes.

        record, why_not: as `recording` returns them.
        """
        if self._continued is not None:
            self._accounts = self._continued.accounts
            self._run.write_recipe(self._recipe)
            for path in self._continued.damaged:
                if path.is_relative_to(self._run.path) and os.path.lexists(path):  # it may be another run's, which is left alone
                    rename_damaged(path)
            self._emit(Resumed(self._continued))
            for text in self._continued.notices:
                self._notify(text)
            best = self._run.best_checkpoint()
            of_best = [record for record in self._accounts.evaluations if best and record.get("best") and record["version"] == version_of(best)]
            self._best = of_best[-1] if of_best else None
        recording = RunRecord(self._run.record.absolute())
        try:
            if record is None:
                recording.delete()
            elif self._resume is None:
                recording.begin(self._recipe)
            else:
                recording.cut_back(version_of(self._resume))
        except OSError as error:
            why_not = f"{self._run.record} could not be written ({described(error)})"
            shutil.rmtree(self._run.record, ignore_errors=True)  # its writers find it gone, and write nothing
        if why_not:
            self._notify(f"`rlvla3 replay` cannot repeat this run: {why_not}")

    def recording(self) -> tuple[RunRecord | None, str]:
        """Where this run is recorded from its beginning on: None if it is not to be recorded or cannot be. And the reason why it cannot be, if it is to be.

        Nothing is changed yet.
        """
        recording = RunRecord(self._run.record.absolute())
        if self._recipe.runtime != "local" or not self._recipe.engine.record:
            return None, ""
        why_not = recording.why_not(self._recipe, version_of(self._resume)) if self._resume is not None else ""
        return (None, why_not) if why_not else (recording, "")

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
        """Evaluate. `rlvla3 eval` tells of the episodes that it has also where it is interrupted or fails; training evaluates again when it goes on."""
        evaluation = self._recipe.evaluation
        finished, aside = list[Finished](), list[Finished]()
        filming = Filming(self._recipe, runtime.rollouts.spec.spaces, self._emit, self._notify)

        async def look_at(episode: Finished) -> bool:
            self._emit(EpisodeFinished(episode))
            if episode.set_aside:
                aside.append(episode)
                return False
            finished.append(episode)
            filming.take_evaluated(runtime.rollouts, episode, when)
            return False

        self._emit(PhaseStarted("evaluate", evaluation.episodes))
        try:
            await runtime.collect(evaluation_book(self._recipe, runtime.rollouts.spec.spaces), evaluation.episodes, look_at)
        except BaseException:
            if when == "eval" and finished:
                self._tell_of_evaluation(runtime, when, self._version(finished), finished, self._trained_on(), len(aside), evaluation.episodes)
            raise
        filming.end()
        if (ran := len(finished)) < evaluation.episodes:
            self._notify(f"this evaluation ({when}) has {ran} of {number_of(evaluation.episodes, 'episode')}: the tickets of the others were set aside")
        self._tell_of_evaluation(runtime, when, self._version(finished), finished, self._trained_on(), len(aside))

    def _tell_of_evaluation(
        self, runtime: Runtime, when: str, version: Version, finished: Sequence[Finished], trained_on: TrainedOn, aside: int = 0, planned: int | None = None
    ) -> Mapping[str, Any]:
        """An evaluation is over. aside, planned: as in EvaluationFinished. Returns its line of metrics.jsonl."""
        spaces = runtime.rollouts.spec.spaces
        book = evaluation_book(self._recipe, spaces)
        states = EvaluatedStates.of(finished, spaces.initial_states, book.states, trained_on.states, trained_on.complete)
        evaluated = EvaluationFinished(when, version, success_rate(finished), states, self._recipe.evaluation.protocol, set_aside=aside, planned=planned)
        has_checkpoint = version > 0 or self._run.latest_checkpoint() is not None  # version 0 has one where it was cloned
        if self._recipe.evaluation.every and when != "eval" and has_checkpoint and is_better(evaluated.success, self._best):
            evaluated = replace(evaluated, best=True)
            self._best = event_json(evaluated)
            runtime.trainer.control.send(KeepBest(version))
        record, said = event_json(evaluated) or {}, when == "during" and self._accounts.evaluated(when)
        self._emit(evaluated)
        self._accounts = self._accounts.and_evaluation(record)
        if states and not said:
            self._notify(f"initial states ({when}): {states}")
        return record

    def _trained_on(self) -> TrainedOn:
        """What the present policy was trained on. Whenever it is evaluated, it is the policy of a checkpoint, or the one that the run starts from."""
        checkpoint = self._run.latest_checkpoint() or self._resume
        return TrainedOn.read(checkpoint / "policy" if checkpoint else self._recipe.policy.starts_from)

    def _version(self, finished: Sequence[Finished]) -> int:
        """The version that was evaluated: the published one, or else the one of the policy's checkpoint."""
        newest = max((episode.newest for episode in finished), default=-1)
        folder = self._recipe.policy.checkpoint
        return newest if newest >= 0 else int(folder.parent.name) if folder is not None and folder.parent.name.isdigit() else 0

    async def _improve(self, runtime: Runtime) -> None:
        training = self._recipe.training
        accounts = self._accounts
        ledger = self._ledger = training_ledger(self._recipe, runtime.rollouts.spec.spaces, version=accounts.version, before=accounts.tickets)
        progress = TrainingProgress(self._recipe, runtime, ledger)
        self._emit(PhaseStarted("train", training.updates))
        runtime.trainer.control.handle(Notice, self._emit)
        filming = Filming(self._recipe, runtime.rollouts.spec.spaces, self._emit, self._notify)
        beside = EvaluationsBeside(self._recipe, runtime, over=partial(self._tell_of_evaluation, runtime, "during"), notify=self._notify)
        async for published, episodes in runtime.train(ledger, end=training.updates, accounts=accounts, beside=beside, filming=filming):
            self._accounts = published.accounts.and_evaluations(self._accounts.evaluations)
            self._emit(progress.update(published, episodes))
        self._ledger = None
        await self._save(runtime)
        await beside.end(interrupted=self._interrupts > 0)
        filming.end()
        left = ledger.issued - ledger.trained
        if left:
            self._emit(
                Notice(
                    f"stopped after update {ledger.version}: {left} tickets of later updates were handed out and not trained on; a resumed run runs them again"
                )
            )

    async def _save(self, runtime: Runtime) -> None:
        """Keep a checkpoint of the present weights. While it cannot be written, they stay in the trainer's memory, and it is tried again.

        Raises WorkerError where it could not be written for training.checkpoint_patience_s. The user may interrupt this wait.
        """
        patience_s, began = self._recipe.training.checkpoint_patience_s, time.monotonic()
        for attempt in count():
            runtime.trainer.control.send(Save())
            answer: Saved | NotSaved = await runtime.trainer.control.receive()
            if isinstance(answer, Saved):
                self._emit(Notice(f"checkpoint {answer.version} kept in {self._run.checkpoints}"))
                return
            left = began + patience_s - time.monotonic()
            if left <= 0:
                newest = self._run.latest_checkpoint()
                kept = f"{newest} is the newest one: `rlvla3 train {self._run.path}` goes on from there" if newest else "no checkpoint was kept"
                raise WorkerError(f"{answer.why}. It was tried for {patience_s:g} s (training.checkpoint_patience_s); {kept}")
            if attempt == 0:
                self._notify(
                    f"{answer.why}. The weights stay in memory, and it is tried again for {patience_s:g} s (training.checkpoint_patience_s). "
                    f"Interrupt to end without this checkpoint"
                )
            await asyncio.sleep(min(TRY_AGAIN_S, left))

    def _emit(self, event: Event) -> None:
        for watcher in self._watchers:
            watcher.on(event)

    def _notify(self, text: str) -> None:
        self._emit(Notice(text))


class Interrupted(Exception):
    """The user wants the run to end now."""
