"""A trainer process: it obeys the coordinator. It clones, runs the train loop, and writes checkpoints between updates.

Several ranks are several of these processes. Every rank gets every message and does the same work, each on its own tickets. Only rank 0 answers, publishes and
records. An answer is given only after all ranks have finished with what the answer releases.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rlvla3.config import Recipe
from rlvla3.demonstrations.room import in_words
from rlvla3.demonstrations.selection import notices, select_demonstrations
from rlvla3.devices import choose_device, work_on
from rlvla3.errors import RecipeError
from rlvla3.links.rendezvous import Rendezvous
from rlvla3.links.rollouts import Rollouts
from rlvla3.links.weights.plane import WeightPlane
from rlvla3.links.weights.versions import WeightMemory
from rlvla3.loops import train
from rlvla3.observability.accounts import Accounts
from rlvla3.observability.events import CloneStep, Notice
from rlvla3.observability.meter import Meter, MeterBoard
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.run_record import RunRecord
from rlvla3.parts import demonstration_book, is_due_beside, make_streamer, ticket_book
from rlvla3.policies.registry import make_policy
from rlvla3.policies.trained_on import TrainedOn
from rlvla3.runtimes.processes.control import Control
from rlvla3.runtimes.processes.messages import (
    Clone,
    Copied,
    Demonstrated,
    KeepBest,
    KeepCheckpoint,
    LastUpdate,
    NotSaved,
    Pinned,
    Published,
    Ready,
    Release,
    Save,
    Saved,
    StopAfterUpdate,
    Train,
    Trained,
)
from rlvla3.runtimes.worker_names import trainer_name
from rlvla3.runtimes.workers.device import check_on_host, trainer_memory
from rlvla3.runtimes.workers.trainer_loop import ArrivingTrajectories, MeteredLearner
from rlvla3.scheduling.ledger import TicketBook
from rlvla3.scheduling.recorded_run import RecordedRun
from rlvla3.training.checkpoint import POLICY, CheckpointError, CheckpointWriter, load_checkpoint
from rlvla3.training.cloning import LOWER_CLONING_RATE, DemonstrationSelection, ExpertEpisode, clone
from rlvla3.training.learner import Learner
from rlvla3.training.offload import learner_tensors, make_residence
from rlvla3.training.ranks import SINGLE_RANK, DistributedRanks, Ranks
from rlvla3.training.sampler_mismatch import MismatchWarning
from rlvla3.types import Version


async def run_trainer(
    control: Control,
    recipe: Recipe,
    rollouts: Rollouts,
    board: MeterBoard,
    memory: WeightMemory,
    run: RunDirectory,
    resume: Path | None,
    record: RunRecord | RecordedRun | None,
    meeting: Rendezvous | None = None,
) -> None:
    """Build policy and learner, publish their version unless cloning comes first, and obey the coordinator until cancelled.

    record: where the order of episodes in each update is recorded, or the recorded run that is repeated. meeting: where this rank meets the other ranks.
    """
    name = trainer_name(meeting.rank if meeting else 0)
    meter = board.meter(name)
    meter.enter("start")
    torch.set_num_threads(recipe.training.threads)
    torch.manual_seed(recipe.seed)
    device = _device(recipe.training.device, meeting)
    work_on(device)
    check_on_host(recipe.weights.on_host, device, "training.device")
    ranks = DistributedRanks(meeting, device, waiting=partial(meter, "ranks")) if meeting else SINGLE_RANK
    share = trainer_memory(recipe, meeting.rank if meeting else 0, device)
    try:
        with share.kept():
            trainer = Trainer(control, recipe, rollouts, meter, memory, run, resume, record, device, ranks)
            control.send(Ready())
            while True:
                meter.enter("command")
                message = await control.receive()
                meter.enter("overhead")
                share.leave_room()
                await trainer.obey(message)
    finally:
        ranks.close()


def _device(setting: str, meeting: Rendezvous | None) -> torch.device:
    """The device of a rank. Each rank has a GPU of its own, counted from the one that is set."""
    device = choose_device(setting, "training.device")
    if device.type == "cuda" and meeting is not None:
        first, there = device.index or 0, torch.cuda.device_count()
        if first + meeting.local_rank >= there:
            raise RecipeError(
                f"training.ranks={meeting.size} needs a GPU for each rank of this host, and from {device} on there are {there - first}: "
                f"set training.ranks={there - first}, or training.device=cpu"
            )
        return torch.device("cuda", first + meeting.local_rank)
    return device


def _order(record: RunRecord | RecordedRun | None) -> Callable[[int], Sequence[int]] | None:
    """The order in which the tickets of an update are to be emitted, where a recorded run is repeated."""
    return record.emission if isinstance(record, RecordedRun) else None


class Trainer:
    """Obeys one command at a time. It is also the publisher of the train loop."""

    def __init__(
        self,
        control: Control,
        recipe: Recipe,
        rollouts: Rollouts,
        meter: Meter,
        memory: WeightMemory,
        run: RunDirectory,
        resume: Path | None,
        record: RunRecord | RecordedRun | None,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.control, self.recipe, self.meter, self.ranks = control, recipe, meter, ranks
        self.recorder = record.trainer_writer(lambda text: self._say(Notice(text))) if isinstance(record, RunRecord) and ranks.first else None
        spaces = rollouts.spec.spaces
        self.policy = make_policy(recipe.policy, spaces)
        self.learner = Learner(self.policy, recipe, rollouts, device, ranks)
        self.mismatch_warning = MismatchWarning(recipe, self.policy)
        self.residence = make_residence(recipe.engine.offload, device, partial(learner_tensors, self.learner), partial(meter, "offload"))
        self.version: Version = load_checkpoint(resume, self.policy, self.learner) if resume else 0
        self.checkpoints = CheckpointWriter(
            run, recipe.training.keep_checkpoints, self.learner, recipe.policy.name, notify=lambda text: self._say(Notice(text))
        )
        self.checkpoints.trained_on = TrainedOn.read(resume / POLICY if resume else recipe.policy.starts_from)
        self.memory, self.weights = memory, self._plane(memory) if ranks.first else None
        streamer = make_streamer(recipe, order=_order(record), rank=ranks.rank, ranks=ranks.size)
        self.trajectories = ArrivingTrajectories(streamer, control, meter, self.learner.finish_passes)
        self.metered_learner = MeteredLearner(self.learner, streamer, meter, lambda: self.trajectories.following, self.residence.enter)
        self.rollouts = rollouts
        self.book = ticket_book(recipe, spaces)
        horizon = self.policy.options.horizon_of(recipe.policy.chunk)
        self.demonstrations = DemonstrationSelection(spaces, horizon, recipe.tasks, recipe.clone.demonstrations) if recipe.clone else None
        self._update, self._is_last, self._checkpoint_is_asked = -1, False, False
        self.accounts = Accounts(self.version)
        control.handle(StopAfterUpdate, self._stop_after_update)
        control.handle(KeepCheckpoint, self._keep_checkpoint)
        control.handle(Release, self._release)
        control.handle(KeepBest, lambda message: self.checkpoints.keep_best(message.version))
        if resume or not recipe.begins_by_cloning:
            self.learner.check_weights("the policy was built", "Start from another policy.checkpoint, or mend what draws the policy's weights")
            self._publish()
        self.residence.leave()

    async def obey(self, message: Any) -> None:
        match message:
            case Demonstrated(finished):
                assert self.demonstrations is not None
                self.demonstrations.add(finished.ticket.index, ExpertEpisode.copy_of(self.rollouts, finished) if finished.success else None)
                self.ranks.barrier()  # after the answer, another episode may take the place of this one
                self._say(Copied(finished.ticket, self.demonstrations.complete))
            case Clone():
                self.residence.enter()
                self._clone()
            case Train(first, end, accounts):
                self.accounts, self._began = accounts, time.monotonic() - accounts.seconds
                if self._pins(self.version):
                    self._pin(self.checkpoints.trained_on)
                await train(self._updates(first, end), self.trajectories, self.metered_learner, self)
                self._finish_publication()
                self._say(Trained(self.version))
            case Save():
                self.residence.enter()
                with self.meter("checkpoint"):
                    answer = self._save()
                self._leave()
                self._say(answer)

    def _save(self) -> Saved | NotSaved:
        try:
            self.checkpoints.write(self.accounts)
        except CheckpointError as error:  # on all ranks
            return NotSaved(str(error))
        return Saved(self.version)

    async def publish(self, version: Version, metrics: Mapping[str, float]) -> None:
        """The update is done: put its weights onto the weight plane, and then announce the version. The next update need not wait for that.

        With engine.offload, generators enter the device as soon as they hear of the version, so it is announced last.
        """
        self.learner.check_weights(f"update {version}", self.learner.way_out)
        self.version = version
        self.accounts = self.accounts.and_update(self.trajectories.taken(version - 1), self.trajectories.tickets, time.monotonic() - self._began)
        if warning := self.mismatch_warning.after(version - 1, metrics):
            self._say(Notice(warning))
        if self.recorder:
            emitted = self.trajectories.streamer.emitted
            self.recorder.append(list(emitted), update=version - 1, decisions=list(emitted.values()))
        if self.rollouts.spec.spaces.initial_states:
            emitted = self.trajectories.streamer.emitted
            self._trained_on_tickets(self.book, [ticket for ticket, decisions in emitted.items() if decisions])
        self._finish_publication()
        self.control.poll()  # an evaluation that is over makes room for the next one
        takes_turns, pins = self.recipe.engine.offload, self._pins(version)
        tell = partial(self._tell_of, Published(version, metrics, self.accounts), self.checkpoints.trained_on if pins else None)
        with self.meter("publish"):
            self._publish(then=None if takes_turns else tell)
        self.control.poll()
        asked, pins = self.ranks.broadcast((self._checkpoint_is_asked, pins))
        if asked or pins or version % self.recipe.training.checkpoint_every == 0:
            self._checkpoint_is_asked = False
            if pins:
                self.checkpoints.keep(version)
            with self.meter("checkpoint"):
                self.checkpoints.begin(self.accounts, asked)
        if takes_turns:
            self._leave()
            self.control.poll()  # a wish that this update be the last is answered before tickets of the next one are handed out
            tell()

    def _publish(self, then: Callable[[], None] | None = None) -> None:
        """Put the present version onto the weight plane. All ranks bring their FSDP shards, and rank 0 publishes.

        then: called when the version is there, maybe from another thread while training goes on. Without it, this waits.
        """
        self.learner.parallel.gather_published()
        if self.weights is not None:
            self.weights.publish(self.version, then)

    def _finish_publication(self) -> None:
        """Wait until the version before is on the weight plane and announced."""
        if self.weights is not None and self.weights.going_on:
            with self.meter("publication"):
                self.weights.finish()

    def _pins(self, version: Version) -> bool:
        """Whether `version` is to be evaluated beside training. Only rank 0 knows. What is due while another evaluation goes on is left out."""
        due = self.ranks.first and is_due_beside(self.recipe, version) and not self.accounts.evaluated("during", version)
        return due and self.memory.pinned < 0

    def _pin(self, trained_on: TrainedOn) -> None:
        """The newest version on the weight plane is to be evaluated beside training. trained_on: what that version was trained on."""
        self.memory.pin()
        self._say(Pinned(self.memory.pinned, trained_on))

    def _tell_of(self, published: Published, pinned: TrainedOn | None) -> None:
        """The version is on the weight plane. pinned: what it was trained on, if it is to be evaluated. The next update may have begun by now."""
        if pinned is not None:
            self._pin(pinned)
        self._say(published)

    def _release(self, message: Release) -> None:
        self.accounts = self.accounts.and_evaluation(message.evaluation)
        self.checkpoints.let_go(self.memory.pinned)
        self.memory.release()

    def _leave(self) -> None:
        """With engine.offload: when this returns, no rank has anything on its device."""
        self.residence.leave()
        if self.residence.away:
            self.ranks.barrier()

    def _plane(self, memory: WeightMemory) -> WeightPlane:
        loop = asyncio.get_running_loop()

        def fail(error: BaseException) -> None:
            loop.call_soon_threadsafe(_raise, error)  # in the event loop, as perhaps nobody waits for the publication

        weights = self.recipe.weights
        overlap = False if self.recipe.engine.offload else None  # a copy of the weights would stay on the device
        return WeightPlane(memory, self.learner.parallel.published(), weights.dtype, weights.on_host, overlap=overlap, fail=fail)

    def _say(self, message: Any) -> None:
        """Tell the coordinator. Only rank 0 does."""
        if self.ranks.first:
            self.control.send(message)

    def _updates(self, first: int, end: int) -> Iterator[int]:
        for update in range(first, end):
            self.control.poll()
            if self.ranks.broadcast(self._is_last):
                return
            self._update = update
            yield update

    def _stop_after_update(self, _: StopAfterUpdate) -> None:
        self._is_last = True
        self._say(LastUpdate(self._update))

    def _keep_checkpoint(self, _: KeepCheckpoint) -> None:
        self._checkpoint_is_asked = True

    def _clone(self) -> None:
        assert self.recipe.clone is not None and self.demonstrations is not None
        with self.meter("clone"):
            if self.recipe.clone.files:
                self._read_files(self.demonstrations)
                self.checkpoints.trained_on = self.checkpoints.trained_on.and_unknown()
            if where := in_words(self.demonstrations.bytes):
                self._say(Notice(where))
            for step, loss in clone(self.policy, self.demonstrations, self.recipe.clone, self.recipe.seed):
                self._say(CloneStep(step, self.recipe.clone.steps, loss))
                self.meter.enter("clone")  # each step by itself: a worker that stays in a stage for long counts as hung
        self.learner.check_weights("cloning", LOWER_CLONING_RATE)
        if not self.recipe.clone.files:
            self._trained_on_tickets(demonstration_book(self.recipe, self.rollouts.spec.spaces), self.demonstrations.selected())
        self._publish()
        self._leave()
        self._say(Published(self.version, {}, self.accounts))

    def _trained_on_tickets(self, book: TicketBook, tickets: Iterable[int]) -> None:
        """The policy has learned from these tickets of a book."""
        sets = self.rollouts.spec.spaces.initial_states
        self.checkpoints.trained_on = self.checkpoints.trained_on.and_tickets(map(book.ticket, tickets), sets)

    def _read_files(self, demonstrations: DemonstrationSelection) -> None:
        recorded = select_demonstrations(self.recipe)
        for text in notices(recorded):
            self._say(Notice(text))
        for number, demonstration in enumerate(recorded):
            demonstrations.add(number, demonstration)
            self.meter.enter("clone")


def _raise(error: BaseException) -> None:
    raise error
