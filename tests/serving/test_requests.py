"""Requests of clients: every one is answered once, in batches that are due by the rules of the batcher."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest

from rlvla3.loops import generate
from rlvla3.scheduling.limits import FixedLimits, LearnedLimits
from rlvla3.serving import requests as serving
from rlvla3.serving.requests import Batch, OneVersion, ServedRequests
from rlvla3.types import Observation

SEEN = Observation({}, np.zeros(1, np.float32))


class Engine:
    """Settles each request with its own decision. seen: all batches, as the decisions of their requests."""

    version, beside_host = 0, False

    def __init__(self, seconds: float = 0.0) -> None:
        self.seen: list[list[tuple[int, int]]] = []
        self._seconds = seconds

    async def load_weights(self, batch: Batch) -> None:
        raise AssertionError

    async def begin(self, batch: Batch) -> None:
        """As on a CPU, all happens in `end`."""

    async def end(self, batch: Batch) -> None:
        self.seen.append([request.decision for request in batch])
        await asyncio.sleep(self._seconds)

    def write(self, batch: Batch) -> None:
        for request in batch:
            request.settle(np.array([request.decision], np.float32), len(batch), 0.0)


def run(requests: ServedRequests, engine: Engine, work) -> None:
    async def all_of_it() -> None:
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            generating = tasks.create_task(generate(requests, OneVersion(), engine))
            await work()
            generating.cancel()

    asyncio.run(all_of_it())


@pytest.mark.parametrize("seed", range(20))
def test_every_request_is_answered_once_whoever_comes_leaves_and_pauses(seed, monkeypatch):
    monkeypatch.setattr(serving, "IDLE_S", 0.005)
    source = random.Random(seed)
    largest = source.choice([1, 2, 5, 64])
    limits = source.choice([FixedLimits(source.choice([1, 3, None]), source.choice([0.0, 0.003])), LearnedLimits(0.003)])
    requests, engine = ServedRequests(limits, largest), Engine(0.0005)
    answered: list[tuple[int, int]] = []
    left: list[tuple[int, int]] = []

    async def client(number: int) -> None:
        for step in range(source.randrange(1, 12)):
            await asyncio.sleep(source.choice([0, 0, 0.001, 0.01]))
            asking = asyncio.create_task(requests.decide(number, SEEN, (number, step)))
            if source.random() < 0.1:
                await asyncio.sleep(source.choice([0, 0.0005]))
                if not asking.done():
                    asking.cancel()
                    requests.forget(number)
                    left.append((number, step))
                    return
            decided = await asking
            assert decided.actions.tolist() == [[number, step]] and 1 <= decided.batch <= largest and decided.waiting >= 0
            answered.append((number, step))
        requests.forget(number)

    async def work() -> None:
        await asyncio.gather(*(client(number) for number in range(8)))

    run(requests, engine, work)
    inferred = [decision for batch in engine.seen for decision in batch]
    assert len(set(inferred)) == len(inferred), "a request was inferred twice"
    assert set(answered) <= set(inferred) <= {*answered, *left}


def test_all_that_wait_go_together_and_nobody_waits_for_a_client_that_is_gone():
    requests, engine = ServedRequests(FixedLimits(None, 30.0), 64), Engine()

    async def work() -> None:
        await asyncio.gather(*(requests.decide(number, SEEN, (number, 0)) for number in range(4)))
        waits = asyncio.create_task(requests.decide(0, SEEN, (0, 1)))
        await asyncio.sleep(0.01)
        assert not waits.done()  # three others may still ask, and T_max is long
        for number in (1, 2, 3):
            requests.forget(number)
        await waits

    run(requests, engine, work)
    assert [len(batch) for batch in engine.seen] == [4, 1]


def test_a_client_that_pauses_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(serving, "IDLE_S", 0.0)
    requests, engine = ServedRequests(FixedLimits(None, 30.0), 64), Engine()

    async def work() -> None:
        for number in (0, 1, 0):
            await requests.decide(number, SEEN, (number, len(engine.seen)))

    run(requests, engine, work)
    assert [len(batch) for batch in engine.seen] == [1, 1, 1]
