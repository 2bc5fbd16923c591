"""A simulator that is delayed on purpose: the same delays for a ticket wherever and however it is run, and nothing else changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.config import DelayConfig, make_recipe
from rlvla3.parts import evaluation_book, ticket_book
from rlvla3.runtimes.replay_session import replay_recipe
from rlvla3.scheduling.sharding import ShardSpec
from rlvla3.simulators.common_spaces import common_spaces, make_run_simulator
from rlvla3.simulators.delayed import DelayedSimulator, ShardDelays
from rlvla3.simulators.guarded import GuardedSimulator
from rlvla3.types import Purpose, Ticket

UNEVEN = DelayConfig.model_validate(
    {
        "step": {"distribution": "lognormal", "mean_s": 0.2, "sigma": 1},
        "reset": {"distribution": "uniform", "mean_s": 3},
    }
)
ALWAYS = 0.07


def ticket(index: int, **others: Any) -> Ticket:
    return Ticket(index, "task", seed=index // 2, group=index // 2, **others)


def episode(delays: ShardDelays, index: int, chunks: list[int], slot: int = 0) -> list[float]:
    """The delays of the reset and of chunks of so many steps."""
    return [delays.reset(slot, ticket(index)), *(delays.step({slot: steps}) for steps in chunks)]


@given(st.integers(0, 10**9), st.lists(st.integers(1, 9), max_size=5), st.integers(0, 7), st.integers(0, 10**6))
def test_a_ticket_has_the_same_delays_after_any_history(index: int, chunks: list[int], slot: int, other: int):
    fresh, used = ShardDelays(UNEVEN, ALWAYS), ShardDelays(UNEVEN, ALWAYS)
    episode(used, other, [4, 2], slot)
    assert episode(used, index, chunks, slot) == episode(fresh, index, chunks)


@given(st.integers(0, 10**9), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_the_length_of_chunks_changes_no_delay(index: int, chunks: list[int]):
    cut, whole = (episode(ShardDelays(UNEVEN, 0.0), index, parts) for parts in (chunks, [sum(chunks)]))
    assert cut[0] == whole[0] and sum(cut[1:]) == pytest.approx(whole[1])


def test_purpose_index_and_seed_change_the_delays():
    usual = episode(ShardDelays(UNEVEN, 0.0), 7, [5])
    assert episode(ShardDelays(UNEVEN, 0.0), 6, [5]) != usual  # of the same group
    assert episode(ShardDelays(UNEVEN.model_copy(update={"seed": 1}), 0), 7, [5]) != usual
    other = ShardDelays(UNEVEN, 0.0)
    other.reset(0, ticket(7, purpose=Purpose.EVALUATE))
    assert other.step({0: 5}) != usual[1]
    elsewhere = episode(ShardDelays(UNEVEN, ALWAYS), 7, [5])
    assert elsewhere[0] == usual[0] and elsewhere[1] - usual[1] == pytest.approx(5 * ALWAYS)


@given(st.dictionaries(st.integers(0, 5), st.integers(1, 6), min_size=1))
def test_the_slots_of_a_shard_wait_for_the_slowest_in_each_step(executed: dict[int, int]):
    together = ShardDelays(UNEVEN, ALWAYS)
    for slot in executed:
        together.reset(slot, ticket(slot))
    alone = {}
    for slot, steps in executed.items():
        one = ShardDelays(UNEVEN, ALWAYS)
        one.reset(slot, ticket(slot))
        alone[slot] = [one.step({slot: 1}) for _ in range(steps)]
    slowest = [max(delays[number] for delays in alone.values() if number < len(delays)) for number in range(max(executed.values()))]
    assert together.step(executed) == pytest.approx(sum(slowest))


def test_without_steps_there_is_no_delay():
    assert ShardDelays(UNEVEN, 0.0).step({}) == 0


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that are slept, in place of sleeping."""
    seconds: list[float] = []
    monkeypatch.setattr("rlvla3.simulators.delayed.time.sleep", seconds.append)
    return seconds


def test_a_delayed_simulator_shows_and_earns_the_same(slept: list[float]):
    tree: dict[str, Any] = {"simulator": {"name": "gymnasium:CartPole-v1", "max_steps": 30}, "policy": {"name": "actor_critic", "chunk": 4}}
    usual, late = make_recipe(tree), make_recipe({**tree, "simulator": {**tree["simulator"], "delay": UNEVEN.model_dump(mode="json")}})
    shard, spaces = ShardSpec(5, 0, range(5, 6), generator=0), common_spaces(usual)
    simulators = [make_run_simulator(recipe, shard, spaces) for recipe in (usual, late)]
    assert isinstance(simulators[0], GuardedSimulator) and isinstance(simulators[1], DelayedSimulator)
    expected = ShardDelays(UNEVEN, 0.0)
    for book in (ticket_book(usual, spaces), evaluation_book(usual, spaces)):
        first, second = (simulator.reset(0, book.ticket(0)) for simulator in simulators)
        assert np.array_equal(first.state, second.state) and slept.pop() == expected.reset(0, book.ticket(0))
        chunk = np.ones((4, 1), np.float32)
        while True:
            one, other = (simulator.step({0: chunk})[0] for simulator in simulators)
            assert np.array_equal(one.rewards, other.rewards) and one.done == other.done
            assert slept.pop() == expected.step({0: len(other.rewards)})
            if one.done:
                break
    assert not slept
    for simulator in simulators:
        simulator.close()


def test_the_shards_of_each_simulator_of_a_mix_have_its_delays(slept: list[float]):
    """Two of the four shards are of a simulator of which one shard in two is slow."""
    delay = {"shard": {"mean_s": 1, "share": 0.5}}
    late = {"name": "gymnasium:CartPole-v1", "max_steps": 30, "shards": 2}
    tree = {"simulators": {"usual": late, "late": late | {"delay": delay}}, "policy": {"name": "actor_critic", "chunk": 2}}
    recipe = make_recipe(tree)
    spaces, book = common_spaces(recipe), ticket_book(recipe, common_spaces(recipe))
    for number in range(4):
        simulator = make_run_simulator(recipe, ShardSpec(number, number // 2, range(number, number + 1), generator=0), spaces)
        simulator.reset(0, book.ticket(number // 2))
        simulator.step({0: np.ones((2, 1), np.float32)})
        simulator.close()
    assert sorted(slept) == [0, 0, 0, 2]  # resets and chunks of two steps of `late`


def test_a_replay_is_not_delayed():
    recipe = make_recipe({"simulator": {"delay": {"step": 0.1}}})
    assert replay_recipe(recipe).simulator.delay.is_none and not recipe.simulator.delay.is_none
    mixed = make_recipe({"simulators": {"one": {"name": "metaworld", "delay": {"step": 0.1}}}})
    assert all(simulator.delay.is_none for simulator in replay_recipe(mixed).mixed.values())
