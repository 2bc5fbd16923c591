"""What is done with a simulator, once, and the record of what came of it. Checks are functions of this record alone.

Everything is played from a few tickets, under names that say what is special about each time (PLAYS). What was not reached, because a call before it hung
or a process died, is not in the record: asking for it raises NotApplicable.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rlvla3.checking.subject import Built, CallFailed, Described, Left, Subject, Trouble
from rlvla3.config import SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.scheduling.ledger import TicketBook
from rlvla3.scheduling.mix import Mix
from rlvla3.types import ActionSpace, Observation, Outcome, Purpose, Spaces, Ticket

Result = TypeVar("Result")

DECISIONS = 8
"""Of a play that does not go on to the episode's end."""

EXPERT_EPISODES = 4
OTHER_TASKS = 2
SEED = 0
"""Of the tickets and of the actions."""

PLAYS: Mapping[str, str] = {
    "alone": "the first ticket, as the first act of a fresh process",
    "again": "the same, once more",
    "other": "a ticket of another seed, with the same actions",
    "afterwards": "the first ticket, after others",
    "groupmate": "another ticket of the first one's group",
    "elsewhere": "the first ticket, as the first act of another process",
    "in turn": "the first ticket, step by step in turn with another process that runs another ticket",
    "first slot": "the first ticket, while the last slot runs another",
    "last slot": "the first ticket in the last slot, while the first slot runs another",
    "beside a restart": "the first ticket, while the last slot begins another episode and then rests",
    "restarted": "the first ticket in the last slot, begun while the first slot is in the middle of its episode",
    "to the end": "random actions until the episode ends",
    "bounds": "actions at the bounds",
    "beyond": "actions twice beyond the bounds",
}
"""Beside them: "task NAME", the first ticket with another task; "expert 0" and so on, demonstrations."""


class NotApplicable(Exception):
    """Why a check cannot be made."""


@dataclass
class Played:
    """One episode, or its beginning. `outcomes[i]` came of `chunks[i]`. trouble: what ended it before its time."""

    ticket: Ticket
    first: Observation | None = None
    chunks: list[NDArray[np.float32] | None] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    trouble: Trouble | None = None

    def observations(self) -> Iterator[tuple[int, Observation]]:
        """What was seen, each with the number of decisions made before."""
        seen = [self.first, *(outcome.observation for outcome in self.outcomes)]
        return ((number, observation) for number, observation in enumerate(seen) if isinstance(observation, Observation))


@dataclass
class Evidence:
    """All that is known of a simulator. troubles: of calls outside a play, by what was being done."""

    config: SimulatorConfig
    chunk: int
    described: Described | None = None
    built: Built | None = None
    left: Left | None = None
    plays: dict[str, Played] = field(default_factory=dict)
    troubles: dict[str, Trouble] = field(default_factory=dict)

    @property
    def ended_early(self) -> bool:
        """Whether a process hung or died while it played."""
        return any(played.trouble is not None and played.trouble.kind in ("hung", "died") for played in self.plays.values())

    @property
    def spaces(self) -> Spaces:
        if self.described is None:
            raise NotApplicable("it could not be described")
        return self.described.spaces

    def play(self, name: str) -> Played:
        """A play that nothing went wrong in. Raises NotApplicable."""
        if name not in self.plays or self.plays[name].trouble is not None:
            raise NotApplicable("it did not come to this: see the check `calls`")
        return self.plays[name]

    def called(self, prefix: str) -> list[Played]:
        return [played for name, played in self.plays.items() if name.startswith(prefix)]


class Playing:
    """An episode being played in one slot of a subject."""

    def __init__(self, slot: int, ticket: Ticket, chunks: Iterable[NDArray[np.float32] | None]) -> None:
        self.slot, self.played = slot, Played(ticket)
        self.begun = self.over = False
        self._chunks = list(chunks)

    async def begin(self, subject: Subject) -> None:
        self.begun = True
        self.played.first = await subject.reset(self.slot, self.played.ticket)

    def next_chunk(self) -> NDArray[np.float32] | None:
        self.played.chunks.append(self._chunks[len(self.played.outcomes)])
        return self.played.chunks[-1]

    def take(self, outcome: Outcome) -> None:
        self.played.outcomes.append(outcome)
        self.over = outcome.done or len(self.played.outcomes) == len(self._chunks)

    def fail(self, trouble: Trouble) -> None:
        self.played.trouble, self.over = trouble, True


async def side_by_side(subject: Subject, *playings: Playing) -> None:
    """Play in slots that step together; where several are in one slot, one after the other. A trouble ends them all."""
    try:
        while running := _next_in_each_slot(playings):
            for playing in running.values():
                if not playing.begun:
                    await playing.begin(subject)
            outcomes = await subject.step({slot: playing.next_chunk() for slot, playing in running.items()})
            for slot, playing in running.items():
                playing.take(outcomes[slot])
    except CallFailed as failure:
        for playing in playings:
            if not playing.over:
                playing.fail(failure.trouble)


async def in_turn(*parts: tuple[Subject, Playing]) -> None:
    """Play on several subjects, a call on each in turn. A trouble ends only its own."""
    while running := [part for part in parts if not part[1].over]:
        for subject, playing in running:
            try:
                if not playing.begun:
                    await playing.begin(subject)
                else:
                    playing.take((await subject.step({playing.slot: playing.next_chunk()}))[playing.slot])
            except CallFailed as failure:
                playing.fail(failure.trouble)


def _next_in_each_slot(playings: Sequence[Playing]) -> dict[int, Playing]:
    waiting = [playing for playing in playings if not playing.over]
    return {playing.slot: playing for playing in reversed(waiting)}


