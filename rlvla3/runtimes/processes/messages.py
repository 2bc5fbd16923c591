"""What the coordinator and its workers say to one another on the control channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlvla3.types import Finished, Ticket, Version


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker is built and waits for work."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker ends because of an error. kind: the class name of the error. explained: whether the message alone tells the user what to do (errors.py)."""

    kind: str
    message: str
    traceback: str
    explained: bool


@dataclass(frozen=True, slots=True)
class HandIn:
    """Shard to ledger: these episodes have ended, their slots are free. Always answered by a Grant."""

    finished: Sequence[Finished]


@dataclass(frozen=True, slots=True)
class Grant:
    """Ledger to shard: tickets to run. answer: it answers a HandIn (it may hold no ticket then); otherwise tickets have become admissible."""

    tickets: Sequence[Ticket]
    answer: bool


@dataclass(frozen=True, slots=True)
class Forget:
    """Coordinator to generator: the shard is lost, drop what it asked. Answered by Forgotten."""

    shard: int


@dataclass(frozen=True, slots=True)
class Forgotten:
    shard: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Coordinator to generator, or to a host for all of its generators: the trainer is to have the device. Answered by Left."""


@dataclass(frozen=True, slots=True)
class Left:
    """Off the device, until there is a batch to decide."""


@dataclass(frozen=True, slots=True)
class Train:
    """Coordinator to trainer: make the updates from `first` up to `end`. Arrivals follow as Arrived, each version is reported as Published, the end as
    Trained."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """Coordinator to trainer: the trajectory of `ticket` is in the data plane."""

    ticket: int
    decisions: int


@dataclass(frozen=True, slots=True)
class StopAfterUpdate:
    """Coordinator to trainer: the present update is the last. Answered by LastUpdate."""


@dataclass(frozen=True, slots=True)
class LastUpdate:
    """Trainer to coordinator: which update is the last."""

    update: int


@dataclass(frozen=True, slots=True)
class Published:
    """Trainer to coordinator: `version` is on the weight plane; its update's episodes are no longer needed in the data plane."""

    version: Version
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Trained:
    """Trainer to coordinator: no more updates will come."""

    version: Version


@dataclass(frozen=True, slots=True)
class VersionDone:
    """Generator to coordinator, in a replay: every recorded inference of the version that it was to proceed to has been made."""


@dataclass(frozen=True, slots=True)
class Proceed:
    """Coordinator to generator, in a replay: `version` is on the weight plane. Answered by VersionDone, sooner or later."""

    version: Version


@dataclass(frozen=True, slots=True)
class Stuck:
    """Generator to coordinator, in a replay: `waiting` shards wait, and for all the generator knows nobody will ask for the next decision, `row` of
    `ticket`."""

    waiting: int
    ticket: int
    row: int


@dataclass(frozen=True, slots=True)
class Demonstrated:
    """Coordinator to trainer: this demonstration is in the data plane; copy it. Answered by Copied."""

    finished: Finished


@dataclass(frozen=True, slots=True)
class Copied:
    """complete: there are enough successful demonstrations of every task."""

    ticket: Ticket
    complete: bool


@dataclass(frozen=True, slots=True)
class Clone:
    """Coordinator to trainer: clone from the demonstrations copied, or from clone.files. Answered by Notice and CloneStep events, then by Published."""


@dataclass(frozen=True, slots=True)
class Save:
    """Coordinator to trainer: write a checkpoint of the present version. Answered by Saved."""


@dataclass(frozen=True, slots=True)
class Saved:
    version: Version
