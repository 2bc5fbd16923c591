"""The workers of one host: simulators and generators around one data plane, and the trainer where it is on this host. Nothing here imports torch."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import psutil

from rlvla3.config import Recipe
from rlvla3.errors import WorkerError
from rlvla3.links.data_plane import DataPlane
from rlvla3.links.weights.versions import WeightMemory
from rlvla3.observability.formatting import number_of
from rlvla3.observability.meter import MeterBoard
from rlvla3.observability.run_record import RunRecord
from rlvla3.open_files import allow_open_files
from rlvla3.parts import rollout_spec
from rlvla3.process_ends import MemoryKills, ending_in_words
from rlvla3.runtimes.assignment import Assignment
from rlvla3.runtimes.processes.lanes import Lane
from rlvla3.runtimes.processes.messages import Failed, Ready, WorkerNotice
from rlvla3.runtimes.processes.process import WorkerProcess, start_lanes, start_worker
from rlvla3.runtimes.runtime import TrainerLost
from rlvla3.runtimes.supervision.limits import StageLimits, kind_of
from rlvla3.runtimes.supervision.replacements import Replacements
from rlvla3.runtimes.supervision.shard_supervisor import CannotReplace, ShardSupervisor
from rlvla3.runtimes.supervision.watch import Watch
from rlvla3.runtimes.worker_names import generator_name, shard_name
from rlvla3.scheduling.recorded_run import RecordedRun
from rlvla3.scheduling.sharding import lay_out
from rlvla3.simulators.drawing import place_simulator
from rlvla3.simulators.every_step import StepsToKeep

GENERATOR, GENERATOR_LANE = "rlvla3.runtimes.workers.generator_worker:run_generator", "rlvla3.runtimes.workers.lanes:run_generator_lane"

PATIENCE_S = 5.0
"""How long a worker may take to end when it is asked to."""


class HostSupervisor:
    """Starts, watches and ends all workers of a run on one host.

    capacity: episodes that the data plane holds. logs: the folder that workers print to. notify: called with a sentence for the user. fail: ends the run with
    an error. others: names of workers that `start_lanes` adds. record: where inferences are recorded, or the recorded run that is repeated. board: makes the
    board of the workers' times from their names. draw_on: the GPUs that simulators may draw on where the recipe does not say, such as cuda:0 (empty: all).
    keep: whose environment steps simulators keep in files (None: of no episode).

    Raises SimulatorError or RecipeError if a simulator is to draw and cannot here, before anything is started.

        host = HostSupervisor(recipe, capacity=128, logs=folder, notify=print, fail=stop)
        host.start()                                    # in a running event loop
        await host.ready()
        host.shards.serve(ledger, on_finished)
        await host.stop()
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        capacity: int,
        beside: int = 0,
        logs: Path,
        notify: Callable[[str], None],
        fail: Callable[[Exception], None],
        others: Sequence[str] = (),
        record: RunRecord | RecordedRun | None = None,
        board: Callable[[Sequence[str]], MeterBoard] = MeterBoard,
        draw_on: Sequence[str] = (),
        keep: StepsToKeep | None = None,
    ) -> None:
        engine, placed = recipe.engine, [place_simulator(simulator, draw_on) for simulator in recipe.mixed.values()]
        for sentence in dict.fromkeys(sentence for _, sentence in placed if sentence):
            notify(sentence)
        simulators = [simulator for simulator, _ in placed]
        layout = lay_out([simulator.sharding for simulator in simulators], engine.generators, engine.serving, sorted(os.sched_getaffinity(0)))
        allow_open_files(len(layout) + engine.generators + len(others))
        self.recipe, self.plane = recipe, DataPlane(rollout_spec(recipe, capacity, beside), layout, engine.generators)
        self.memory = WeightMemory(pins=beside > 0)
        self._generator_names = [generator_name(number) for number in range(engine.generators)]
        self.board = board([*map(shard_name, range(len(layout))), *self._generator_names, *others])
        self.generators: list[WorkerProcess] = []
        self._logs, self._fail, self._notify, self._record, self._keep = logs, fail, notify, record, keep
        self._workers: list[WorkerProcess] = []
        self._unbuilt: set[str] = set()
        self._news_of_building = asyncio.Event()
        self._failed: set[str] = set()
        self._replacements = {name: Replacements(engine.max_restarts) for name in self._generator_names}
        self._memory_kills = MemoryKills()
        self._ending = False
        self._limits = {kind: StageLimits(recipe.supervision) for kind in ("generator", "trainer")}
        self.watch = Watch(self.board, recipe.supervision, notify, fail)
        slots = [len(shard.slots) for shard in layout]
        assignment = Assignment(self.plane.counts["serves"], slots, engine.generators, engine.elastic, self.board, time.monotonic, self.steps_made)
        self.shards = ShardSupervisor(
            self._start_shard,
            self.plane,
            self.board,
            assignment,
            self.watch,
            limits=[StageLimits(recipe.supervision, simulator) for simulator in simulators],
            max_restarts=engine.max_restarts,
            max_set_aside=engine.max_set_aside,
            notify=notify,
            fail=fail,
        )

    def start(self, beside: Sequence[Lane] = ()) -> list[WorkerProcess]:
        """Start every generator. beside: workers that are lanes of the first generator's process. Returns them, started."""
        *started, first = self.start_lanes([*beside, self._generator_lane(0, GENERATOR_LANE if beside else GENERATOR)])
        others = [self.start_lanes([self._generator_lane(number)]) for number in range(1, len(self._generator_names))]
        self.generators = [first, *chain.from_iterable(others)]
        return started

    def start_lanes(self, lanes: Sequence[Lane]) -> list[WorkerProcess]:
        """Start workers in one process. A generator that is alone in its process is replaced if it is lost. Every other one ends the run, or its attempt."""
        for lane in lanes:
            self.board.restart(lane.name)
        workers = start_lanes(lanes, self._log("-and-".join(lane.name for lane in lanes)))
        self.watch.begin()
        for worker in workers:
            self.watch.add(worker, self._limits[kind_of(worker.name)])
            worker.control.handle(Failed, partial(self._on_failed, worker))
            worker.control.handle(WorkerNotice, partial(self._on_notice, worker))
            worker.control.handle(Ready, partial(self._on_ready, worker))
            worker.on_exit(partial(self._on_exit, workers))
        self._workers += workers
        self._unbuilt.update(worker.name for worker in workers)
        return workers

    async def ready(self) -> None:
        """Start every simulator that is not started yet, and wait until every worker is built."""
        if not self.shards.processes:
            self.shards.start(self.generators)
        await self.workers_ready()
        await self.shards.ready()

    async def workers_ready(self) -> None:
        """Wait until every worker is built, simulators excepted."""
        while self._unbuilt:
            self._news_of_building.clear()
            await self._news_of_building.wait()

    async def stop(self) -> None:
        self._ending = True
        self.watch.end()
        await asyncio.gather(self.shards.stop(PATIENCE_S), *(worker.stop(PATIENCE_S) for worker in self._workers))

    def kill(self) -> None:
        """Kill every worker."""
        self.watch.end()
        self.shards.kill()
        for worker in self._workers:
            worker.kill()

    def steps_made(self) -> int:
        """Environment steps since the start, including those of running episodes."""
        return int(self.plane.counts["steps"].sum())

    def shard_costs(self) -> list[tuple[float, int]]:
        """The CPU seconds of each simulator's process since its start, and its environment steps. All simulators run."""
        times = (psutil.Process(pid).cpu_times() for pid in self.shards.processes)
        return [(time.user + time.system, int(steps)) for time, steps in zip(times, self.plane.counts["steps"], strict=True)]

    def memory_bytes(self) -> int:
        """Bytes of memory of this process and all workers (proportional set size: pages that they share count once)."""
        processes = [psutil.Process(pid) for pid in {os.getpid(), *self.shards.processes, *(worker.process.pid for worker in self._workers)}]
        return sum(process.memory_full_info().pss for process in processes)

    def _generator_lane(self, number: int, body: str = GENERATOR) -> Lane:
        return Lane(self._generator_names[number], body, (number, self.recipe, self.plane, self.board, self.memory, self._record, self._logs))

    def _start_shard(self, shard: int) -> WorkerProcess:
        name, body = shard_name(shard), "rlvla3.runtimes.workers.shard_worker:run_shard"
        python = [*self.recipe.mixed.values()][self.plane.shards[shard].simulator].python
        arguments = (shard, self.recipe, self.plane, self.board, self._keep)
        return start_worker(name, body, *arguments, log=self._log(name), own_session=True, python=python)

    def _on_ready(self, worker: WorkerProcess, _: Ready) -> None:
        self._unbuilt.discard(worker.name)
        self._news_of_building.set()

    def _on_notice(self, worker: WorkerProcess, notice: WorkerNotice) -> None:
        self._notify(f"{worker.name}: {notice.text}")

    def _on_failed(self, worker: WorkerProcess, failed: Failed) -> None:
        self._failed.add(worker.name)
        error = _error(worker.name, failed, worker)
        if failed.kind == "RankLost":  # a rank that misses another one does not know why: the error of the other rank is reported first
            asyncio.get_running_loop().call_later(PATIENCE_S, self._fail, error)
        else:
            self._fail(error)

    def _on_exit(self, workers: Sequence[WorkerProcess]) -> None:
        """The process of `workers` has ended."""
        for worker in workers:
            self.watch.drop(worker.name)
            worker.control.poll()
        if self._ending or any(worker.name in self._failed for worker in workers):  # the error of one was reported
            return
        process, who = workers[0].process, " and ".join(worker.name for worker in workers)
        workers[0].reap()
        who = f"process of {who}" if len(workers) > 1 else who
        killed = next((worker.killed for worker in workers if worker.killed), "")
        ending = killed or ending_in_words(process.exitcode or 0, self._memory_kills.happened())
        if process.exitcode is None or process.exitcode >= 0:
            words = f". The last it printed:\n{said}" if (said := workers[0].last_words()) else f", and it has printed nothing into {workers[0].log}"
            self._fail(WorkerError(f"the {who} was lost: {ending}{words}"))
        elif workers[0].name in self._generator_names and len(workers) == 1:
            self._replace_generator(workers[0], f"the {who} was lost: {ending}")
        else:
            self._fail(TrainerLost(f"the {who} was lost: {ending}. Its output is in {workers[0].log}"))

    def _replace_generator(self, lost: WorkerProcess, words: str) -> None:
        """Start another process in the place of a generator that has ended. It loads the newest weights, and takes the requests that were not answered."""
        number, where = self._generator_names.index(lost.name), f"Its output is in {lost.log}"
        waiting = self.plane.take_over(number)
        if isinstance(self._record, RecordedRun):
            self._fail(WorkerError(f"{words}. A replay needs its one generator from the beginning to the end: start the replay again. {where}"))
        elif why_not := self._replacements[lost.name].why_not_replaced(progress=self.plane.answers_of(number)):
            self._fail(WorkerError(f"{words}. The run ends, as {why_not}. {where}"))
        else:
            answers = f" and answers the {number_of(waiting, 'request')} that it has not answered" if waiting else ""
            self._notify(f"{words}. Another process takes its place{answers}. {where}")
            lost.release()
            self._workers.remove(lost)
            (successor,) = self.start_lanes([self._generator_lane(number)])
            self.generators[number] = successor
            self.shards.generator_lost(number, successor)

    def _log(self, name: str) -> Path:
        return self._logs / f"{name.replace(' ', '-')}.log"


def one_thread_each() -> list[str]:
    """Let each worker compute on one thread. With more threads than cores, every parallel section waits for the thread that lost its core.

    Returns the environment variables that it has set: a process that goes on to do other work deletes them after the run.
    """
    unset = [variable for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS") if variable not in os.environ]
    os.environ.update(dict.fromkeys(unset, "1"))
    return unset


def _error(name: str, failed: Failed, worker: WorkerProcess) -> WorkerError:
    if failed.explained:
        return CannotReplace(failed.message)
    return WorkerError(f"the {name} failed with {failed.kind}: {failed.message}\n{failed.traceback}Its output is in {worker.log}")
