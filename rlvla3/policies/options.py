"""The settings of the policies, apart from the policies: nothing here imports torch, so a recipe is checked, and the data plane laid out, in an instant."""

from __future__ import annotations

from rlvla3.config import Section
from rlvla3.types import Layout, Spaces


class PolicyOptions(Section):
    """What every policy's settings can say of its decisions."""

    def trace(self, spaces: Spaces, chunk: int) -> Layout:
        """The arrays, per decision, from which `evaluate` finds the log-prob again, beside the actions themselves."""
        return {}

    def noise_shape(self, spaces: Spaces, chunk: int) -> tuple[int, ...]:
        """The shape, per decision, of the standard normal noise that `act` is given: all of a policy's randomness comes from it."""
        return (chunk, spaces.action.size)

    def check(self, spaces: Spaces, chunk: int) -> None:
        """Raise RecipeError where a policy of these settings cannot be built for `spaces`."""
