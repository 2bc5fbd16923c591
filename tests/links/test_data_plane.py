"""The two sides of the data plane in one event loop: who is answered, when, and in which batch."""

from __future__ import annotations

import asyncio
import contextlib
import time

import numpy as np
import pytest

from rlvla3.links.data_plane import Batch, GeneratorPort, ShardPort
from rlvla3.links.doorbell import Doorbell
from rlvla3.observability.meter import MeterBoard
from rlvla3.scheduling.limits import FixedLimits
from rlvla3.types import BESIDE, Observation, Outcome, Purpose
from tests.support.event_loop_plane import NEVER, PATIENCE_S, Host, settle


def test_each_episode_gets_its_own_chunk_and_the_batch_is_in_ticket_order():
    async def run() -> None:
        host = Host(shards=2, slots=2)
        host.plane.set_running([2])
        async with host.generating():
            answers = await asyncio.gather(host.decide(1, host.begin(1, 5, 2)), host.decide(0, host.begin(0, 4, 3)))
        assert list(answers) == [{0: [[5], [0]], 1: [[2], [0]]}, {0: [[4], [0]], 1: [[3], [0]]}]
        assert host.tickets == [[2, 3, 4, 5]]

    asyncio.run(run())


def test_a_shard_is_woken_once_for_all_its_answers_of_a_batch(monkeypatch: pytest.MonkeyPatch):
    rung: list[tuple[int, ...]] = []
    monkeypatch.setattr(Doorbell, "ring", lambda bell, *numbers: rung.append(numbers))
    Host(shards=2, slots=3).plane.answer([4, 0, 3, 2, 1])
    assert sorted(rung) == [(0, 2, 1), (4, 3)]


def test_training_explores_evaluation_and_recording_do_not_and_a_demonstration_asks_nobody():
    async def run() -> None:
        host = Host(shards=1, slots=4)
        host.plane.set_running([1])
        episodes = dict(enumerate(host.begin(0, index, purpose=purpose)[0] for index, purpose in enumerate(Purpose)))
        async with host.generating():
            answers = await host.decide(0, episodes)
        assert answers == {0: [[0], [0]], 1: [[1], [0]], 2: None, 3: [[3], [0]]}
        assert host.batches[0].explore.tolist() == [True, False, False]

    asyncio.run(run())


def test_a_batch_is_due_at_b_max_and_when_everyone_waits():
    async def run() -> None:
        host = Host(shards=3, max_batch=2)
        host.plane.set_running([3])
        async with host.generating():
            first = [asyncio.create_task(host.decide(shard, host.begin(shard, shard))) for shard in (0, 1)]
            await asyncio.gather(*first)
            host.plane.set_running([1])  # the other two have no ticket any more
            await host.decide(2, host.begin(2, 2))
        assert host.tickets == [[0, 1], [2]]

    asyncio.run(run())


def test_a_request_is_answered_at_t_max_and_not_before():
    async def run() -> None:
        host = Host(max_wait=0.05)
        host.plane.set_running([2])
        began = time.monotonic()
        async with host.generating():
            await host.decide(0, host.begin(0, 0))
        assert time.monotonic() - began >= 0.05

    asyncio.run(run())


def test_a_generator_waits_for_a_shard_that_may_ask_and_no_longer_once_it_may_not():
    async def run() -> None:
        host = Host()
        host.plane.set_running([2])
        async with host.generating():
            answer = asyncio.create_task(host.decide(0, host.begin(0, 0)))
            await settle()
            assert not answer.done()
            host.plane.set_running([1])
            assert await answer == {0: [[0], [0]]}

    asyncio.run(run())


def test_the_request_of_a_lost_shard_is_forgotten():
    async def run() -> None:
        host = Host(shards=3)
        host.plane.set_running([3])
        async with host.generating():
            lost, answer = (asyncio.create_task(host.decide(shard, host.begin(shard, shard))) for shard in (0, 1))
            await settle()
            lost.cancel()
            host.generators[0].forget(0)
            host.plane.set_running([1])
            await answer
        assert host.tickets == [[1]]

    asyncio.run(run())


def test_forgetting_one_shard_does_not_keep_another_one_waiting():
    """Shard 1 rings just before the generator is told to forget shard 0, and is heard by that: its batch is due all the same."""

    async def run() -> None:
        host = Host()
        host.plane.set_running([1])
        async with host.generating():
            await settle()
            answer = asyncio.create_task(host.decide(1, host.begin(1, 1)))
            await asyncio.sleep(0)  # it has rung, and the event loop has not looked at any pipe since
            host.generators[0].forget(0)
            assert await asyncio.wait_for(answer, timeout=1) == {0: [[1], [0]]}

    asyncio.run(run())


