"""Which initial states are trained on, and which are evaluated on, where a simulator has a fixed set of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from pydantic import field_validator

from rlvla3.config.section import Section

Chosen = Literal["all"] | list[int | str]
"""`all`, or numbers and ranges of numbers such as 40-49."""

HELD_OUT = 5
"""One in so many states is held out for evaluation."""

AS_WRITTEN = "write `all`, or a list of numbers and ranges, for example [0, 3, 10-19]"


class Split(NamedTuple):
    """The numbers of a task's initial states, sorted: of training and demonstrations, and of evaluation."""

    training: Sequence[int]
    evaluation: Sequence[int]

    @property
    def shared(self) -> int:
        """How many states of evaluation belong to training too."""
        return len(set(self.training) & set(self.evaluation))


class InitialStatesConfig(Section):
    """The fixed initial states of each task that training and evaluation begin from. Without settings, no state of evaluation is trained on: evaluation has the
    last fifth of the states, and training has the others. A task with a single state uses it for both.

    Only simulators with a fixed set of initial states have these settings. Other simulators draw initial states from seeds.
    """

    training: Chosen | None = None
    """The states of training and of demonstrations by experts: `all`, or a list of numbers and ranges, such as `[0-39]`. With `null` it is every state that
    `evaluation` does not name. If `evaluation` names all, it is the first four fifths."""

    evaluation: Chosen | None = None
    """The states of evaluation, written in the same way. With `null` it is every state that `training` does not name. If `training` names all, it is the last
    fifth. Each evaluation reports how many of its states were trained on."""

    @field_validator("training", "evaluation", mode="before")
    @classmethod
    def _check_chosen(cls, given: Any) -> Any:
        """`40-49` is short for `[40-49]`."""
        if given is None or given == "all":
            return given
        chosen = list(given) if isinstance(given, (list, tuple)) else [given]
        if not chosen:
            raise ValueError(f"an empty list leaves no initial state: {AS_WRITTEN}")
        for (_, last), (first, _) in pairwise(sorted(_ends(entry) for entry in chosen)):
            if first <= last:
                raise ValueError(f"initial state {first} is named twice: name each state once")
        return chosen

    def split(self, count: int) -> Split:
        """The states of a task that has `count` of them. Raises ValueError for a state that it does not have."""
        held_out = max(count // HELD_OUT, 1)
        usual = Split(range(max(count - held_out, 1)), range(count - held_out, count))
        training, evaluation = (_numbers(key, getattr(self, key), count) for key in ("training", "evaluation"))
        return Split(training or _others(evaluation, count) or usual.training, evaluation or _others(training, count) or usual.evaluation)


def _ends(entry: Any) -> tuple[int, int]:
    """The first and the last number of an entry, which is a number or a range of numbers."""
    if isinstance(entry, int) and not isinstance(entry, bool) and 0 <= entry < 10**9:
        return entry, entry
    found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", entry, re.ASCII) if isinstance(entry, str) else None
    if found is None:
        given = "a number outside 0 to 999999999" if isinstance(entry, int) and not isinstance(entry, bool) else f"{entry!r:.80}"
        raise ValueError(f"{given} names no initial states: {AS_WRITTEN}")
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise ValueError(f"{entry} is a range whose end comes before its beginning: write {last}-{first}")
    return first, last


def _numbers(key: str, chosen: Chosen | None, count: int) -> Sequence[int]:
    """The numbers of the chosen states, sorted. Empty where nothing is chosen."""
    if chosen is None:
        return ()
    ends = [(0, count - 1)] if chosen == "all" else sorted(_ends(entry) for entry in chosen)
    if ends[-1][1] >= count:
        which = f"some of 0 to {count - 1}" if count > 1 else "0, the only one"
        raise ValueError(f"initial_states.{key} names state {ends[-1][1]}, and there are {count}: name {which}, or leave it out")
    return [number for first, last in ends for number in range(first, last + 1)]


def _others(numbers: Sequence[int], count: int) -> Sequence[int]:
    """The states that are not among `numbers`. Empty where `numbers` is."""
    return sorted(set(range(count)) - set(numbers)) if numbers else ()
