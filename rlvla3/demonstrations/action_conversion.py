"""Turns recorded actions into the simulator's, as clone.layout says: other ranges, and targets instead of changes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import DemonstrationLayout
from rlvla3.errors import RecipeError
from rlvla3.simulators.action_meaning import ActionMeaning, Turn
from rlvla3.types import ActionSpace

Array = NDArray[np.float64]


def converted(
    recorded: NDArray[np.float32], state: NDArray[np.float32], layout: DemonstrationLayout, space: ActionSpace, meaning: ActionMeaning
) -> NDArray[np.float32]:
    """The simulator's actions [T, A]. recorded: those of the file, [T, A]. state: what was seen before each, [T, S]."""
    if not layout.action_ranges and not layout.absolute_actions:
        return recorded
    actions, seen = recorded.astype(np.float64), state.astype(np.float64)
    if layout.absolute_actions:
        for motion in meaning.motions:
            actions[:, motion.action] = (actions[:, motion.action] - seen[:, motion.state]) / motion.unit
        if meaning.turn is not None:
            actions[:, meaning.turn.action : meaning.turn.action + 3] = _turns(actions, seen, meaning.turn)
    for number, (low, high) in layout.action_ranges.items():
        with np.errstate(over="ignore"):
            actions[:, number] = space.low + (actions[:, number] - low) / (high - low) * (space.high - space.low)
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is outside of the bounds
        return actions.astype(np.float32)


def check_conversion(layout: DemonstrationLayout, space: ActionSpace, meaning: ActionMeaning) -> None:
    """Raise RecipeError where a conversion that the recipe asks for is not possible with this simulator."""
    if not layout.action_ranges and not layout.absolute_actions:
        return
    if space.kind == "discrete":
        raise RecipeError("clone.layout.action_ranges and absolute_actions convert continuous actions, and the simulator's are discrete: leave them out")
    if beyond := [number for number in layout.action_ranges if number >= space.size]:
        raise RecipeError(f"clone.layout.action_ranges names number {beyond[0]} of an action, and the simulator's numbers are 0 to {space.size - 1}")
    if not layout.absolute_actions:
        return
    targets = {motion.action for motion in meaning.motions}
    if not targets:
        raise RecipeError(
            "clone.layout.absolute_actions=true, but it is not known which state this simulator's actions change: replay the demonstrations in the "
            "simulator, in the control mode of the recipe"
        )
    targets |= {meaning.turn.action + axis for axis in range(3)} if meaning.turn else set()
    if both := sorted(targets & layout.action_ranges.keys()):
        raise RecipeError(
            f"clone.layout.action_ranges names number {both[0]}, which clone.layout.absolute_actions converts already, from the units of the state: "
            f"leave it out of action_ranges"
        )


def _turns(actions: Array, seen: Array, turn: Turn) -> Array:
    """The rotations from the seen orientation to the target, as axis times angle in units of `turn.unit`: [T, 3]. Both are in the world's frame."""
    target, here = _quaternions(actions[:, turn.action : turn.action + 3]), _quaternions(seen[:, turn.state : turn.state + 3])
    w, x, y, z = target.T
    a, b, c, d = (here * [1, -1, -1, -1]).T
    between = np.stack([w * a - x * b - y * c - z * d, w * b + x * a + y * d - z * c, w * c - x * d + y * a + z * b, w * d + x * c - y * b + z * a], axis=1)
    between *= np.where(between[:, :1] < 0, -1.0, 1.0)  # the shorter way round
    sine = np.linalg.norm(between[:, 1:], axis=1, keepdims=True)
    angle = 2 * np.arctan2(sine, between[:, :1])
    return between[:, 1:] * np.where(sine > 1e-9, angle / np.maximum(sine, 1e-9), 2.0) / turn.unit


def _quaternions(axis_angles: Array) -> Array:
    """[T, 3] as quaternions [T, 4], the real part first."""
    angle = np.linalg.norm(axis_angles, axis=1, keepdims=True)
    return np.concatenate([np.cos(angle / 2), axis_angles * np.where(angle > 1e-9, np.sin(angle / 2) / np.maximum(angle, 1e-9), 0.5)], axis=1)
