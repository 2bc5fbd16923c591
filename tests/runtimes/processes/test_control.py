"""The control channel: a supervisor never waits for a worker, and every message arrives whole and in order."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from multiprocessing.connection import Connection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvla3.runtimes.processes.control import Control, Stop, Stopped

LIMIT_S = 60


def ends() -> tuple[Connection, Connection]:
    return multiprocessing.Pipe()


def test_a_supervisor_does_not_wait_for_a_worker_that_reads_nothing() -> None:
    async def run() -> None:
        ours, theirs = ends()
        supervisor, worker = Control(ours, supervises=True), Control(theirs)
        supervisor.listen()
        sent = [(number, "x" * 1000) for number in range(2000)]  # far more than a pipe holds
        for message in sent:
            supervisor.send(message)
        worker.listen()
        async with asyncio.timeout(LIMIT_S):
            assert [await worker.receive() for _ in sent] == sent
        supervisor.close()
        worker.close()

    asyncio.run(run())


def test_a_worker_that_is_stopped_in_the_middle_of_a_message_holds_nobody_up() -> None:
    async def run() -> None:
        ours, theirs = ends()
        supervisor, heard = Control(ours, supervises=True), list[str]()
        supervisor.handle(str, heard.append)
        supervisor.listen()
        message = multiprocessing.reduction.ForkingPickler.dumps("whole")
        framed = len(message).to_bytes(4, "big") + bytes(message)
        for byte in framed[:-1]:
            os.write(theirs.fileno(), bytes([byte]))
            supervisor.poll()
        assert not heard
        os.write(theirs.fileno(), framed[-1:] + framed)
        supervisor.poll()
        assert heard == ["whole", "whole"]
        theirs.close()
        supervisor.poll()
        with pytest.raises(Stopped):
            await supervisor.receive()
        supervisor.close()

    asyncio.run(run())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 200_000), max_size=30))
def test_messages_of_any_length_arrive_whole_and_in_order_in_both_directions(lengths: list[int]) -> None:
    async def run() -> None:
        ours, theirs = ends()
        supervisor, worker = Control(ours, supervises=True), Control(theirs)
        supervisor.listen()
        worker.listen()
        sent = [bytes([number % 256]) * length for number, length in enumerate(lengths)]

        def answer() -> None:
            for message in sent:
                worker.send(message)

        answering = threading.Thread(target=answer)  # any thread of a worker may send
        for message in sent:
            supervisor.send(message)
        answering.start()
        async with asyncio.timeout(LIMIT_S):
            assert [await worker.receive() for _ in sent] == sent
            assert [await supervisor.receive() for _ in sent] == sent
        await asyncio.to_thread(answering.join)
        supervisor.close()
        worker.close()

    asyncio.run(run())


def test_nothing_is_heard_after_stop_and_a_send_to_nobody_says_so() -> None:
    async def run() -> None:
        ours, theirs = ends()
        supervisor, worker, stops = Control(ours, supervises=True), Control(theirs), list[int]()
        worker.listen(on_stop=lambda: stops.append(1))
        for message in ("before", Stop(), "after"):
            supervisor.send(message)
        worker.poll()
        assert worker.arrived() == ["before"] and stops == [1]
        with pytest.raises(Stopped):
            await worker.receive()
        worker.close()
        with pytest.raises(Stopped):
            supervisor.send("to nobody")
        supervisor.close()

    asyncio.run(run())
