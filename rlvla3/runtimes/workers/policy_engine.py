"""The engine of a generator: from requests in the data plane to decisions beside them.

    request -> its observation is gathered -> the batch is begun -> the device computes -> the decisions are written

Invariants:
- a decision carries the version of the weights that its batch began with;
- where the device computes beside the host, an observation is gathered when it is asked for, while the device computes the batch before;
- nothing that was gathered outlives the loss of its shard (`forget`): the episode runs again, and its observations are written again;
- what a policy returned is looked at before it is written: its form in `begin`, and whether its numbers are finite when they are on the host anyway;
- on a CPU a batch is computed in `end`, from beginning to end, and nothing is done beside it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rlvla3.devices import work_on
from rlvla3.inference.actor import Actor
from rlvla3.inference.answers import Answer
from rlvla3.links.data_plane import Batch
from rlvla3.links.rollouts import Rollouts
from rlvla3.links.weights.plane import WeightPlane
from rlvla3.observability.meter import Meter
from rlvla3.observability.run_record import RecordWriter
from rlvla3.policies.conversion import arrays_from
from rlvla3.policies.expected_answers import AnswerError
from rlvla3.policies.noise import decision_noise
from rlvla3.training.offload import Residence
from rlvla3.types import Version

Decision = tuple[int, int]
"""(ticket, row)."""

Keep = Callable[[AnswerError, Batch, Version], AnswerError]
"""Keeps a batch that was answered wrongly. Returns the error that says where it is."""


class Arrivals(Protocol):
    """The requests that no batch has taken yet."""

    def heard_by(self, call: Callable[[], None]) -> AbstractContextManager[None]: ...

    def waiting(self) -> Mapping[int, Decision]: ...


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A batch that the device computes, or that has ended and is not written yet."""

    answer: Answer
    version: Version


class DataPlanePolicyEngine:
    """A policy that reads observations from the data plane and writes its decisions beside them. It enters its device when it has work to do there.

    arrivals: where requests come from, so that they are gathered beside the device. keep: keeps what reproduces a bad answer (bad_answer.py).

    Raises AnswerError where the policy returns what cannot be used.
    """

    def __init__(
        self,
        actor: Actor,
        weights: WeightPlane,
        rollouts: Rollouts,
        seed: int,
        residence: Residence,
        meter: Meter,
        recorder: RecordWriter | None,
        arrivals: Arrivals | None = None,
        keep: Keep = lambda error, batch, version: error,
    ) -> None:
        self.version = -1  # the weights that it was built with: nothing from the weight plane yet
        self._actor, self._weights, self._rollouts, self._seed, self._residence, self._meter = actor, weights, rollouts, seed, residence, meter
        self._recorder, self._arrivals, self._keep = recorder, arrivals, keep
        self._noise_shape = actor.policy.options.noise_shape(actor.policy.spaces, actor.policy.chunk)
        self._gathered: dict[Decision, int] = {}
        self._under_way: dict[int, UnderWay] = {}
        self._when_written: list[Callable[[], None]] = []
        self._waiter = ThreadPoolExecutor(1, "device", initializer=work_on, initargs=(actor.device,))

    @property
    def beside_host(self) -> bool:
        return self._actor.beside_host

    async def load_weights(self, batch: Batch) -> None:
        """Let the policy have the weights that `batch` wants."""
        self._residence.enter()
        with self._meter("load_weights"):
            self.version = self._weights.load(pinned=batch.beside)

    async def infer(self, batch: Batch) -> None:
        """Decide for a batch, and write the decisions."""
        await self.begin(batch)
        await self.end(batch)
        self.write(batch)

    async def begin(self, batch: Batch) -> None:
        """Let the device compute a batch. Its stage on the meter ends in `end`."""
        if self.beside_host:
            self._residence.enter()
            self._meter.enter("infer", len(batch))
            self._launch(batch)

    async def end(self, batch: Batch) -> None:
        """Wait until the decisions of a batch that was begun are on the host. Requests that come meanwhile are gathered."""
        if not self.beside_host:
            self._residence.enter()
            with self._meter("infer", len(batch)):
                self._launch(batch)
                self._write(batch)
            return
        with self._arrivals.heard_by(self._gather_asked) if self._arrivals else nullcontext():
            await self._under_way[id(batch)].answer.ended(self._waiter)
        self._meter.enter("overhead")

    def write(self, batch: Batch) -> None:
        """Write the decisions of a batch that has ended."""
        if self.beside_host:
            self._write(batch)

    def forget(self) -> None:
        """A shard is lost: what was gathered for it may be written again, so everything is gathered anew."""
        self._gathered.clear()
        self._actor.waiting.clear()

    def when_written(self, then: Callable[[], None]) -> None:
        """Call `then` when the batch that is computed now has been written and answered: at once if there is none."""
        if self._under_way:
            self._when_written.append(then)
        else:
            then()

    def _gather_asked(self) -> None:
        """Gather what has been asked for and is not gathered yet."""
        assert self._arrivals is not None
        room = self._actor.largest - self._actor.waiting.count
        new = [decision for decision in self._arrivals.waiting().values() if decision not in self._gathered][:room]
        self._gather(new)

    def _gather(self, decisions: list[Decision]) -> None:
        if not decisions:
            return
        tickets, rows = np.array(decisions, np.int64).T
        waiting = self._actor.waiting
        self._gathered |= {decision: waiting.count + place for place, decision in enumerate(decisions)}
        self._rollouts.gather(tickets, rows, self._rollouts.observation_names, out=waiting.rows(len(decisions)))
        waiting.add(len(decisions))

    def _launch(self, batch: Batch) -> None:
        decisions = list(zip(batch.tickets.tolist(), batch.rows.tolist(), strict=True))
        missing = [decision for decision in decisions if decision not in self._gathered]
        if len(missing) + self._actor.waiting.count > max(self._actor.largest, len(decisions)):
            self.forget()  # those that were gathered and are not in this batch take the room of this batch
            missing = decisions
        self._gather(missing)
        order = [self._gathered[decision] for decision in decisions]
        noise = decision_noise(self._seed, batch.keys(), self._noise_shape)
        try:
            answer = self._actor.begin(order, self._rollouts.instructions(batch.tickets, batch.rows), noise, batch.explore)
        except AnswerError as error:
            raise self._keep(error, batch, self.version) from None
        self._gathered.clear()  # those that are not in this batch are gathered again
        self._under_way[id(batch)] = UnderWay(answer, self.version)

    def _write(self, batch: Batch) -> None:
        under_way = self._under_way.pop(id(batch))
        arrays = arrays_from(under_way.answer.decisions, under_way.version)
        try:
            self._actor.expected.check_finite(arrays, batch.tickets, batch.rows)
        except AnswerError as error:
            error.answer = under_way.answer.decisions
            raise self._keep(error, batch, under_way.version) from None
        self._rollouts.scatter(batch.tickets, batch.rows, arrays, batch.kept)
        if self._recorder and batch.explore.all():
            self._recorder.append(batch.tickets, row=batch.rows, version=under_way.version, at=time.monotonic_ns())
        then, self._when_written = self._when_written, []
        for call in then:  # the loop answers the batch before it waits again
            asyncio.get_running_loop().call_soon(call)