def test_what_a_shard_asks_at_once_is_answered_at_once(monkeypatch: pytest.MonkeyPatch):
    """The generator is quick: it looks after every single ring. Synchronous rollout is a lock-step only if a batch has every slot of a shard even then."""

    async def run() -> None:
        host = Host(shards=1, slots=3)
        host.plane.set_running([1])
        bell, port = host.plane.requests[0], host.generators[0]
        ring = bell.ring

        def ring_and_be_heard(*numbers: int) -> None:
            ring(*numbers)
            if (batch := first_batch(port)) is not None:
                host.respond(port, batch)

        monkeypatch.setattr(bell, "ring", ring_and_be_heard)
        async with asyncio.timeout(PATIENCE_S):
            await host.decide(0, host.begin(0, 0, 1, 2))
        assert host.tickets == [[0, 1, 2]]

    asyncio.run(run())


def first_batch(port: GeneratorPort) -> Batch | None:
    """The batch that is due without waiting, if there is one."""
    waiting = port.batch()
    try:
        waiting.send(None)
    except StopIteration as due:
        batch: Batch = due.value
        return batch
    waiting.close()
    return None


def test_an_answer_to_a_lost_shard_does_not_reach_its_replacement():
    async def run() -> None:
        host = Host(shards=1)
        host.plane.set_running([1])
        host.plane.answers[0].ring(0)
        host.shards[0] = ShardPort(host.plane, 0, MeterBoard(["shard 0"]).meter("shard 0"))
        answer = asyncio.create_task(host.decide(0, host.begin(0, 0)))
        await settle()
        assert not answer.done()
        async with host.generating():
            assert await answer == {0: [[0], [0]]}

    asyncio.run(run())


def test_every_generator_serves_its_own_shards():
    async def run() -> None:
        host = Host(shards=4, generators=2)
        host.plane.set_running([2, 2])
        async with host.generating():
            await asyncio.gather(*(host.decide(shard, host.begin(shard, shard)) for shard in range(4)))
        assert sorted(host.tickets) == [[0, 2], [1, 3]]

    asyncio.run(run())


def test_an_episode_asks_again_from_its_next_row():
    async def run() -> None:
        host = Host(shards=1)
        host.plane.set_running([1])
        (episode,) = (episodes := host.begin(0, 6)).values()
        async with host.generating():
            for row in range(3):
                assert await host.decide(0, episodes) == {0: [[6], [row]]}
                episode.record(Outcome(episode.actions.copy(), np.zeros(2, np.float32), Observation({}, np.zeros(1, np.float32)), truncated=row == 2))
            assert await host.decide(0, episodes) == {0: [[6], [3]]}  # the value of what the time limit cut

    asyncio.run(run())


class Killed(BaseException):
    """The generator is killed here."""


