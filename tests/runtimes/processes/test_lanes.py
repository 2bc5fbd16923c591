"""Several workers in one process: each has its thread, loop and channel, and they are built in turn and end together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from rlvla3.links.weights.versions import WeightMemory
from rlvla3.runtimes.processes.control import Stopped
from rlvla3.runtimes.processes.lanes import Lane
from rlvla3.runtimes.processes.messages import Failed, Ready
from rlvla3.runtimes.processes.process import WorkerProcess, start_lanes

PATIENCE_S = 60.0


def run(tmp_path: Path, bodies: dict[str, str], work: Callable[[list[WorkerProcess]], Awaitable[None]], *given: object) -> list[str]:
    """Do `work` with lanes of some bodies, by name, which all are given some objects. Returns what the lanes have noted."""
    notes = tmp_path / "notes"
    notes.touch()

    async def within() -> None:
        workers = start_lanes([Lane(name, f"tests.support.lanes:{body}", (name, notes, *given)) for name, body in bodies.items()], tmp_path / "log")
        try:
            await asyncio.wait_for(work(workers), PATIENCE_S)
        finally:
            await asyncio.gather(*(worker.stop(PATIENCE_S) for worker in workers))
            assert all(not worker.process.is_alive() for worker in workers)

    asyncio.run(within())
    return notes.read_text().splitlines()


async def ended(worker: WorkerProcess) -> int | None:
    """The exit code of a process that ends without being asked."""
    event = asyncio.Event()
    worker.on_exit(event.set)
    await event.wait()
    worker.process.join()
    return worker.process.exitcode


def test_lanes_are_built_in_turn_and_each_hears_its_own_channel(tmp_path: Path):
    async def work(workers: list[WorkerProcess]) -> None:
        assert len({worker.process.pid for worker in workers}) == 1
        for worker in workers:
            assert isinstance(await worker.control.receive(), Ready)
        for worker in reversed(workers):
            worker.control.send("who are you?")
            assert await worker.control.receive() == worker.name

    notes = run(tmp_path, {"first": "stay", "second": "stay"}, work)
    assert notes[:4] == ["first begins", "first is built", "second begins", "second is built"]
    assert sorted(notes[4:]) == ["first ends", "second ends"]


def test_what_lanes_are_given_is_one_object_of_their_process(tmp_path: Path):
    async def work(workers: list[WorkerProcess]) -> None:
        seen = []
        for worker in workers:
            await worker.control.receive()
            seen.append(await worker.control.receive())
        assert seen[0] == seen[1]

    run(tmp_path, {"first": "look_at", "second": "look_at"}, work, WeightMemory())


@pytest.mark.parametrize("failing", [0, 1])
def test_a_lane_that_fails_says_so_itself_and_takes_the_other_one_along(tmp_path: Path, failing: int):
    async def work(workers: list[WorkerProcess]) -> None:
        for worker in workers:
            await worker.control.receive()
        workers[failing].control.send("fail")
        message = await workers[failing].control.receive()
        assert isinstance(message, Failed) and message.message == f"{workers[failing].name} was told to fail"
        with pytest.raises(Stopped):  # not asked to end by its own channel, it says nothing
            await workers[1 - failing].control.receive()
        assert await ended(workers[1 - failing]) == 1

    bodies = {"first": "stay", "second": "stay"} | {("first", "second")[failing]: "fail_when_told"}
    assert run(tmp_path, bodies, work)[-1].endswith("ends")
    assert "was told to fail" in (tmp_path / "log").read_text()


def test_a_lane_that_cannot_be_built_leaves_the_next_one_unbuilt(tmp_path: Path):
    async def work(workers: list[WorkerProcess]) -> None:
        assert isinstance(await workers[0].control.receive(), Failed)
        assert await ended(workers[1]) == 1

    assert run(tmp_path, {"first": "fail_at_once", "second": "stay"}, work) == []


def test_lanes_end_though_only_one_of_them_is_asked_to(tmp_path: Path):
    async def work(workers: list[WorkerProcess]) -> None:
        for worker in workers:
            await worker.control.receive()
        await workers[1].stop(PATIENCE_S)
        assert workers[0].process.exitcode == 0

    assert sorted(run(tmp_path, {"first": "stay", "second": "stay"}, work)[4:]) == ["first ends", "second ends"]
