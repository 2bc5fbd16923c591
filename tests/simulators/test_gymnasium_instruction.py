"""Each decision reads the newest instruction that a Gymnasium environment has said, wherever it says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.simulators.base import SimulatorError
from rlvla3.simulators.gymnasium import GymnasiumSimulator
from rlvla3.simulators.registry import describe_simulator, make_simulator
from tests.support import told
from tests.support.single_environments import ticket


def config(environment: str, kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> SimulatorConfig:
    return SimulatorConfig(name=f"{told.__name__}:{environment}", max_steps=20, options={"kwargs": dict(kwargs), **options})


def read(simulator: GymnasiumSimulator, decisions: int, index: int = 0) -> list[str]:
    """The instructions of the decisions of one episode."""
    observations = [simulator.reset(0, ticket(index))]
    for _ in range(decisions - 1):
        outcome = simulator.step({0: np.zeros((simulator.chunk, 1), np.float32)})[0]
        assert outcome.observation is not None
        observations.append(outcome.observation)
    return [observation.instruction for observation in observations]


def simulator(environment: str, kwargs: Mapping[str, Any], chunk: int = 1, **options: Any) -> GymnasiumSimulator:
    made = make_simulator(config(environment, kwargs, options), chunk)
    assert isinstance(made, GymnasiumSimulator)
    return made


Said = tuple[str, Mapping[str, Any], Mapping[str, Any], Sequence[str]]
"""The environment, its arguments, the recipe's options, and what four decisions read."""

SAID: Mapping[str, Said] = {
    "nothing": ("Told", {}, {}, [""] * 4),
    "an attribute": ("Told", {"attribute": ["a"]}, {}, ["a"] * 4),
    "an attribute from the start": ("Told", {"from_the_start": "a"}, {}, ["a"] * 4),
    "an attribute that reset replaces": ("Told", {"from_the_start": "a", "attribute": ["b", None]}, {}, ["b"] * 4),
    "an attribute that changes": ("Told", {"attribute": ["a", "b", "c", "c"]}, {}, ["a", "b", "c", "c"]),
    "an attribute that returns": ("Told", {"attribute": ["a", "b", "a", "b"]}, {}, ["a", "b", "a", "b"]),
    "an attribute that comes late": ("Told", {"attribute": [None, None, "a"]}, {}, ["", "", "a", "a"]),
    "an attribute that becomes empty": ("Told", {"attribute": ["a", ""]}, {}, ["a", "", "", ""]),
    "a method": ("Told", {"attribute": ["a", "b", "c"], "method": True}, {}, ["a", "b", "c", "c"]),
    "a property": ("Property", {"attribute": ["a", "b", "c"]}, {}, ["a", "b", "c", "c"]),
    "a wrapper": ("wrapped", {"says": ["a", "b", "c", "d"]}, {}, ["a", "b", "c", "d"]),
    "an attribute of another name": ("Told", {"attribute": ["a", "b"], "key": "goal"}, {"instruction_from": "attribute.goal"}, ["a", "b", "b", "b"]),
    "a method of another name": ("Told", {"attribute": ["a"], "key": "say", "method": True}, {"instruction_from": "attribute.say"}, ["a"] * 4),
    "info": ("Told", {"info": ["a", "b", "c"]}, {}, ["a", "b", "c", "c"]),
    "info of the reset alone": ("Told", {"info": ["a", None]}, {}, ["a"] * 4),
    "info when it changes": ("Told", {"info": ["a", None, "b", None]}, {}, ["a", "a", "b", "b"]),
    "info that comes late": ("Told", {"info": [None, "a", None]}, {}, ["", "a", "a", "a"]),
    "info that becomes empty": ("Told", {"info": ["a", "", None]}, {}, ["a", "", "", ""]),
    "info of another name": ("Told", {"info": ["a", "b"], "key": "goal"}, {"instruction_from": "info.goal"}, ["a", "b", "b", "b"]),
    "info, and an attribute that stays": ("Told", {"attribute": ["x"], "info": ["a", None, "b", None]}, {}, ["a", "a", "b", "b"]),
    "an attribute, and info of the reset": ("Told", {"attribute": ["a", "b", "c"], "info": ["a", None]}, {}, ["a", "b", "c", "c"]),
    "both alike": ("Told", {"attribute": ["a", "b"], "info": ["a", "b"]}, {}, ["a", "b", "b", "b"]),
    "only the attribute is asked for": ("Told", {"attribute": ["a"], "info": ["b"]}, {"instruction_from": "attribute.instruction"}, ["a"] * 4),
    "only info is asked for": ("Told", {"attribute": ["a", "c"], "info": ["b"]}, {"instruction_from": "info.instruction"}, ["b"] * 4),
    "a text": ("Told", {"texts": {"words": ["a", "b", "c"]}}, {}, ["a", "b", "c", "c"]),
    "a text that becomes empty": ("Told", {"texts": {"words": ["a", ""]}}, {}, ["a", "", "", ""]),
    "a text, and an attribute": ("Told", {"texts": {"words": ["a", "b"]}, "attribute": ["x", "y"]}, {}, ["a", "b", "b", "b"]),
    "a text, and info": ("Told", {"texts": {"words": ["a", "b"]}, "info": ["x", "y"]}, {}, ["a", "b", "b", "b"]),
    "a text, and info is asked for": ("Told", {"texts": {"words": ["a"]}, "info": ["x", "y"]}, {"instruction_from": "info.instruction"}, ["x", "y", "y", "y"]),
    "two texts, one so called": ("Told", {"texts": {"hint": ["h"], "instruction": ["a", "b"]}}, {}, ["a", "b", "b", "b"]),
    "two texts, one asked for": ("Told", {"texts": {"hint": ["h"], "words": ["a"]}}, {"instruction_from": "observation.hint"}, ["h"] * 4),
    "a mission": ("Grid", {"texts": {"mission": ["a", "b"]}}, {}, ["a", "b", "b", "b"]),
    "a text within": ("Nested", {"texts": {"words": ["a", "b"]}}, {}, ["a", "b", "b", "b"]),
    "a text within, asked for": ("Nested", {"texts": {"words": ["a", "b"]}}, {"instruction_from": "observation.1.goal.words"}, ["a", "b", "b", "b"]),
    "the recipe": ("Told", {"attribute": ["a", "b"], "info": ["c"]}, {"instruction": "push"}, ["push"] * 4),
    "the recipe, not the text": ("Told", {"texts": {"words": ["a"], "hint": ["b"]}}, {"instruction": "push"}, ["push"] * 4),
    "the recipe says nothing is said": ("Told", {"attribute": ["a"]}, {"instruction": ""}, [""] * 4),
    "other letters": ("Told", {"attribute": ["grüß", "推す", "🙂"]}, {}, ["grüß", "推す", "🙂", "🙂"]),
    "a text of numpy": ("Told", {"info": [np.str_("a"), np.str_("b")]}, {}, ["a", "b", "b", "b"]),
}


