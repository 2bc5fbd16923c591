"""Checks of what must be the same, because a ticket decides it, and of what should not be.

A difference shows in several comparisons at once; each check speaks only where those that would explain it are fine.
"""

from __future__ import annotations

from collections.abc import Iterator

from rlvla3.checking.differences import first_difference
from rlvla3.checking.evidence import Evidence, NotApplicable, Played
from rlvla3.checking.finding import Finding, warning
from rlvla3.types import Observation


def processes(evidence: Evidence) -> Iterator[Finding]:
    if (difference := first_difference(evidence.play("alone"), evidence.play("elsewhere"))) is None:
        return
    if first_difference(evidence.play("alone"), evidence.play("again")) is None:
        help_ = (
            "within a process it repeats, so it depends on the process: hash() of a str, the order of a set, the process id, the time of the start, an address"
        )
    else:
        help_ = "draw everything from a generator made of ticket.seed: np.random.default_rng(ticket.seed), never from the global one, the time or the system"
    yield Finding(f"the same ticket and actions in two fresh processes: {difference}. {help_}")


def leaks(evidence: Evidence) -> Iterator[Finding]:
    again = first_difference(evidence.play("alone"), evidence.play("again"))
    if again and not _repeats_elsewhere(evidence):
        raise NotApplicable("it does not repeat in a fresh process either: see the check `processes`")
    if again:
        yield Finding(f"the same ticket and actions a second time: {again}. An episode leaves something behind that reset() has to set again")
    elif difference := first_difference(evidence.play("alone"), evidence.play("afterwards")):
        yield Finding(f"the same ticket and actions, after episodes of others: {difference}. These leave something behind that reset() has to set again")


def neighbours(evidence: Evidence) -> Iterator[Finding]:
    _need_repeatable(evidence)
    if difference := first_difference(evidence.play("alone"), evidence.play("in turn")):
        yield Finding(
            f"while another process steps in turn: {difference}. The two share something: a file, a port, shared memory, a GPU's state, a graphics server; "
            f"give each process its own"
        )


def slots(evidence: Evidence) -> Iterator[Finding]:
    if evidence.built is not None and evidence.built.slots == 1:
        raise NotApplicable("it runs one environment a process")
    _need_repeatable(evidence)
    alone = evidence.play("alone")
    ways_out = {
        "first slot": "what the last slot does shows in the first: each slot needs its own state, frames and arrays",
        "last slot": "the last slot shows something else than the first would: an episode must not depend on the slot it is in",
        "beside a restart": "a reset of the last slot, or its rest, shows in the first: reset and step only the slots that are named",
        "restarted": "an episode begun while the other slot is in the middle of its own differs: reset a slot by itself, in whatever state others are",
    }
    for name, help_ in ways_out.items():
        if difference := first_difference(alone, evidence.play(name)):
            yield Finding(f"the same ticket and actions as alone: {difference}; {help_}")


def groups(evidence: Evidence) -> Iterator[Finding]:
    _need_repeatable(evidence)
    if difference := first_difference(evidence.play("alone"), evidence.play("groupmate")):
        yield Finding(
            f"two tickets of one group, the same task and seed but another index: {difference}. Draw from ticket.seed alone: group-relative advantages compare "
            f"episodes from one initial state"
        )


def seeds(evidence: Evidence) -> Iterator[Finding]:
    if _alike(evidence.play("alone"), evidence.play("other")):
        yield warning("two tickets of different seeds are the same in all that was seen: are initial states drawn from ticket.seed?")


def tasks(evidence: Evidence) -> Iterator[Finding]:
    others = [name for name in evidence.plays if name.startswith("task ")]
    if not others:
        raise NotApplicable("it has one task")
    _need_repeatable(evidence)
    for name in others:
        if _alike(evidence.play("alone"), evidence.play(name)):
            yield warning(
                f"{name} is the same as task {evidence.play('alone').ticket.task} in all that was seen, its instruction too: does reset() read ticket.task?"
            )


def _need_repeatable(evidence: Evidence) -> None:
    """Raises NotApplicable where a difference would say nothing, because the same ticket differs by itself."""
    alone = evidence.play("alone")
    if not _repeats_elsewhere(evidence) or any(first_difference(alone, evidence.play(name)) for name in ("again", "afterwards")):
        raise NotApplicable("the same ticket differs by itself: see the checks `processes` and `leaks`")


def _repeats_elsewhere(evidence: Evidence) -> bool:
    return first_difference(evidence.play("alone"), evidence.play("elsewhere")) is None


def _alike(one: Played, other: Played) -> bool:
    return isinstance(one.first, Observation) and first_difference(one, other) is None
