"""Several simulators in one run: whose turn it is, who runs what, and what they have in common."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.config import load_recipe, make_recipe
from rlvla3.config.loading import write_recipe
from rlvla3.errors import RecipeError
from rlvla3.planning.profiles import check_profile, check_single_simulator, find_profile
from rlvla3.scheduling.ledger import Ledger, TicketBook
from rlvla3.scheduling.mix import Mix, Rotation, SimulatorShare
from rlvla3.scheduling.placement import PlacementError
from rlvla3.scheduling.sharding import Sharding, lay_out
from rlvla3.simulators.base import Simulator
from rlvla3.simulators.common_spaces import AdaptedSimulator, combine_spaces
from rlvla3.types import ActionSpace, Finished, Observation, Outcome, Spaces

weights = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@given(weights, st.integers(0, 60))
def test_turns_are_even_and_counted(weights, turns):
    rotation, seen = Rotation(weights), Counter[int]()
    for turn in range(turns):
        whose, before = rotation.at(turn)
        assert before == seen[whose]
        seen[whose] += 1
        for number, weight in enumerate(weights):
            assert abs(seen[number] - (turn + 1) * weight / sum(weights)) < 1
    assert [seen[number] for number in range(len(weights))] == [sum(rotation.at(turn)[0] == number for turn in range(turns)) for number in range(len(weights))]


def test_without_weights_tasks_go_round_in_the_order_they_are_named():
    assert [Mix.of("a", "b", "c").task(group) for group in range(7)] == ["a", "b", "c", "a", "b", "c", "a"]


@given(st.lists(st.tuples(weights, st.integers(1, 4)), min_size=1, max_size=3))
def test_each_simulator_and_each_of_its_tasks_has_its_share(parts):
    shares = tuple(
        SimulatorShare(tuple(f"{number}-{task}" for task in range(len(tasks))), tuple(tasks), weight) for number, (tasks, weight) in enumerate(parts)
    )
    mix = Mix(shares)
    whole = sum(share.weight for share in shares) * int(np.prod([sum(share.weights) for share in shares]))
    seen = Counter(mix.task(group) for group in range(whole))
    for share in shares:
        of_simulator = whole * share.weight // sum(one.weight for one in shares)
        for task, weight in zip(share.tasks, share.weights, strict=True):
            assert seen[task] == of_simulator * weight // sum(share.weights)
    assert all(mix.task(group).startswith(f"{mix.simulator(group)}-") for group in range(min(whole, 50)))
    assert set(Counter(mix.even().task(group) for group in range(3 * len(mix.tasks))).values()) == {3}


@given(st.data())
def test_nobody_waits_for_another_simulators_tickets(data):
    mix = Mix((SimulatorShare(("a",), (1,), 2), SimulatorShare(("b",), (1,), 1)))
    batch = 3 * data.draw(st.integers(1, 3))
    ledger = Ledger(TicketBook(mix, seed=0), batch, max_staleness=data.draw(st.integers(0, 2)), total=4 * batch)
    running: dict[int, list[int]] = {0: [], 1: []}
    done: list[int] = []
    lost: list[int] = []
    for _ in range(400):
        simulator = data.draw(st.integers(0, 1))
        admissible = range(min(ledger.version + ledger.max_staleness + 1, 4) * batch)
        mine = [i for i in admissible if mix.simulator(i) == simulator and i not in running[simulator] and i not in done]
        expected = min([i for i in lost if i in mine], default=min(mine, default=None))
        ticket = ledger.take(simulator)
        assert (ticket and ticket.index) == expected
        if ticket is not None:
            assert ticket.task == ("a", "b")[simulator]
            running[simulator].append(ticket.index)
            lost = [index for index in lost if index != ticket.index]
        elif running[simulator]:
            index = running[simulator].pop()
            if data.draw(st.booleans()) and index not in lost:
                ledger.lost(index)
                lost.append(index)
            else:
                ledger.hand_in(Finished(ledger.book.ticket(index), 1, 1, True, 1.0, oldest=ledger.version, newest=ledger.version))
                done.append(index)
        while ledger.version < 4 and all(index in done for index in range(ledger.version * batch, (ledger.version + 1) * batch)):
            ledger.advance(ledger.version + 1)
    assert ledger.issued == len({*done, *lost, *running[0], *running[1]})


MIX = {
    "simulators": {
        "pole": {"name": "gymnasium:CartPole-v1", "shards": 1, "weight": 2},
        "acrobot": {"name": "gymnasium:MountainCar-v0", "shards": 2, "slots": 1, "max_steps": 50},
    },
    "policy": {"name": "actor_critic", "chunk": 1},
}


def test_a_mix_is_written_and_read_back(tmp_path):
    recipe = make_recipe(MIX)
    write_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    assert load_recipe(tmp_path / "recipe.yaml", ["simulators.pole.shards=3"]).environments == 5
    assert recipe.tasks == ("pole", "acrobot")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (MIX | {"simulator": {"name": "metaworld"}}, "one simulator: or several simulators:"),
        (MIX | {"simulators": {"a": {"tasks": ["x"]}, "b": {"tasks": ["x"]}}}, "x is a task of several simulators"),
        (MIX | {"simulators": {"a": {"shard": 1}}}, "simulators.a.shard: unknown key, did you mean shards"),
        (MIX | {"simulators": {"a": {"tasks": {"x": 0}}}}, "task_weights.0"),
        (MIX | {"simulators": {"a": {"tasks": ["x", "x"]}}}, "x stands 2 times in tasks"),
        (MIX | {"simulators": {"a": {"max_steps": 3}}, "policy": {"chunk": 5}}, "longer than an episode of a, max_steps=3"),
    ],
)
def test_a_mix_that_cannot_be_is_refused(tree, message):
    with pytest.raises(RecipeError, match=message):
        make_recipe(tree)


@pytest.mark.parametrize("check", [check_single_simulator, lambda recipe: check_profile(find_profile("libero-pi0"), recipe)])
def test_planning_knows_one_simulator(check):
    with pytest.raises(RecipeError, match="this recipe mixes pole, acrobot"):
        check(make_recipe(MIX))


def test_tasks_are_weighed_by_a_mapping():
    recipe = make_recipe({"simulator": {"tasks": {"reach-v3": 2, "push-v3": 1}}})
    assert Counter(recipe.mix.task(group) for group in range(6)) == {"reach-v3": 4, "push-v3": 2}


def test_a_range_of_tasks_is_spelled_out():
    recipe = make_recipe({"simulator": {"tasks": ["libero_goal/8-10", "reach-v3"]}})
    assert recipe.tasks == ("libero_goal/8", "libero_goal/9", "libero_goal/10", "reach-v3")
    assert make_recipe({"simulator": {"tasks": {"libero_goal/0-1": 3}}}).simulator.task_weights == [3, 3]


ARM = Spaces({"front": (4, 4, 3)}, state=2, action=ActionSpace("continuous", 2), max_steps=10, instructions=("reach",))
TWO_EYES = Spaces({"agentview": (4, 4, 3), "wrist": (4, 4, 3)}, state=3, action=ActionSpace("continuous", 4), max_steps=20, instructions=("grasp",))


def test_common_spaces_hold_all():
    assert combine_spaces({"arm": ARM}) is ARM
    assert combine_spaces({"arm": ARM, "two": TWO_EYES}) == Spaces(
        TWO_EYES.cameras, state=3, action=ActionSpace("continuous", 4), max_steps=20, instructions=("reach", "grasp")
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Spaces({}, 1, ActionSpace("discrete", 1, choices=3), 5), "one of 3 choices"),
        (Spaces({"front": (8, 8, 3)}, 1, ActionSpace("continuous", 2), 5), "camera front of b gives images of 8x8x3.*image_size"),
    ],
)
def test_what_has_nothing_in_common_is_refused(other, message):
    with pytest.raises(RecipeError, match=message):
        combine_spaces({"a": ARM, "b": other})


class Arm(Simulator):
    """Shows its ticket, and keeps the chunk it was given."""

    spaces = ARM

    def __init__(self) -> None:
        self.given: list[np.ndarray | None] = []

    @classmethod
    def describe(cls, config):
        return ARM

    def reset(self, slot, ticket):
        return Observation({"front": np.full((4, 4, 3), 7, np.uint8)}, np.ones(2, np.float32), "reach", 0.0)

    def step(self, chunks):
        self.given += chunks.values()
        shown = self.reset(0, None)
        return {slot: Outcome(np.ones((3, 2), np.float32) if chunk is None else chunk, np.ones(3, np.float32), shown) for slot, chunk in chunks.items()}


def test_a_member_is_brought_to_the_common_spaces():
    arm = Arm()
    member = AdaptedSimulator(arm, combine_spaces({"arm": ARM, "two": TWO_EYES}))
    shown = member.reset(0, TicketBook(Mix.of("a"), 0).ticket(0))
    assert {camera: int(image.max()) for camera, image in shown.images.items()} == {"agentview": 7, "wrist": 0}
    assert shown.state.tolist() == [1, 1, 0]
    asked = np.arange(12, dtype=np.float32).reshape(3, 4)
    outcome = member.step({0: asked})[0]
    (given,) = arm.given
    assert given is not None and np.array_equal(given, asked[:, :2])
    assert np.array_equal(outcome.actions, asked) and outcome.dimensions == 2
    assert member.step({0: None})[0].actions.tolist() == [[1, 1, 0, 0]] * 3


@given(st.lists(st.builds(Sharding, st.integers(1, 5), st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=3), st.integers(1, 4))
def test_shards_have_slots_of_their_own_and_even_generators(simulators, generators):
    for serving in ("round_robin", "least_loaded"):
        shards = lay_out(simulators, generators, serving, cores=(0, 1, 2))
        assert [slot for shard in shards for slot in shard.slots] == list(range(sum(s.shards * s.slots for s in simulators)))
        assert [(shard.simulator, len(shard.slots), len(shard.cores)) for shard in shards] == [
            (number, simulator.slots, simulator.cores) for number, simulator in enumerate(simulators) for _ in range(simulator.shards)
        ]
        load = Counter[int]()
        for shard in shards:
            load[shard.generator] += len(shard.slots)
        if serving == "least_loaded":
            assert max(load.values()) - min(load[number] for number in range(generators)) <= max(s.slots for s in simulators)
        else:
            assert [shard.generator for shard in shards] == [number % generators for number in range(len(shards))]


def test_more_cores_than_there_are_cannot_be_bound():
    with pytest.raises(PlacementError, match="cores=3, and this host has 2"):
        lay_out([Sharding(1, 1, cores=3)], 1, cores=(0, 1))


def test_bound_shards_take_turns_at_cores_and_devices():
    bound = lay_out([Sharding(3, 1, cores=2, devices=("cuda:0", "cuda:1")), Sharding(1, 1)], 1, cores=(4, 5, 6))
    assert [(shard.cores, shard.device) for shard in bound] == [((4, 5), "cuda:0"), ((6, 4), "cuda:1"), ((5, 6), "cuda:0"), ((), "")]
