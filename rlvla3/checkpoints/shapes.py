"""Sizes of a network, read off the shapes of the tensors of a checkpoint. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlvla3.errors import RecipeError


@dataclass(frozen=True)
class Shapes:
    """The shapes of a checkpoint's tensors. place: the checkpoint, for messages. kind: what it should be, such as `checkpoint of pi0`."""

    place: str
    kind: str
    shapes: Mapping[str, tuple[int, ...]]

    def of(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor, which has so many dimensions, none of them empty. Raises RecipeError for any other."""
        if name not in self.shapes:
            raise RecipeError(f"{self.place} has no tensor {name}, off which a size is read: it is no {self.kind}, or it is damaged")
        shape = self.shapes[name]
        if len(shape) != dimensions or 0 in shape:
            raise RecipeError(f"{self.place}: {name} has shape {list(shape)}, and must have {dimensions} dimensions, none of them empty: it is no {self.kind}")
        return shape

    def layers(self, stack: str) -> int:
        """How many layers there are. stack: what their names begin with, before the number."""
        return len({name.removeprefix(stack).split(".")[0] for name in self.shapes if name.startswith(stack)})
