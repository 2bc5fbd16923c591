"""From a policy's action to an action of a Gymnasium space.

A policy gives numbers within [-1, 1], or the number of a choice. Every action that is made here lies in the environment's space.
Whole numbers are equally likely where the policy's numbers are: [-1, 1] is divided into as many equal parts as there are whole numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlvla3.errors import RecipeError
from rlvla3.types import ActionSpace

LARGEST_BOUND = 1e6
"""A dimension whose bounds are larger is not scaled: [-1, 1] would become actions that no environment expects."""

NO_BOUND = 1e30
"""A bound as large as this is none. Environments write the largest number of a type for infinity."""

MOST_CHOICES = 65_536


class NativeActions(ABC):
    """Actions of one Gymnasium space. described: what a policy is told of them."""

    described: ActionSpace

    @abstractmethod
    def of(self, action: NDArray[np.float32]) -> Any:
        """The native action for a policy's action [A]. It lies in the space."""


def native_actions(space: spaces.Space[Any], name: str, bounds: tuple[float, float] | None) -> NativeActions:
    """How actions of `space` are made. name: of the simulator. bounds: for dimensions without bounds that can be used. Raises RecipeError if it is unknown."""
    if isinstance(space, spaces.Discrete):
        return DiscreteActions(space, name)
    if isinstance(space, spaces.Box):
        return BoxActions(space, name, bounds)
    raise RecipeError(
        f"{name} takes actions of {space}, but supported are Discrete and Box: change it with gymnasium.wrappers.TransformAction, which takes a function "
        f"from actions of a Discrete or a Box to actions of {type(space).__name__}"
    )


class DiscreteActions(NativeActions):
    """One of n choices, from `start` on."""

    def __init__(self, space: spaces.Discrete, name: str) -> None:
        if space.n > MOST_CHOICES:
            raise RecipeError(f"{name} takes one of {space.n} actions, but at most {MOST_CHOICES} are supported: use a Box, or fewer choices")
        self._space, self._most = space, int(space.n) - 1
        self.described = ActionSpace("discrete", size=1, choices=int(space.n))

    def of(self, action: NDArray[np.float32]) -> Any:
        return self._space.start + min(max(round(float(action.flat[0])), 0), self._most)


class BoxActions(NativeActions):
    """An array of numbers. Each dimension has a lowest and a highest number that a policy reaches."""

    def __init__(self, space: spaces.Box, name: str, bounds: tuple[float, float] | None) -> None:
        if not np.prod(space.shape):
            raise RecipeError(f"{name} takes actions of {space}, which has no dimension: give the action space at least one number")
        if space.dtype.kind not in "fiub":
            raise RecipeError(f"{name} takes actions of {space}: give the action space a dtype of real numbers, such as float32")
        self._space, self._whole = space, space.dtype.kind != "f"
        self._low, self._high = _reach(space, name, bounds)
        self._count = self._high - self._low + 1  # of whole numbers
        self.described = ActionSpace("continuous", size=int(np.prod(space.shape)))

    def of(self, action: NDArray[np.float32]) -> NDArray[Any]:
        share = (np.clip(action, -1, 1).astype(np.float64).reshape(self._space.shape) + 1) / 2
        if self._whole:
            return np.asarray(self._low + np.minimum(np.floor(share * self._count), self._count - 1)).astype(self._space.dtype)
        scaled = np.asarray(self._low + share * (self._high - self._low)).astype(self._space.dtype)
        return np.asarray(np.clip(scaled, self._space.low, self._space.high))  # rounding may have left the space by one step of its type


def _reach(space: spaces.Box, name: str, given: tuple[float, float] | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lowest and the highest action in each dimension. Raises RecipeError if the space does not say, and `given` does not either."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if space.dtype.kind in "iu" and space.dtype.itemsize >= 4:  # Gymnasium writes infinity as the ends of the type
        ends = np.iinfo(space.dtype.type)  # type: ignore[type-var]  # of whole numbers
        low, high = np.where(low <= ends.min, -np.inf, low) if ends.min < 0 else low, np.where(high >= ends.max, np.inf, high)
    bounded = (np.abs(low) <= LARGEST_BOUND) & (np.abs(high) <= LARGEST_BOUND)
    free = (low <= -NO_BOUND) & (high >= NO_BOUND) & (space.dtype.kind == "f")
    if given is not None:
        lowest, highest = np.where(bounded, low, given[0]), np.where(bounded, high, given[1])
        if (outside := (lowest < low) | (highest > high)).any():
            raise RecipeError(f"simulator.options.action_bounds={list(given)} is not within the bounds of {name}, {_bounds_words(low, high, outside)}")
        return lowest, highest
    if (unclear := ~bounded & ~free).any():
        raise RecipeError(
            f"{name} takes actions with bounds {_bounds_words(low, high, unclear)}. A policy gives numbers within [-1, 1], and it is not clear how far they "
            f"reach there: set simulator.options.action_bounds=[LOW, HIGH] for these dimensions, or give the action space bounds of at most {LARGEST_BOUND:g}"
        )
    return np.where(free, -1.0, low), np.where(free, 1.0, high)


def _bounds_words(low: NDArray[np.float64], high: NDArray[np.float64], chosen: NDArray[np.bool_]) -> str:
    """The bounds of the first chosen dimension."""
    place = tuple(int(index) for index in np.argwhere(chosen)[0])
    return f"[{low[place]:g}, {high[place]:g}] in dimension {', '.join(map(str, place)) or 0}"
