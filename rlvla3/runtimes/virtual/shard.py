"""What the simulate loop is handed on the virtual clock: environments that only have a length and a latency, and the links to other workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvla3.loops import EpisodeWriter
from rlvla3.observability.meter import Meter
from rlvla3.runtimes.virtual.clock import Signal
from rlvla3.runtimes.virtual.costs import NOTHING
from rlvla3.runtimes.virtual.generator import Request, VirtualGenerator
from rlvla3.runtimes.virtual.machine import Seat
from rlvla3.runtimes.virtual.world import World
from rlvla3.simulators.delayed import ShardDelays
from rlvla3.types import Finished, Ticket, Version


@dataclass(slots=True)
class Executed:
    """The outcome of one chunk: its environment steps, whether the episode has ended, and whether a time limit ended it."""

    steps: int
    done: bool
    truncated: bool


class VirtualEpisode:
    """An episode that only has a length, and the versions that made its decisions."""

    __slots__ = ("decisions", "done", "newest", "oldest", "steps", "ticket", "truncated")

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.done = self.truncated = False
        self.decisions = self.steps = 0
        self.oldest = self.newest = -1

    def decided(self, version: Version) -> None:
        self.oldest = version if self.oldest < 0 else min(self.oldest, version)
        self.newest = max(self.newest, version)

    def record(self, outcome: Any) -> None:
        self.decisions += 1
        self.steps += outcome.steps
        self.done, self.truncated = outcome.done, outcome.truncated

    def finish(self) -> Finished:
        return Finished(self.ticket, self.decisions, self.steps, success=True, return_=1.0, oldest=self.oldest, newest=self.newest)


class VirtualShard:
    """A simulator process: the simulator, ledger and plane of its simulate loop. It may be lost and begin anew, and then nothing of its earlier life counts.

    slower: how many times longer everything takes. hung: its present chunk will never end.
    """

    def __init__(self, number: int, world: World, seat: Seat, generator: VirtualGenerator, meter: Meter, slots: int) -> None:
        self.number, self.slots, self.generator = number, slots, generator
        self._world, self._seat, self._meter = world, seat, meter
        self._coordinator = world.machine.seat(seat.device)  # a process of its own, with normal priority
        self._clock, self._profile = world.clock, world.profile
        simulator = world.recipe.simulator
        delay = simulator.delay
        self._delays = None if delay.is_none else ShardDelays(delay, delay.of_shards(simulator.shards)[number])
        self._turns, self._hands_in = world.profile.turn != NOTHING, world.profile.hand_in != NOTHING
        self.begin_anew()

    def begin_anew(self) -> None:
        self.slower, self.hung = 1.0, False
        self._left, self._cut, self._straggle = [0] * self.slots, [False] * self.slots, 1.0
        self._tickets: list[Ticket] = []
        self._news = Signal(self._clock)
        self._unanswered, self._answered = 0, self._clock.promise()

    def grant(self, tickets: Sequence[Ticket]) -> None:
        """It gets tickets."""
        self._tickets += tickets
        self._news.give()

    def answer(self) -> None:
        """One of its requests is answered."""
        self._unanswered -= 1
        if not self._unanswered:
            self._answered.resolve()

    async def exchange(self, finished: Sequence[Finished], running: Mapping[int, EpisodeWriter]) -> tuple[list[Ticket], dict[int, EpisodeWriter]]:
        if finished:
            with self._meter("ticket"):
                await self._world.delay()
                if self._hands_in:
                    await self._coordinator.begin(self._profile.hand_in, len(finished))
            self._world.hand_in(self.number, finished)
        if not running:
            with self._meter("ticket"):
                while not self._tickets:
                    await self._news.wait()
        tickets, self._tickets = self._tickets, []
        going_on = {slot: episode for slot, episode in running.items() if not self.is_withdrawn(episode.ticket)}
        return [ticket for ticket in tickets if not self.is_withdrawn(ticket)], going_on

    def is_withdrawn(self, ticket: Ticket) -> bool:
        return ticket.beside and self._world.withdraws(self.number)

    def begin(self, ticket: Ticket, observation: object) -> VirtualEpisode:
        return VirtualEpisode(ticket)

    async def decide(self, episodes: Mapping[int, VirtualEpisode]) -> Mapping[int, None]:
        if not episodes:
            return {}
        self._unanswered, self._answered = len(episodes), self._clock.promise()
        with self._meter("decision"):
            await self._send(len(episodes))
            for episode in episodes.values():
                self.generator.ask(Request(self, episode, self._clock.now))
            await self._answered
            await self._send(len(episodes))
        if self._turns:
            await self._seat.begin(self._profile.turn, len(episodes), self.slower)
        return dict.fromkeys(slot for slot, episode in episodes.items() if not self.is_withdrawn(episode.ticket))

    async def reset(self, slot: int, ticket: Ticket) -> Any:
        self._left[slot], self._cut[slot] = self._profile.steps(ticket.index), self._profile.cut(ticket.index)
        self._straggle = 1 + self._profile.host.straggle * self._seat.random.random()
        with self._meter("reset"):
            await self._seat.begin(self._profile.reset, 1, self.slower)
            if self._world.kills(ticket.index):
                self._world.crash(self.number)
                await self._clock.promise()  # for ever: its life ends here
            if self._delays:
                await self._clock.sleep(self._delays.reset(slot, ticket))

    async def step(self, chunks: Mapping[int, None]) -> Mapping[int, Any]:
        if not chunks:
            return {}
        with self._meter("simulate"):
            await self._seat.begin(self._profile.simulate, len(chunks), self.slower * self._straggle)
            if self.hung:
                await self._clock.promise()  # for ever, until the watchdog ends it
            executed = {slot: min(self._profile.chunk, self._left[slot]) for slot in chunks}
            if self._delays:
                await self._clock.sleep(self._delays.step(executed))
        outcomes = {}
        for slot, steps in executed.items():
            self._left[slot] -= steps
            self._world.steps += steps
            done = not self._left[slot]
            outcomes[slot] = Executed(steps, done, truncated=done and self._cut[slot])
        return outcomes

    async def _send(self, decisions: int) -> None:
        await self._world.machine.send(self._seat.device, self.generator.device, decisions * self._profile.transfer / 2)
