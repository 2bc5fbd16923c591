"""A host's body in a Ray run: the workers of one host, on the coordinator's tickets.

Invariants:
- a ticket is begun only when this host has the weights that its bound of staleness asks for: admission is the coordinator's, but weights travel;
- an episode stays in its block until the ticket that comes into it next is granted, which is after it was trained on: whoever fetches it finds it;
- a ticket that is lost here goes back to the coordinator, which alone decides who runs what.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import ray

from rlvla3.config import Recipe
from rlvla3.links.weight_hosts import WeightRelay
from rlvla3.observability.tracing import board_of
from rlvla3.runtimes.control import Control
from rlvla3.runtimes.host import Host, one_thread_each
from rlvla3.runtimes.messages import HandIn, Ready
from rlvla3.runtimes.ray.actors import Shelf
from rlvla3.runtimes.ray.messages import Logs, LostTicket, Run, Said, WeightsAt
from rlvla3.types import Finished, Ticket, Version

LONGEST_LOG = 1 << 20
"""Bytes of a worker's output that come back to the run directory: its end."""


async def run_host(control: Control, shelf: Shelf, recipe: Recipe, capacity: int) -> None:
    """Start this host's simulators and generators, say so, and run tickets until cancelled. recipe: with this host's shards and generators.

    Raises WorkerError where one of them fails for good.
    """
    one_thread_each()
    loop = asyncio.get_running_loop()
    failure: asyncio.Future[None] = loop.create_future()

    def fail(error: Exception) -> None:
        if not failure.done():
            failure.set_exception(error)

    def weights_ended(relay: asyncio.Future[None]) -> None:
        if not relay.cancelled() and isinstance(error := relay.exception(), Exception):
            fail(error)

    loop.set_exception_handler(lambda _, context: fail(context.get("exception") or RuntimeError(context["message"])))
    with tempfile.TemporaryDirectory(prefix="ray-host-") as folder:
        stays = Path(folder) / "stays"
        host = Host(recipe, capacity=capacity, logs=Path(folder), notify=lambda text: control.send(Said(text)), fail=fail, board=board_of(recipe, stays))
        shelf.rollouts, shelf.board, shelf.steps = host.plane.rollouts, host.board, host.steps_made
        ledger = CoordinatorsLedger(control, newest=lambda: host.memory.newest)
        relays: list[asyncio.Future[None]] = []

        def grant(run: Run) -> None:
            ledger.grant(run)
            host.shards.grant()

        def follow(weights: WeightsAt) -> None:
            relay = WeightRelay(host.memory, weights.address, ray.util.get_node_ip_address(), arrived=lambda _: host.shards.grant())
            relays.append(asyncio.ensure_future(relay.run()))
            relays[-1].add_done_callback(weights_ended)

        try:
            host.start()
            await _unless(failure, host.ready())
            control.handle(Run, grant)
            control.handle(WeightsAt, follow)
            host.shards.serve(ledger, lambda finished: control.send(HandIn([finished])))
            control.send(Ready())
            await failure
        finally:
            for relay in relays:
                relay.cancel()
            await host.stop()
            logs = {path.name: path.read_bytes()[-LONGEST_LOG:] for path in Path(folder).glob("*.log")}
            control.send(Logs(logs, {path.name: path.read_bytes() for path in stays.glob("*.samples")}))


class CoordinatorsLedger:
    """The coordinator's ledger, as the shards of this host see it. newest: the version of the weights that are here."""

    def __init__(self, control: Control, newest: Callable[[], Version]) -> None:
        self._control, self._newest = control, newest
        self._granted: defaultdict[int, deque[tuple[Ticket, Version]]] = defaultdict(deque)

    def grant(self, run: Run) -> None:
        self._granted[run.simulator] += run.tickets

    def take(self, simulator: int = 0) -> Ticket | None:
        granted = self._granted[simulator]
        return granted.popleft()[0] if granted and granted[0][1] <= self._newest() else None

    def lost(self, index: int) -> None:
        self._control.send(LostTicket(index))

    def hand_in(self, finished: Finished) -> None:
        """The coordinator hears of it from whoever serves this ledger."""


async def _unless(failure: asyncio.Future[None], work: Coroutine[Any, Any, None]) -> None:
    """Do `work`; where a worker fails first, raise its error."""
    task = asyncio.ensure_future(work)
    failure.add_done_callback(lambda _: task.cancel())
    try:
        await task
    except asyncio.CancelledError:
        if failure.done():
            failure.result()
        raise
