"""What the simulators of a mix have in common, and how each is brought to it."""

from __future__ import annotations

import numpy as np
import pytest

from rlvla3.errors import RecipeError
from rlvla3.scheduling.ledger import TicketBook
from rlvla3.scheduling.mix import Mix
from rlvla3.simulators.base import Simulator
from rlvla3.simulators.common_spaces import AdaptedSimulator, combine_spaces
from rlvla3.types import ActionSpace, Observation, Outcome, Spaces

ARM = Spaces({"front": (4, 4, 3)}, state=2, action=ActionSpace("continuous", 2), max_steps=10, instructions=("reach",))


TWO_EYES = Spaces({"agentview": (4, 4, 3), "wrist": (4, 4, 3)}, state=3, action=ActionSpace("continuous", 4), max_steps=20, instructions=("grasp",))


def test_common_spaces_hold_all():
    assert combine_spaces({"arm": ARM}) is ARM
    assert combine_spaces({"arm": ARM, "two": TWO_EYES}) == Spaces(
        TWO_EYES.cameras, state=3, action=ActionSpace("continuous", 4), max_steps=20, instructions=("reach", "grasp")
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Spaces({}, 1, ActionSpace("discrete", 1, choices=3), 5), "one of 3 choices"),
        (Spaces({"front": (8, 8, 3)}, 1, ActionSpace("continuous", 2), 5), "camera front of b gives images of 8x8x3.*image_size"),
    ],
)
def test_what_has_nothing_in_common_is_refused(other, message):
    with pytest.raises(RecipeError, match=message):
        combine_spaces({"a": ARM, "b": other})


class Arm(Simulator):
    """Shows its ticket, and keeps the chunk it was given."""

    spaces = ARM

    def __init__(self) -> None:
        self.given: list[np.ndarray | None] = []

    @classmethod
    def describe(cls, config):
        return ARM

    def reset(self, slot, ticket):
        return Observation({"front": np.full((4, 4, 3), 7, np.uint8)}, np.ones(2, np.float32), "reach", 0.0)

    def step(self, chunks):
        self.given += chunks.values()
        shown = self.reset(0, None)
        return {slot: Outcome(np.ones((3, 2), np.float32) if chunk is None else chunk, np.ones(3, np.float32), shown) for slot, chunk in chunks.items()}


def test_a_member_is_brought_to_the_common_spaces():
    arm = Arm()
    member = AdaptedSimulator(arm, combine_spaces({"arm": ARM, "two": TWO_EYES}))
    shown = member.reset(0, TicketBook(Mix.of("a"), 0).ticket(0))
    assert {camera: int(image.max()) for camera, image in shown.images.items()} == {"agentview": 7, "wrist": 0}
    assert shown.state.tolist() == [1, 1, 0]
    asked = np.arange(12, dtype=np.float32).reshape(3, 4)
    outcome = member.step({0: asked})[0]
    (given,) = arm.given
    assert given is not None and np.array_equal(given, asked[:, :2])
    assert np.array_equal(outcome.actions, asked) and outcome.dimensions == 2
    assert member.step({0: None})[0].actions.tolist() == [[1, 1, 0, 0]] * 3
