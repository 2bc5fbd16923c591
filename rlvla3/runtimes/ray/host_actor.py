"""The body of a host in a Ray run: the workers of one host, on the coordinator's tickets.

Invariants:
- a ticket begins only when this host has the weights that its staleness bound asks for. The coordinator admits tickets, but weights need time to arrive;
- an episode stays in its block of the data plane until the next ticket of that block is granted. That is after it was trained on, so whoever fetches the
  episode finds it;
- a ticket that is lost here goes back to the coordinator, which alone decides who runs what.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError

from rlvla3.config import Recipe
from rlvla3.links.weights.between_hosts.carriers import check_carrier
from rlvla3.links.weights.between_hosts.relay import WeightRelay
from rlvla3.observability.meter import OverlappingMeter
from rlvla3.observability.tracing import make_board
from rlvla3.runtimes.processes.control import Control
from rlvla3.runtimes.processes.messages import HandIn, LeaveDevice, LeftDevice, Ready
from rlvla3.runtimes.ray.actor import FETCH_TIMEOUT_S, ActorState
from rlvla3.runtimes.ray.messages import HoldTraining, HostNotice, Logs, LostTicket, NewLedger, Pin, RunAgain, RunTickets, WeightsAt
from rlvla3.runtimes.supervision.host_supervisor import HostSupervisor, one_thread_each
from rlvla3.runtimes.worker_names import BAD_ANSWER, WEIGHTS
from rlvla3.simulators.description import Description, remember
from rlvla3.types import Finished, Ticket, Version

LONGEST_LOG = 1 << 20
"""The end of a worker's output that is copied to the run directory, in bytes."""

FOLDER = "ray-host-"
"""The names of hosts' temporary folders begin with this."""

FRESH_S = 60.0
"""A folder that is younger may belong to a host that has not locked it yet."""


async def run_host(
    control: Control,
    state: ActorState,
    recipe: Recipe,
    capacity: int,
    beside: int,
    draw_on: Sequence[str],
    descriptions: Mapping[str, Description],
) -> None:
    """Start this host's simulators and generators, report Ready, and run tickets until cancelled. recipe: with this host's shards and generators.

    capacity, beside: see LocalRuntime.

    draw_on: the GPUs that simulators may draw on where the recipe does not say. descriptions: of the simulators, which the coordinator has.

    Raises WorkerError if one of them fails and cannot be replaced.
    """
    one_thread_each()
    remember(descriptions)
    check_carrier(recipe.weights.carrier)
    loop = asyncio.get_running_loop()
    failure: asyncio.Future[None] = loop.create_future()

    def fail(error: Exception) -> None:
        if not failure.done():
            failure.set_exception(error)

    loop.set_exception_handler(lambda _, context: fail(context.get("exception") or RuntimeError(context["message"])))
    with _own_folder() as folder:
        host = RayHost(control, recipe, (capacity, beside), folder, fail, draw_on)
        host.show(state)
        try:
            await _unless(failure, host.start())
            await failure
        finally:
            await host.stop()


