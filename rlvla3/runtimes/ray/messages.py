"""The messages between the coordinator of a Ray run and its actors, beside those of any worker (runtimes/processes/messages.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.links.rendezvous import MeetingPoint
from rlvla3.links.weights.between_hosts.wire import SenderAddress
from rlvla3.types import Sent, Ticket, Version


@dataclass(frozen=True, slots=True)
class RunTickets(Sent):
    """Coordinator to host: tickets to run on a simulator, by its number. Each may begin when the host has the version that stands beside it, or a newer one."""

    simulator: int
    tickets: Sequence[tuple[Ticket, Version]]


@dataclass(frozen=True, slots=True)
class NewLedger(Sent):
    """Coordinator to host: the next tickets belong to another ledger. What was measured on the ones before is no longer used."""


@dataclass(frozen=True, slots=True)
class LostTicket(Sent):
    """Host to coordinator: one of its simulators was lost, and this ticket with it."""

    index: int


@dataclass(frozen=True, slots=True)
class RunAgain(Sent):
    """Host to coordinator: one of its simulators was lost, and the host itself runs this ticket again."""

    index: int


@dataclass(frozen=True, slots=True)
class HostNotice(Sent):
    """Host to coordinator: a sentence for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class WeightsAt(Sent):
    """Trainer to coordinator, which passes it on to hosts: where versions are sent from."""

    address: SenderAddress


@dataclass(frozen=True, slots=True)
class Pin(Sent):
    """Coordinator to host: a version that is evaluated beside training. weights: a reference to its PinnedVersion (None: the evaluation is over)."""

    weights: Any


@dataclass(frozen=True, slots=True)
class HoldTraining(Sent):
    """Coordinator to host: whether tickets of training wait for the evaluation beside it."""

    hold: bool


@dataclass(frozen=True, slots=True)
class MeetAt(Sent):
    """Rank 0 to coordinator, which passes it on to the other ranks: where they meet (None: there are no others)."""

    address: MeetingPoint | None


@dataclass(frozen=True, slots=True)
class Logs(Sent):
    """Host to coordinator, when the host ends: by file name, what its workers printed, and the samples that they wrote (observability/tracing.py)."""

    printed: Mapping[str, bytes]
    samples: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Status(Sent):
    """Actor to coordinator: the times of its workers since the actor began. seconds: [workers, stages]. stages: [workers], the present one of each.
    ages: [workers], the seconds since it began. steps: of environments. batching: of each generator (observability/batching.py)."""

    seconds: NDArray[np.float64]
    stages: NDArray[np.int64]
    ages: NDArray[np.float64]
    steps: int
    batching: Sequence[Mapping[str, float]] = ()
