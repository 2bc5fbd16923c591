"""Whether recorded actions mean what the simulator's actions mean. Actions within the bounds may still mean something else.

What is compared, file by file, with what the simulator says of its actions (simulators/action_meaning.py):

    header   the controller, changes or targets, and how large a change of 1 is; the rate of actions
    ranges   a gripper within [0, 1], where both ends of [-1, 1] are used
    state    recorded states follow recorded actions. So they show the sign of the gripper and of each axis, targets instead of changes, and another unit

Invariants:
- a difference that is sure is refused, with the setting that mends it. What is likely but not sure, and what the recipe itself says, is only said;
- recordings of the simulators themselves pass without a word. Each limit below has the largest value that was seen in such recordings beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from rlvla3.demonstrations.demonstration_file import DemonstrationError
from rlvla3.demonstrations.file_demonstration import FileDemonstration
from rlvla3.simulators.action_meaning import Gripper, Motion

Array = NDArray[np.float64]

LAGS = 4
"""A controller needs some steps to follow an action. The change of the state is explained by so many of the last actions."""

LEAST_STEPS, LEAST_FIT = 60, 0.4
"""Fewer steps, or a worse fit (correlation of fitted and recorded changes), show nothing."""

OPPOSITE = -0.25
"""The least sign of a movement: the correlation of actions and changes. In right recordings it is 0.05 or more."""

TARGET, TARGET_VARIANCE = 0.95, 0.8
"""The correlation of a target and of the state after it, and the share of its variance that is the state's. In right recordings they are at most 0.77 and
0.4."""

TOO_FAR, IMPOSSIBLE = 1.5, 4.0
"""How far an action of 1 moves the state, in shares of what the simulator can do. In right recordings it is 1.0 at most."""

COMMAND, SHORTEST_COMMAND, LEAST_COMMANDS, LEAST_OPENING = 0.3, 4, 2, 1e-3
"""A gripper's number above this share of its range, for so many steps, is a command. So many commands that move the fingers so far show its sign."""

RATE_TOLERANCE = 0.1

LARGEST = 1e30
"""Larger numbers are compared as this one, so that their squares are finite. They are outside of all bounds."""


def check_meaning(demonstrations: Sequence[FileDemonstration]) -> list[str]:
    """What is likely wrong, in sentences. Raises DemonstrationError for what is surely wrong: which file, what it means there and here, and the setting."""
    groups: dict[tuple[object, str], list[FileDemonstration]] = {}
    for demonstration in demonstrations:
        groups.setdefault((demonstration.file, demonstration.task), []).append(demonstration)
    said: dict[str, None] = {}
    for group in groups.values():
        said |= dict.fromkeys(_Comparison(group).differences())
    return list(said)


