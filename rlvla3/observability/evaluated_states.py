"""From which initial states an evaluation began, and how many of them the policy was trained on. Only for simulators with a fixed set of initial states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from rlvla3.observability.formatting import number_of
from rlvla3.types import Finished, InitialStates


@dataclass(frozen=True)
class TaskStates:
    """The initial states of one task. count: of its fixed set. episodes: {number of a state: its episodes}. chosen: the states that evaluation has.
    trained_on: those with an episode that the policy was trained on."""

    count: int
    episodes: Mapping[int, int]
    chosen: Collection[int]
    trained_on: Collection[int]


@dataclass(frozen=True)
class EvaluatedStates:
    """The initial states of one evaluation, by task. complete: whether all that the policy was trained on is known."""

    tasks: Mapping[str, TaskStates]
    complete: bool

    @classmethod
    def of(
        cls,
        finished: Sequence[Finished],
        sets: Mapping[str, InitialStates],
        chosen: Mapping[str, Collection[int]],
        trained_on: Mapping[str, AbstractSet[int]],
        complete: bool,
    ) -> EvaluatedStates | None:
        """None where no episode began from a fixed set. sets, chosen: by task. trained_on: by the name of a set,
        numbered as in the whole set (InitialStates.first)."""
        tickets = [episode.ticket for episode in finished]
        tasks = {}
        for task, states in sets.items():
            if episodes := Counter(ticket.initial_state for ticket in tickets if ticket.task == task and ticket.initial_state is not None):
                trained = {number - states.first for number in trained_on.get(states.name, frozenset())}
                tasks[task] = TaskStates(states.count, episodes, chosen[task], sorted(trained & episodes.keys()))
        return cls(tasks, complete) if tasks else None

    def json(self) -> dict[str, Any]:
        """As JSON data. states: those with an episode. least, most: episodes of a state. trained_on: how many of `states` the policy was trained on."""
        often = [count for task in self.tasks.values() for count in task.episodes.values()]
        return {
            "states": len(often),
            "trained_on": sum(len(task.trained_on) for task in self.tasks.values()),
            "complete": self.complete,
            "least": min(often),
            "most": max(often),
            "left_out": sum(len(set(task.chosen) - task.episodes.keys()) for task in self.tasks.values()),
            "per_task": {
                name: {
                    "of": task.count,
                    "episodes": {str(number): task.episodes[number] for number in sorted(task.episodes)},
                    "trained_on": list(task.trained_on),
                }
                for name, task in self.tasks.items()
            },
        }

    def __str__(self) -> str:
        """In words: "from 96 of 500 initial states, 1 episode each. None of these states was trained on.\""""
        figures = self.json()
        states, least, most = figures["states"], figures["least"], figures["most"]
        each = number_of(most, "episode") if least == most else f"{least} to {most} episodes"
        sentences = [f"from {states} of {number_of(sum(task.count for task in self.tasks.values()), 'initial state')}, {each} each", self._trained()]
        if most > 1:
            sentences.append("Episodes from one state are not independent, so the interval of the success rate is too narrow")
        if left_out := figures["left_out"]:
            whole = number_of(left_out, "state")
            sentences.append(f"{whole} of evaluation had no episode: evaluation.episodes={states + left_out} gives each state one, if all tasks have as many")
        return ". ".join(sentences)

    def _trained(self) -> str:
        states = sum(len(task.episodes) for task in self.tasks.values())
        trained = sum(len(task.trained_on) for task in self.tasks.values())
        unknown = "" if self.complete else ", but this policy also learned from episodes whose initial states are not known"
        if not trained:
            return f"None of these states {'was' if self.complete else 'is known to have been'} trained on{unknown}"
        if trained == states:
            return "All of these states were trained on"
        return f"{trained} of these states {'were' if trained > 1 else 'was'} trained on{unknown}"
