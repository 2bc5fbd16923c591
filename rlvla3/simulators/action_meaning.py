"""What the numbers of a simulator's actions mean, as far as its state shows it. Demonstrations are compared with it (demonstrations/meaning.py).

A simulator that says nothing here is not compared in this way. Indices are those of the action [A] and of the state [S].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Motion:
    """One number of an action that moves one number of the state, in the units of the state.

    unit: the change that an action of 1 asks for. reached: the change in one step while actions of 1 go on, far from all contact. It is the largest there is.
    """

    action: int
    state: int
    unit: float
    reached: float


@dataclass(frozen=True, slots=True)
class Turn:
    """Three numbers of an action that turn the hand, by an axis times an angle. Its orientation is in three numbers of the state, in the same form.

    action, state: the first of the three. unit: the angle in radians that an action of 1 asks for.
    """

    action: int
    state: int
    unit: float


@dataclass(frozen=True, slots=True)
class Gripper:
    """The number of an action that opens and closes the gripper.

    fingers: the state's numbers whose weighted sum is the opening. closes: the sign of the action that closes, 1 or -1.
    both_ways: whether a demonstration opens and closes with both ends of the range. Then a recording within [0, 1] is of another convention.
    """

    action: int
    fingers: Mapping[int, float]
    closes: int
    both_ways: bool = True


@dataclass(frozen=True, slots=True)
class ActionMeaning:
    """The meaning of an action. rate_hz: actions a second of simulated time. controller: robosuite's name of the controller that carries them out."""

    rate_hz: float | None = None
    controller: str | None = None
    motions: tuple[Motion, ...] = ()
    turn: Turn | None = None
    gripper: Gripper | None = None


OSC_REACHED_M = 0.0153
"""The hand's way in one step of 0.05 s. Towards a goal that stays 0.05 m ahead, it has the speed stiffness / damping * 0.05 m = 150 / 24.5 * 0.05 m/s."""

OSC_POSE = ActionMeaning(
    rate_hz=20.0,
    controller="OSC_POSE",
    motions=tuple(Motion(axis, axis, unit=0.05, reached=OSC_REACHED_M) for axis in range(3)),
    turn=Turn(3, 3, unit=0.5),
    gripper=Gripper(6, {6: 1.0, 7: -1.0}, closes=1),
)
"""robosuite's usual controller of a Panda, with the state that LIBERO's policies use: position (3), orientation (3), fingers (2)."""
