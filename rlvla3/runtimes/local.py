"""The local runtime: one host. Every shard, every generator and every rank of the trainer is a process beside the coordinator. Nothing here imports torch."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rlvla3.config import Recipe
from rlvla3.errors import WorkerError
from rlvla3.links.rendezvous import meet_on_this_host
from rlvla3.links.replay_port import NOT_ALIKE
from rlvla3.links.rollouts import Rollouts
from rlvla3.observability.meter import MeterBoard
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.run_record import RunRecord
from rlvla3.observability.tracing import make_board
from rlvla3.runtimes.processes.control import Stopped
from rlvla3.runtimes.processes.lanes import Lane
from rlvla3.runtimes.processes.messages import ProceedTo, Published, ReplayStuck
from rlvla3.runtimes.processes.process import WorkerProcess
from rlvla3.runtimes.runtime import NONE_YET, EveryRank, Runtime
from rlvla3.runtimes.sharing.measuring import choose_share
from rlvla3.runtimes.supervision.host_supervisor import HostSupervisor, one_thread_each
from rlvla3.runtimes.worker_names import trainer_name
from rlvla3.scheduling.ledger import Ledger
from rlvla3.scheduling.recorded_run import RecordedRun, ReplayError
from rlvla3.simulators.every_step import StepsToKeep
from rlvla3.types import Finished

TRAINER, TRAINER_LANE = "rlvla3.runtimes.workers.trainer_worker:run_trainer", "rlvla3.runtimes.workers.lanes:run_trainer_lane"


class LocalRuntime(Runtime):
    """The workers of one run on this host.

    capacity: episodes that the data plane holds. beside: more of them, of an evaluation beside training. trainer: whether the run needs one. resume: a
    checkpoint for the trainer. notify: called with a sentence for the user. record: where the run is recorded, or the recorded run that `repeat` repeats.
    board: makes the board of the workers' times from their names (None: as the recipe asks). keep: whose environment
    steps simulators keep in files (None: of no episode).
    """

    def __init__(
        self,
        recipe: Recipe,
        run: RunDirectory,
        *,
        capacity: int,
        beside: int = 0,
        notify: Callable[[str], None],
        trainer: bool = True,
        resume: Path | None = None,
        record: RunRecord | RecordedRun | None = None,
        board: Callable[[Sequence[str]], MeterBoard] | None = None,
        keep: StepsToKeep | None = None,
    ) -> None:
        run = RunDirectory(run.path.absolute())  # a policy or an environment may change the folder of its process
        board = board or make_board(recipe, run.samples)
        self._recipe, self._run, self._resume, self._record = recipe, run, resume and resume.absolute(), record
        self._logs, self._trainer_names = run.path / "logs", [*map(trainer_name, range(recipe.training.ranks))] if trainer else []
        self._host = HostSupervisor(
            recipe,
            capacity=capacity,
            beside=beside,
            logs=self._logs,
            notify=notify,
            fail=self.fail,
            others=self._trainer_names,
            record=record,
            board=board,
            keep=keep,
        )
        self.board, self.server = self._host.board, self._host.shards
        self._trainers: list[WorkerProcess] = []
        self._notify, self._started = notify, False

    @property
    def rollouts(self) -> Rollouts:
        """The episodes in the data plane."""
        return self._host.plane.rollouts

    @property
    def trainer(self) -> EveryRank:
        assert self._trainers, "this run was started without a trainer"
        return EveryRank(self._trainers)

    def steps_made(self) -> int:
        return self._host.steps_made()

    def shard_costs(self) -> list[tuple[float, int]]:
        """The CPU seconds of each simulator's process since its start, and its environment steps. All simulators run."""
        return self._host.shard_costs()

    def batching(self) -> Sequence[Mapping[str, float]]:
        return self._host.plane.choices.read()

    def memory_bytes(self) -> int:
        return self._host.memory_bytes()

    async def __aenter__(self) -> LocalRuntime:
        self._logs.mkdir(exist_ok=True)
        self._variables = one_thread_each()
        # Handlers of messages and of ended processes have no caller, so their errors end the run here.
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self._on_stray_error(context))
        self._failure = asyncio.get_running_loop().create_future()
        return self

    def _on_stray_error(self, context: Mapping[str, Any]) -> None:
        error = context.get("exception") or WorkerError(context["message"])
        if not isinstance(error, Stopped):  # Stopped: a message to a worker that has just ended. The end of its process is reported, and says why
            self.fail(error)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stop()
        if self._failure.done():
            self._failure.exception()  # `guard` has raised it, or the run ends for another reason: do not warn that nobody has looked

    async def _stop(self) -> None:
        await self._host.stop()
        for variable in self._variables:
            os.environ.pop(variable, None)

    async def _start(self) -> None:
        """Start every worker but the simulators, unless they have been started. How generator and trainer share a device is chosen before."""
        if self._started:
            return
        self._started = True
        share = await choose_share(self._recipe, self._logs, self._notify) if self._trainer_names else "processes"
        self._recipe = self._host.recipe = self._recipe.sharing(share)
        self._start_workers()

    def _start_workers(self) -> None:
        host = self._host
        names = self._trainer_names
        meetings = meet_on_this_host(len(names)) if len(names) > 1 else [None for _ in names]
        arguments = (self._recipe, host.plane.rollouts, host.board, host.memory, self._run, self._resume, self._record)
        in_lane = self._recipe.engine.share == "lanes"
        bodies = [TRAINER_LANE if in_lane and name == names[0] else TRAINER for name in names]
        ranks = [Lane(name, body, (*arguments, meeting)) for name, body, meeting in zip(names, bodies, meetings, strict=True)]
        beside, alone = (ranks[:1], ranks[1:]) if in_lane else ([], ranks)
        others = [worker for rank in alone for worker in host.start_lanes([rank])]
        self._trainers = [*host.start(beside), *others]
        for meeting in meetings:
            if meeting and meeting.listener:
                meeting.listener.close()  # rank 0 has it

    async def ready(self) -> None:
        await self._start()
        await self._host.ready()

    async def trainer_ready(self) -> None:
        await self._start()
        await self._host.workers_ready()

    async def repeat(self, ledger: Ledger, end: int) -> AsyncIterator[tuple[Published, list[Finished]]]:
        """`train` in a replay: an update begins only when all recorded inferences of the version before it are made."""
        assert isinstance(self._record, RecordedRun)
        control = self._host.generators[0].control
        control.handle(ReplayStuck, self._on_stuck)
        self.serve_trainer(ledger)
        accounts = NONE_YET
        while ledger.version < end:
            for index in self._record.set_aside(ledger.version):
                finished = Finished.without_episode(ledger.book.ticket(index))
                ledger.hand_in(finished)
                self._host.shards.set_aside(finished)
            control.send(ProceedTo(ledger.version))
            await control.receive()  # VersionDone
            async for published, episodes in self.updates(ledger, ledger.version + 1, accounts):
                accounts = published.accounts
                yield published, episodes

    def kill(self) -> None:
        self._host.kill()

    def _on_stuck(self, message: ReplayStuck) -> None:
        if self._host.shards.stuck(message.waiting):
            self.fail(ReplayError(f"nobody asks for decision {message.row} of ticket {message.ticket}, which was recorded: {NOT_ALIKE}"))
