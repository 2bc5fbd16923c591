"""Which initial states are trained on, and which are evaluated on."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.config import InitialStatesConfig, load_recipe, make_recipe, write_recipe
from rlvla3.errors import RecipeError


@pytest.mark.parametrize(
    ("count", "training", "evaluation"),
    [
        (1, [0], [0]),
        (2, [0], [1]),
        (3, [0, 1], [2]),
        (5, [0, 1, 2, 3], [4]),
        (9, list(range(8)), [8]),
        (10, list(range(8)), [8, 9]),
        (50, list(range(40)), list(range(40, 50))),
    ],
)
def test_by_default_the_last_fifth_is_held_out(count: int, training: list[int], evaluation: list[int]):
    split = InitialStatesConfig().split(count)
    assert (list(split.training), list(split.evaluation)) == (training, evaluation)
    assert split.shared == (count == 1)


@pytest.mark.parametrize(
    ("chosen", "training", "evaluation"),
    [
        ({"evaluation": "all"}, range(8), range(10)),
        ({"training": "all"}, range(10), range(8, 10)),
        ({"training": "all", "evaluation": "all"}, range(10), range(10)),
        ({"evaluation": ["0-9"]}, range(8), range(10)),
        ({"evaluation": [0]}, range(1, 10), [0]),
        ({"evaluation": 0}, range(1, 10), [0]),
        ({"evaluation": "0"}, range(1, 10), [0]),
        ({"evaluation": "0-3"}, range(4, 10), range(4)),
        ({"evaluation": ["7-9", 0, "2-3"]}, [1, 4, 5, 6], [0, 2, 3, 7, 8, 9]),
        ({"training": ["0-3", "5"]}, [0, 1, 2, 3, 5], [4, 6, 7, 8, 9]),
        ({"training": (0, 1)}, [0, 1], range(2, 10)),
        ({"training": [0, 1], "evaluation": [1, 2]}, [0, 1], [1, 2]),
        ({"training": "9-9", "evaluation": None}, [9], range(9)),
        ({"training": ["00-03"]}, range(4), range(4, 10)),
    ],
)
def test_states_are_chosen_as_they_are_written(chosen: dict[str, Any], training: Any, evaluation: Any):
    split = InitialStatesConfig(**chosen).split(10)
    assert (list(split.training), list(split.evaluation)) == (list(training), list(evaluation))


WRONG: list[tuple[Any, str]] = [
    ([], "an empty list leaves no initial state"),
    ("", "names no initial states"),
    ("some", "'some' names no initial states: write `all`, or a list of numbers and ranges, for example [0, 3, 10-19]"),
    ("All", "names no initial states"),
    (["all"], "names no initial states"),
    (-1, "a number outside 0 to 999999999 names no initial states"),
    ([-1], "names no initial states"),
    ("-3", "names no initial states"),
    ("3-", "names no initial states"),
    ("1-2-3", "names no initial states"),
    ("1 - 3", "names no initial states"),
    ("1,2", "names no initial states"),
    ([1.0], "names no initial states"),
    (1.5, "names no initial states"),
    (True, "names no initial states"),
    ([None], "names no initial states"),
    ({"from": 0, "to": 9}, "names no initial states"),
    ([[0, 9]], "names no initial states"),
    ("٣", "names no initial states"),
    ("9-0", "9-0 is a range whose end comes before its beginning: write 0-9"),
    ([3, 3], "initial state 3 is named twice"),
    (["0-5", 5], "initial state 5 is named twice"),
    (["0-5", "2-3"], "initial state 2 is named twice"),
    (10**12, "names no initial states"),
    (f"0-{10**12}", "names no initial states"),
    ("0" * 600, "names no initial states"),
]


@pytest.mark.parametrize("key", ["training", "evaluation"])
@pytest.mark.parametrize(("given_", "words"), WRONG)
def test_what_names_no_states_is_refused_with_the_way_out(key: str, given_: Any, words: str):
    with pytest.raises(RecipeError) as refused:
        make_recipe({"simulator": {"name": "libero", "tasks": ["libero_goal/0"], "initial_states": {key: given_}}})
    assert f"simulator.initial_states.{key}" in str(refused.value) and words in str(refused.value)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"evaluation": [10]}, "initial_states.evaluation names state 10, and there are 10: name some of 0 to 9"),
        ({"training": ["0-999999999"]}, "initial_states.training names state 999999999, and there are 10"),
    ],
)
def test_a_state_that_is_not_there_is_refused(chosen: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        InitialStatesConfig(**chosen).split(10)


@st.composite
def chosen(draw: st.DrawFn, count: int) -> Any:
    """Some states of `count`, as somebody may write them."""
    if draw(st.booleans()):
        return draw(st.sampled_from([None, "all"]))
    cuts = sorted(draw(st.sets(st.integers(0, count), min_size=2, max_size=8)) if count > 1 else {0, 1})
    ranges = [(first, end - 1) for first, end in pairwise(cuts)][:: draw(st.integers(1, 2))]
    entries: list[int | str] = [first if first == last and draw(st.booleans()) else f"{first}-{last}" for first, last in ranges]
    return draw(st.permutations(entries))


@given(st.data(), st.integers(1, 60))
def test_a_split_has_states_for_both_and_shares_none_unless_it_is_told_to(data: st.DataObject, count: int):
    config = InitialStatesConfig(training=data.draw(chosen(count)), evaluation=data.draw(chosen(count)))
    split = config.split(count)
    for numbers in split:
        assert list(numbers) == sorted(set(numbers)) and numbers and set(numbers) <= set(range(count))
    named = {key: list(getattr(split, key)) for key in ("training", "evaluation") if getattr(config, key) is not None}
    if len(named) == 2:
        assert split.shared == len(set(named["training"]) & set(named["evaluation"]))
    elif not named or (count > 1 and all(len(numbers) < count for numbers in named.values())):
        assert split.shared == (count == 1)
        assert not named or len(split.training) + len(split.evaluation) == count


@given(training=chosen(50), evaluation=chosen(50))
def test_a_recipe_keeps_what_was_chosen(tmp_path_factory: pytest.TempPathFactory, training: Any, evaluation: Any):
    recipe = make_recipe({"simulator": {"initial_states": {"training": training, "evaluation": evaluation}}})
    path = tmp_path_factory.mktemp("kept") / "recipe.yaml"
    write_recipe(recipe, path)
    assert load_recipe(path) == recipe


def test_overrides_choose_states_as_a_recipe_does():
    for written in ("40-49", "[40-49]", "[40, 41-49]"):
        recipe = make_recipe({}, [f"simulator.initial_states.evaluation={written}"])
        assert list(recipe.simulator.initial_states.split(50).evaluation) == list(range(40, 50))
    assert make_recipe({}, {"simulator.initial_states": {"training": [1, 2]}}).simulator.initial_states.training == [1, 2]
