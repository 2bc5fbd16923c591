"""The local runtime: one host, a process a shard, generators and the trainer in processes of their own.

This is the coordinator's side: it lays the planes out, starts the workers, drives the ledger and puts everything away again. It imports no torch.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import psutil

from rlvla3.config import Recipe
from rlvla3.links.data_plane import DataPlane
from rlvla3.links.replay import NOT_ALIKE
from rlvla3.links.rollouts import Rollouts, RolloutSpec
from rlvla3.links.weight_memory import WeightMemory
from rlvla3.observability.meter import MeterBoard
from rlvla3.observability.recording import Recording
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.policies.registry import policy_options
from rlvla3.runtimes.control import Stopped
from rlvla3.runtimes.messages import Arrived, Failed, LastUpdate, Proceed, Published, Ready, StopAfterUpdate, Stuck, Train, Trained
from rlvla3.runtimes.names import TRAINER, generator_name, shard_name
from rlvla3.runtimes.process import Worker
from rlvla3.runtimes.shards import Shards, WorkerError
from rlvla3.scheduling.ledger import Ledger, TicketBook
from rlvla3.scheduling.replay import Replay, ReplayError
from rlvla3.scheduling.sharding import lay_out
from rlvla3.simulators.common import common_spaces
from rlvla3.types import Finished

ResultT = TypeVar("ResultT")
PATIENCE_S = 5.0
"""How long a worker may take to end when it is asked to."""


class LocalRuntime:
    """The workers of one run on this host.

    capacity: episodes that the data plane holds. trainer: whether the run needs one. resume: a checkpoint for the trainer. notify: told in a sentence what
    the user should know. record: where the run is recorded; or, for `repeat`, the recorded run that it repeats. board: where everybody's time goes; another
    kind than MeterBoard may be given, made from the workers' names.

        async with LocalRuntime(recipe, run, capacity=128, notify=print) as runtime:
            await runtime.collect(book, total=96, on_episode=look_at)
            async for published, episodes in runtime.train(ledger, end=20): ...

    Every process, pipe and block of shared memory is gone when the `async with` is left, however it is left. Raises WorkerError where a worker fails for good.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: RunDirectory,
        *,
        capacity: int,
        notify: Callable[[str], None],
        trainer: bool = True,
        resume: Path | None = None,
        record: Recording | Replay | None = None,
        board: Callable[[Sequence[str]], MeterBoard] = MeterBoard,
    ) -> None:
        self._recipe, self._run, self._resume, self._has_trainer = recipe, run, resume, trainer
        self._record = record
        engine, simulators = recipe.engine, recipe.mixed.values()
        spaces = common_spaces(recipe)
        trace = policy_options(recipe.policy, spaces).trace(spaces, recipe.policy.chunk)
        cores = sorted(os.sched_getaffinity(0))
        layout = lay_out([simulator.sharding for simulator in simulators], engine.generators, engine.serving, cores)
        self._plane = DataPlane(RolloutSpec(spaces, recipe.policy.chunk, trace, capacity), layout, engine.generators)
        self._memory = WeightMemory()
        self._generator_names = [generator_name(number) for number in range(engine.generators)]
        self.board = board([*map(shard_name, range(len(layout))), *self._generator_names, *([TRAINER] if trainer else [])])
        self._logs = run.path / "logs"
        self._failure: asyncio.Future[None]
        self._workers: list[Worker] = []
        self._generators: list[Worker] = []
        self._trainer: Worker | None = None
        self._shards = Shards(
            self._start_shard,
            self._plane,
            self.board,
            timeouts_s=[simulator.timeout_s for simulator in simulators],
            max_restarts=engine.max_restarts,
            notify=notify,
            fail=self.fail,
        )
        self._ending = False

    @property
    def rollouts(self) -> Rollouts:
        """The episodes in the data plane."""
        return self._plane.rollouts

    @property
    def trainer(self) -> Worker:
        assert self._trainer is not None, "this run was started without a trainer"
        return self._trainer

    def steps_made(self) -> int:
        """Environment steps since the start, those of running episodes among them."""
        return int(self._plane.counts["steps"].sum())

    def memory_bytes(self) -> int:
        """Memory of the coordinator and all workers, pages that they share counted once (proportional set size)."""
        processes = [psutil.Process(pid) for pid in (os.getpid(), *self._shards.processes, *(worker.process.pid for worker in self._workers))]
        return sum(process.memory_full_info().pss for process in processes)

    async def __aenter__(self) -> LocalRuntime:
        self._logs.mkdir(exist_ok=True)
        # Workers compute on one thread each: with more threads than cores, every parallel section waits for the one that lost its core.
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(variable, "1")
        # What is done when a message comes or a process ends has no caller: its errors end the run.
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.fail(context.get("exception") or WorkerError(context["message"])))
        self._failure = asyncio.get_running_loop().create_future()
        try:
            self._start_workers()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stop()
        if self._failure.done():
            self._failure.exception()  # whoever was to hear of it has, or has left for another reason

    def _start_workers(self) -> None:
        common = (self._recipe, self._plane, self.board, self._memory)
        if self._has_trainer:
            self._trainer = self._start(TRAINER, "rlvla3.runtimes.trainer:run_trainer", *common, self._run, self._resume, self._record)
        self._generators = [
            self._start(name, "rlvla3.runtimes.generator:run_generator", number, *common, self._record) for number, name in enumerate(self._generator_names)
        ]
        self._shards.start(self._generators)

    def _start_shard(self, shard: int) -> Worker:
        name = shard_name(shard)
        return Worker(name, "rlvla3.runtimes.shard:run_shard", shard, self._recipe, self._plane, self.board, log=self._log(name))

    async def _stop(self) -> None:
        self._ending = True
        await asyncio.gather(self._shards.stop(PATIENCE_S), *(worker.stop(PATIENCE_S) for worker in self._workers))

    def fail(self, error: Exception) -> None:
        """End the present `guard` with `error`."""
        if not self._failure.done():
            self._failure.set_exception(error)

    async def guard(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Do `work`, unless a worker fails first: then its error is raised here and the work is cancelled."""
        task = asyncio.ensure_future(work)
        self._failure.add_done_callback(lambda _: task.cancel())
        try:
            return await task
        except asyncio.CancelledError:
            if self._failure.done():
                self._failure.result()
            raise
        except Stopped:
            await self._failure  # a worker's pipe closed before its end was heard of
            raise

    async def ready(self) -> None:
        """Wait until every worker has been built."""
        for worker in self._workers:
            message = await worker.control.receive()
            assert isinstance(message, Ready)
        await self._shards.ready()

    async def collect(self, book: TicketBook, total: int | None, on_episode: Callable[[Finished], Awaitable[bool]], at_once: int | None = None) -> None:
        """Run tickets 0, 1, 2, ... of `book`, at most `at_once` of them at a time (None: as many as the data plane holds), and give their episodes to
        `on_episode` in ticket order.

        An episode may be read from `rollouts` until `on_episode` returns; it returns True once it has enough. total: how many tickets there are (None: no end).
        """
        ledger = Ledger(book, batch=1, max_staleness=(at_once or self.rollouts.spec.capacity) - 1, total=total)
        news = asyncio.Event()
        self._shards.serve(ledger, lambda _: news.set())

        async def until(condition: Callable[[], Any]) -> None:
            while not condition():
                news.clear()
                await news.wait()

        while total is None or ledger.version < total:
            await until(lambda: ledger.finished(ledger.version))
            if await on_episode(ledger.finished(ledger.version)[0]):
                break
            ledger.advance(ledger.version + 1)
            self._shards.grant()
        ledger.close()
        await until(lambda: not ledger.running)  # wanted by nobody any more, but their simulators are not free before they end

    async def train(self, ledger: Ledger, end: int) -> AsyncIterator[tuple[Published, list[Finished]]]:
        """Make updates up to version `end`; yields each as it is published, with its episodes in ticket order."""
        self._serve(ledger)
        async for published, episodes in self._updates(ledger, end):
            yield published, episodes

    async def repeat(self, ledger: Ledger, end: int) -> AsyncIterator[tuple[Published, list[Finished]]]:
        """`train`, in a replay: each update only when every recorded inference of the version before it has been made."""
        control = self._generators[0].control
        control.handle(Stuck, self._on_stuck)
        self._serve(ledger)
        while ledger.version < end:
            control.send(Proceed(ledger.version))
            await control.receive()  # VersionDone
            async for published, episodes in self._updates(ledger, ledger.version + 1):
                yield published, episodes

    def _serve(self, ledger: Ledger) -> None:
        control = self.trainer.control
        self._shards.serve(ledger, lambda finished: control.send(Arrived(finished.ticket.index, finished.decisions)))

    async def _updates(self, ledger: Ledger, end: int) -> AsyncIterator[tuple[Published, list[Finished]]]:
        control = self.trainer.control
        control.send(Train(ledger.version, end))
        while not isinstance(message := await control.receive(), Trained):
            episodes = ledger.advance(message.version)
            self._shards.grant()
            yield message, episodes

    def finish_update(self, ledger: Ledger) -> None:
        """Let the trainer's present update be the last: it says which that is, and no ticket of a later one is handed out."""
        self.trainer.control.handle(LastUpdate, lambda message: ledger.close(after_update=message.update))
        self.trainer.control.send(StopAfterUpdate())

    def _on_stuck(self, message: Stuck) -> None:
        if self._shards.stuck(message.waiting):
            self.fail(ReplayError(f"nobody asks for decision {message.row} of ticket {message.ticket}, which was recorded: {NOT_ALIKE}"))

    def kill(self) -> None:
        """End every worker at once."""
        self._shards.kill()
        for worker in self._workers:
            worker.process.kill()

    def _start(self, name: str, body: str, *args: Any) -> Worker:
        worker = Worker(name, body, *args, log=self._log(name))
        self._workers.append(worker)
        worker.control.handle(Failed, lambda message: self.fail(_worker_error(name, message, worker)))
        worker.on_exit(lambda: self._on_exit(worker))
        return worker

    def _on_exit(self, worker: Worker) -> None:
        if self._ending:
            return
        worker.control.poll()  # if it said why, that has been taken for the error by now
        worker.process.join()
        self.fail(WorkerError(f"the {worker.name} ended by itself, exit code {worker.process.exitcode}. The last it printed:\n{worker.last_words()}"))

    def _log(self, name: str) -> Path:
        return self._logs / f"{name.replace(' ', '-')}.log"


def _worker_error(name: str, failed: Failed, worker: Worker) -> WorkerError:
    return WorkerError(
        failed.message if failed.expected else f"the {name} failed with {failed.kind}: {failed.message}\n{failed.traceback}Its output is in {worker.log}"
    )