class _Comparison:
    """The demonstrations of one task in one file, compared with their simulator."""

    def __init__(self, demonstrations: Sequence[FileDemonstration]) -> None:
        first = demonstrations[0]
        self.demonstrations, self.file, self.layout = demonstrations, first.file, first.file.layout
        self.meaning, self.header = first.meaning, first.file.recorded_with()
        self.actions = [one.actions.astype(np.float64).clip(-LARGEST, LARGEST) for one in demonstrations]
        self.states = [one.state.astype(np.float64).clip(-LARGEST, LARGEST) for one in demonstrations]
        responses = ((motion, self._response(motion)) for motion in self.meaning.motions)
        self.responses = {motion: found for motion, found in responses if found is not None}

    def differences(self) -> Iterator[str]:
        """What is only said. Raises DemonstrationError for the rest."""
        yield from self._controller()
        yield from self._gripper()
        yield from self._targets()
        yield from self._signs()
        yield from self._units()

    def _controller(self) -> Iterator[str]:
        header = self.header
        if header.controller and self.meaning.controller and header.controller != self.meaning.controller:
            self._refuse(
                f"was recorded with the controller {header.controller}, and the simulator has {self.meaning.controller}. Play the episodes in the simulator "
                f"with that controller and record them again"
            )
        if header.targets and self.meaning.motions and not self.layout.absolute_actions:
            yield from self._differ(self.layout.absolute_actions is False, "says that its actions are targets (control_delta is false)", _ABSOLUTE)
        units = [motion.unit for motion in self.meaning.motions]
        if self.meaning.controller and header.units and not np.allclose(header.units[: len(units)], units, rtol=0.02):
            ends = [float(round(unit / theirs, 4)) for unit, theirs in zip(units, header.units, strict=False)]
            ranges = ", ".join(f"{motion.action}: [{-end:g}, {end:g}]" for motion, end in zip(self.meaning.motions, ends, strict=False))
            yield from self._differ(
                self._named(*self.meaning.motions),
                f"says that an action of 1 moves the hand by {list(header.units[: len(units)])} m (output_max), and the simulator moves it by {units}",
                f"set clone.layout.action_ranges={{{ranges}}}",
            )

    def _gripper(self) -> Iterator[str]:
        gripper = self.meaning.gripper
        if gripper is None:
            return
        named, number = gripper.action in self.layout.action_ranges, gripper.action
        opened, closed = ("-1", "1") if gripper.closes > 0 else ("1", "-1")
        for one, actions in zip(self.demonstrations, self.actions, strict=True):
            if gripper.both_ways and (ends := _one_sided(actions[:, number])):
                low, high = (f"{end:g}" for end in ends)
                as_here, other = (f"{high} closes", f"{high} opens")[:: gripper.closes]
                known = {1: f". The recorded fingers say that {as_here}", -1: f". The recorded fingers say that {other}", 0: ""}[self._opening(gripper, *ends)]
                yield from self._differ(
                    named,
                    f"has a gripper (number {number} of an action) of {low} and {high}, and the simulator takes {opened} to open and {closed} to close",
                    f"set clone.layout.action_ranges={{{number}: [{low}, {high}]}} if {as_here}, or {{{number}: [{high}, {low}]}} if {other}{known}",
                    one,
                )
                return
        if self._opening(gripper, -1.0, 1.0) < 0:
            what = f"has a gripper (number {number} of an action) that does the opposite: in the simulator {opened} opens and {closed} closes"
            yield from self._differ(named, f"{what}, and the recorded fingers move the other way", f"set clone.layout.action_ranges={{{number}: [1, -1]}}")

    def _targets(self) -> Iterator[str]:
        """Targets are near the state that they lead to: most of their spread is that of the state, in its units or in others."""
        if self.header.targets or self.layout.absolute_actions:
            return
        near = []
        for motion in self.meaning.motions:
            steps = [(actions[:-1, motion.action], states[:, motion.state]) for actions, states in zip(self.actions, self.states, strict=True)]
            actions, before, after = (np.concatenate(parts) for parts in zip(*((given, seen[:-1], seen[1:]) for given, seen in steps), strict=True))
            if len(actions) < LEAST_STEPS or actions.std() < 1e-3 or after.std() < 1e-3:
                continue
            same_units = min(np.var(actions - before), np.var(actions - after)) < (1 - TARGET_VARIANCE) * np.var(actions)
            near.append(bool(same_units or np.corrcoef(actions, after)[0, 1] > TARGET))
        if len(near) >= 2 and sum(near) > len(near) / 2:
            what = "has actions that are nearly the state which follows: they are targets, and the simulator takes changes"
            yield from self._differ(self.layout.absolute_actions is False, what, _ABSOLUTE)

    def _signs(self) -> Iterator[str]:
        opposite = [motion for motion, (gain, correlation) in self.responses.items() if gain < 0 and correlation < OPPOSITE]
        if opposite and not self.header.targets:
            ranges = ", ".join(f"{motion.action}: [1, -1]" for motion in opposite)
            numbers = " and ".join(f"number {motion.action}" for motion in opposite)
            what = f"has actions of which {numbers} would move the arm the other way: the recorded state moves against them"
            yield from self._differ(self._named(*opposite), what, f"set clone.layout.action_ranges={{{ranges}}}")

    def _units(self) -> Iterator[str]:
        """Another unit or another rate of actions: both change how far an action of 1 moves the state."""
        ratios = [gain / motion.reached for motion, (gain, _) in self.responses.items()]
        ratio = float(np.median(ratios)) if len(ratios) >= 2 else None
        here, there = self.meaning.rate_hz, self.header.rate_hz
        if ratio is not None and ratio > IMPOSSIBLE:
            ends = ", ".join(f"{motion.action}: [{-motion.unit:g}, {motion.unit:g}]" for motion in self.responses)
            what = f"has actions of another unit: an action of 1 moves the state {ratio:.0f} times as far as the simulator can"
            way_out = f"set clone.layout.action_ranges to the recorded numbers that mean -1 and 1. If they are in the units of the state, it is {{{ends}}}"
            yield from self._differ(self._named(*self.responses), what, way_out)
            return
        other_rate = here is not None and there is not None and abs(there / here - 1) > RATE_TOLERANCE
        if not other_rate and (ratio is None or ratio <= TOO_FAR):
            return
        if other_rate and not self.header.rate_is_exact and ratio is not None and 0.5 < ratio <= 1.1:
            return  # a LeRobot dataset of LIBERO may say 10 and hold all 20 steps: the states show that nothing is missing
        far = f"an action of 1 moves the state {ratio:.1f} times as far as the simulator can" if ratio is not None and ratio > TOO_FAR else ""
        rates = f"says {there:g} actions a second, and the simulator takes {here:g}" if other_rate else ""
        yield (
            f"{self.file.path}: {' and '.join(part for part in (f'the file {rates}' if rates else '', far) if part)}. "
            f"If steps are missing in it, or actions are in another unit, the policy will be too slow: use a file with every step, or set "
            f"clone.layout.action_ranges"
        )

    def _response(self, motion: Motion) -> tuple[float, float] | None:
        """How the state follows an action: the change in one step while an action of 1 goes on, and the correlation of actions and changes. None if unclear."""
        shown, explained = [], []
        for actions, states in zip(self.actions, self.states, strict=True):
            change, command = np.diff(states[:, motion.state]), actions[:-1, motion.action]
            if len(change) > LAGS:
                delayed = np.stack([np.concatenate([np.zeros(lag), command[: len(command) - lag]]) for lag in range(LAGS)], axis=1)
                shown.append(delayed - delayed.mean(0))
                explained.append(change - change.mean())
        if sum(map(len, shown)) < LEAST_STEPS:
            return None
        commands, changes = np.concatenate(shown), np.concatenate(explained)
        if not commands[:, 0].any() or changes.std() < 1e-9:
            return None
        weights, *_ = np.linalg.lstsq(commands, changes, rcond=None)
        fitted = commands @ weights
        if fitted.std() < 1e-12 or np.corrcoef(fitted, changes)[0, 1] < LEAST_FIT:
            return None
        return float(weights.sum()), float(np.corrcoef(commands[:, 0], changes)[0, 1])

    def _opening(self, gripper: Gripper, low: float, high: float) -> int:
        """1 where the fingers move as the simulator's would, -1 where they do the opposite, 0 where it is not clear. low, high: the recorded range."""
        right = moved = 0.0
        commands = 0
        for actions, states in zip(self.actions, self.states, strict=True):
            opening = np.sum([weight * states[:, number] for number, weight in gripper.fingers.items()], axis=0)
            given = (actions[:, gripper.action] - (low + high) / 2) / ((high - low) / 2)
            sign = np.where(np.abs(given) > COMMAND, np.sign(given), 0)
            begins = [0, *(np.flatnonzero(np.diff(sign)) + 1)]
            for begin, end in zip(begins, [*begins[1:], len(sign) - 1], strict=True):
                if sign[begin] and end - begin >= SHORTEST_COMMAND:
                    change = opening[end] - opening[begin]
                    right -= sign[begin] * gripper.closes * change
                    moved += abs(change)
                    commands += bool(abs(change) > LEAST_OPENING)
        return 0 if commands < LEAST_COMMANDS or abs(right) < 0.5 * moved else int(np.sign(right))

    def _named(self, *motions: Motion) -> bool:
        """Whether the recipe says itself what these numbers mean."""
        return all(motion.action in self.layout.action_ranges for motion in motions)

    def _differ(self, by_recipe: bool, what: str, way_out: str, one: FileDemonstration | None = None) -> Iterator[str]:
        if not by_recipe:
            self._refuse(f"{what}: {way_out}", one)
        yield f"{self.file.path} {what}. The recipe says how it is meant, and this is used"

    def _refuse(self, what: str, one: FileDemonstration | None = None) -> NoReturn:
        raise DemonstrationError(f"{self.file.location(one.episode) if one else self.file.path} {what}")


def _one_sided(commands: Array) -> tuple[float, float] | None:
    """The two ends, low and high, of a gripper's numbers that stay near two values on one side of 0, such as 0 and 1. None for others."""
    low, high = float(commands.min()), float(commands.max())
    near_ends = np.minimum(commands - low, high - commands) < 0.1 * (high - low)
    if high - low < 0.01 or (low < -0.01 * high and high > -0.01 * low) or near_ends.mean() < 0.9:
        return None
    return tuple(float(round(end, 2)) for end in (low, high))  # type: ignore[return-value]


_ABSOLUTE = "set clone.layout.absolute_actions=true to convert them, or false if they are changes after all"
