"""The simulator processes of one host: tickets out to them, episodes in from them, and a new process where one is lost.

Invariants:
- a shard that dies, hangs or fails costs its tickets a rerun and nothing else: what it had handed in before counts, what it had not is handed out again;
- the order of a replacement is: the generator forgets, the ledger takes back, the new process starts, and only then may anyone run those tickets;
- a shard goes over to another generator with the tickets' counts: before any ticket is dealt, and not while it has one that is to be forgotten;
- a ticket that loses MAX_ATTEMPTS simulators stops the run: it is the ticket, not the machine.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from rlvla3.errors import WorkerError
from rlvla3.links.data_plane import DataPlane
from rlvla3.observability.meter import MeterBoard
from rlvla3.observability.wording import counted
from rlvla3.runtimes.assignment import Assignment
from rlvla3.runtimes.processes.control import Stopped
from rlvla3.runtimes.processes.messages import Failed, Forget, Forgotten, Grant, HandIn, Leave, Left, Ready
from rlvla3.runtimes.processes.process import WorkerProcess
from rlvla3.runtimes.processes.roll_call import RollCall
from rlvla3.runtimes.worker_names import shard_name
from rlvla3.scheduling.dispatcher import Dispatcher, TicketSource
from rlvla3.scheduling.sharding import ShardSpec
from rlvla3.types import Finished

MAX_ATTEMPTS = 3
START_TIMEOUT_S = 180.0
"""A simulator that has not been built by then is taken for hung; several built at once on few cores take tens of seconds."""


LATE = 5
"""A look for hung simulators that comes so many times later than it should says nothing of them."""


class Hopeless(WorkerError):
    """A simulator that it is no use to replace."""


@dataclass
class SupervisedShard:
    """A shard, and the process that runs it now. The process may be replaced; the slots and their data stay.

    ready: its simulator is built. owed: it has handed in episodes and waits for an answer. failure: the error that its process ended with.
    """

    spec: ShardSpec
    worker: WorkerProcess
    ready: bool = False
    owed: bool = False
    failure: Failed | None = None

    @property
    def number(self) -> int:
        return self.spec.number


class ShardSupervisor:
    """Serves one ledger at a time. The shards of a simulator run the tickets of that simulator.

    start: starts the process of a shard. assignment: of shards to generators. timeouts_s: of each simulator. notify: told in a sentence what the user should
    know. fail: ends the run with an error.
    """

    def __init__(
        self,
        start: Callable[[int], WorkerProcess],
        plane: DataPlane,
        board: MeterBoard,
        assignment: Assignment,
        *,
        timeouts_s: Sequence[float],
        max_restarts: int,
        notify: Callable[[str], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._start, self._plane, self._board, self._assignment = start, plane, board, assignment
        self._timeouts_s, self._max_restarts, self._notify, self._fail = timeouts_s, max_restarts, notify, fail
        self._on_finished: Callable[[Finished], None] = lambda _: None
        self._attempts: Counter[int] = Counter()
        self._all_ready = asyncio.Event()
        self._restarts = 0
        self._ending = False
        self._look_every_s, self._looked_at = min(1.0, *(limit / 2 for limit in timeouts_s)), time.monotonic()
        self._watchdog: asyncio.TimerHandle | None = None
        self._generators: list[WorkerProcess] = []
        self._leaving = RollCall((), then=lambda: None)
        self._shards: list[SupervisedShard] = []
        self._dispatcher = Dispatcher(simulators=len(timeouts_s))

    def start(self, generators: list[WorkerProcess]) -> None:
        """Start every simulator. generators: whom to tell when one is lost."""
        self._generators = generators
        for generator in generators:
            generator.control.handle(Forgotten, lambda message: self._replace(self._shards[message.shard]))
            generator.control.handle(Left, partial(self._on_left, generator))
        for spec in self._plane.shards:
            self._shards.append(self._watch(SupervisedShard(spec, self._start_process(spec.number))))
        self._look_for_hung()

    async def ready(self) -> None:
        """Wait until every simulator has been built once."""
        await self._all_ready.wait()

    def serve(self, ledger: TicketSource, on_finished: Callable[[Finished], None]) -> None:
        """Run the tickets of `ledger` from now on. on_finished: called for each episode handed in."""
        self._dispatcher.serve(ledger)
        self._on_finished = on_finished
        self._attempts.clear()
        self._assignment.begin_anew()
        self.grant()

    def grant(self) -> None:
        """Hand out what is admissible to whoever is free, and an answer to whoever waits for one. To be called when the ledger's version has advanced."""
        for number in self._assignment.move(self._dispatcher.is_busy):
            self._dispatcher.release(number)
        dispatched = {grant.runner: grant.tickets for grant in self._dispatcher.dispatch()}
        # The counts first: a generator that sees a request must see every episode that began with it.
        self._count_running()
        for shard in self._shards:
            tickets = dispatched.get(shard.number, [])
            if tickets or (shard.owed and shard.ready):
                try:
                    shard.worker.control.send(Grant(tickets, answer=shard.owed))
                except Stopped:
                    continue  # it has just died: its end will be heard of, and its tickets are run again
                shard.owed = False

    def vacate(self, then: Callable[[], None]) -> None:
        """Have every generator leave its device; `then` is called once all have. One that is lost meanwhile ends the run anyway."""
        self._leaving = RollCall((generator.name for generator in self._generators), then)
        for generator in self._generators:
            with suppress(Stopped):  # it has just died: its end will be heard of
                generator.control.send(Leave())

    def stuck(self, waiting: int) -> bool:
        """Whether nobody will ask for anything more while `waiting` shards wait for decisions: none is being replaced, and no other runs a ticket."""
        return all(shard.ready for shard in self._shards) and self._dispatcher.busy(shard.number for shard in self._shards) <= waiting

    def kill(self) -> None:
        """End every simulator at once."""
        self._ending = True
        for shard in self._shards:
            shard.worker.process.kill()

    async def stop(self, patience_s: float) -> None:
        """Ask every simulator to end; none is replaced any more."""
        self._ending = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        await asyncio.gather(*(shard.worker.stop(patience_s) for shard in self._shards))

    @property
    def processes(self) -> list[int]:
        return [pid for shard in self._shards if (pid := shard.worker.process.pid) is not None]

    def _start_process(self, shard: int) -> WorkerProcess:
        self._board.meter(shard_name(shard)).enter("start")  # from now on: its predecessor's last stage, or none yet, may have been one too long
        return self._start(shard)

    def _watch(self, shard: SupervisedShard) -> SupervisedShard:
        control = shard.worker.control
        control.handle(Ready, lambda _: self._on_ready(shard))
        control.handle(HandIn, lambda message: self._on_hand_in(shard, message))
        control.handle(Failed, lambda message: setattr(shard, "failure", message))
        shard.worker.on_exit(lambda: self._on_exit(shard))
        return shard

    def _on_ready(self, shard: SupervisedShard) -> None:
        shard.ready = True
        self._dispatcher.join(shard.number, {shard.spec.simulator: len(shard.spec.slots)})
        if all(shard.ready for shard in self._shards):
            self._all_ready.set()
        if self._dispatcher.serving:
            self.grant()

    def _on_hand_in(self, shard: SupervisedShard, message: HandIn) -> None:
        for finished in message.finished:
            self._dispatcher.hand_in(self._dispatcher.end(shard.number, finished))
            self._on_finished(finished)
        shard.owed = True
        self._follow_load()
        self.grant()

    def _follow_load(self) -> None:
        """Have shards go over to other generators, where the load asks for more or fewer."""
        if leaving := self._assignment.look():
            self._notify(f"{counted(self._assignment.active, 'generator')} of {len(self._generators)} active: {counted(len(leaving), 'shard')} to go over")
        for number in leaving:
            self._dispatcher.hold(number)

    def _on_left(self, generator: WorkerProcess, _: Left) -> None:
        self._leaving.answered(generator.name)

    def _on_exit(self, shard: SupervisedShard) -> None:
        shard.ready = False  # before it is heard out: it may not be given anything any more
        self._dispatcher.lose(shard.number)
        shard.worker.control.poll()  # what it said before it ended still counts
        shard.worker.release()
        shard.owed = False
        if self._ending:
            return
        lost = self._dispatcher.lost(shard.number)
        self._attempts.update(lost)
        why = shard.failure.message if shard.failure else f"it ended by itself, exit code {shard.worker.process.exitcode}"
        if hopeless := self._hopeless(lost):
            place = "" if shard.failure and shard.failure.explained else f"\nIts output is in {shard.worker.log}"
            self._fail(Hopeless(f"{shard_name(shard.number)} {hopeless}: {why}{place}"))
            return
        self._notify(f"{shard_name(shard.number)} was lost ({why}); its {len(lost)} running tickets are run again")
        self._generators[self._assignment.serves[shard.number]].control.send(Forget(shard.number))

    def _hopeless(self, lost: Sequence[int]) -> str:
        """Why a shard that has lost these tickets is not to be replaced; empty where it is."""
        if not self._all_ready.is_set():
            return "could not be started"
        if stubborn := [index for index in lost if self._attempts[index] >= MAX_ATTEMPTS]:
            return f"was lost, and ticket {stubborn[0]} has now failed {MAX_ATTEMPTS} times"
        if self._restarts >= self._max_restarts:
            return f"was lost after engine.max_restarts={self._max_restarts} replacements"
        return ""

    def _replace(self, shard: SupervisedShard) -> None:
        if self._ending:
            return
        self._dispatcher.give_back(shard.number)
        shard.failure = None
        shard.worker = self._start_process(shard.number)
        self._restarts += 1
        self._watch(shard)
        if self._dispatcher.serving:
            self.grant()

    def _count_running(self) -> None:
        """Tell each generator how many of its shards have a ticket. A ticket that was lost counts until the generator has forgotten what was asked for it."""
        counts = [0] * len(self._plane.requests)
        for shard in self._shards:
            counts[self._assignment.serves[shard.number]] += self._dispatcher.is_busy(shard.number)
        self._plane.set_running(counts)

    def _look_for_hung(self) -> None:
        """Kill whoever has been in one stage for too long: its end is then heard of like any other."""
        now, before = time.monotonic(), self._looked_at
        self._looked_at = now
        self._watchdog = asyncio.get_running_loop().call_later(self._look_every_s, self._look_for_hung)
        if now - before < LATE * self._look_every_s:  # else the whole run was stopped, by Ctrl-Z or a paused container, and nobody is hung
            for shard in self._shards:
                self._kill_if_hung(shard)

    def _kill_if_hung(self, shard: SupervisedShard) -> None:
        name = shard_name(shard.number)
        stage, seconds = self._board.stage(name)
        if stage == "start":
            limit, whose = START_TIMEOUT_S, f"the {START_TIMEOUT_S:g} s that a simulator may take to be built"
        else:
            limit = self._timeouts_s[shard.spec.simulator]
            whose = f"the timeout_s={limit:g} of its simulator"
        if seconds > limit and stage in ("start", "reset", "simulate") and shard.worker.process.is_alive():
            shard.worker.process.kill()
            self._notify(f"{name} has been in {stage} for {seconds:.0f} s, longer than {whose}: it is killed and replaced")
