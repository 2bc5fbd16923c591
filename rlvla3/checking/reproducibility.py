"""Checks of what must be the same because the ticket decides it, and of what should differ.

A run cannot see these mistakes, because it runs each ticket once. So they are warnings: the run is made, and cannot be replayed or compared.
One mistake makes several comparisons differ. So a check reports a difference only if no other check already explains it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rlvla3.checking.episode_differences import first_difference
from rlvla3.checking.evidence import EpisodeRecord, Evidence, NotApplicable
from rlvla3.checking.finding import Finding, warning
from rlvla3.types import Observation


def processes(evidence: Evidence) -> Iterator[Finding]:
    if (difference := first_difference(evidence.episode("alone"), evidence.episode("elsewhere"))) is None:
        return
    if first_difference(evidence.episode("alone"), evidence.episode("again")) is None:
        help_ = (
            "Within a process it repeats, so it depends on the process: hash() of a str, the order of a set, the process id, the start time, a memory address"
        )
    else:
        help_ = "Draw everything from np.random.default_rng(ticket.seed), never from the global generator, the time or the operating system"
    yield warning(f"the same ticket and actions in two new processes: {difference}. {help_}")


def leaks(evidence: Evidence) -> Iterator[Finding]:
    again = first_difference(evidence.episode("alone"), evidence.episode("again"))
    if again and not _repeats_elsewhere(evidence):
        raise NotApplicable("it does not repeat in a new process either: see the check `processes`")
    if again:
        yield warning(f"the same ticket and actions a second time: {again}. An episode leaves something behind that reset() must set again")
    elif difference := first_difference(evidence.episode("alone"), evidence.episode("afterwards")):
        yield warning(f"the same ticket and actions after other episodes: {difference}. These leave something behind that reset() must set again")


def neighbours(evidence: Evidence) -> Iterator[Finding]:
    _need_repeatable(evidence)
    if difference := first_difference(evidence.episode("alone"), evidence.episode("in turn")):
        yield warning(
            f"the same ticket and actions while another process steps in turn: {difference}. The two processes share something, such as a file, a port, "
            f"shared memory, a GPU's state or a graphics server: give each process its own"
        )


def slots(evidence: Evidence) -> Iterator[Finding]:
    if evidence.built is not None and evidence.built.slots == 1:
        raise NotApplicable("one environment per process")
    _need_repeatable(evidence)
    alone = evidence.episode("alone")
    ways_out = {
        "first slot": "the first slot depends on what the last slot does: each slot needs its own state, frames and arrays",
        "last slot": "the last slot differs from the first slot: an episode must not depend on the slot it is in",
        "beside a restart": "the first slot depends on a reset or a pause of the last slot: reset and step only the slots that are named",
        "restarted": "an episode that begins while the other slot is in the middle of its own differs: reset a slot alone, whatever the other slots do",
    }
    for name, help_ in ways_out.items():
        if difference := first_difference(alone, evidence.episode(name)):
            yield warning(f"the same ticket and actions as in `alone`: {difference}; {help_}")


def groups(evidence: Evidence) -> Iterator[Finding]:
    _need_repeatable(evidence)
    if difference := first_difference(evidence.episode("alone"), evidence.episode("groupmate")):
        yield warning(
            f"two tickets of one group, with the same task and seed but another index: {difference}. Draw from ticket.seed alone, because group-relative "
            f"advantages compare episodes from one initial state"
        )


def seeds(evidence: Evidence) -> Iterator[Finding]:
    alone, other = evidence.episode("alone"), evidence.episode("other")
    if alone.ticket.initial_state is None:
        if _alike(alone, other):
            yield warning("two tickets with different seeds gave the same episode: are initial states drawn from ticket.seed?")
        return
    if alone.ticket.initial_state != other.ticket.initial_state and _alike(alone, other):
        yield warning("two tickets with different initial states gave the same episode: does reset() read the number of the initial state?")
    _need_repeatable(evidence)
    if not _begin_alike(alone, evidence.episode("reseeded")):
        yield warning(
            f"initial state {alone.ticket.initial_state} looks different with another seed: let its number alone decide it, so that evaluation begins in no "
            f"state that is trained on"
        )


def tasks(evidence: Evidence) -> Iterator[Finding]:
    others = [name for name in evidence.episodes if name.startswith("task ")]
    if not others:
        raise NotApplicable("it has one task")
    _need_repeatable(evidence)
    for name in others:
        if _alike(evidence.episode("alone"), evidence.episode(name)):
            yield warning(
                f"{name} gave the same episode as task {evidence.episode('alone').ticket.task}, with the same instruction: does reset() read ticket.task?"
            )


def _need_repeatable(evidence: Evidence) -> None:
    """Raise NotApplicable if the same ticket differs even without another cause. Then a further difference tells nothing."""
    alone = evidence.episode("alone")
    if not _repeats_elsewhere(evidence) or any(first_difference(alone, evidence.episode(name)) for name in ("again", "afterwards")):
        raise NotApplicable("the same ticket already differs when it is repeated: see the checks `processes` and `leaks`")


def _repeats_elsewhere(evidence: Evidence) -> bool:
    return first_difference(evidence.episode("alone"), evidence.episode("elsewhere")) is None


def _begin_alike(one: EpisodeRecord, other: EpisodeRecord) -> bool:
    return first_difference(replace(one, outcomes=[]), replace(other, outcomes=[])) is None


def _alike(one: EpisodeRecord, other: EpisodeRecord) -> bool:
    return isinstance(one.first, Observation) and first_difference(one, other) is None