class Examination:
    """The course of an examination. start: begins a subject's process, by its name."""

    def __init__(self, config: SimulatorConfig, chunk: int, start: Callable[[str], Subject]) -> None:
        self.evidence = Evidence(config, chunk)
        self._start = start
        self._subjects: list[Subject] = []

    async def run(self) -> Evidence:
        """Raises RecipeError where the settings are refused."""
        try:
            await self._examine()
        finally:
            for subject in self._subjects:
                subject.kill()
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
        for play in (self._play_on_one, self._play_on_two, self._play_in_slots, self._play_to_ends):
            await play(first)
            if self.evidence.ended_early:
                return
        self.evidence.left = await self._attempt("close", first.close())
        await self._attempt("end", first.end())

    def _draw(self) -> None:
        """The tickets and actions that all is played from."""
        spaces, config, chunk = self.evidence.spaces, self.evidence.config, self.evidence.chunk
        book = TicketBook(Mix((config.share(config.name),)), SEED, group_size=2)
        self._ticket, self._mate = book.ticket(0), book.ticket(1)
        self._other = replace(book.ticket(2), task=self._ticket.task)
        self._tasks = [task for task in config.share(config.name).tasks if task != self._ticket.task][:OTHER_TASKS]
        self._demonstrations = TicketBook(Mix((config.share(config.name),)), SEED, purpose=Purpose.DEMONSTRATE)
        self._random = np.random.default_rng(SEED)
        self._actions = [random_chunk(self._random, spaces.action, chunk) for _ in range(min(DECISIONS, spaces.decisions(chunk)))]

    async def _play_on_one(self, first: Subject) -> None:
        tickets = {"alone": self._ticket, "again": self._ticket, "other": self._other}
        tickets |= {f"task {task}": replace(self._ticket, task=task) for task in self._tasks}
        tickets |= {"afterwards": self._ticket, "groupmate": self._mate}
        for name, ticket in tickets.items():
            await side_by_side(first, self._playing(name, 0, ticket, self._actions))

    async def _play_on_two(self, first: Subject) -> None:
        second = self._new("second")
        if await self._attempt("build another", second.build()) is None:
            return
        await side_by_side(second, self._playing("elsewhere", 0, self._ticket, self._actions))
        neighbour = Playing(0, self._other, self._actions)
        await in_turn((second, neighbour), (first, self._playing("in turn", 0, self._ticket, self._actions)))
        await self._attempt("close another", second.close())

    async def _play_in_slots(self, first: Subject) -> None:
        last = self.evidence.built.slots - 1 if self.evidence.built else 0
        if last == 0:
            return
        await side_by_side(first, self._playing("first slot", 0, self._ticket, self._actions), Playing(last, self._other, self._actions))
        await side_by_side(first, self._playing("last slot", last, self._ticket, self._actions), Playing(0, self._other, self._actions))
        await side_by_side(
            first,
            self._playing("beside a restart", 0, self._ticket, self._actions),
            Playing(last, self._other, self._actions[:2]),
            self._playing("restarted", last, self._ticket, self._actions[:3]),
        )

    async def _play_to_ends(self, first: Subject) -> None:
        spaces, chunk = self.evidence.spaces, self.evidence.chunk
        decisions = spaces.decisions(chunk)
        actions = [random_chunk(self._random, spaces.action, chunk) for _ in range(decisions)]
        await side_by_side(first, self._playing("to the end", 0, self._mate, actions))
        await side_by_side(first, self._playing("bounds", 0, self._ticket, bounds(spaces.action, chunk, len(self._actions))))
        if spaces.action.kind == "continuous":
            await side_by_side(first, self._playing("beyond", 0, self._ticket, bounds(spaces.action, chunk, len(self._actions), beyond=2.0)))
        for number in range(EXPERT_EPISODES if self.evidence.built and self.evidence.built.has_expert is not False else 0):
            playing = self._playing(f"expert {number}", 0, self._demonstrations.ticket(number), [None] * decisions)
            await side_by_side(first, playing)
            if playing.played.trouble is not None:
                return

    def _playing(self, name: str, slot: int, ticket: Ticket, chunks: Sequence[NDArray[np.float32] | None]) -> Playing:
        """An episode to be played that goes on record."""
        playing = Playing(slot, ticket, chunks)
        self.evidence.plays[name] = playing.played
        return playing

    def _new(self, name: str) -> Subject:
        self._subjects.append(self._start(name))
        return self._subjects[-1]

    async def _attempt(self, doing: str, call: Awaitable[Result]) -> Result | None:
        """What a call outside a play returns; None where it runs into trouble, which goes on record."""
        try:
            return await call
        except CallFailed as failure:
            if doing == "describe" and failure.trouble.kind == "refused":
                raise RecipeError(failure.trouble.words) from failure
            self.evidence.troubles[doing] = failure.trouble
            return None


def random_chunk(random: np.random.Generator, action: ActionSpace, chunk: int) -> NDArray[np.float32]:
    """Actions [C, A] from anywhere in the space."""
    if action.kind == "discrete":
        return random.integers(action.choices, size=(chunk, action.size)).astype(np.float32)
    return random.uniform(action.low, action.high, (chunk, action.size)).astype(np.float32)


def bounds(action: ActionSpace, chunk: int, decisions: int, beyond: float = 1.0) -> list[NDArray[np.float32]]:
    """Chunks of actions at the two ends of the space, in turn; beyond: how far from the middle, in half widths of the space."""
    low, high = (0.0, action.choices - 1.0) if action.kind == "discrete" else (action.low, action.high)
    middle, half = (low + high) / 2, (high - low) / 2 * beyond
    ends = itertools.cycle((middle + half, middle - half))
    return [np.full((chunk, action.size), end, np.float32) for end in itertools.islice(ends, decisions)]
