"""Runs episodes on a simulator and records what came of them. Checks are functions of this record alone.

All episodes are made from a few tickets. Each episode has a name that says what is special about it (EPISODES). If a call hung or a process died, the later
episodes are not in the record; to ask for one of them raises NotApplicable.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rlvla3.checking.checked_simulator import BuiltSimulator, CallFailed, CheckedSimulator, Description, Failure, Leftovers
from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.scheduling.ledger import TicketBook
from rlvla3.scheduling.mix import Mix
from rlvla3.types import ActionSpace, Observation, Outcome, Purpose, Spaces, Ticket

Result = TypeVar("Result")

DECISIONS = 8
"""Decisions of an episode that is not run to its end."""

EXPERT_EPISODES = 4
OTHER_TASKS = 2
SEED = 0
"""The seed of the tickets and of the actions."""

EPISODES: Mapping[str, str] = {
    "alone": "the first ticket, as the first episode of a new process",
    "again": "the first ticket a second time",
    "other": "a ticket with another seed and the same actions",
    "afterwards": "the first ticket after other tickets",
    "groupmate": "another ticket of the first ticket's group",
    "elsewhere": "the first ticket, as the first episode of another process",
    "in turn": "the first ticket, step by step in turn with another process that runs another ticket",
    "first slot": "the first ticket in the first slot, while the last slot runs another ticket",
    "last slot": "the first ticket in the last slot, while the first slot runs another ticket",
    "beside a restart": "the first ticket in the first slot, while the last slot begins a second episode and then is not stepped",
    "restarted": "the first ticket in the last slot; it begins while the first slot is in the middle of its episode",
    "to the end": "random actions until the episode ends",
    "bounds": "actions at the bounds",
    "beyond": "actions at twice the bounds",
}
"""The episodes by name. There are also "reseeded", the first ticket with another seed, where its initial state is of a fixed set; "task NAME", the first ticket
with another task; and "expert 0", "expert 1", ..., which are demonstrations."""


class NotApplicable(Exception):
    """A check cannot be made. The message is the reason."""


@dataclass
class EpisodeRecord:
    """One episode, or its beginning. `outcomes[i]` is the result of `chunks[i]`. failure: the failed call that ended it early."""

    ticket: Ticket
    first: Observation | None = None
    chunks: list[NDArray[np.float32] | None] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    failure: Failure | None = None

    def observations(self) -> Iterator[tuple[int, Observation]]:
        """The observations, each with the number of decisions made before it."""
        seen = [self.first, *(outcome.observation for outcome in self.outcomes)]
        return ((number, observation) for number, observation in enumerate(seen) if isinstance(observation, Observation))


@dataclass
class Evidence:
    """All that is known of a simulator. failures: of calls outside an episode, by the step of the examination."""

    config: SimulatorConfig
    chunk: int
    described: Description | None = None
    built: BuiltSimulator | None = None
    left: Leftovers | None = None
    episodes: dict[str, EpisodeRecord] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)

    @property
    def ended_early(self) -> bool:
        """Whether a process hung or died during an episode."""
        return any(episode.failure is not None and episode.failure.kind in ("hung", "died") for episode in self.episodes.values())

    @property
    def spaces(self) -> Spaces:
        if self.described is None:
            raise NotApplicable("it could not be described")
        return self.described.spaces

    def episode(self, name: str) -> EpisodeRecord:
        """The episode `name`. Raises NotApplicable if it was not run, or if a call of it failed."""
        if name not in self.episodes or self.episodes[name].failure is not None:
            raise NotApplicable("the examination did not get so far: see the check `calls`")
        return self.episodes[name]

    def episodes_named(self, prefix: str) -> list[EpisodeRecord]:
        return [episode for name, episode in self.episodes.items() if name.startswith(prefix)]


class RunningEpisode:
    """An episode that is running in one slot of a simulator."""

    def __init__(self, slot: int, ticket: Ticket, chunks: Iterable[NDArray[np.float32] | None]) -> None:
        self.slot, self.record = slot, EpisodeRecord(ticket)
        self.begun = self.ended = False
        self._chunks = list(chunks)

    async def begin(self, simulator: CheckedSimulator) -> None:
        self.begun = True
        self.record.first = await simulator.reset(self.slot, self.record.ticket)

    def next_chunk(self) -> NDArray[np.float32] | None:
        self.record.chunks.append(self._chunks[len(self.record.outcomes)])
        return self.record.chunks[-1]

    def add(self, outcome: Outcome) -> None:
        self.record.outcomes.append(outcome)
        self.ended = outcome.done or len(self.record.outcomes) == len(self._chunks)

    def fail(self, failure: Failure) -> None:
        self.record.failure, self.ended = failure, True


async def run_together(simulator: CheckedSimulator, *runs: RunningEpisode) -> None:
    """Run episodes in slots that step together. Several episodes in one slot run one after the other. A failed call ends all of them."""
    try:
        while running := _next_in_each_slot(runs):
            for run in running.values():
                if not run.begun:
                    await run.begin(simulator)
            outcomes = await simulator.step({slot: run.next_chunk() for slot, run in running.items()})
            for slot, run in running.items():
                run.add(outcomes[slot])
    except CallFailed as error:
        for run in runs:
            if not run.ended:
                run.fail(error.failure)


async def run_in_turn(*parts: tuple[CheckedSimulator, RunningEpisode]) -> None:
    """Run one episode on each of several simulators, with one call on each in turn. A failed call ends only its own episode."""
    while running := [part for part in parts if not part[1].ended]:
        for simulator, run in running:
            try:
                if not run.begun:
                    await run.begin(simulator)
                else:
                    run.add((await simulator.step({run.slot: run.next_chunk()}))[run.slot])
            except CallFailed as error:
                run.fail(error.failure)


def _next_in_each_slot(runs: Sequence[RunningEpisode]) -> dict[int, RunningEpisode]:
    waiting = [run for run in runs if not run.ended]
    return {run.slot: run for run in reversed(waiting)}


class Examination:
    """The course of an examination. start: starts a process with the simulator; its argument is the name of the process."""

    def __init__(self, config: SimulatorConfig, chunk: int, start: Callable[[str], CheckedSimulator]) -> None:
        self.evidence = Evidence(config, chunk)
        self._start = start
        self._simulators: list[CheckedSimulator] = []

    async def run(self) -> Evidence:
        """Examine the simulator and return the evidence. Raises RecipeError if the settings are refused."""
        try:
            await self._examine()
        finally:
            for simulator in self._simulators:
                simulator.kill()
        return self.evidence

    async def _examine(self) -> None:
        first = self._new("first")
        self.evidence.described = await self._attempt("describe", first.describe())
        if self.evidence.described is None:
            return
        self._draw()
        self.evidence.built = await self._attempt("build", first.build())
        if self.evidence.built is None:
            return
        for part in (self._run_on_first, self._run_on_two, self._run_in_slots, self._run_to_ends):
            await part(first)
            if self.evidence.ended_early:
                return
        self.evidence.left = await self._attempt("close", first.close())
        await self._attempt("end", first.end())

    def _draw(self) -> None:
        """Draw the tickets and actions of all episodes."""
        spaces, config, chunk = self.evidence.spaces, self.evidence.config, self.evidence.chunk
        first, *others = config.share(config.name).tasks
        states = {task: config.initial_states.split(states.count).training for task, states in spaces.initial_states.items()}
        book = TicketBook(Mix.of(first), SEED, group_size=2, states=states)
        self._ticket, self._groupmate, self._other = (book.ticket(number) for number in range(3))
        self._tasks = {task: TicketBook(Mix.of(task), SEED, states=states).ticket(0) for task in others[:OTHER_TASKS]}
        self._demonstrations = TicketBook(Mix((config.share(config.name),)), SEED, purpose=Purpose.DEMONSTRATE, states=states)
        self._random = np.random.default_rng(SEED)
        self._actions = [random_chunk(self._random, spaces.action, chunk) for _ in range(min(DECISIONS, spaces.decisions(chunk)))]

    async def _run_on_first(self, first: CheckedSimulator) -> None:
        tickets = {"alone": self._ticket, "again": self._ticket, "other": self._other}
        tickets |= {f"task {task}": ticket for task, ticket in self._tasks.items()}
        if self._ticket.initial_state is not None:
            tickets["reseeded"] = replace(self._other, initial_state=self._ticket.initial_state)
        tickets |= {"afterwards": self._ticket, "groupmate": self._groupmate}
        for name, ticket in tickets.items():
            await run_together(first, self._recorded(name, 0, ticket, self._actions))

    async def _run_on_two(self, first: CheckedSimulator) -> None:
        second = self._new("second")
        if await self._attempt("build another", second.build()) is None:
            return
        await run_together(second, self._recorded("elsewhere", 0, self._ticket, self._actions))
        neighbour = RunningEpisode(0, self._other, self._actions)
        await run_in_turn((second, neighbour), (first, self._recorded("in turn", 0, self._ticket, self._actions)))
        await self._attempt("close another", second.close())

    async def _run_in_slots(self, first: CheckedSimulator) -> None:
        last = self.evidence.built.slots - 1 if self.evidence.built else 0
        if last == 0:
            return
        await run_together(first, self._recorded("first slot", 0, self._ticket, self._actions), RunningEpisode(last, self._other, self._actions))
        await run_together(first, self._recorded("last slot", last, self._ticket, self._actions), RunningEpisode(0, self._other, self._actions))
        await run_together(
            first,
            self._recorded("beside a restart", 0, self._ticket, self._actions),
            RunningEpisode(last, self._other, self._actions[:2]),
            self._recorded("restarted", last, self._ticket, self._actions[:3]),
        )

    async def _run_to_ends(self, first: CheckedSimulator) -> None:
        spaces, chunk = self.evidence.spaces, self.evidence.chunk
        decisions = spaces.decisions(chunk)
        actions = [random_chunk(self._random, spaces.action, chunk) for _ in range(decisions)]
        await run_together(first, self._recorded("to the end", 0, self._groupmate, actions))
        await run_together(first, self._recorded("bounds", 0, self._ticket, bounds(spaces.action, chunk, len(self._actions))))
        if spaces.action.kind == "continuous":
            await run_together(first, self._recorded("beyond", 0, self._ticket, bounds(spaces.action, chunk, len(self._actions), beyond=2.0)))
        for number in range(EXPERT_EPISODES if self.evidence.built and self.evidence.built.has_expert is not False else 0):
            run = self._recorded(f"expert {number}", 0, self._demonstrations.ticket(number), [None] * decisions)
            await run_together(first, run)
            if run.record.failure is not None:
                return

    def _recorded(self, name: str, slot: int, ticket: Ticket, chunks: Sequence[NDArray[np.float32] | None]) -> RunningEpisode:
        """A new episode whose record belongs to the evidence."""
        run = RunningEpisode(slot, ticket, chunks)
        self.evidence.episodes[name] = run.record
        return run

    def _new(self, name: str) -> CheckedSimulator:
        self._simulators.append(self._start(name))
        return self._simulators[-1]

    async def _attempt(self, step: str, call: Awaitable[Result]) -> Result | None:
        """What a call outside an episode returns; None if it fails, and then the failure is recorded. step: the step of the examination."""
        try:
            return await call
        except CallFailed as error:
            if step == "describe" and error.failure.kind == "refused":
                raise RecipeError(error.failure.message) from error
            self.evidence.failures[step] = error.failure
            return None


def random_chunk(random: np.random.Generator, action: ActionSpace, chunk: int) -> NDArray[np.float32]:
    """Actions [C, A], uniform over the space."""
    if action.kind == "discrete":
        return random.integers(action.choices, size=(chunk, action.size)).astype(np.float32)
    return random.uniform(action.low, action.high, (chunk, action.size)).astype(np.float32)


def bounds(action: ActionSpace, chunk: int, decisions: int, beyond: float = 1.0) -> list[NDArray[np.float32]]:
    """Chunks of actions that alternate between the two ends of the space. beyond: their distance from the middle, in half widths of the space."""
    low, high = action.bounds
    middle, half = (low + high) / 2, (high - low) / 2 * beyond
    ends = itertools.cycle((middle + half, middle - half))
    return [np.full((chunk, action.size), end, np.float32) for end in itertools.islice(ends, decisions)]