class Fuse:
    """Kills whoever writes or rings once too often. left: how many more writes and rings there are."""

    def __init__(self, left: int) -> None:
        self.left = left

    def burn(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1


class Fused(np.ndarray):
    """An array whose every element is a write of its own, as a processor makes them."""

    fuse: Fuse

    def __setitem__(self, places, values) -> None:
        flat = np.arange(self.size).reshape(self.shape)[places]
        for place, value in zip(np.ravel(flat), np.broadcast_to(values, np.shape(flat)).ravel(), strict=True):
            self.fuse.burn()
            np.ndarray.__setitem__(self.reshape(-1).view(np.ndarray), place, value)


def fused(arrays, fuse: Fuse):
    """The same memory, with a fuse."""
    seen = {name: array.view(Fused) for name, array in arrays.items()}
    for array in seen.values():
        array.fuse = fuse
    return seen


@pytest.mark.parametrize("writes", range(24))
def test_a_batch_is_answered_as_a_whole_or_not_at_all_wherever_its_generator_is_killed(monkeypatch: pytest.MonkeyPatch, writes: int):
    async def run() -> None:
        host, fuse = Host(shards=2, slots=2), Fuse(writes)
        host.plane.set_running([2])
        asking = [asyncio.create_task(host.decide(shard, host.begin(shard, 2 * shard, 2 * shard + 1))) for shard in (0, 1)]
        await settle()
        batch = first_batch(host.generators[0])
        assert batch is not None
        with monkeypatch.context() as killing, contextlib.suppress(Killed):
            ring = Doorbell.ring

            def ring_unless_killed(bell: Doorbell, *numbers: int) -> None:
                fuse.burn()
                ring(bell, *numbers)

            killing.setattr(host.plane, "asked", fused(host.plane.asked, fuse))
            killing.setattr(host.plane, "answering", fused(host.plane.answering, fuse))
            killing.setattr(Doorbell, "ring", ring_unless_killed)
            host.respond(host.generators[0], batch)

        waiting = host.plane.take_over(0)
        assert waiting in (0, 4)
        host.generators[0] = GeneratorPort(host.plane, 0, FixedLimits(None, NEVER), MeterBoard(["generator 0"]).meter("generator 0"))
        async with host.generating():
            answers = await asyncio.gather(*asking)
        assert answers == [{0: [[0], [0]], 1: [[1], [0]]}, {0: [[2], [0]], 1: [[3], [0]]}]
        assert [len(batch) for batch in host.batches] == [4] * (2 if waiting else 1)

    asyncio.run(run())


def test_what_is_rung_again_is_not_asked_again():
    async def run() -> None:
        host = Host(shards=2)
        host.plane.set_running([1])
        async with host.generating():
            asking = asyncio.create_task(host.decide(0, host.begin(0, 0)))
            await settle()
            host.plane.requests[0].ring(0, 0, 1)
            await asking
            host.plane.requests[0].ring(0, 1)
            await settle()
            assert await host.decide(0, host.begin(0, 1)) == {0: [[1], [0]]}
        assert host.tickets == [[0], [1]]

    asyncio.run(run())


def test_a_successor_takes_the_requests_of_its_own_shards_and_not_those_of_a_lost_one():
    async def run() -> None:
        host = Host(shards=4, generators=2)
        host.plane.set_running([2, 2])
        asking = [asyncio.create_task(host.decide(shard, host.begin(shard, shard))) for shard in range(4)]
        await settle()
        served = [shard for shard in range(4) if host.plane.counts["serves"][shard] == 0]
        for port in host.generators:
            port.waiting()  # they have heard every ring
        asking[served[0]].cancel()
        host.plane.drop_requests(served[0])
        assert host.plane.take_over(0) == 1
        host.generators[0] = GeneratorPort(host.plane, 0, FixedLimits(None, NEVER), MeterBoard(["generator 0"]).meter("generator 0"))
        host.plane.set_running([1, 2])
        async with host.generating():
            await asyncio.gather(*asking, return_exceptions=True)
        assert sorted(host.tickets) == sorted([[served[1]], [shard for shard in range(4) if shard not in served]])

    asyncio.run(run())


def test_training_and_an_evaluation_beside_it_share_no_batch_and_training_comes_first():
    async def run() -> None:
        host = Host(shards=4, beside=4)
        host.plane.set_running([2])
        evaluation = [asyncio.create_task(host.decide(shard, host.begin(shard, BESIDE + shard, purpose=Purpose.EVALUATE))) for shard in (2, 3)]
        training = [asyncio.create_task(host.decide(shard, host.begin(shard, shard))) for shard in (0, 1)]
        await settle()
        async with host.generating():
            await asyncio.gather(*training, *evaluation)
        assert host.tickets == [[0, 1], [BESIDE + 2, BESIDE + 3]]
        assert [batch.beside for batch in host.batches] == [False, True]
        assert host.batches[1].keys() == [(0, 2, 0), (0, 3, 0)]  # the noise is that of any other evaluation

    asyncio.run(run())


def test_an_evaluation_is_answered_while_training_waits_for_its_last_shard():
    async def run() -> None:
        host = Host(shards=3, beside=3)
        host.plane.set_running([2])
        training = asyncio.create_task(host.decide(0, host.begin(0, 0)))
        async with host.generating():
            await host.decide(2, host.begin(2, BESIDE, purpose=Purpose.EVALUATE))
            assert not training.done()
            await host.decide(1, host.begin(1, 1))
            await training
        assert host.tickets == [[BESIDE], [0, 1]]

    asyncio.run(run())


def test_a_withdrawn_ticket_is_answered_without_a_decision_however_busy_training_is():
    async def run() -> None:
        host = Host(shards=2, beside=2)
        host.plane.set_running([1])
        (episode,) = (episodes := host.begin(1, BESIDE, purpose=Purpose.EVALUATE)).values()
        left = asyncio.create_task(host.shards[1].decide(episodes))
        await settle()
        host.plane.set_withdrawn([False, True])
        assert [shard.is_withdrawn(episode.ticket) for shard in host.shards] == [False, True]
        host.plane.set_running([2])  # it has a ticket of training, and asks for nothing yet
        async with host.generating():
            assert await left == {}
            assert host.tickets == []
            host.plane.set_withdrawn([False, False])
            await asyncio.gather(host.decide(0, host.begin(0, 0)), host.decide(1, host.begin(1, 1)))
        assert host.tickets == [[0, 1]]

    asyncio.run(run())


def test_episodes_beside_training_have_blocks_of_their_own():
    host = Host(shards=1, beside=3)
    spec, tickets = host.plane.rollouts.spec, [0, 7, 8, 15, BESIDE, BESIDE + 1, BESIDE + 2, BESIDE + 3]
    blocks = [spec.block(ticket) for ticket in tickets]
    assert blocks == spec.blocks_of(np.array(tickets)).tolist() == [0, 7, 0, 7, 8, 9, 10, 8]
    assert spec.blocks == 11
