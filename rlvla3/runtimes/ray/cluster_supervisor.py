"""The hosts of a Ray run, seen from the coordinator: tickets out to them, episodes from them to whoever needs them.

Invariants:
- a ticket counts as handed in when whoever needs its episode has it: a host that is lost before has lost the ticket, which is run again;
- a lost host costs its tickets a rerun and nothing else. The others go on; where Ray brings it back, it gets tickets as before.
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
from rlvla3.runtimes.ray.messages import HostNotice, Logs, LostTicket, NewLedger, RunTickets, Status, WeightsAt
from rlvla3.runtimes.supervision.shard_supervisor import CannotReplace
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

    fetch: brings an episode from a host's actor to whoever needs it. published: the newest version. notify, fail: as in Shards. keep: takes a file's place in
    the run directory, and its content. report: takes a host's name and what its workers are at (None: it is lost).
    """

    def __init__(
        self,
        fetch: Callable[[Finished, Any], Awaitable[None]],
        published: Callable[[], Version],
        *,
        notify: Callable[[str], None],
        fail: Callable[[Exception], None],
        keep: Callable[[str, bytes], None],
        report: Callable[[str, Status | None], None],
    ) -> None:
        self._fetch, self._published, self._notify, self._fail, self._keep, self._report = fetch, published, notify, fail, keep, report
        self.places: list[SupervisedHost] = []
        self._dispatcher = Dispatcher(simulators=0)
        self._ledger: Ledger | None = None
        self._on_finished: Callable[[Finished], None] = lambda _: None
        self._all_ready = asyncio.Event()
        self._started = self._ending = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._weights: WeightsAt | None = None
        self._leaving = RollCall((), then=lambda: None)

    def start(self, actors: Sequence[tuple[Recipe, Any]]) -> None:
        """Take on hosts: each one's part of the recipe, and its actor."""
        self._dispatcher = Dispatcher(simulators=len(actors[0][0].mixed))
        for number, (recipe, actor) in enumerate(actors):
            worker = RemoteWorker(f"host {number}", actor, on_lost=partial(self._on_lost, number))
            self.places.append(SupervisedHost(number, recipe, worker))
            self._watch(self.places[-1])

    async def ready(self) -> None:
        """Wait until every host has been ready once."""
        await self._all_ready.wait()

    def follow(self, weights: WeightsAt) -> None:
        """Tell every host, now and when it comes back, where versions are to be had."""
        self._weights = weights
        for place in self.places:
            if place.ready:
                place.worker.control.send(weights)

    def serve(self, ledger: Ledger, on_finished: Callable[[Finished], None]) -> None:
        self._ledger, self._on_finished = ledger, on_finished
        self._dispatcher.serve(ledger)
        for place in self.places:
            if place.ready:
                place.worker.control.send(NewLedger())
        self.grant()

    def grant(self) -> None:
        for grant in self._dispatcher.dispatch():
            tickets = [(ticket, self._needs(ticket)) for ticket in grant.tickets]
            self.places[grant.runner].worker.control.send(RunTickets(grant.simulator, tickets))

    def free_devices(self, then: Callable[[], None]) -> None:
        there = [place for place in self.places if place.ready]  # the generators of one that begins are off their devices until they have something to decide
        for place in there:
            place.worker.control.send(LeaveDevice())
        self._leaving = RollCall((place.name for place in there), then)

    def kill(self) -> None:
        self._ending = True
        for place in self.places:
            place.worker.kill()

    async def stop(self, patience_s: float) -> None:
        self._ending = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(place.worker.stop(patience_s) for place in self.places))

    def _needs(self, ticket: Ticket) -> Version:
        """The oldest version that may decide in a ticket's episode."""
        assert self._ledger is not None
        match ticket.purpose:
            case Purpose.TRAIN:
                return max(self._ledger.update_of(ticket.index) - self._ledger.max_staleness, 0)
            case Purpose.EVALUATE:
                return self._published()
            case Purpose.DEMONSTRATE:
                return -1

    def _watch(self, place: SupervisedHost) -> None:
        control = place.worker.control
        control.handle(Ready, lambda _: self._on_ready(place))
        control.handle(HandIn, lambda message: self._on_hand_in(place, message))
        control.handle(LostTicket, lambda message: self._on_lost_ticket(place, message.index))
        control.handle(LeftDevice, lambda _: self._leaving.answered(place.name))
        control.handle(Status, lambda status: self._report(place.name, status))
        control.handle(HostNotice, lambda message: self._notify(f"{place.name}: {message.text}"))
        control.handle(Failed, lambda message: self._on_failed(place, message))
        control.handle(Logs, lambda message: self._on_logs(place, message))

    def _on_ready(self, place: SupervisedHost) -> None:
        place.ready = True
        self._dispatcher.join(place.number, {number: simulator.shards * simulator.slots for number, simulator in enumerate(place.recipe.mixed.values())})
        if self._weights is not None:
            place.worker.control.send(self._weights)
        if all(place.ready for place in self.places):
            self._started = True
            self._all_ready.set()
        self.grant()

    def _on_hand_in(self, place: SupervisedHost, message: HandIn) -> None:
        if self._ending:
            return  # nobody needs the episode any more
        for finished in message.finished:
            task = asyncio.ensure_future(self._take_in(place, self._dispatcher.end(place.number, finished)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self.grant()

    async def _take_in(self, place: SupervisedHost, receipt: Receipt) -> None:
        """Fetch an episode, then hand it in; unless its host is lost on the way."""
        finished = receipt.finished
        try:
            await self._fetch(finished, place.worker.actor)
        except (RayActorError, RayTaskError, TimeoutError) as error:
            if isinstance(error, RayActorError):
                await asyncio.sleep(LOSS_S)  # of a lost actor, this one or whoever fetches, is heard otherwise, and that says more
            if self._dispatcher.is_valid(receipt):
                self._notify(f"{place.name}: the episode of ticket {finished.ticket.index} could not be fetched ({type(error).__name__}: {error})")
                self._kill(place)  # what it has cannot be had
            return
        if self._dispatcher.hand_in(receipt):
            self._on_finished(finished)
            self.grant()

    def _on_lost_ticket(self, place: SupervisedHost, index: int) -> None:
        self._dispatcher.lose_ticket(place.number, index)
        self.grant()

    def _on_failed(self, place: SupervisedHost, failed: Failed) -> None:
        if not self._started or failed.kind == CannotReplace.__name__:
            self._fail(WorkerError(f"{place.name}: {failed.message}" + ("" if failed.explained or self._started else f"\n{failed.traceback}")))
        elif not self._ending:
            self._notify(f"{place.name} failed: {failed.message}")
            self._kill(place)

    def _kill(self, place: SupervisedHost) -> None:
        ray.kill(place.worker.actor, no_restart=False)

    def _on_logs(self, place: SupervisedHost, logs: Logs) -> None:
        for name, content in logs.printed.items():
            self._keep(f"logs/host-{place.number}-{name}", content)
        for name, content in logs.stays.items():
            self._keep(f"stays/host-{place.number}/{name}", content)

    def _on_lost(self, number: int, comes_back: bool) -> None:
        if self._ending:
            return
        place = self.places[number]
        lost = self._dispatcher.lose(number)
        is_news = place.ready or not comes_back  # Ray may say the same of it again, until it is back
        place.ready = False
        self._report(place.name, None)
        if not self._started:
            self._fail(WorkerError(f"{place.name} was lost before it was ready; what Ray knows of it is in the logs of its session"))
            return
        if not comes_back and not any(other.ready for other in self.places):
            self._fail(WorkerError(f"{place.name} was lost, no other is there, and Ray does not bring it back: engine.max_restarts, or no node to place it on"))
            return
        way_on = "Ray brings it back" if comes_back else "the others go on without it"
        if is_news:
            self._notify(f"{place.name} was lost; its {len(lost)} running tickets are run again, and {way_on}")
        self._dispatcher.give_back(number)
        self._leaving.answered(place.name)  # nothing of it is on a device any more
        if comes_back:
            place.worker.reconnect()
            self._watch(place)
        self.grant()
