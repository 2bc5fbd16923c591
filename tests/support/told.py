"""Simulators whose instruction changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space, Text, Tuple
from gymnasium.wrappers import OrderEnforcing

from rlvla3.types import Observation, Outcome
from tests.support.correct import Correct


class InstructionOnlyAtReset(Correct):
    """Only the first observation has an instruction."""

    def step(self, chunks: Mapping[int, Any]) -> dict[int, Outcome]:
        outcomes = super().step(chunks)
        for outcome in outcomes.values():
            if outcome.observation is not None:
                outcome.observation.instruction = ""
        return outcomes


class Told(gymnasium.Env[Any, Any]):
    """An environment that says its instruction in one or more places. Each is a list with an entry for the reset and for each step; None says nothing there.

    attribute: what `self.instruction` becomes; info: what stands under `instruction` in info; texts: parts of the observation. method: the attribute is a
    method. key: other names of attribute and key. from_the_start: an attribute that is there before the reset.
    """

    action_space = Discrete(2)

    def __init__(
        self,
        attribute: Sequence[Any] = (),
        info: Sequence[Any] = (),
        texts: Mapping[str, Sequence[Any]] | None = None,
        *,
        method: bool = False,
        key: str = "instruction",
        from_the_start: Any = None,
    ) -> None:
        self._attribute, self._info, self._texts, self._method, self._key = attribute, info, texts or {}, method, key
        parts: dict[str, Any] = {"at": Box(0, 100, (1,)), **{name: Text(64) for name in self._texts}}
        self.observation_space = Dict(parts) if texts else Box(0, 100, (1,))
        if from_the_start is not None:
            setattr(self, key, from_the_start)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._time = -1
        return self._shown()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, info = self._shown()
        return observation, 0.0, False, False, info

    def _shown(self) -> tuple[Any, dict[str, Any]]:
        self._time += 1
        if (said := self._at(self._attribute)) is not None:
            setattr(self, self._key, (lambda: said) if self._method else said)
        info = {} if (told := self._at(self._info)) is None else {self._key: told}
        at = np.array([self._time], np.float32)
        return {"at": at, **{name: self._at(values) for name, values in self._texts.items()}} if self._texts else at, info

    def _at(self, values: Sequence[Any]) -> Any:
        return values[min(self._time, len(values) - 1)] if values else None


class Mission(Space[str]):
    """A text of the observation, as MiniGrid's: no Text, and it cannot be flattened."""

    def __init__(self) -> None:
        super().__init__(dtype=str)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        return "go"

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)


class Grid(Told):
    """Texts of the observation are missions."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.observation_space = Dict({"at": Box(0, 100, (1,)), **{name: Mission() for name in self._texts}})


class Nested(Told):
    """The text stands within a Dict within a Tuple."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.observation_space = Tuple((Box(0, 100, (1,)), Dict({"goal": Dict({"words": Text(64)}), "mode": Discrete(2)})))

    def _shown(self) -> tuple[Any, dict[str, Any]]:
        observation, info = super()._shown()
        return (observation["at"], {"goal": {"words": observation["words"]}, "mode": 1}), info


class Property(Told):
    """The attribute is a property. It is there after the reset alone."""

    @property
    def instruction(self) -> str:
        return str(self._at(self._attribute))

    def _shown(self) -> tuple[Any, dict[str, Any]]:
        self._time += 1
        return np.array([self._time], np.float32), {}


class BrokenProperty(Property):
    """The property has a typing mistake."""

    @property
    def instruction(self) -> str:
        return self._atribute  # type: ignore[attr-defined,no-any-return]


def wrapped(**settings: Any) -> gymnasium.Env[Any, Any]:
    """An environment without a word, in a wrapper that has the attribute, within another wrapper."""
    return OrderEnforcing(Wrapped(Told(), **settings))


class Wrapped(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A wrapper that says the instruction."""

    def __init__(self, environment: gymnasium.Env[Any, Any], says: Sequence[str]) -> None:
        super().__init__(environment)
        self._says = says

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.instruction = self._says[0]
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        answer = super().step(action)
        self.instruction = self._says[int(answer[0][0])]
        return answer


class Talking(Correct):
    """Every observation has another instruction, which names the number that its state begins with."""

    def look(self, slot: int) -> Observation:
        seen = super().look(slot)
        return replace(seen, instruction=sentence(seen.state[0]))


def sentence(number: float) -> str:
    return f"you are at {number:.5f}"