class RayHost:
    """The workers of one host, and what they and the coordinator hear of one another.

    room: episodes in the data plane, and those of an evaluation beside training. folder: for what workers print. fail: ends the host with an error.
    draw_on: see HostSupervisor.
    """

    def __init__(
        self, control: Control, recipe: Recipe, room: tuple[int, int], folder: Path, fail: Callable[[Exception], None], draw_on: Sequence[str] = ()
    ) -> None:
        self._control, self._carrier, self._folder, self._fail = control, recipe.weights.carrier, folder, fail
        self._samples = folder / "stays"
        board = make_board(recipe, self._samples)
        capacity, beside = room
        self._host = HostSupervisor(
            recipe, capacity=capacity, beside=beside, logs=folder, notify=self._notify, fail=fail, others=[WEIGHTS], board=board, draw_on=draw_on
        )
        self._weights_meter = OverlappingMeter(self._host.board.meter(WEIGHTS), "version")
        self._ledger = GrantedTickets(control, newest=lambda: self._host.memory.newest)
        self._beside = GrantedTickets(control, newest=lambda: self._host.memory.pinned)
        self._relays: list[asyncio.Future[Any]] = []

    def show(self, state: ActorState) -> None:
        """Let the actor see the episodes, the times of workers and the steps of this host."""
        state.rollouts, state.board, state.steps = self._host.plane.rollouts, self._host.board, self._host.steps_made
        state.batching = self._host.plane.choices.read

    async def start(self) -> None:
        self._host.start()
        await self._host.ready()
        self._control.handle(RunTickets, self._grant)
        self._control.handle(WeightsAt, self._follow)
        self._control.handle(LeaveDevice, lambda _: self._host.shards.free_devices(then=lambda: self._control.send(LeftDevice())))
        self._control.handle(NewLedger, lambda _: self._serve())
        self._control.handle(Pin, self._pin)
        self._control.handle(HoldTraining, lambda message: self._host.shards.hold_training(message.hold))
        self._serve()
        self._control.send(Ready())

    async def stop(self) -> None:
        """End all workers, and send what they have printed."""
        for relay in self._relays:
            relay.cancel()
        await self._host.stop()
        printed = {path.name: path.read_bytes()[-LONGEST_LOG:] for path in self._folder.glob("*.log")}
        printed |= {path.name: path.read_bytes() for path in self._folder.glob(f"*{BAD_ANSWER}")}
        self._control.send(Logs(printed, {path.name: path.read_bytes() for path in self._samples.glob("*.samples")}))

    def _serve(self) -> None:
        self._host.shards.serve(self._ledger, self._hand_in)
        self._host.shards.serve_beside(self._beside, self._hand_in)

    def _hand_in(self, finished: Finished) -> None:
        self._control.send(HandIn([finished]))

    def _grant(self, run: RunTickets) -> None:
        (self._beside if run.tickets[0][0].beside else self._ledger).grant(run)
        self._host.shards.grant()

    def _pin(self, pin: Pin) -> None:
        """Fetch a version that is evaluated beside training: its tickets may begin when it is here. Or that evaluation is over."""
        if pin.weights is None:
            self._host.memory.release()
            return
        fetch: asyncio.Future[Any] = asyncio.ensure_future(asyncio.to_thread(ray.get, pin.weights, timeout=FETCH_TIMEOUT_S))
        self._relays.append(fetch)
        fetch.add_done_callback(self._pinned)

    def _pinned(self, fetch: asyncio.Future[Any]) -> None:
        self._relays.remove(fetch)
        if fetch.cancelled():
            return
        if (error := fetch.exception()) is None:
            self._host.memory.put_pinned(fetch.result())
            self._host.shards.grant()
        elif not isinstance(error, RayActorError):  # a lost trainer is reported elsewhere, and the run goes back
            self._fail(RuntimeError(f"the version that is evaluated beside training could not be fetched: {error}"))

    def _follow(self, weights: WeightsAt) -> None:
        """Fetch versions from there on. A version that arrives may make granted tickets runnable."""
        here = ray.util.get_node_ip_address()
        relay = WeightRelay(self._host.memory, weights.address, here, lambda _: self._host.shards.grant(), self._carrier, self._weights_meter)
        self._relays.append(asyncio.ensure_future(relay.run()))
        self._relays[-1].add_done_callback(self._relay_ended)

    def _relay_ended(self, relay: asyncio.Future[None]) -> None:
        if not relay.cancelled() and isinstance(error := relay.exception(), Exception):
            self._fail(error)

    def _notify(self, text: str) -> None:
        self._control.send(HostNotice(text))


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A temporary folder that belongs to this host while it lives. Folders that killed hosts have left are removed first."""
    for left in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        _remove_if_left(left)
    with tempfile.TemporaryDirectory(prefix=FOLDER) as folder:
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield Path(folder)
        finally:
            os.close(handle)


def _remove_if_left(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # it is gone by now, or belongs to another user
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if time.time() - os.fstat(handle).st_mtime > FRESH_S:
            shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return  # a living host holds it
    finally:
        os.close(handle)


class GrantedTickets:
    """The tickets that the coordinator has granted to this host, as a ledger for its shards. newest: the newest version of the weights on this host."""

    def __init__(self, control: Control, newest: Callable[[], Version]) -> None:
        self._control, self._newest = control, newest
        self._granted: defaultdict[int, deque[tuple[Ticket, Version]]] = defaultdict(deque)

    def grant(self, run: RunTickets) -> None:
        self._granted[run.simulator] += run.tickets

    def take(self, simulator: int = 0) -> Ticket | None:
        granted = self._granted[simulator]
        return granted.popleft()[0] if granted and granted[0][1] <= self._newest() else None

    def lost(self, index: int) -> None:
        self._control.send(LostTicket(index))

    def again(self, index: int) -> None:
        self._control.send(RunAgain(index))

    def hand_in(self, finished: Finished) -> None:
        """Nothing to do here: the coordinator hears of the episode by a HandIn message."""


async def _unless(failure: asyncio.Future[None], work: Coroutine[Any, Any, None]) -> None:
    """Await `work`. If a worker fails first, raise its error."""
    task = asyncio.ensure_future(work)
    failure.add_done_callback(lambda _: task.cancel())
    try:
        await task
    except asyncio.CancelledError:
        if failure.done():
            failure.result()
        raise
