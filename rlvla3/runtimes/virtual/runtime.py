"""The virtual runtime: loops and scheduling of a real run on a virtual clock, where simulators, inference, training and links only take time.

An hour of a cluster takes seconds on a laptop, and the same inputs give the same run, event by event. No scheduling is written a second time: ledger,
dispatcher, batcher and streamer are those of a real run. This file does for the loops what runtimes/local.py does, without processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from rlvla3.config import Recipe
from rlvla3.errors import ExplainedError, RecipeError
from rlvla3.loops import generate, simulate, train
from rlvla3.observability.events import WorkerTime
from rlvla3.observability.meter import MeterBoard
from rlvla3.parts import beside_ledger, bootstraps, is_due_beside, make_limits, make_streamer, training_ledger
from rlvla3.runtimes.assignment import Assignment
from rlvla3.runtimes.virtual.clock import Promise, VirtualClock, VirtualTask
from rlvla3.runtimes.virtual.costs import NOTHING, Profile
from rlvla3.runtimes.virtual.faults import Fault
from rlvla3.runtimes.virtual.generator import VirtualGenerator
from rlvla3.runtimes.virtual.machine import Machine, together
from rlvla3.runtimes.virtual.shard import VirtualShard
from rlvla3.runtimes.virtual.trainer import VirtualTrainer
from rlvla3.runtimes.worker_names import TRAINER, generator_name, shard_name
from rlvla3.scheduling.beside import BesideLedger
from rlvla3.scheduling.dispatcher import Dispatcher
from rlvla3.scheduling.placement import Placement
from rlvla3.scheduling.stubborn import LostTickets
from rlvla3.types import Finished, Version

RESTART_S = 10.0
"""Seconds until a lost worker is back."""


class StuckError(ExplainedError, RuntimeError):
    """A virtual run in which no worker can go on. The same code would deadlock in a real run."""


@dataclass(frozen=True, slots=True)
class RehearsedUpdate:
    """One update. at: when its version had arrived everywhere, in seconds. episodes: those it was trained on. staleness: their number by staleness."""

    version: Version
    at: float
    episodes: Sequence[Finished]
    staleness: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class RehearsedEvaluation:
    """An evaluation beside training, of one version. since, until: seconds. episodes: in the order in which they ended."""

    version: Version
    since: float
    until: float
    episodes: Sequence[Finished]


class VirtualRuntime:
    """One virtual run.

        runtime = VirtualRuntime(recipe, profile, placement, seed=0)
        for published in runtime.train(): ...

    delays: draws the seconds that a hand-in takes to arrive (none by default). board: makes the board of the workers' times from their names and the clock.
    """

    def __init__(
        self,
        recipe: Recipe,
        profile: Profile,
        placement: Placement,
        *,
        seed: int = 0,
        faults: Sequence[Fault] = (),
        delays: Callable[[], float] | None = None,
        board: Callable[[Sequence[str], Callable[[], float]], MeterBoard] = MeterBoard,
    ) -> None:
        self.recipe, self.profile, self.placement = recipe, profile, placement
        self.clock = VirtualClock()
        self.machine = Machine(self.clock, placement.cluster, profile, seed)
        self._published: list[RehearsedUpdate] = []
        self._beside: BesideLedger | None = None
        self.evaluations: list[RehearsedEvaluation] = []
        """The evaluations beside training that have ended."""
        self._ended = Counter[int]()
        """Episodes of each update that have ended and were not sent to the trainer yet."""
        self._delays = delays
        engine, simulator = recipe.engine, recipe.simulator
        synchronous = engine.max_staleness == 0 and not engine.streaming
        self.switches = synchronous and bool(set(placement.trainers) & set(placement.generators))
        names = [*map(shard_name, range(simulator.shards)), *map(generator_name, range(len(placement.generators))), TRAINER]
        self.board = board(names, lambda: self.clock.now)
        self.steps = 0
        """Environment steps made, including those of running episodes."""
        self.assignment = self._make_assignment()
        self._ledger, self._dispatcher = training_ledger(recipe, None), Dispatcher(simulators=1)
        self._served = [set(np.flatnonzero(self.assignment.serves == number).tolist()) for number in range(len(placement.generators))]
        self.generators = [self._make_generator(number) for number in range(len(placement.generators))]
        self.shards = [self._make_shard(number) for number in range(simulator.shards)]
        self.trainer = VirtualTrainer(
            self, make_streamer(recipe, width=len(placement.trainers)), [self.machine.seat(device) for device in placement.trainers], self.board.meter(TRAINER)
        )
        self._lives: dict[VirtualShard | VirtualGenerator, VirtualTask] = {}
        self._lost_tickets, self._killers = LostTickets(engine.max_set_aside), set[int]()
        for fault in faults:
            self.clock.at(fault.at, self._happening(fault))

    def train(self) -> Iterator[RehearsedUpdate]:
        """Make all updates of the recipe. Yields each one when its weights have arrived everywhere. Raises StuckError if no worker can go on."""
        self._broadcast(0, lambda: None)
        for number in range(len(self.generators)):
            self._serve(number)
        for shard in self.shards:
            self._join(shard)
        self._dispatcher.serve(self._ledger)
        self._grant()
        self.clock.start(self._train())
        try:
            for _ in range(self.recipe.training.updates):
                self.clock.run(while_=lambda: not self._published)
                if not self._published:
                    raise StuckError(f"no worker can go on after {self.clock.now:.3f} s: {self._who_waits()}")
                yield self._published.pop()
            self._dispatcher.hold_training(self._beside is not None)
            self._grant()
            self.clock.run(while_=lambda: self._beside is not None)
            if self._beside is not None:
                raise StuckError(f"the evaluation beside training does not end after {self.clock.now:.3f} s: {self._who_waits()}")
        finally:
            for life in self._lives.values():
                life.cancel()

    @property
    def offloads(self) -> bool:
        """Whether trainer and generators have their devices in turn."""
        return self.recipe.engine.offload

    @property
    def across(self) -> float:
        """How many times slower training is because its ranks are on several hosts."""
        cluster = self.placement.cluster
        return self.profile.across if len({cluster.host(device) for device in self.placement.trainers}) > 1 else 1.0

    def kills(self, ticket: int) -> bool:
        """Whether a ticket kills every shard that begins it."""
        return ticket in self._killers

    def withdraws(self, shard: int) -> bool:
        """Whether a shard is to drop its tickets of the evaluation beside training."""
        return self._dispatcher.withdraws(shard)

    def crash(self, shard: int) -> None:
        """A shard dies now."""
        self.clock.soon(lambda: self._lose(self.shards[shard]))

    def hand_in(self, shard: int, finished: Sequence[Finished]) -> None:
        """Episodes of a shard have ended."""
        for episode in finished:
            self._dispatcher.hand_in(self._dispatcher.end(shard, episode))
        self._send(shard, finished)
        self._look_at_beside()
        for number in self.assignment.look():
            self._dispatcher.hold(number)
        generator = self.shards[shard].generator  # the one that has served it until now
        self._grant()
        generator.recount()

    def publish(self, version: Version, sender: int) -> None:
        """A version is trained. It goes to all generators while the trainer goes on. The ledger advances when it has arrived everywhere."""
        self._broadcast(version, lambda: self._advance(version), sender)

    async def free_devices(self) -> None:
        """Have every generator leave its device."""
        await together(generator.leave() for generator in self.generators)

    def offload(self, held: float) -> float:
        """Seconds in which `held` bytes enter or leave a device. 0 if the recipe does not offload."""
        return self.profile.offload(held) if self.offloads else 0.0

    def delay(self) -> Promise:
        """How long a message takes."""
        return self.clock.sleep(self._delays() if self._delays else 0.0)

    def workers(self) -> list[WorkerTime]:
        """Each worker's shares of the whole time."""
        return self.board.shares(self.board.read() * 0)

    def _make_generator(self, number: int) -> VirtualGenerator:
        engine = self.recipe.engine
        seat = self.machine.seat(self.placement.generators[number])

        def running() -> int:
            return sum(map(self._dispatcher.trains, self._served[number]))

        shares = self.profile.infer.on == self.profile.train.on == "compute" and seat.device in self.placement.trainers
        limits = make_limits(engine, partial(self.board.busy_seconds, TRAINER) if shares else None)
        meter, offload = self.board.meter(generator_name(number)), self.offload(self.profile.memory.generator)
        return VirtualGenerator(self.clock, self.profile, seat, meter, limits, running, offload)

    def _make_shard(self, number: int) -> VirtualShard:
        seat = self.machine.seat(self.placement.simulator_of(number), low=True)
        generator = self.generators[self.assignment.serves[number]]
        return VirtualShard(number, self, seat, generator, self.board.meter(shard_name(number)), self.recipe.simulator.slots)

    def _make_assignment(self) -> Assignment:
        """Raises RecipeError if shards could change to generators of other hosts: observations never leave their host."""
        engine, simulator, generators = self.recipe.engine, self.recipe.simulator, len(self.placement.generators)
        if engine.elastic is not None and self.placement.cluster.hosts > 1:
            raise RecipeError(
                f"engine.elastic is rehearsed on one host, and the cluster has {self.placement.cluster.hosts}: "
                f"give a cluster of one host, or set engine.elastic=null"
            )
        serves = np.array([self.placement.generator_of(shard) for shard in range(simulator.shards)])
        slots = [simulator.slots] * simulator.shards
        return Assignment(serves, slots, generators, engine.elastic, self.board, lambda: self.clock.now, lambda: self.steps)

    async def _train(self) -> None:
        await train(range(self.recipe.training.updates), self.trainer, self.trainer, self.trainer)
        self.board.meter(TRAINER).enter("command")

    def _live(self, worker: VirtualShard | VirtualGenerator, name: str, loop: Coroutine[Any, Any, None]) -> None:
        self.board.meter(name).enter("overhead")
        self._lives[worker] = self.clock.start(loop)

    def _serve(self, number: int) -> None:
        generator = self.generators[number]
        self._live(generator, generator_name(number), generate(generator, generator, generator))

    def _join(self, shard: VirtualShard) -> None:
        self._dispatcher.join(shard.number, {0: shard.slots})
        self._live(shard, shard_name(shard.number), simulate(shard, shard, shard, bootstraps(self.recipe)))

    def _send(self, shard: int, finished: Sequence[Finished]) -> None:
        """Send trajectories to the trainer while their shard goes on: each at once; or, without streaming, all of an update when the last one has ended."""
        finished = [episode for episode in finished if not episode.ticket.beside]
        if self.profile.send == NOTHING:
            for episode in finished:
                self.trainer.arrived(episode)
            return
        if not self.recipe.engine.streaming:
            batch = self.recipe.training.batch
            self._ended.update(self._ledger.update_of(episode.ticket.index) for episode in finished)
            whole = [update for update, count in self._ended.items() if count == batch]
            finished = [episode for update in whole for episode in self._ledger.finished(update)]
            for update in whole:
                del self._ended[update]
        seat = self.machine.seat(self.placement.simulator_of(shard))

        async def send() -> None:
            await together(seat.begin(self.profile.send, episode.decisions) for episode in finished)
            for episode in finished:
                self.trainer.arrived(episode)

        self.clock.start(send())

    def _broadcast(self, version: Version, then: Callable[[], None], sender: int | None = None) -> None:
        async def broadcast() -> None:
            if sender is not None:
                await self.machine.broadcast(sender, self.profile.weights)
            for generator in self.generators:
                generator.newest = version
            then()

        self.clock.start(broadcast())

    def _advance(self, version: Version) -> None:
        episodes = self._ledger.advance(version)
        lags = Counter(version - 1 - episode.oldest for episode in episodes if not episode.set_aside)
        self._published.append(RehearsedUpdate(version, self.clock.now, episodes, lags))
        if self._beside is None and is_due_beside(self.recipe, version):
            self._begin_beside(version)
        if self._beside is not None and self._beside.is_late(version):
            self._dispatcher.hold_training(True)
        self._grant()

    def _begin_beside(self, version: Version) -> None:
        """A version has arrived everywhere, and is evaluated beside training."""
        self._beside, self._beside_since = beside_ledger(self.recipe, None, version), self.clock.now
        for generator in self.generators:
            generator.pinned = version
        self._dispatcher.serve_beside(self._beside)

    def _look_at_beside(self) -> None:
        if self._beside is not None and self._beside.over:
            self.evaluations.append(RehearsedEvaluation(self._beside.version, self._beside_since, self.clock.now, self._beside.finished))
            self._beside = None
            self._dispatcher.serve_beside(None)
            self._dispatcher.hold_training(False)

    def _grant(self) -> None:
        for number in self.assignment.move(self._dispatcher.is_busy):
            self._go_over(number)
            self._dispatcher.release(number)
        before = [shard for shard in self.shards if self.withdraws(shard.number)]
        for dispatched in self._dispatcher.dispatch():
            self.shards[dispatched.runner].grant(dispatched.tickets)
        for shard in self.shards:
            if self.withdraws(shard.number) and shard not in before:
                shard.generator.recount()

    def _go_over(self, number: int) -> None:
        """From now on, a shard is served by the generator that it is assigned to."""
        shard, generator = self.shards[number], int(self.assignment.serves[number])
        self._served[self.generators.index(shard.generator)].remove(number)
        self._served[generator].add(number)
        shard.generator = self.generators[generator]

    def _happening(self, fault: Fault) -> Callable[[], None]:
        def happen() -> None:
            match fault.what:
                case "shard dies":
                    self._lose(self.shards[fault.which % len(self.shards)])
                case "shard hangs":
                    self._hang(self.shards[fault.which % len(self.shards)])
                case "shard is slow":
                    self.shards[fault.which % len(self.shards)].slower = fault.severity
                case "generator dies":
                    self._lose_generator(fault.which % len(self.generators))
                case "ticket kills its shard":
                    self._killers.add(fault.which)
                case "trainer stalls":
                    self.trainer.stalled = fault.severity

        return happen

    def _hang(self, shard: VirtualShard) -> None:
        """Its next chunk will not end. The watchdog finds that out."""
        if self._lives[shard].ended:
            return
        shard.hung = True
        self.clock.at(self.clock.now + self.recipe.simulator.timeout_s, lambda: self._lose(shard))

    def _lose(self, shard: VirtualShard) -> None:
        """A simulator is lost: its generator forgets its requests, its tickets are given back or set aside, and it is built anew."""
        if self._lives[shard].ended:
            return
        self._lives[shard].cancel()
        shard.generator.forget(shard)
        lost = self._dispatcher.lose(shard.number)
        self._lost_tickets.count(lost)
        for index in self._lost_tickets.stubborn(lost):
            if self._lost_tickets.may_set_aside(1):
                self._lost_tickets.set_aside += 1
                self._send(shard.number, [self._dispatcher.set_aside(shard.number, index)])
        self._dispatcher.give_back(shard.number, alone=self._lost_tickets.suspected(lost))
        self._look_at_beside()
        shard.begin_anew()
        self.board.meter(shard_name(shard.number)).enter("start")
        self._grant()

        def back() -> None:
            self._join(shard)
            self._grant()

        self.clock.at(self.clock.now + RESTART_S, back)

    def _lose_generator(self, number: int) -> None:
        """A generator is lost. Shards that wait for it go on waiting, and are answered when it is back."""
        generator = self.generators[number]
        if self._lives[generator].ended:
            return
        self._lives[generator].cancel()
        generator.begin_anew()
        self.board.meter(generator_name(number)).enter("start")
        self.clock.at(self.clock.now + RESTART_S, lambda: self._serve(number))

    def _who_waits(self) -> str:
        stages = Counter(self.board.stage(worker)[0] for worker in self.board.workers)
        return ", ".join(f"{count} in {stage}" for stage, count in sorted(stages.items()))
