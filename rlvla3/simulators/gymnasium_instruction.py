"""Where a Gymnasium environment says its instruction: as a text of its observation, in info, or as an attribute.

Invariant: what is read is the newest that the environment has said within the episode. Nothing is kept from an episode to the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
from gymnasium import spaces

from rlvla3.errors import RecipeError
from rlvla3.simulators.base import SimulatorError

NAME = "instruction"
"""The key of an observation or of info, and the name of an attribute, that is looked for."""

PLACES = ("observation", "info", "attribute")


class InstructionReader:
    """Reads the instruction of each decision.

        reader = InstructionReader(environment, name, given=None, source=None)
        reader.begin(info)                # after reset
        reader.hear(info)                 # after each step
        reader.read(observation)          # for a decision

    name: of the simulator. given: an instruction that replaces the environment's. source: PLACE.KEY, one of PLACES with a key or a name there. None: a text of
    the observation; else what info says under `instruction` or the attribute `instruction`, whichever was said or changed last.
    Raises RecipeError where the recipe names what there is not.
    """

    def __init__(self, environment: gymnasium.Env[Any, Any], name: str, given: str | None, source: str | None) -> None:
        self._environment, self._name, self._given = environment, name, given
        self._place, _, self._key = (source or f".{NAME}").partition(".")
        if source is not None and given is not None:
            raise RecipeError("simulator.options.instruction and simulator.options.instruction_from are both set: leave one of them out")
        if source is not None and (self._place not in PLACES or not self._key):
            raise RecipeError(f"simulator.options.instruction_from={source}, expected observation.KEY, info.KEY or attribute.NAME")
        self._path = None if given is not None else self._text(dict(texts_of(environment.observation_space)))
        self._now: Any = ""
        self._attribute: Any = None

    def begin(self, info: Mapping[str, Any]) -> None:
        """An episode has begun. info: what reset returned."""
        self._now, self._attribute = "", None
        self.hear(info)
        if self._place == "info" and info.get(self._key) is None:
            raise SimulatorError(
                f"{self._name}: simulator.options.instruction_from=info.{self._key}, and info of reset has {', '.join(map(str, info)) or 'no keys'}: "
                f"return the instruction there from reset on"
            )

    def hear(self, info: Mapping[str, Any]) -> None:
        """A step was made. info: what it returned."""
        if self._given is not None or self._path is not None:
            return
        if self._place != "info":
            attribute = self._look()
            if not (attribute is self._attribute or (isinstance(attribute, str) and attribute == self._attribute)):
                self._now = self._attribute = attribute
        if self._place != "attribute" and (said := info.get(self._key)) is not None:
            self._now = said

    def read(self, observation: Any) -> Any:
        """The instruction for a decision. It may be no str: whoever keeps it checks it."""
        if self._given is not None:
            return self._given
        if self._path is None:
            return self._now
        for key in self._path:
            observation = observation[key]
        return observation

    def _look(self) -> Any:
        """The attribute, or what the method of this name returns. The outermost wrapper that has it counts. An empty text where nothing has it."""
        layer = self._environment
        while not (hasattr(type(layer), self._key) or hasattr(layer, self._key)):  # a property that raises is there, and what it raises is seen
            if not isinstance(layer, gymnasium.Wrapper):
                if self._place == "attribute":
                    raise SimulatorError(f"{self._name} has no attribute {self._key}, which simulator.options.instruction_from names: give it one in reset")
                return ""
            layer = layer.env
        found = getattr(layer, self._key)
        found = found() if callable(found) else found
        return "" if found is None else found

    def _text(self, texts: Mapping[tuple[str | int, ...], spaces.Space[Any]]) -> tuple[str | int, ...] | None:
        """The path of the observation's text that is the instruction. None if it is no part of the observation."""
        if self._place in ("info", "attribute"):
            return None
        names = {".".join(map(str, path)): path for path in texts}
        if self._place == "observation":
            if self._key not in names:
                there = f"its texts are {', '.join(names)}" if names else "it has no text"
                raise RecipeError(f"simulator.options.instruction_from names {self._key} of the observation of {self._name}, and {there}: name one of these")
            return names[self._key]
        called = [path for path in texts if path and path[-1] == NAME]
        if len(called) != 1 and len(names) > 1:
            raise RecipeError(
                f"the observation of {self._name} has {len(names)} texts, {', '.join(names)}, and one of them is the instruction: "
                f"set simulator.options.instruction_from=observation.{next(iter(names))}, or another one"
            )
        return next(iter(called or texts), None)


def is_text(space: spaces.Space[Any]) -> bool:
    """Whether this part of an observation is a text, such as gymnasium.spaces.Text or the mission of MiniGrid."""
    return space.dtype is not None and space.dtype.kind == "U"


def texts_of(space: spaces.Space[Any], path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], spaces.Space[Any]]]:
    """The texts of an observation, each with the keys that lead to it."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        for key, inner in space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces):
            yield from texts_of(inner, (*path, key))
    elif is_text(space):
        yield path, space
