"""Simulators and environments that declare a fixed set of initial states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlvla3.config import InitialStatesConfig, SimulatorConfig, make_recipe
from rlvla3.errors import RecipeError
from rlvla3.parts import demonstration_book, evaluation_book, profiling_book, splits_in_words, state_splits, ticket_book
from rlvla3.scheduling.sharding import ShardSpec
from rlvla3.simulators.base import SimulatorError
from rlvla3.simulators.common_spaces import common_spaces, make_run_simulator
from rlvla3.simulators.registry import describe_simulator, make_simulator
from rlvla3.types import InitialStates, Ticket

PLACE = "tests.support.fixed_states"


def maze(states: Any, *tasks: str, **settings: Any) -> SimulatorConfig:
    return SimulatorConfig(name=f"{PLACE}:Maze", tasks=list(tasks), max_steps=3, options={"kwargs": {"states": states}}, **settings)


@pytest.mark.parametrize(
    ("states", "tasks", "declared"),
    [
        (5, (), {f"{PLACE}:Maze": 5}),
        (1, (), {f"{PLACE}:Maze": 1}),
        (np.int64(7), (), {f"{PLACE}:Maze": 7}),
        (5, ("left", "right"), {"left": 5, "right": 5}),
        ({"left": 5, "right": 3}, ("left", "right"), {"left": 5, "right": 3}),
        ({"left": 5}, ("left", "right"), {"left": 5}),
        ({"elsewhere": 5}, ("left",), {}),
        ({}, (), {}),
        (None, (), {}),
    ],
)
def test_an_environment_says_how_many_initial_states_it_has(states: Any, tasks: tuple[str, ...], declared: dict[str, int]):
    assert describe_simulator(maze(states, *tasks)).initial_states == {task: InitialStates(count) for task, count in declared.items()}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (maze(0), "give their number, 1 to 1000000, or none, and draw initial states from the seed"),
        (maze(-1), "give their number"),
        (maze(10**7), "give their number"),
        (maze(True), "write how many initial states it has, such as 50, or {task: how many}"),
        (maze(5.0), "write how many"),
        (maze("50"), "write how many"),
        (maze([1, 2, 3]), "write how many"),
        (maze(np.zeros((50, 3))), "write how many"),
        (maze({"left": "5"}, "left"), "write how many"),
        (
            maze(5, initial_states={"evaluation": [5]}),
            f"task {PLACE}:Maze: simulator.initial_states.evaluation names state 5, and there are 5: name some of 0",
        ),
        (maze(1, initial_states={"training": "0-1"}), "names state 1, and there are 1: name 0, the only one"),
        (maze({"left": 9, "right": 3}, "left", "right", initial_states={"evaluation": "3-4"}), "task right: simulator.initial_states.evaluation names state 4"),
        (
            maze(None, initial_states={"evaluation": "all"}),
            "it draws them from seeds, and no seed of evaluation is trained on",
        ),
        (maze({}, initial_states={"training": [0]}), "Leave simulator.initial_states out, and choose the seeds with evaluation.seed"),
        (SimulatorConfig(name="gymnasium:CartPole-v1", initial_states=InitialStatesConfig(training="all")), "has no fixed set"),
        (SimulatorConfig(name=f"{PLACE}:Elsewhere", tasks=["a"]), "declares initial states of 'other', which is none of its tasks: a"),
        *((SimulatorConfig(name=f"{PLACE}:Undecided", tasks=[kind]), "give their number") for kind in ("none", "negative", "many", "true", "float", "number")),
    ],
)
def test_what_is_no_fixed_set_is_refused_with_the_way_out(wrong: SimulatorConfig, words: str):
    with pytest.raises(RecipeError) as refused:
        describe_simulator(wrong)
    assert words in str(refused.value)


def test_an_environment_is_reset_to_the_state_of_the_ticket_and_with_the_seed_where_there_is_none():
    simulator = make_simulator(maze({"left": 5}, "left", "right"), 1)
    for state in (4, 0, 4):
        seen = simulator.reset(0, Ticket(0, "left", seed=state, group=0, initial_state=state))
        assert seen.state.tolist() == [state] and simulator.environment.unwrapped.options == {"task": "left", "initial_state": state}  # type: ignore[attr-defined]
    simulator.reset(0, Ticket(0, "right", seed=3, group=0))
    assert simulator.environment.unwrapped.options == {"task": "right"}  # type: ignore[attr-defined]
    make_simulator(maze(5), 1).reset(0, Ticket(0, "whatever it is called in the recipe", seed=3, group=0, initial_state=4))


@pytest.mark.parametrize("state", [None, -1, 5])
def test_a_ticket_without_a_state_of_the_set_is_refused(state: int | None):
    with pytest.raises(SimulatorError, match=rf"names initial state {state}, and its task has 5, numbered from 0"):
        make_simulator(maze(5), 1).reset(0, Ticket(0, "maze", seed=3, group=0, initial_state=state))


MIX: dict[str, Any] = {
    "simulators": {
        "ours": {"name": f"{PLACE}:Starts", "tasks": ["a", "b", "unnumbered"], "shards": 2, "initial_states": {"evaluation": "0-4"}},
        "theirs": {"name": f"{PLACE}:Maze", "max_steps": 3, "weight": 2, "options": {"kwargs": {"states": 7}}},
        "others": {"name": f"{PLACE}:Maze", "max_steps": 3, "options": {"kwargs": {"states": 1}}},
    },
    "policy": {"name": "actor_critic", "chunk": 1},
    "algorithm": {"advantage": "grpo", "group_size": 4},
    "training": {"batch": 8, "steps": 2},
}


def test_books_of_a_mix_keep_each_purpose_to_its_own_states():
    recipe = make_recipe(MIX)
    spaces = common_spaces(recipe)
    assert {task: (states.count, states.name) for task, states in spaces.initial_states.items()} == {
        "a": (20, f"{PLACE}:Starts/a"),
        "b": (20, f"{PLACE}:Starts/b"),
        "theirs": (7, f"{PLACE}:Maze/{PLACE}:Maze"),
        "others": (1, f"{PLACE}:Maze/{PLACE}:Maze"),
    }
    splits = state_splits(recipe, spaces)
    assert list(splits["a"].training) == list(range(5, 20)) and list(splits["theirs"].evaluation) == [6] and splits["others"].shared == 1
    for book, which in ((ticket_book, 0), (profiling_book, 0), (demonstration_book, 0), (evaluation_book, 1)):
        seen: dict[str, set[int | None]] = {}
        for index in range(2000):
            ticket = book(recipe, spaces).ticket(index)
            seen.setdefault(ticket.task, set()).add(ticket.initial_state)
        assert seen == {"unnumbered": {None}} | {task: set(split[which]) for task, split in splits.items()}
    assert ticket_book(recipe, None).ticket(0).initial_state is None


def test_every_state_of_evaluation_comes_once_before_one_comes_twice():
    recipe = make_recipe(MIX, ["simulators.ours.initial_states.evaluation=all"])
    book = evaluation_book(recipe, common_spaces(recipe))
    began = [(ticket.task, ticket.initial_state) for ticket in map(book.ticket, range(5 * 20)) if ticket.task in "ab"]
    assert sorted(began) == [(task, state) for task in "ab" for state in range(20)]


def test_the_words_for_a_recipe_say_what_is_shared():
    recipe = make_recipe(MIX)
    spaces = common_spaces(recipe)
    assert splits_in_words(recipe, spaces) == [
        "initial states of a and b: 15 of 20 for training, 5 for evaluation",
        "initial states of theirs: 6 of 7 for training, 1 for evaluation",
        "initial states of others: 1 of 1 for training, 1 for evaluation; training has 1 of these too",
    ]
    assert splits_in_words(recipe, spaces, only_shared=True) == [splits_in_words(recipe, spaces)[2]]


@pytest.mark.parametrize(("name", "tasks"), [("Starts", ["a", "b"]), ("Starts", []), ("Maze", ["a"]), ("Maze", [])])
def test_a_run_accepts_a_set_that_its_simulator_gave_no_name(name: str, tasks: list[str]):
    recipe = make_recipe({"simulator": {"name": f"{PLACE}:{name}", "tasks": tasks, "max_steps": 3}, "policy": {"name": "actor_critic", "chunk": 1}})
    spaces = common_spaces(recipe)
    make_run_simulator(recipe, ShardSpec(0, 0, range(1), generator=0), spaces).reset(0, ticket_book(recipe, spaces).ticket(0))
