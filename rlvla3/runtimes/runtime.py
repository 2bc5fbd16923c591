"""The coordinator's side of every runtime with real workers: it drives a ledger and hears of episodes, versions and failures. It imports no torch."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Protocol, TypeVar

from rlvla3.config import Recipe
from rlvla3.errors import WorkerError
from rlvla3.links.rollouts import Rollouts
from rlvla3.observability.meter import MeterBoard
from rlvla3.runtimes.processes.control import Stopped
from rlvla3.runtimes.processes.messages import Arrived, LastUpdate, Published, StopAfterUpdate, Train, Trained
from rlvla3.scheduling.ledger import Ledger, TicketBook
from rlvla3.types import Finished

ResultT = TypeVar("ResultT")


class TrainerLost(WorkerError):
    """The trainer is gone through no fault of the run's: it can go on from the last checkpoint."""


class TicketServer(Protocol):
    """Whoever runs tickets: the shards of one host, or many hosts. Serves one ledger at a time."""

    def serve(self, ledger: Ledger, on_finished: Callable[[Finished], None]) -> None: ...

    def grant(self) -> None:
        """Hand out what is admissible to whoever is free. To be called when the ledger's version has advanced."""

    def vacate(self, then: Callable[[], None]) -> None:
        """Have every generator leave its device; `then` is called once all have."""


class Commands(Protocol):
    """The coordinator's end of a channel: Control, or what looks like it."""

    def send(self, message: Any) -> None: ...

    async def receive(self) -> Any: ...

    def handle(self, kind: type, handler: Callable[[Any], None]) -> None: ...


class Commanded(Protocol):
    """Whoever takes commands."""

    @property
    def control(self) -> Commands: ...


class EveryRank:
    """The ranks of a trainer as one: what is sent goes to all of them, in one order; rank 0 answers for them. It is its own channel."""

    def __init__(self, ranks: Sequence[Commanded]) -> None:
        self._ranks = [rank.control for rank in ranks]

    @property
    def control(self) -> EveryRank:
        return self

    def send(self, message: Any) -> None:
        for rank in self._ranks:
            rank.send(message)

    async def receive(self) -> Any:
        return await self._ranks[0].receive()

    def handle(self, kind: type, handler: Callable[[Any], None]) -> None:
        self._ranks[0].handle(kind, handler)


class Runtime(ABC):
    """The workers of one run.

        async with ARuntime(recipe, run, capacity=128, notify=print) as runtime:
            await runtime.guard(runtime.ready())
            await runtime.collect(book, total=96, on_episode=look_at)
            async for published, episodes in runtime.train(ledger, end=20): ...

    board: where everybody's time goes. server: who runs tickets. Every process, pipe and block of shared memory is gone when the `async with` is left, however
    it is left. Raises WorkerError where a worker fails for good.
    """

    board: MeterBoard
    server: TicketServer
    _recipe: Recipe
    _failure: asyncio.Future[None]

    @property
    @abstractmethod
    def rollouts(self) -> Rollouts:
        """Where episodes that `collect` gives can be read."""

    @property
    @abstractmethod
    def trainer(self) -> Commanded:
        """Whoever obeys the trainer's commands."""

    @abstractmethod
    async def __aenter__(self) -> Runtime: ...

    @abstractmethod
    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    @abstractmethod
    async def ready(self) -> None:
        """Wait until every worker has been built. To be called before any ticket is run."""

    async def trainer_ready(self) -> None:
        """Wait for the trainer, and not for simulators."""
        await self.ready()

    @abstractmethod
    def steps_made(self) -> int:
        """Environment steps since the start, those of running episodes among them."""

    @abstractmethod
    def kill(self) -> None:
        """End every worker at once."""

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

    async def collect(self, book: TicketBook, total: int | None, on_episode: Callable[[Finished], Awaitable[bool]], at_once: int | None = None) -> None:
        """Run tickets 0, 1, 2, ... of `book`, at most `at_once` of them at a time (None: as many as the data plane holds), and give their episodes to
        `on_episode` in ticket order.

        An episode may be read from `rollouts` until `on_episode` returns; it returns True once it has enough. total: how many tickets there are (None: no end).
        """
        ledger = Ledger(book, batch=1, max_staleness=(at_once or self.rollouts.spec.capacity) - 1, total=total)
        news = asyncio.Event()
        self.server.serve(ledger, lambda _: news.set())

        async def until(condition: Callable[[], Any]) -> None:
            while not condition():
                news.clear()
                await news.wait()

        while total is None or ledger.version < total:
            await until(lambda: ledger.finished(ledger.version))
            if await on_episode(ledger.finished(ledger.version)[0]):
                break
            ledger.advance(ledger.version + 1)
            self.server.grant()
        ledger.close()
        await until(lambda: not ledger.running)  # wanted by nobody any more, but their simulators are not free before they end

    async def train(self, ledger: Ledger, end: int) -> AsyncIterator[tuple[Published, list[Finished]]]:
        """Make updates up to version `end`; yields each as it is published, with its episodes in ticket order."""
        self.serve_trainer(ledger)
        async for published, episodes in self.updates(ledger, end):
            yield published, episodes

    def serve_trainer(self, ledger: Ledger) -> None:
        """Run the tickets of `ledger` for the trainer. With engine.offload it hears of the last of an update when the devices are its own."""
        control = self.trainer.control

        def on_finished(finished: Finished) -> None:
            index = finished.ticket.index
            arrived = Arrived(index, finished.decisions)
            if self._recipe.engine.offload and len(ledger.finished(ledger.update_of(index))) == ledger.batch:
                self.server.vacate(then=lambda: control.send(arrived))
            else:
                control.send(arrived)

        self.server.serve(ledger, on_finished)

    async def updates(self, ledger: Ledger, end: int) -> AsyncIterator[tuple[Published, list[Finished]]]:
        """Have the trainer make updates up to version `end`."""
        control = self.trainer.control
        control.send(Train(ledger.version, end))
        while not isinstance(message := await control.receive(), Trained):
            episodes = ledger.advance(message.version)
            self.server.grant()
            yield message, episodes

    def finish_update(self, ledger: Ledger) -> None:
        """Let the trainer's present update be the last: it says which that is, and no ticket of a later one is handed out."""
        self.trainer.control.handle(LastUpdate, lambda message: ledger.close(after_update=message.update))
        self.trainer.control.send(StopAfterUpdate())
