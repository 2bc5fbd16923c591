"""What a report says of the initial states of an evaluation."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.observability.evaluated_states import EvaluatedStates
from rlvla3.observability.event_json import event_json
from rlvla3.observability.events import EvaluationFinished
from rlvla3.observability.intervals import success_rate
from rlvla3.types import Finished, InitialStates, Purpose, Ticket


def episodes(states: dict[str, list[int | None]]) -> list[Finished]:
    began = [(task, state) for task, of_task in states.items() for state in of_task]
    tickets = [Ticket(index, task, index, index, Purpose.EVALUATE, state) for index, (task, state) in enumerate(began)]
    return [Finished(ticket, decisions=1, steps=1, success=False, return_=0.0) for ticket in tickets]


def evaluated(
    states: dict[str, list[int | None]], trained: dict[str, set[int]], chosen: dict[str, Any] | None = None, complete: bool = True
) -> EvaluatedStates:
    sets = {task: InitialStates(50, f"set of {task}") for task in ("a", "b")}
    named = {f"set of {task}": numbers for task, numbers in trained.items()}
    found = EvaluatedStates.of(episodes(states), sets, chosen or {"a": range(40, 50), "b": range(40, 50)}, named, complete)
    assert found is not None
    return found


TEN = "from 10 of 50 initial states, 1 episode each"
NONE = "None of these states was trained on"
NARROW = "Episodes from one state are not independent, so the interval of the success rate is too narrow"
UNKNOWN = ", but this policy also learned from episodes whose initial states are not known"


@pytest.mark.parametrize(
    ("states", "trained", "options", "words"),
    [
        ({"a": [*range(40, 50)]}, {}, {}, f"{TEN}. {NONE}"),
        ({"a": [*range(40, 50)]}, {"a": {*range(40)}}, {}, f"{TEN}. {NONE}"),
        ({"a": [*range(40, 50)]}, {"b": {*range(50)}}, {}, f"{TEN}. {NONE}"),
        ({"a": [*range(40, 50)]}, {"a": {40}}, {}, f"{TEN}. 1 of these states was trained on"),
        ({"a": [*range(40, 50)]}, {"a": {40, 41}}, {}, f"{TEN}. 2 of these states were trained on"),
        ({"a": [*range(40, 50)]}, {"a": {*range(50)}}, {}, f"{TEN}. All of these states were trained on"),
        ({"a": [*range(40, 50)] * 2}, {}, {}, f"from 10 of 50 initial states, 2 episodes each. {NONE}. {NARROW}"),
        ({"a": [*range(40, 50), 40]}, {}, {}, f"from 10 of 50 initial states, 1 to 2 episodes each. {NONE}. {NARROW}"),
        (
            {"a": [*range(40, 49)]},
            {},
            {},
            f"from 9 of 50 initial states, 1 episode each. {NONE}. "
            "1 state of evaluation had no episode: evaluation.episodes=10 gives each state one, if all tasks have as many",
        ),
        ({"a": [*range(40, 50)], "b": [*range(40, 50)]}, {"b": {41}}, {}, "from 20 of 100 initial states, 1 episode each. 1 of these states was trained on"),
        (
            {"a": [*range(50)]},
            {"a": {*range(40)}},
            {"chosen": {"a": range(50)}},
            "from 50 of 50 initial states, 1 episode each. 40 of these states were trained on",
        ),
        (
            {"a": [*range(40, 50)]},
            {},
            {"complete": False},
            f"{TEN}. None of these states is known to have been trained on{UNKNOWN}",
        ),
        ({"a": [*range(40, 50)]}, {"a": {40}}, {"complete": False}, f"{TEN}. 1 of these states was trained on{UNKNOWN}"),
        (
            {"a": [*range(40, 50)]},
            {"a": {*range(50)}},
            {"complete": False},
            f"{TEN}. All of these states were trained on",
        ),
        ({"a": [*range(40, 50)], "seeds": [None] * 5}, {}, {}, f"{TEN}. {NONE}"),
    ],
)
def test_a_report_says_how_often_and_how_many_were_trained_on(states: Any, trained: Any, options: Any, words: str):
    assert str(evaluated(states, trained, **options)) == words


def test_where_seeds_draw_initial_states_nothing_is_said():
    assert EvaluatedStates.of(episodes({"a": [None, None]}), {}, {}, {}, True) is None
    assert "initial_states" not in (event_json(EvaluationFinished("eval", 0, success_rate(episodes({"a": [None]})))) or {})


@given(st.lists(st.integers(0, 49), min_size=1, max_size=80), st.sets(st.integers(0, 49)), st.booleans())
def test_figures_count_each_state_and_each_overlap(began: list[int], trained: set[int], complete: bool):
    states = evaluated({"a": list(began)}, {"a": trained}, {"a": range(50)}, complete)
    figures, often = states.json(), Counter(began)
    assert (figures["states"], figures["least"], figures["most"]) == (len(often), min(often.values()), max(often.values()))
    assert figures["trained_on"] == len(trained & often.keys()) and figures["left_out"] == 50 - len(often) and figures["complete"] == complete
    assert figures["per_task"]["a"]["episodes"] == {str(number): often[number] for number in sorted(often)}
    record = event_json(EvaluationFinished("eval", 0, success_rate(episodes({"a": list(began)})), states))
    assert record is not None and record["initial_states"] == figures


@given(*[st.tuples(st.integers(0, 60), st.sets(st.integers(0, 49), min_size=1))] * 2)
def test_two_parts_of_one_set_share_the_states_with_the_same_number_in_it(training: tuple[int, set[int]], evaluation: tuple[int, set[int]]):
    """As two settings of Meta-World's first_seed do."""
    (first, trained), (other, began) = training, evaluation
    sets = {"a": InitialStates(50, "seeds", other)}
    found = EvaluatedStates.of(episodes({"a": [*began]}), sets, {"a": range(50)}, {"seeds": {first + number for number in trained}}, True)
    assert found is not None
    assert list(found.tasks["a"].trained_on) == [number for number in sorted(began) if any(first + one == other + number for one in trained)]