@pytest.mark.parametrize("name", SAID)
def test_each_decision_reads_the_newest_that_was_said(name: str) -> None:
    environment, kwargs, options, expected = SAID[name]
    assert read(simulator(environment, kwargs, **options), 4) == expected


@pytest.mark.parametrize("name", [name for name, (_, kwargs, _, _) in SAID.items() if not {"attribute", "from_the_start"} & kwargs.keys()])
def test_no_episode_reads_what_another_one_was_told(name: str) -> None:
    environment, kwargs, options, expected = SAID[name]
    several = simulator(environment, kwargs, **options)
    read(several, 3)
    assert read(several, 4, index=1) == expected


@pytest.mark.parametrize("place", ["attribute", "info"])
def test_what_is_said_within_a_chunk_is_read_by_the_next_decision(place: str) -> None:
    said = ["a", "b", None, "c", None, None, None, "d", None]
    assert read(simulator("Told", {place: said}, chunk=3), 3) == ["a", "c", "c"]
    assert read(simulator("Told", {place: said}, chunk=2), 5) == ["a", "b", "c", "c", "d"]


@pytest.mark.parametrize("name", [name for name, (_, kwargs, _, _) in SAID.items() if "texts" in kwargs])
def test_a_text_is_no_part_of_the_state(name: str) -> None:
    environment, kwargs, options, _ = SAID[name]
    described = describe_simulator(config(environment, kwargs, options))
    assert described.state == (3 if environment == "Nested" else 1)
    assert make_simulator(config(environment, kwargs, options), 1).reset(0, ticket(0)).state.shape == (described.state,)


def test_only_the_recipe_s_own_instruction_is_known_before_the_run() -> None:
    assert describe_simulator(config("Told", {"from_the_start": "a"}, {})).instructions == ()
    assert describe_simulator(config("Told", {"from_the_start": "a"}, {"instruction": "push"})).instructions == ("push",)


UNCLEAR: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any], str]] = {
    "two texts": ({"texts": {"hint": ["h"], "words": ["a"]}}, {}, "has 2 texts, hint, words, and one of them is the instruction"),
    "no such text": ({"texts": {"words": ["a"]}}, {"instruction_from": "observation.word"}, "and its texts are words: name one of these"),
    "no text": ({}, {"instruction_from": "observation.word"}, "and it has no text"),
    "numbers": ({"texts": {"words": ["a"]}}, {"instruction_from": "observation.at"}, "its texts are words"),
    "two settings": ({}, {"instruction_from": "info.goal", "instruction": "a"}, "are both set: leave one of them out"),
    "no place": ({}, {"instruction_from": "goal"}, "expected observation.KEY, info.KEY or attribute.NAME"),
    "another place": ({}, {"instruction_from": "env.goal"}, "expected observation.KEY, info.KEY or attribute.NAME"),
    "no name": ({}, {"instruction_from": "info."}, "expected observation.KEY, info.KEY or attribute.NAME"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_the_recipe_names_and_there_is_not_is_refused_before_the_run(name: str) -> None:
    kwargs, options, said = UNCLEAR[name]
    with pytest.raises(RecipeError) as refusal:
        describe_simulator(config("Told", kwargs, options))
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("kwargs", "options", "said"),
    [
        ({"info": [None, "a"]}, {"instruction_from": "info.goal"}, "info of reset has no keys: return the instruction there from reset on"),
        ({"info": ["a"]}, {"instruction_from": "info.goal"}, "info of reset has instruction: return"),
        ({}, {"instruction_from": "attribute.goal"}, "has no attribute goal, which simulator.options.instruction_from names"),
    ],
)
def test_an_instruction_that_is_not_where_the_recipe_says_is_refused_at_the_first_reset(kwargs: Any, options: Any, said: str) -> None:
    with pytest.raises(SimulatorError, match=said):
        simulator("Told", kwargs, **options).reset(0, ticket(0))


def test_a_property_that_raises_is_not_taken_for_none() -> None:
    with pytest.raises(AttributeError, match="_atribute"):
        simulator("BrokenProperty", {"attribute": ["a"]}).reset(0, ticket(0))
