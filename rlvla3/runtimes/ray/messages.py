"""What the coordinator of a Ray run and its actors say to one another, beside what any worker says (runtimes/processes/messages.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlvla3.links.rendezvous import MeetingPoint
from rlvla3.links.weights.between_hosts.wire import SenderAddress
from rlvla3.types import Ticket, Version


@dataclass(frozen=True, slots=True)
class RunTickets:
    """Coordinator to host: tickets to run on a simulator, by its number, each from when the host has a version that is new enough."""

    simulator: int
    tickets: Sequence[tuple[Ticket, Version]]


@dataclass(frozen=True, slots=True)
class NewLedger:
    """Coordinator to host: the tickets that follow are those of another ledger. What was seen of the ones before says nothing of them."""


@dataclass(frozen=True, slots=True)
class LostTicket:
    """Host to coordinator: one of its simulators was lost, and this ticket with it."""

    index: int


@dataclass(frozen=True, slots=True)
class HostNotice:
    """Host to coordinator: what the user should know."""

    text: str


@dataclass(frozen=True, slots=True)
class WeightsAt:
    """Trainer to coordinator, and on to hosts: where versions are to be had."""

    address: SenderAddress


@dataclass(frozen=True, slots=True)
class MeetAt:
    """Rank 0 to coordinator, and on to the other ranks: where they meet (None: there are no others)."""

    address: MeetingPoint | None


@dataclass(frozen=True, slots=True)
class Logs:
    """Host to coordinator, at its end, by file name: what its workers printed, and the stays that they noted (observability/tracing.py)."""

    printed: Mapping[str, bytes]
    stays: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Status:
    """Actor to coordinator: what its workers are at, since it began: seconds [workers, stages], the stage [workers] that each is in, environment steps."""

    seconds: NDArray[np.float64]
    stages: NDArray[np.int64]
    steps: int
