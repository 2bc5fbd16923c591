"""Every action that reaches an environment is in its space, and reaches all of it evenly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from rlvla3.errors import RecipeError
from rlvla3.simulators.gymnasium_actions import BoxActions, native_actions

SPACES = 300
"""Random spaces."""


def random_box(random: np.random.Generator) -> Box:
    """A Box of any type, shape and bounds; each dimension has bounds of its own."""
    dtype = np.dtype(random.choice(["float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"]))
    shape = tuple(int(size) for size in random.integers(1, 4, random.integers(0, 4)))
    if dtype == np.bool_:
        return Box(0, 1, shape, dtype.type)
    if dtype.kind == "f":
        size = 10 ** random.uniform(-4, 4 if dtype == np.float16 else 5.9)
        middle = random.uniform(-size, size, shape)
        low, high = middle - random.uniform(0, size, shape) / 2, middle + random.uniform(0, size, shape) / 2
        free = random.random(shape) < 0.2
        return Box(np.asarray(np.where(free, -np.inf, low), dtype), np.asarray(np.where(free, np.inf, high), dtype), shape, dtype.type)
    ends = np.iinfo(dtype)
    least, most = max(ends.min, -1000), min(ends.max, 1000)
    numbers = np.sort(random.integers(least, most + 1, (2, *shape)), axis=0)
    return Box(numbers[0].astype(dtype), numbers[1].astype(dtype), shape, dtype.type)


def policy_actions(random: np.random.Generator, size: int) -> list[Any]:
    """The bounds, the middle, numbers between, and numbers beyond."""
    ends = [np.full(size, value) for value in (-1, 1, 0, -5, 5, -0.0, 1e30, np.nextafter(np.float32(1), 0), np.nextafter(np.float32(-1), 0))]
    return [action.astype(np.float32) for action in [*ends, *random.uniform(-1, 1, (20, size))]]


@pytest.mark.parametrize("seed", range(SPACES // 10))
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_every_action_is_in_its_space(seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(10):
        space = random_box(random)
        actions = native_actions(space, "it", None)
        for action in policy_actions(random, actions.described.size):
            native = actions.of(action)
            assert space.contains(native), (space, action, native)
            assert native.dtype == space.dtype


@pytest.mark.parametrize("space", [Discrete(1), Discrete(2), Discrete(7, start=-3), Discrete(3, start=5), Discrete(65_536)], ids=str)
def test_every_choice_is_in_its_space_and_all_are_reached(space: Discrete) -> None:
    actions = native_actions(space, "it", None)
    natives = [actions.of(np.array([choice], np.float32)) for choice in range(actions.described.choices)]
    assert all(space.contains(native) for native in natives)
    assert len(set(map(int, natives))) == space.n


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(-2, 2, np.int64), (0, 1, np.int8), (0, 9, np.uint8), (-7, 3, np.int32), (-128, 127, np.int8), (0, 255, np.uint8), (0, 1, np.bool_), (5, 5, np.int16)],
    ids=lambda value: str(value),
)
def test_whole_numbers_are_reached_evenly(low: int, high: int, dtype: Any) -> None:
    space, count = Box(low, high, (1,), dtype), int(high) - int(low) + 1
    actions = native_actions(space, "it", None)
    each = 40
    natives = [int(actions.of(np.array([number], np.float32))[0]) for number in (np.arange(count * each) + 0.5) / (count * each) * 2 - 1]
    assert np.bincount(np.array(natives) - int(low), minlength=count).tolist() == [each] * count


def test_both_ends_and_the_middle_of_a_box_are_reached() -> None:
    actions = native_actions(Box(np.array([0, -3, -np.inf], np.float32), np.array([10, 1, np.inf], np.float32)), "it", None)
    assert [actions.of(np.full(3, number, np.float32)).tolist() for number in (-1, 0, 1)] == [[0, -3, -1], [5, -1, 0], [10, 1, 1]]


HALF_BOUNDED = Box(np.array([10, 0, -1], np.float32), np.array([np.inf, np.inf, 1], np.float32))


def test_bounds_of_a_recipe_take_the_place_of_those_that_cannot_be_used() -> None:
    actions = native_actions(HALF_BOUNDED, "it", (10, 30))
    assert isinstance(actions, BoxActions)
    assert [actions.of(np.full(3, number, np.float32)).tolist() for number in (-1, 0, 1)] == [[10, 10, -1], [20, 20, 0], [30, 30, 1]]


@pytest.mark.parametrize(
    ("space", "bounds", "words"),
    [
        (HALF_BOUNDED, None, "bounds [10, inf] in dimension 0"),
        (HALF_BOUNDED, (0.0, 20.0), "not within the bounds of it, [10, inf] in dimension 0"),
        (Box(-np.inf, 3, (2, 2)), None, "bounds [-inf, 3] in dimension 0, 0"),
        (Box(-np.inf, 3, (2, 2)), (0.0, 4.0), "not within the bounds of it, [-inf, 3] in dimension 0, 0"),
        (Box(-1e7, 1e7, ()), None, "bounds [-1e+07, 1e+07] in dimension 0"),
        (Box(-1e20, 1e20, (1,)), None, "bounds of at most 1e+06"),
        (Box(np.iinfo(np.int32).min, np.iinfo(np.int32).max, (1,), np.int32), None, "bounds [-inf, inf]"),
        (Box(0, np.iinfo(np.int64).max, (1,), np.int64), None, "bounds [0, inf]"),
        (Box(np.array([-1, -np.inf], np.float32), np.array([np.finfo(np.float32).max, 1], np.float32)), None, "[-1, 3.40282e+38] in dimension 0"),
    ],
    ids=str,
)
def test_bounds_that_cannot_be_used_are_refused(space: Box, bounds: tuple[float, float] | None, words: str) -> None:
    with pytest.raises(RecipeError) as refused:
        native_actions(space, "it", bounds)
    assert words in str(refused.value)
