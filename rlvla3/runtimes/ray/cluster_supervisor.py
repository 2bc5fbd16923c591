"""The hosts of a Ray run, as the coordinator supervises them: it sends them tickets, and sends their episodes to whoever needs them.

Invariants:
- a ticket is handed in when its episode has arrived where it is needed. If its host is lost before that, the ticket is run again;
- a lost host costs its tickets a rerun and nothing else. The other hosts go on. If Ray restarts the host, it gets tickets as before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from rlvla3.config import Recipe
from rlvla3.errors import WorkerError
from rlvla3.runtimes.processes.messages import Failed, HandIn, LeaveDevice, LeftDevice, Ready
from rlvla3.runtimes.processes.roll_call import RollCall
from rlvla3.runtimes.ray.actor import LOSS_S, RemoteWorker
from rlvla3.runtimes.ray.messages import HoldTraining, HostNotice, Logs, LostTicket, NewLedger, Pin, RunAgain, RunTickets, Status, WeightsAt
from rlvla3.runtimes.supervision.limits import StageLimits
from rlvla3.runtimes.supervision.replacements import run_again
from rlvla3.runtimes.supervision.shard_supervisor import CannotReplace
from rlvla3.runtimes.supervision.watch import Watch
from rlvla3.scheduling.beside import BesideLedger
from rlvla3.scheduling.dispatcher import Dispatcher, Receipt
from rlvla3.scheduling.ledger import Ledger
from rlvla3.types import Finished, Purpose, Ticket, Version


@dataclass
class SupervisedHost:
    """A host, and the actor that runs it now. recipe: its own part of the run."""

    number: int
    recipe: Recipe
    worker: RemoteWorker
    ready: bool = False

    @property
    def name(self) -> str:
        return f"host {self.number}"


class ClusterSupervisor:
    """Serves one ledger at a time.

    fetch: brings an episode from a host's actor to whoever needs it. published: the newest version. pinned: returns a reference to the version that is
    evaluated beside training. notify, fail: as in ShardSupervisor. keep: called with the name of a file in the run directory and its content. report: called
    with the name of a host and the times of its workers (None: the host is lost).
    """

    def __init__(
        self,
        fetch: Callable[[Finished, Any], Awaitable[None]],
        published: Callable[[], Version],
        *,
        pinned: Callable[[], Any],
        notify: Callable[[str], None],
        fail: Callable[[Exception], None],
        keep: Callable[[str, bytes], None],
        report: Callable[[str, Status | None], None],
    ) -> None:
        self._pinned, self._pin, self._hold = pinned, Pin(None), HoldTraining(False)
        self._beside: BesideLedger | None = None
        self._on_finished_beside: Callable[[Finished], None] = lambda _: None
        self._fetch, self._published, self._notify, self._fail, self._keep, self._report = fetch, published, notify, fail, keep, report
        self.hosts: list[SupervisedHost] = []
        self._dispatcher = Dispatcher(simulators=0, whole=False)
        self._ledger: Ledger | None = None
        self._on_finished: Callable[[Finished], None] = lambda _: None
        self._all_ready = asyncio.Event()
        self._started = self._ending = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._weights: WeightsAt | None = None
        self._leaving = RollCall((), then=lambda: None)
        self._watch_of_hosts: Watch | None = None

    def watched_by(self, watch: Watch) -> None:
        """Have `watch` find hosts that hang. What hangs within a host, the host finds itself."""
        self._watch_of_hosts = watch
        for host in self.hosts:
            watch.add(host.worker, StageLimits(host.recipe.supervision))

    def start(self, actors: Sequence[tuple[Recipe, Any]]) -> None:
        """Supervise these hosts. actors: each host's part of the recipe, and its actor."""
        self._dispatcher = Dispatcher(simulators=len(actors[0][0].mixed), whole=False)
        for number, (recipe, actor) in enumerate(actors):
            worker = RemoteWorker(f"host {number}", actor, on_lost=partial(self._on_lost, number))
            self.hosts.append(SupervisedHost(number, recipe, worker))
            self._watch(self.hosts[-1])

    async def ready(self) -> None:
        """Wait until every host has been ready once."""
        await self._all_ready.wait()

    def follow(self, weights: WeightsAt) -> None:
        """Tell every host where it gets versions from: now, and when it is restarted."""
        self._weights = weights
        for host in self.hosts:
            if host.ready:
                host.worker.control.send(weights)

    def serve(self, ledger: Ledger, on_finished: Callable[[Finished], None]) -> None:
        self._ledger, self._on_finished = ledger, on_finished
        self._dispatcher.serve(ledger)
        for host in self.hosts:
            if host.ready:
                host.worker.control.send(NewLedger())
        self.grant()

    def serve_beside(self, ledger: BesideLedger | None, on_finished: Callable[[Finished], None]) -> None:
        self._beside, self._on_finished_beside = ledger, on_finished
        self._pin = Pin(None if ledger is None else self._pinned())
        for host in self.hosts:
            if host.ready:
                host.worker.control.send(self._pin)
        self._dispatcher.serve_beside(ledger)
        self.grant()

    def hold_training(self, hold: bool) -> None:
        self._hold = HoldTraining(hold)
        for host in self.hosts:
            if host.ready:
                host.worker.control.send(self._hold)
        self._dispatcher.hold_training(hold)
        self.grant()

    def grant(self) -> None:
        for grant in self._dispatcher.dispatch():
            tickets = [(ticket, self._needs(ticket)) for ticket in grant.tickets]
            self.hosts[grant.runner].worker.control.send(RunTickets(grant.simulator, tickets))

    def free_devices(self, then: Callable[[], None]) -> None:
        there = [host for host in self.hosts if host.ready]  # the generators of a host that starts are off their devices until they have a batch
        for host in there:
            host.worker.control.send(LeaveDevice())
        self._leaving = RollCall((host.name for host in there), then)

    def kill(self) -> None:
        self._ending = True
        for host in self.hosts:
            host.worker.kill()

    async def stop(self, patience_s: float) -> None:
        self._ending = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(host.worker.stop(patience_s) for host in self.hosts))

    def _needs(self, ticket: Ticket) -> Version:
        """The oldest version that may make decisions in the episode of a ticket."""
        assert self._ledger is not None
        if ticket.beside:
            assert self._beside is not None
            return self._beside.version
        match ticket.purpose:
            case Purpose.TRAIN:
                return max(self._ledger.update_of(ticket.index) - self._ledger.max_staleness, 0)
            case Purpose.EVALUATE | Purpose.RECORD:
                return self._published()
            case Purpose.DEMONSTRATE:
                return -1

    def _watch(self, host: SupervisedHost) -> None:
        control = host.worker.control
        control.handle(Ready, lambda _: self._on_ready(host))
        control.handle(HandIn, lambda message: self._on_hand_in(host, message))
        control.handle(LostTicket, lambda message: self._on_lost_ticket(host, message.index))
        control.handle(RunAgain, lambda message: self._dispatcher.again(message.index))
        control.handle(LeftDevice, lambda _: self._leaving.answered(host.name))
        control.handle(Status, lambda status: self._report(host.name, status))
        control.handle(HostNotice, lambda message: self._notify(f"{host.name}: {message.text}"))
        control.handle(Failed, lambda message: self._on_failed(host, message))
        control.handle(Logs, lambda message: self._on_logs(host, message))

    def _on_ready(self, host: SupervisedHost) -> None:
        host.ready = True
        if self._watch_of_hosts is not None:
            self._watch_of_hosts.built(host.name)
        self._dispatcher.join(host.number, {number: simulator.shards * simulator.slots for number, simulator in enumerate(host.recipe.mixed.values())})
        if self._weights is not None:
            host.worker.control.send(self._weights)
        if self._pin.weights is not None:
            host.worker.control.send(self._pin)
        host.worker.control.send(self._hold)
        if all(host.ready for host in self.hosts):
            self._started = True
            self._all_ready.set()
        self.grant()

    def _on_hand_in(self, host: SupervisedHost, message: HandIn) -> None:
        if self._ending:
            return  # nobody needs the episode any more
        for finished in message.finished:
            task = asyncio.ensure_future(self._take_in(host, self._dispatcher.end(host.number, finished)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self.grant()

    async def _take_in(self, host: SupervisedHost, receipt: Receipt) -> None:
        """Fetch an episode, then hand it in; unless its host is lost on the way."""
        finished = receipt.finished
        try:
            if not finished.ticket.beside:  # of an evaluation beside training, only the news is needed
                await self._fetch(finished, host.worker.actor)
        except (RayActorError, RayTaskError, TimeoutError) as error:
            if isinstance(error, RayActorError):
                await asyncio.sleep(LOSS_S)  # the loss of an actor, of this one or of the one that fetches, is reported elsewhere with more detail
            if self._dispatcher.is_valid(receipt):
                self._notify(f"{host.name}: the episode of ticket {finished.ticket.index} could not be fetched ({type(error).__name__}: {error})")
                self._kill(host)  # its episodes cannot be fetched
            return
        if self._dispatcher.hand_in(receipt):
            (self._on_finished_beside if finished.ticket.beside else self._on_finished)(finished)
            self.grant()

    def _on_lost_ticket(self, host: SupervisedHost, index: int) -> None:
        self._dispatcher.lose_ticket(host.number, index)
        self.grant()

    def _on_failed(self, host: SupervisedHost, failed: Failed) -> None:
        if not self._started or failed.kind == CannotReplace.__name__:
            self._fail(WorkerError(f"{host.name}: {failed.message}" + ("" if failed.explained or self._started else f"\n{failed.traceback}")))
        elif not self._ending:
            self._notify(f"{host.name} failed: {failed.message}")
            self._kill(host)

    def _kill(self, host: SupervisedHost) -> None:
        ray.kill(host.worker.actor, no_restart=False)

    def _on_logs(self, host: SupervisedHost, logs: Logs) -> None:
        for name, content in logs.printed.items():
            self._keep(f"logs/host-{host.number}-{name}", content)
        for name, content in logs.samples.items():
            self._keep(f"stays/host-{host.number}/{name}", content)

    def _on_lost(self, number: int, comes_back: bool) -> None:
        if self._ending:
            return
        host = self.hosts[number]
        if self._watch_of_hosts is not None:
            self._watch_of_hosts.drop(host.name)
        lost, why = self._dispatcher.lose(number), f" ({host.worker.killed})" if host.worker.killed else ""
        is_news = host.ready or not comes_back  # Ray may report the same loss again, until the host is back
        host.ready = False
        self._report(host.name, None)
        if not self._started:
            self._fail(WorkerError(f"{host.name} was lost before it was ready{why}; what Ray knows of it is in the logs of its session"))
            return
        if not comes_back and not any(other.ready for other in self.hosts):
            self._fail(
                WorkerError(
                    f"{host.name} was lost{why}, no other host is there, and Ray does not restart it: "
                    "engine.max_restarts is used up, or no node has room for it"
                )
            )
            return
        way_on = "Ray restarts it" if comes_back else "the other hosts go on without it"
        if is_news:
            self._notify(f"{host.name} was lost{why}; {run_again(len(lost))}, and {way_on}")
        self._dispatcher.give_back(number)
        self._leaving.answered(host.name)  # it has nothing on a device any more
        if comes_back:
            host.worker.reconnect()
            self._watch(host)
            if self._watch_of_hosts is not None:
                self._watch_of_hosts.add(host.worker, StageLimits(host.recipe.supervision))
        self.grant()
