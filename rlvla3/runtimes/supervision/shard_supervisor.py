"""The simulator processes of one host: they get tickets, they hand episodes in, and a process that is lost is replaced.

Invariants:
- a shard that dies, hangs or fails costs its tickets a rerun and nothing else. Episodes that it had handed in count; the other ones are run again;
- a replacement has a fixed order: the generator forgets the requests of the lost shard, its tickets are given back, the new process starts. Nobody can run
  those tickets earlier;
- a shard changes its generator before tickets are dispatched, and never while it runs a ticket or has one that is not given back;
- a simulator that breaks its contract ends the run at once: a new process would do the same;
- a ticket that loses MAX_ATTEMPTS simulators, the last one while it ran alone, is set aside, or it ends the run: then the ticket is at fault and not the
  machine. It is set aside only after its generator has forgotten its requests, so that nobody writes its block of the data plane any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from rlvla3.errors import WorkerError
from rlvla3.links.data_plane import DataPlane
from rlvla3.observability.formatting import number_of
from rlvla3.observability.meter import MeterBoard
from rlvla3.process_ends import MemoryKills, ending_in_words
from rlvla3.runtimes.assignment import Assignment
from rlvla3.runtimes.processes.control import Stopped
from rlvla3.runtimes.processes.messages import Failed, ForgetShard, Grant, HandIn, LeaveDevice, LeftDevice, Ready, ShardForgotten
from rlvla3.runtimes.processes.process import WorkerProcess
from rlvla3.runtimes.processes.roll_call import RollCall
from rlvla3.runtimes.supervision.limits import StageLimits
from rlvla3.runtimes.supervision.replacements import run_again
from rlvla3.runtimes.supervision.watch import Watch
from rlvla3.runtimes.worker_names import shard_name
from rlvla3.scheduling.dispatcher import Dispatcher, TicketSource
from rlvla3.scheduling.sharding import ShardSpec
from rlvla3.scheduling.stubborn import MAX_ATTEMPTS, LostTickets
from rlvla3.simulators.base import ContractError
from rlvla3.types import Finished

END_AFTER_ERROR_S = 5.0
"""How long the process of a simulator that has failed may take to end."""


class CannotReplace(WorkerError):
    """A lost simulator or generator that is not replaced, on this host or on another one: the next one would be lost too."""


@dataclass
class SupervisedShard:
    """A shard, and the process that runs it now. The process may be replaced; the slots and their data stay.

    ready: its simulator is built. owed: it has handed in episodes and waits for an answer. failure: the error that its process ended with. remembered: it is
    lost, and its generator has not yet said that it has forgotten its requests. stubborn: of its lost tickets, those that are set aside when it is replaced.
    losses: how often it was lost.
    """

    spec: ShardSpec
    worker: WorkerProcess
    ready: bool = False
    owed: bool = False
    failure: Failed | None = None
    remembered: bool = False
    stubborn: Sequence[int] = ()
    losses: int = 0

    @property
    def number(self) -> int:
        return self.spec.number


class ShardSupervisor:
    """Serves one ledger at a time. Each shard runs the tickets of its own simulator.

    start: starts the process of a shard. assignment: of shards to generators. watch: kills what hangs. limits: of the shards of each simulator of the run.
    max_restarts: processes that are replaced before the run gives up. max_set_aside: tickets that may be set aside before it gives up. notify: called with a
    sentence for the user. fail: ends the run with an error.
    """

    def __init__(
        self,
        start: Callable[[int], WorkerProcess],
        plane: DataPlane,
        board: MeterBoard,
        assignment: Assignment,
        watch: Watch,
        *,
        limits: Sequence[StageLimits],
        max_restarts: int,
        max_set_aside: int,
        notify: Callable[[str], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._start, self._plane, self._board, self._assignment = start, plane, board, assignment
        self._watch, self._limits, self._max_restarts, self._notify, self._fail = watch, limits, max_restarts, notify, fail
        self._on_finished: Callable[[Finished], None] = lambda _: None
        self._on_finished_beside: Callable[[Finished], None] = lambda _: None
        self._serves_beside = False
        self._lost_tickets = LostTickets(max_set_aside)
        self._all_ready = asyncio.Event()
        self._restarts = 0
        self._ending = False
        self._generators: list[WorkerProcess] = []
        self._leaving = RollCall((), then=lambda: None)
        self._shards: list[SupervisedShard] = []
        self._dispatcher = Dispatcher(simulators=len(limits))
        self._memory_kills = MemoryKills()

    def start(self, generators: list[WorkerProcess]) -> None:
        """Start every simulator. generators: they are told of a shard that is lost."""
        self._generators = generators
        for generator in generators:
            self._hear(generator)
        for spec in self._plane.shards:
            self._shards.append(self._follow(SupervisedShard(spec, self._start_process(spec.number))))
        self._watch.begin()

    def generator_lost(self, number: int, successor: WorkerProcess) -> None:
        """A generator has ended, and `successor` takes its place. The lost one has forgotten every shard, and has nothing on a device any more."""
        self._hear(successor)
        self._leaving.answered(successor.name)
        for shard in self._shards:
            if shard.remembered and self._assignment.serves[shard.number] == number:
                self._plane.drop_requests(shard.number)
                self._replace(shard)

    async def ready(self) -> None:
        """Wait until every simulator has been built once."""
        await self._all_ready.wait()

    def serve(self, ledger: TicketSource, on_finished: Callable[[Finished], None]) -> None:
        """Run the tickets of `ledger` from now on. on_finished: called for each episode handed in."""
        self._dispatcher.serve(ledger)
        self._on_finished = on_finished
        self._lost_tickets.begin_anew()
        self._assignment.begin_anew()
        self.grant()

    def serve_beside(self, ledger: TicketSource | None, on_finished: Callable[[Finished], None]) -> None:
        """Let tickets of an evaluation beside training fill idle slots (None: there is none any more). on_finished: called for each episode of it."""
        self._dispatcher.serve_beside(ledger)
        self._serves_beside, self._on_finished_beside = ledger is not None, on_finished
        self._plane.set_withdrawn([False] * len(self._shards))
        self.grant()

    def hold_training(self, hold: bool) -> None:
        """Whether tickets of training wait for the evaluation beside it."""
        self._dispatcher.hold_training(hold)
        self.grant()

    def grant(self) -> None:
        """Send admissible tickets to free shards, and an answer to every shard that waits for one. To be called when the ledger's version has advanced."""
        for number in self._assignment.move(self._dispatcher.is_busy):
            self._dispatcher.release(number)
        dispatched = {grant.runner: grant.tickets for grant in self._dispatcher.dispatch()}
        if self._serves_beside:
            self._plane.set_withdrawn([self._dispatcher.withdraws(shard.number) for shard in self._shards])
        # Counts come before grants: a generator that sees a request must know of every shard that began together with it.
        self._count_running()
        for shard in self._shards:
            tickets = dispatched.get(shard.number, [])
            if tickets or (shard.owed and shard.ready):
                try:
                    shard.worker.control.send(Grant(tickets, answer=shard.owed))
                except Stopped:
                    continue  # the process has just died: _on_exit will run its tickets again
                shard.owed = False

    def free_devices(self, then: Callable[[], None]) -> None:
        """Have every generator leave its device, then call `then`. A generator that is lost meanwhile has left it."""
        self._leaving = RollCall((generator.name for generator in self._generators), then)
        for generator in self._generators:
            with suppress(Stopped):  # the process has just died (`generator_lost`)
                generator.control.send(LeaveDevice())

    def stuck(self, waiting: int) -> bool:
        """Whether no shard will ask for another decision while `waiting` shards wait: no shard is being replaced, and no other one runs a ticket."""
        return all(shard.ready for shard in self._shards) and self._dispatcher.busy(shard.number for shard in self._shards) <= waiting

    def set_aside(self, finished: Finished) -> None:
        """A ticket is completed without an episode. The ledger knows it; its block of the data plane and whoever waits for the episode are told here."""
        self._plane.rollouts.set_aside(finished.ticket)
        self._tell_of(finished)

    def kill(self) -> None:
        """Kill every simulator."""
        self._ending = True
        for shard in self._shards:
            shard.worker.kill()

    async def stop(self, patience_s: float) -> None:
        """Ask every simulator to end. None is replaced any more."""
        self._ending = True
        await asyncio.gather(*(shard.worker.stop(patience_s) for shard in self._shards))

    @property
    def processes(self) -> list[int]:
        return [pid for shard in self._shards if (pid := shard.worker.process.pid) is not None]

    def _start_process(self, shard: int) -> WorkerProcess:
        self._board.restart(shard_name(shard))
        return self._start(shard)

    def _follow(self, shard: SupervisedShard) -> SupervisedShard:
        control = shard.worker.control
        self._watch.add(shard.worker, self._limits[shard.spec.simulator])
        control.handle(Ready, lambda _: self._on_ready(shard))
        control.handle(HandIn, lambda message: self._on_hand_in(shard, message))
        control.handle(Failed, lambda message: self._on_failed(shard, message))
        shard.worker.on_exit(lambda: self._on_exit(shard))
        return shard

    def _on_ready(self, shard: SupervisedShard) -> None:
        shard.ready = True
        self._dispatcher.join(shard.number, {shard.spec.simulator: len(shard.spec.slots)})
        if all(shard.ready for shard in self._shards):
            self._all_ready.set()
        if self._dispatcher.serving:
            self.grant()

    def _on_failed(self, shard: SupervisedShard, message: Failed) -> None:
        """Its process ends now. A thread that the environment has started may keep it from that."""
        shard.failure = message
        asyncio.get_running_loop().call_later(END_AFTER_ERROR_S, shard.worker.kill)

    def _on_hand_in(self, shard: SupervisedShard, message: HandIn) -> None:
        for finished in message.finished:
            self._dispatcher.hand_in(self._dispatcher.end(shard.number, finished))
            self._tell_of(finished)
        shard.owed = True
        self._follow_load()
        self.grant()

    def _tell_of(self, finished: Finished) -> None:
        if finished.ticket.beside:
            self._lost_tickets.forget(finished.ticket.index)
            self._on_finished_beside(finished)
        else:
            self._on_finished(finished)

    def _follow_load(self) -> None:
        """Choose shards that are to change their generator, where the load asks for more or fewer active generators."""
        if leaving := self._assignment.look():
            active, moving = number_of(self._assignment.active, "generator"), number_of(len(leaving), "shard")
            self._notify(f"{active} of {len(self._generators)} active: {moving} change their generator")
        for number in leaving:
            self._dispatcher.hold(number)

    def _hear(self, generator: WorkerProcess) -> None:
        """Hear what a generator answers."""
        generator.control.handle(ShardForgotten, lambda message: self._replace(self._shards[message.shard]))
        generator.control.handle(LeftDevice, partial(self._on_left, generator))

    def _on_left(self, generator: WorkerProcess, _: LeftDevice) -> None:
        self._leaving.answered(generator.name)

    def _on_exit(self, shard: SupervisedShard) -> None:
        self._watch.drop(shard.worker.name)
        shard.ready = False  # first, so that it gets no more tickets while its last messages are read
        self._dispatcher.lose(shard.number)
        shard.worker.control.poll()  # episodes that it handed in before it ended still count
        shard.worker.release()
        shard.owed = False
        if self._ending:
            return
        lost = self._dispatcher.lost(shard.number)
        self._lost_tickets.count(lost)
        why = shard.worker.killed or (shard.failure.message if shard.failure else self._how_it_ended(shard))
        if shard.failure and shard.failure.kind == ContractError.__name__:
            self._fail(CannotReplace(why))
            return
        if why_not := self._why_not_started(shard) or self._why_not_replaced(lost):
            place = "" if shard.failure and shard.failure.explained else f"\nIts output is in {shard.worker.log}"
            self._fail(CannotReplace(f"{shard_name(shard.number)} {why_not}: {why}{place}"))
            return
        shard.stubborn = self._lost_tickets.stubborn(lost)
        self._notify(f"{shard_name(shard.number)} was lost ({why}); {self._what_becomes_of(lost)}")
        shard.remembered = True
        with suppress(Stopped):  # the generator has just died too, and then it has forgotten the shard (`generator_lost`)
            self._generators[self._assignment.serves[shard.number]].control.send(ForgetShard(shard.number))

    def _how_it_ended(self, shard: SupervisedShard) -> str:
        """How the process of a shard has ended, in words."""
        return ending_in_words(shard.worker.process.exitcode or 0, self._memory_kills.happened())

    def _what_becomes_of(self, lost: Sequence[int]) -> str:
        """What becomes of the tickets of a shard that was lost, in words."""
        stubborn, suspected = (set(of(lost)) for of in (self._lost_tickets.stubborn, self._lost_tickets.suspected))
        if stubborn:
            number, limit = self._lost_tickets.set_aside + len(stubborn), self._lost_tickets.limit
            return (
                f"ticket {min(stubborn)} has lost {MAX_ATTEMPTS} simulators, and the last one while it ran alone. It is set aside: nothing is learned from it "
                f"(ticket {number} of at most {limit}, engine.max_set_aside)"
            )
        alone = f", {len(suspected)} of them alone, because they have now lost {MAX_ATTEMPTS - 1} simulators" if suspected else ""
        return run_again(len(lost)) + alone

    def _why_not_started(self, shard: SupervisedShard) -> str:
        """Why a shard that was lost before all were built is not started again; empty if it is. One that only was killed is, a few times."""
        shard.losses += 1
        by_signal = (shard.worker.process.exitcode or 0) < 0 and not shard.failure and not shard.worker.killed
        if self._all_ready.is_set() or (by_signal and shard.losses < MAX_ATTEMPTS):
            return ""
        return "could not be started"

    def _why_not_replaced(self, lost: Sequence[int]) -> str:
        """Why a shard that has lost these tickets is not replaced; empty if it is replaced."""
        if stubborn := self._lost_tickets.stubborn(lost):
            if self._lost_tickets.may_set_aside(len(stubborn)):
                return ""
            limit = f"engine.max_set_aside={self._lost_tickets.limit} is how many tickets may be set aside in place of that"
            return f"was lost, and ticket {stubborn[0]} has now failed {MAX_ATTEMPTS} times ({limit})"
        if self._restarts >= self._max_restarts:
            return f"was lost after engine.max_restarts={self._max_restarts} replacements"
        return ""

    def _replace(self, shard: SupervisedShard) -> None:
        if self._ending:
            return
        for index in shard.stubborn:
            self.set_aside(self._dispatcher.set_aside(shard.number, index))
        self._lost_tickets.set_aside += len(shard.stubborn)
        self._restarts += 1 - MAX_ATTEMPTS * len(shard.stubborn)  # the simulators that such a ticket has cost do not count
        self._dispatcher.give_back(shard.number, alone=self._lost_tickets.suspected(self._dispatcher.lost(shard.number)))
        shard.failure, shard.remembered, shard.stubborn = None, False, ()
        shard.worker = self._start_process(shard.number)
        self._follow(shard)
        if self._dispatcher.serving:
            self.grant()

    def _count_running(self) -> None:
        """Tell each generator how many of its shards have a ticket, but for those of an evaluation beside training. A ticket that was lost counts until the
        generator has forgotten what was asked for it."""
        counts = [0] * len(self._plane.requests)
        for shard in self._shards:
            counts[self._assignment.serves[shard.number]] += self._dispatcher.trains(shard.number)
        self._plane.set_running(counts)
