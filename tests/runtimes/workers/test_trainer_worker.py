"""A trainer whose publications go on in a thread, as on a GPU, from the coordinator's side of its channel."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvla3.config import make_recipe
from rlvla3.errors import RecipeError
from rlvla3.links.rendezvous import MeetingPoint, Rendezvous
from rlvla3.links.weights.plane import WeightPlane
from rlvla3.links.weights.versions import WeightMemory
from rlvla3.observability.accounts import Accounts
from rlvla3.observability.meter import MeterBoard
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.runtimes.processes.control import Control
from rlvla3.runtimes.processes.lanes import run_body
from rlvla3.runtimes.processes.messages import Arrived, Published, Ready, Save, Saved, Train, Trained
from rlvla3.runtimes.workers import trainer_worker
from rlvla3.runtimes.workers.device import check_on_host
from rlvla3.types import Ticket, TicketCounts
from tests.support.events import finished
from tests.support.processes import PATIENCE_S
from tests.support.tiny import MOST_DECISIONS, TinyPolicy, tiny_recipe, tiny_rollouts, write_episode

BATCH = 4


class Held(WeightPlane):
    """A plane whose thread waits before each publication but the first."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings | {"overlap": True})
        self.let_go, self.broken = threading.Semaphore(1), False
        Held.last = self

    last: Held

    def _pour(self, *arguments: Any) -> None:
        assert self.let_go.acquire(timeout=PATIENCE_S)
        if self.broken:
            raise OSError("no memory")
        super()._pour(*arguments)


class Coordinator:
    """The other side of the trainer's channel, with all episodes at hand."""

    def __init__(self, control: Control, board: MeterBoard, ended: asyncio.Future[None]) -> None:
        self.control, self.board, self.ended = control, board, ended

    def train(self, updates: int) -> None:
        self.control.send(Train(0, updates, Accounts()))

    def arrive(self, update: int) -> None:
        for index in range(update * BATCH, (update + 1) * BATCH):
            self.control.send(Arrived(finished(index, MOST_DECISIONS), TicketCounts()))

    async def hear(self) -> Any:
        return await asyncio.wait_for(self.control.receive(), PATIENCE_S)

    async def until(self, stage: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.board.stage("trainer")[0] != stage:
                await asyncio.sleep(0.002)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_worker, "WeightPlane", Held)
    monkeypatch.setattr(trainer_worker, "make_policy", lambda *_: TinyPolicy())


@asynccontextmanager
async def coordinated(folder: Path) -> AsyncIterator[Coordinator]:
    """A trainer in a thread of its own, ready, with the episodes of two updates in its data plane."""
    recipe, rollouts = tiny_recipe(training={"batch": BATCH}), tiny_rollouts(2 * BATCH)
    for index in range(2 * BATCH):
        write_episode(rollouts, TinyPolicy(), index, drift=0.0)  # else the trainer would warn of the sampler's mismatch
    ours, theirs = multiprocessing.Pipe()
    control, board = Control(ours), MeterBoard(["trainer"])
    arguments = Control(theirs), trainer_worker.run_trainer, recipe, rollouts, board, WeightMemory(), RunDirectory(folder), None, None
    ended = asyncio.ensure_future(asyncio.to_thread(lambda: asyncio.run(run_body(*arguments))))
    control.listen()
    coordinator = Coordinator(control, board, ended)
    try:
        assert isinstance(await coordinator.hear(), Ready)
        yield coordinator
    finally:
        control.close()
        with suppress(OSError):
            await asyncio.wait_for(ended, PATIENCE_S)
        theirs.close()


def test_the_next_update_is_trained_while_a_version_is_on_its_way(held: None, tmp_path: Path) -> None:
    async def run() -> None:
        async with coordinated(tmp_path) as coordinator:
            coordinator.train(2)
            coordinator.arrive(0)
            coordinator.arrive(1)
            await coordinator.until("publication")  # it has made the second update, and version 1 is not out
            assert Held.last.newest == 0
            Held.last.let_go.release()
            first = await coordinator.hear()
            assert isinstance(first, Published)
            assert (first.version, Held.last.newest) == (1, 1)
            Held.last.let_go.release()
            last, end = await coordinator.hear(), await coordinator.hear()
            assert (last.version, Held.last.newest, end) == (2, 2, Trained(2))
            coordinator.control.send(Save())
            assert await coordinator.hear() == Saved(2)
            idle = coordinator.board.shares(0 * coordinator.board.read())[0].idle
            assert idle["publication"] > 0

    asyncio.run(run())


def test_a_publication_that_fails_ends_the_trainer_though_it_waits_for_something_else(held: None, tmp_path: Path) -> None:
    async def run() -> None:
        async with coordinated(tmp_path) as coordinator:
            Held.last.broken = True
            coordinator.train(2)
            coordinator.arrive(0)
            await coordinator.until("trajectories")
            Held.last.let_go.release()
            with pytest.raises(OSError, match="no memory"):
                await asyncio.wait_for(coordinator.ended, PATIENCE_S)

    asyncio.run(run())


def test_an_error_in_a_messages_handler_ends_the_worker() -> None:
    async def body(control: Control) -> None:
        def arrived(message: Ticket) -> None:
            raise ValueError(f"cannot use ticket {message.index}")

        control.handle(Ticket, arrived)
        await control.receive()

    async def run() -> None:
        ours, theirs = multiprocessing.Pipe()
        ours.send(Ticket(7, "reach", 0, 0))
        with pytest.raises(ValueError, match="ticket 7"):
            await asyncio.wait_for(run_body(Control(theirs), body), PATIENCE_S)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"runtime": "ray"}, r"cuda_ipc is for one host, and runtime=ray has many: set weights\.on_host=shared_memory"),
        ({"training": {"device": "cpu"}}, r"training\.device=cpu: set weights\.on_host=shared_memory, or training\.device=auto"),
        ({"engine": {"device": "cpu"}}, r"engine\.device=cpu"),
    ],
)
def test_versions_on_a_gpu_are_refused_where_they_cannot_be(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        make_recipe({"weights": {"on_host": "cuda_ipc"}, **changes})
    make_recipe({"weights": {"on_host": "cuda_ipc"}})  # with auto it is found out where the GPUs are


def test_a_worker_without_a_gpu_cannot_map_versions_on_one() -> None:
    check_on_host("shared_memory", torch.device("cpu"), "engine.device")
    with pytest.raises(RecipeError, match=r"the device of engine\.device is cpu"):
        check_on_host("cuda_ipc", torch.device("cpu"), "engine.device")


def test_more_ranks_than_gpus_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    ranks = [Rendezvous(rank, 3, MeetingPoint("127.0.0.1", 1, b""), local_rank=rank) for rank in range(3)]
    assert [trainer_worker._device("auto", rank) for rank in ranks[:2]] == [torch.device("cuda", 0), torch.device("cuda", 1)]
    with pytest.raises(RecipeError, match=r"training\.ranks=3 needs a GPU for each rank of this host, and from cuda:0 on there are 2: set training\.ranks=2"):
        trainer_worker._device("auto", ranks[2])
