"""The coordinator of a Ray run: it reserves nodes, starts hosts and trainer ranks on them, drives the ledger, and ends everything it has started."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from rlvla3.config import Recipe
from rlvla3.errors import WorkerError
from rlvla3.links.rendezvous import MeetingPoint
from rlvla3.links.rollouts import Rollouts
from rlvla3.observability.run_directory import RunDirectory, version_of
from rlvla3.parts import rollout_spec
from rlvla3.runtimes.filming import Filming
from rlvla3.runtimes.processes.messages import Failed, Published, Ready
from rlvla3.runtimes.ray.actor import FETCH_TIMEOUT_S, LOSS_S, RemoteWorker, WorkerActor
from rlvla3.runtimes.ray.calls import CONNECT_S, LEAVE_S, RESERVE_S, within
from rlvla3.runtimes.ray.cluster import NodeRole, Reservation, connect, reserve
from rlvla3.runtimes.ray.cluster_supervisor import ClusterSupervisor
from rlvla3.runtimes.ray.messages import MeetAt, Status, WeightsAt
from rlvla3.runtimes.ray.reports import Reports, workers_of_host, workers_of_rank
from rlvla3.runtimes.runtime import EveryRank, Runtime, TrainerLost
from rlvla3.runtimes.supervision.host_supervisor import PATIENCE_S
from rlvla3.runtimes.supervision.limits import StageLimits
from rlvla3.runtimes.supervision.watch import Watch
from rlvla3.runtimes.worker_names import trainer_name
from rlvla3.simulators.description import known_descriptions
from rlvla3.types import Finished, Purpose, Version

HOST_PATIENCE_S = 3 * PATIENCE_S
"""How long a host may take to end. Its workers have PATIENCE_S."""


class RayRuntime(Runtime):
    """The workers of one run on the nodes of a Ray cluster. Parameters as in LocalRuntime. Runs are not recorded."""

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
    ) -> None:
        self._recipe, self._run, self._capacity, self._notify = recipe, RunDirectory(run.path.absolute()), capacity, notify
        self._beside = beside
        self._has_trainer, self._resume = trainer, resume.absolute() if resume else None
        self._rollouts = Rollouts(rollout_spec(recipe, capacity))
        self._published: Version = version_of(resume) if resume else -1 if recipe.begins_by_cloning or not trainer else 0
        self._trainers: list[RemoteWorker] = []
        self._unbuilt: list[RemoteWorker] = []
        self._film_tasks: set[asyncio.Task[None]] = set()
        self._owns_ray, self._left_ray = False, threading.Event()
        self._watch: Watch | None = None
        self._reservation: Reservation | None = None
        self.server = self._hosts = ClusterSupervisor(
            self._fetch, lambda: self._published, pinned=self._pinned, notify=notify, fail=self.fail, keep=self._keep, report=self._report
        )

    @property
    def rollouts(self) -> Rollouts:
        """The episodes that evaluate or demonstrate. Training episodes go to the trainer."""
        return self._rollouts

    @property
    def trainer(self) -> EveryRank:
        assert self._trainers, "this run was started without a trainer"
        return EveryRank(self._trainers)

    def steps_made(self) -> int:
        return self._reports.steps()

    def batching(self) -> Sequence[Mapping[str, float]]:
        return self._reports.batching()

    async def __aenter__(self) -> RayRuntime:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.fail(context.get("exception") or WorkerError(context["message"])))
        self._failure = asyncio.get_running_loop().create_future()
        try:
            address = self._recipe.ray.address
            no_answer = f"Ray {f'at ray.address={address}' if address else 'on this machine'} has not answered within {CONNECT_S:g} s: look at `ray status`"
            self._owns_ray = await self.guard(within(CONNECT_S, partial(connect, address), no_answer, until=self._left_ray))
            await self._start_workers()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stop()
        if self._failure.done():
            self._failure.exception()

    async def ready(self) -> None:
        await self.trainer_ready()
        await self._hosts.ready()

    async def trainer_ready(self) -> None:
        while self._unbuilt:
            assert isinstance(await self._unbuilt[0].control.receive(), Ready)
            del self._unbuilt[0]

    def kill(self) -> None:
        self._hosts.kill()
        for trainer in self._trainers:
            trainer.kill()

    async def _start_workers(self) -> None:
        ranks = self._recipe.training.ranks if self._has_trainer else 0
        no_answer = f"Ray has not said within {RESERVE_S:g} s what is free: look at `ray status`"
        self._reservation = await self.guard(within(RESERVE_S, partial(reserve, self._recipe, ranks), no_answer))
        dealt = self._reservation.roles
        hosting = [(bundle, role) for bundle, role in enumerate(dealt) if role.recipe]
        self._hosts.start([(role.recipe, self._host_actor(bundle, role)) for bundle, role in hosting if role.recipe])
        seats = sorted((rank, bundle, device) for bundle, role in enumerate(dealt) for rank, device in zip(role.trainers, role.trainer_devices, strict=True))
        hosts = {host.name: workers_of_host(host.number, host.recipe) for host in self._hosts.hosts}
        self._reports = Reports(hosts | {trainer_name(rank): workers_of_rank(rank) for rank, _, _ in seats})
        self.board = self._reports.board
        self._watch = Watch(self.board, self._recipe.supervision, self._notify, self.fail)
        self._hosts.watched_by(self._watch)
        self._watch.begin()
        if self._has_trainer:
            await self._start_trainers(seats)

    async def _start_trainers(self, seats: Sequence[tuple[int, int, int]]) -> None:
        """seats: (rank, bundle, device) of each rank. Rank 0 says where the others meet it."""
        first, *others = seats
        meet_at: asyncio.Future[MeetAt] = asyncio.get_running_loop().create_future()  # rank 0 is watched: it says this, or is lost
        self._start_trainer(first, None).control.handle(MeetAt, meet_at.set_result)
        if others:
            address = (await self.guard(_first(meet_at))).address
            for seat in others:
                self._start_trainer(seat, address)

    def _start_trainer(self, seat: tuple[int, int, int], meeting_at: MeetingPoint | None) -> RemoteWorker:
        rank, bundle, device = seat
        name, body = trainer_name(rank), "rlvla3.runtimes.ray.trainer_actor:run_ray_trainer"
        actor = self._actor(bundle, (device,), 0, name, body, self._recipe, self._capacity, self._run, self._resume, rank, meeting_at)
        assert self._watch is not None
        worker = RemoteWorker(name, actor, on_lost=lambda _: self._on_trainer_lost(worker), overhear=self._overhear)
        self._watch.add(worker, StageLimits(self._recipe.supervision))
        worker.control.handle(Failed, lambda failed: self._on_trainer_failed(name, failed))
        worker.control.handle(WeightsAt, self._hosts.follow)
        worker.control.handle(Status, lambda status: self._report(name, status))
        self._trainers.append(worker)
        self._unbuilt.append(worker)
        return worker

    def _host_actor(self, bundle: int, role: NodeRole) -> Any:
        restarts = self._recipe.engine.max_restarts
        body = "rlvla3.runtimes.ray.host_actor:run_host"
        return self._actor(bundle, role.devices, restarts, f"host {bundle}", body, role.recipe, self._capacity, self._beside, role.draw_on)

    def _actor(self, bundle: int, devices: tuple[int, ...], restarts: int, name: str, body: str, *args: Any) -> Any:
        assert self._reservation is not None
        visible = {"env_vars": {"CUDA_VISIBLE_DEVICES": ",".join(map(str, devices))}}
        options = {"num_cpus": 0, "max_restarts": restarts, "scheduling_strategy": self._reservation.strategy(bundle), "runtime_env": visible}
        return ray.remote(WorkerActor).options(**options).remote(name, body, *args, known_descriptions())

    async def _fetch(self, finished: Finished, host: Any) -> None:
        """Bring an episode to where it is needed: to the ranks of the trainer, or to this process."""
        index = finished.ticket.index
        match finished.ticket.purpose:
            case Purpose.TRAIN:
                await self._trainers[finished.ticket.group % len(self._trainers)].actor.bring.remote(index, host)
                if self._filming is not None and self._filming.wants(finished):
                    self._film_tasks.add(task := asyncio.ensure_future(self._film_there(self._filming, finished, host)))
                    task.add_done_callback(self._film_tasks.discard)
            case Purpose.DEMONSTRATE:
                await asyncio.gather(*(trainer.actor.bring.remote(index, host) for trainer in self._trainers))
            case Purpose.EVALUATE | Purpose.RECORD:
                self._rollouts.unpack(index, await asyncio.wait_for(host.episode.remote(index), FETCH_TIMEOUT_S))

    async def _film_there(self, filming: Filming, finished: Finished, host: Any) -> None:
        """Fetch an episode for its film. The run does not wait for it."""
        index = finished.ticket.index
        try:
            self._rollouts.unpack(index, await asyncio.wait_for(host.episode.remote(index), FETCH_TIMEOUT_S))
        except (RayActorError, RayTaskError, TimeoutError) as error:
            filming.leave_out(f"the episode of ticket {index} could not be fetched from its host ({type(error).__name__})")
        else:
            filming.take(self._rollouts, finished)

    def film(self, finished: Finished) -> None:
        """Does nothing: episodes of training are filmed when they are fetched, and those of an evaluation beside it stay on their hosts."""

    def _pinned(self) -> Any:
        return self._trainers[0].actor.pinned.remote()

    def _report(self, name: str, status: Status | None) -> None:
        if status is None:
            self._reports.lost(name)
        else:
            self._reports.take(name, status)

    def _overhear(self, message: Any) -> None:
        if isinstance(message, Published):
            self._published = message.version

    def _on_trainer_lost(self, worker: RemoteWorker) -> None:
        self.fail(TrainerLost(f"the {worker.name} was lost" + (f": {worker.killed}" if worker.killed else "")))

    def _on_trainer_failed(self, name: str, failed: Failed) -> None:
        error = WorkerError(failed.message if failed.explained else f"the {name} failed with {failed.kind}: {failed.message}\n{failed.traceback}")
        if (failed.explained and failed.kind != "RankLost") or len(self._trainers) == 1:
            self.fail(error)
        else:  # perhaps it only misses another rank, and Ray needs a while to find out that this one is lost
            asyncio.get_running_loop().call_later(LOSS_S, self.fail, error)

    def _keep(self, name: str, content: bytes) -> None:
        path = self._run.path / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except OSError as error:
            self._notify(f"{path} could not be written ({error.strerror}): what a host has printed there is lost")

    async def _stop(self) -> None:
        if self._watch is not None:
            self._watch.end()
        await self._hosts.stop(HOST_PATIENCE_S)
        await asyncio.gather(*(trainer.stop(PATIENCE_S) for trainer in self._trainers))
        try:
            if self._reservation is not None:
                await within(LEAVE_S, self._reservation.release, "Ray does not answer, so what it has reserved for this run is released when this program ends")
            if self._owns_ray:
                await within(LEAVE_S, ray.shutdown, "the Ray of this run has not ended: `ray stop --force` ends it")
        except WorkerError as late:
            self._notify(str(late))
        finally:
            self._left_ray.set()


async def _first(said: asyncio.Future[MeetAt]) -> MeetAt:
    return await said
