"""trained_on.json in a policy's folder: which fixed initial states the policy was trained on. So its evaluation can say how many of its own are among them.

The record goes with the policy from run to run: what a run starts from is part of what it was trained on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlvla3.errors import RecipeError
from rlvla3.metadata import Count, Metadata, checked, read_json
from rlvla3.types import InitialStates, Ticket

FILE = "trained_on.json"


class _Record(Metadata):
    """The content of the file."""

    initial_states: dict[str, list[Count]]
    complete: bool


@dataclass(frozen=True)
class TrainedOn:
    """What a policy was trained on.

    states: {name of a fixed set: the numbers of its initial states, as the whole set has them}, of training and of demonstrations by experts. complete: whether
    this is all. It is not where a policy began as a checkpoint without this record, or learned from demonstration files, which do not say where they began.
    """

    states: Mapping[str, frozenset[int]] = field(default_factory=dict)
    complete: bool = True

    @classmethod
    def read(cls, folder: Path | None) -> TrainedOn:
        """The record in a policy's folder. None is a policy that begins untrained. Where the record is missing or damaged, it is not complete."""
        if folder is None:
            return cls()
        try:
            record = checked(_Record, read_json(folder / FILE, ""), str(folder / FILE), "")
        except RecipeError:
            return cls(complete=False)
        states: dict[str, frozenset[int]] = {}
        for name, numbers in record.initial_states.items():
            name, first = _whole_set(name)
            states[name] = states.get(name, frozenset()) | {first + number for number in numbers}
        return cls(states, record.complete)

    def write(self, folder: Path) -> None:
        """Raises OSError."""
        content = {"initial_states": {name: sorted(numbers) for name, numbers in sorted(self.states.items())}, "complete": self.complete}
        (folder / FILE).write_text(json.dumps(content) + "\n", encoding="utf-8")

    def and_tickets(self, tickets: Iterable[Ticket], sets: Mapping[str, InitialStates]) -> TrainedOn:
        """The same, and the initial states of `tickets`. sets: {task: its fixed set} (Spaces.initial_states)."""
        numbered = [(sets[ticket.task], ticket.initial_state) for ticket in tickets if ticket.initial_state is not None]
        found = [(states.name, states.first + number) for states, number in numbered]
        new = {name: {number for of, number in found if of == name} | self.states.get(name, frozenset()) for name in {name for name, _ in found}}
        return TrainedOn({**self.states, **{name: frozenset(numbers) for name, numbers in new.items()}}, self.complete)

    def and_unknown(self) -> TrainedOn:
        """The same, and episodes whose initial states nobody knows."""
        return TrainedOn(self.states, complete=False)


def _whole_set(name: str) -> tuple[str, int]:
    """The set that a recorded name is a part of, and where it begins there. Records of 0.1.0 have Meta-World's first seed in the name."""
    old = re.fullmatch(r"(.+, seeds) from ([0-9]{1,18})", name)
    return (old[1], int(old[2])) if old else (name, 0)
