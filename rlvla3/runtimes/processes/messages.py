"""The messages on the control channel between the coordinator and its workers."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvla3.errors import explanation
from rlvla3.observability.accounts import Accounts
from rlvla3.policies.trained_on import TrainedOn
from rlvla3.types import Finished, Sent, Ticket, TicketCounts, Version


@dataclass(frozen=True, slots=True)
class Ready(Sent):
    """Worker to coordinator: it is built and waits for work."""


@dataclass(frozen=True, slots=True)
class Failed(Sent):
    """Worker to coordinator: it ends because of an error. kind: the class name of the error. explained: whether the message alone tells the user what to do
    (errors.py)."""

    kind: str
    message: str
    traceback: str
    explained: bool

    @classmethod
    def with_error(cls, error: BaseException) -> Failed:
        said = explanation(error)
        return cls(type(error).__name__, str(error) if said is None else said, "".join(traceback.format_exception(error)), said is not None)


@dataclass(frozen=True, slots=True)
class WorkerNotice(Sent):
    """Worker to coordinator: something that the user should know."""

    text: str


@dataclass(frozen=True, slots=True)
class Ping(Sent):
    """Supervisor to a worker that waits: does its event loop still run? Answered by Pong."""

    number: int


@dataclass(frozen=True, slots=True)
class Pong(Sent):
    number: int


@dataclass(frozen=True, slots=True)
class HandIn(Sent):
    """Shard to dispatcher: these episodes have ended and their slots are free. Always answered by a Grant."""

    finished: Sequence[Finished]


@dataclass(frozen=True, slots=True)
class Grant(Sent):
    """Dispatcher to shard: tickets to run. answer: whether it answers a HandIn, and then it may hold no ticket; otherwise tickets have become admissible."""

    tickets: Sequence[Ticket]
    answer: bool


@dataclass(frozen=True, slots=True)
class ForgetShard(Sent):
    """Coordinator to generator: a shard is lost, drop its requests. Answered by ShardForgotten."""

    shard: int


@dataclass(frozen=True, slots=True)
class ShardForgotten(Sent):
    shard: int


@dataclass(frozen=True, slots=True)
class LeaveDevice(Sent):
    """Coordinator to generator, or to a host for all its generators: leave the device to the trainer. Answered by LeftDevice."""


@dataclass(frozen=True, slots=True)
class LeftDevice(Sent):
    """Generator to coordinator: it is off its device, until it has a batch to infer."""


@dataclass(frozen=True, slots=True)
class Train(Sent):
    """Coordinator to trainer: make the updates from `first` up to, not including, `end`. Trajectories are announced as Arrived; the trainer reports each
    version as Published, and the end as Trained. accounts: of what the run has done by now."""

    first: int
    end: int
    accounts: Accounts


@dataclass(frozen=True, slots=True)
class Arrived(Sent):
    """Coordinator to trainer: the trajectory of an episode is in the data plane. tickets: the counts of the whole run."""

    finished: Finished
    tickets: TicketCounts


@dataclass(frozen=True, slots=True)
class StopAfterUpdate(Sent):
    """Coordinator to trainer: make the present update the last one. Answered by LastUpdate."""


@dataclass(frozen=True, slots=True)
class LastUpdate(Sent):
    """Trainer to coordinator: the number of its last update."""

    update: int


@dataclass(frozen=True, slots=True)
class Published(Sent):
    """Trainer to coordinator: `version` is on the weight plane. The episodes of its update are no longer needed in the data plane. accounts: of the run until
    this version; a checkpoint of this version has the same."""

    version: Version
    metrics: Mapping[str, float]
    accounts: Accounts


@dataclass(frozen=True, slots=True)
class Pinned(Sent):
    """Trainer to coordinator, before Published: `version` stays on the weight plane until Release, for an evaluation beside training. trained_on: what it was
    trained on."""

    version: Version
    trained_on: TrainedOn


@dataclass(frozen=True, slots=True)
class Release(Sent):
    """Coordinator to trainer: the evaluation of the pinned version is over. evaluation: its line of metrics.jsonl, for the accounts."""

    evaluation: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class KeepBest(Sent):
    """Coordinator to trainer: of all versions that were evaluated, `version` is the best one."""

    version: Version


@dataclass(frozen=True, slots=True)
class Trained(Sent):
    """Trainer to coordinator: no more updates will come."""

    version: Version


@dataclass(frozen=True, slots=True)
class VersionDone(Sent):
    """Generator to coordinator, in a replay: all recorded inferences of the version that it was told to proceed to are made."""


@dataclass(frozen=True, slots=True)
class ProceedTo(Sent):
    """Coordinator to generator, in a replay: `version` is on the weight plane. Answered by VersionDone when its inferences are made."""

    version: Version


@dataclass(frozen=True, slots=True)
class ReplayStuck(Sent):
    """Generator to coordinator, in a replay: `waiting` shards wait for decisions, and none of them has asked for the next recorded one, decision `row` of
    `ticket`."""

    waiting: int
    ticket: int
    row: int


@dataclass(frozen=True, slots=True)
class Demonstrated(Sent):
    """Coordinator to trainer: a demonstration is in the data plane, copy it. Answered by Copied."""

    finished: Finished


@dataclass(frozen=True, slots=True)
class Copied(Sent):
    """Trainer to coordinator: the demonstration is copied. complete: whether every task has enough successful demonstrations."""

    ticket: Ticket
    complete: bool


@dataclass(frozen=True, slots=True)
class Clone(Sent):
    """Coordinator to trainer: clone from the copied demonstrations, or from clone.files. Answered by Notice and CloneStep events, and then by Published."""


@dataclass(frozen=True, slots=True)
class KeepCheckpoint(Sent):
    """Coordinator to trainer: write a checkpoint after the present update too, and say when it is there in a Notice. Training goes on meanwhile."""


@dataclass(frozen=True, slots=True)
class Save(Sent):
    """Coordinator to trainer: write a checkpoint of the present version. Answered by Saved or NotSaved."""


@dataclass(frozen=True, slots=True)
class Saved(Sent):
    version: Version


@dataclass(frozen=True, slots=True)
class NotSaved(Sent):
    """Trainer to coordinator: the checkpoint could not be written. The trainer goes on, and may be asked again."""

    why: str
