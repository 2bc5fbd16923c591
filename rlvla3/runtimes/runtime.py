"""The coordinator of every runtime with real workers: it drives a ledger, and it hears of episodes, versions and failures. Nothing here imports torch."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, TypeVar

from rlvla3.config import Recipe
from rlvla3.errors import WorkerError
from rlvla3.links.rollouts import Rollouts
from rlvla3.observability.accounts import Accounts
from rlvla3.observability.meter import MeterBoard
from rlvla3.runtimes.filming import Filming
from rlvla3.runtimes.processes.control import Stopped
from rlvla3.runtimes.processes.messages import Arrived, KeepCheckpoint, LastUpdate, Published, StopAfterUpdate, Train, Trained
from rlvla3.scheduling.beside import BesideLedger
from rlvla3.scheduling.ledger import Ledger, TicketBook
from rlvla3.types import Finished, Version

ResultT = TypeVar("ResultT")


class Beside(Protocol):
    """The evaluations beside training (runtimes/beside.py)."""

    def advanced(self, version: Version) -> None: ...


NONE_YET = Accounts()
"""The accounts of a run that begins."""


class TrainerLost(WorkerError):
    """A process of the trainer is gone without an error of its own: it was killed, it crashed in native code, or its node was lost. The run can go on from its
    last checkpoint."""


class TicketServer(Protocol):
    """Runs tickets: the shards of one host, or many hosts. Serves one ledger at a time."""

    def serve(self, ledger: Ledger, on_finished: Callable[[Finished], None]) -> None: ...

    def grant(self) -> None:
        """Send admissible tickets to free slots. To be called when the ledger's version has advanced."""

    def serve_beside(self, ledger: BesideLedger | None, on_finished: Callable[[Finished], None]) -> None:
        """Let tickets of an evaluation beside training fill slots that training leaves idle (None: there is none any more)."""

    def hold_training(self, hold: bool) -> None:
        """Whether tickets of training wait for the evaluation beside it. Those that run go on."""

    def free_devices(self, then: Callable[[], None]) -> None:
        """Have every generator leave its device, then call `then`."""


class Commands(Protocol):
    """The coordinator's end of a control channel, to a process or to an actor."""

    def send(self, message: Any) -> None: ...

    async def receive(self) -> Any: ...

    def handle(self, kind: type, handler: Callable[[Any], None]) -> None: ...


class Commanded(Protocol):
    """A worker that takes commands."""

    @property
    def control(self) -> Commands: ...


class EveryRank:
    """The ranks of a trainer as one worker. All ranks get every message, in one order; rank 0 answers. It is its own channel."""

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

    board: the time of every worker. server: runs tickets. When the `async with` is left, in whatever way, no process, pipe or block of shared memory remains.
    Raises WorkerError if a worker fails and cannot be replaced.
    """

    board: MeterBoard
    server: TicketServer
    _recipe: Recipe
    _failure: asyncio.Future[None]
    _filming: Filming | None = None

    @property
    @abstractmethod
    def rollouts(self) -> Rollouts:
        """Where the episodes that `collect` gives can be read."""

    @property
    @abstractmethod
    def trainer(self) -> Commanded:
        """The trainer, all its ranks as one."""

    @abstractmethod
    async def __aenter__(self) -> Runtime: ...

    @abstractmethod
    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    @abstractmethod
    async def ready(self) -> None:
        """Wait until every worker is built. To be called before any ticket is run."""

    async def trainer_ready(self) -> None:
        """Wait until the trainer is built, and not for simulators."""
        await self.ready()

    @abstractmethod
    def steps_made(self) -> int:
        """Environment steps since the start, including those of running episodes."""

    @abstractmethod
    def batching(self) -> Sequence[Mapping[str, float]]:
        """How each generator batches at present, with engine.max_batch=auto (observability/batching.py). Empty for a generator that has not chosen yet."""

    @abstractmethod
    def kill(self) -> None:
        """Kill every worker."""

    def fail(self, error: Exception) -> None:
        """Let the present `guard` raise `error`."""
        if not self._failure.done():
            self._failure.set_exception(error)

    async def guard(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Await `work`. If a worker fails first, cancel the work and raise that error."""
        task = asyncio.ensure_future(work)
        self._failure.add_done_callback(lambda _: task.cancel())
        try:
            return await task
        except asyncio.CancelledError:
            if self._failure.done():
                self._failure.result()
            raise
        except Stopped:
            await self._failure  # the pipe of a worker closed before the end of its process was seen
            raise

    async def collect(self, book: TicketBook, total: int | None, on_episode: Callable[[Finished], Awaitable[bool]], at_once: int | None = None) -> None:
        """Run tickets 0, 1, 2, ... of `book`, and give their episodes to `on_episode` in ticket order.

        total: how many tickets there are (None: no end). at_once: the most that run or wait at a time (None: as many as the data plane holds). `on_episode` may
        read the episode from `rollouts` until it returns. It returns True to end.
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
        await until(lambda: not ledger.running)  # nobody needs these episodes any more, but their slots are free only when they end

    async def train(
        self, ledger: Ledger, end: int, accounts: Accounts = NONE_YET, beside: Beside | None = None, filming: Filming | None = None
    ) -> AsyncIterator[tuple[Published, list[Finished]]]:
        """Make updates up to version `end`. Yields each one when it is published, with its episodes in ticket order. accounts: of what the run has done.
        beside: the evaluations beside training, if there are any. filming: films episodes, if any are to be filmed."""
        self._filming = filming
        self.serve_trainer(ledger)
        async for published, episodes in self.updates(ledger, end, accounts, beside):
            yield published, episodes

    def serve_trainer(self, ledger: Ledger) -> None:
        """Run the tickets of `ledger` for the trainer. With engine.offload, the trainer hears of the last episode of an update only when it has the devices."""
        control = self.trainer.control

        def on_finished(finished: Finished) -> None:
            index = finished.ticket.index
            arrived = Arrived(finished, ledger.tickets)
            if self._recipe.engine.offload and len(ledger.finished(ledger.update_of(index))) == ledger.batch:
                self.server.free_devices(then=lambda: control.send(arrived))
            else:
                control.send(arrived)
            self.film(finished)

        self.server.serve(ledger, on_finished)

    def film(self, finished: Finished) -> None:
        """An episode of training, or of an evaluation beside it, was handed in: film it, if it is to be filmed."""
        if self._filming is not None:
            self._filming.take(self.rollouts, finished)

    async def updates(
        self, ledger: Ledger, end: int, accounts: Accounts = NONE_YET, beside: Beside | None = None
    ) -> AsyncIterator[tuple[Published, list[Finished]]]:
        """Have the trainer make updates up to version `end`. Yields as `train` does."""
        control = self.trainer.control
        control.send(Train(ledger.version, end, accounts))
        while not isinstance(message := await control.receive(), Trained):
            episodes = ledger.advance(message.version)
            if beside is not None:
                beside.advanced(message.version)
            self.server.grant()
            yield message, episodes

    def finish_update(self, ledger: Ledger) -> None:
        """Make the trainer's present update the last one. The trainer says which one that is, and no ticket of a later one is handed out."""
        self.trainer.control.handle(LastUpdate, lambda message: ledger.close(after_update=message.update))
        self.trainer.control.send(StopAfterUpdate())

    def keep_checkpoint(self) -> None:
        """Have the trainer keep a checkpoint after its present update, and go on."""
        self.trainer.control.send(KeepCheckpoint())
