"""Checks of what a simulator does: which actions it takes, how episodes end, success, the expert, and what close() leaves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlvla3.checking.differences import first_difference
from rlvla3.checking.evidence import Evidence, NotApplicable, Played
from rlvla3.checking.finding import Finding, warning
from rlvla3.checking.subject import Left


def limit(evidence: Evidence) -> Iterator[Finding]:
    played = evidence.play("to the end")
    decisions, steps = len(played.outcomes), sum(len(outcome.rewards) for outcome in played.outcomes)
    longest = evidence.spaces.max_steps
    if any(len(outcome.rewards) != evidence.chunk for outcome in played.outcomes[:-1]):
        raise NotApplicable("its rewards do not count its steps: see the check `outcomes`")
    if not played.outcomes[-1].done:
        yield Finding(f"no end after {decisions} decisions and {steps} steps, expected one by spaces.max_steps={longest}: set truncated there")
    elif steps > longest:
        yield Finding(f"an episode of {steps} steps, expected at most spaces.max_steps={longest}: execute no more of the chunk and set truncated")
    elif played.outcomes[-1].truncated and steps < longest:
        yield warning(f"a time limit after {steps} steps, and spaces.max_steps={longest}: say the real limit, for memory is laid out by it")


def actions(evidence: Evidence) -> Iterator[Finding]:
    evidence.play("alone")  # where common actions fail already, those at the bounds say nothing
    space, bounds, beyond = evidence.spaces.action, evidence.plays["bounds"], evidence.plays.get("beyond")
    named = f"0 and {space.choices - 1}" if space.kind == "discrete" else f"{space.low:g} and {space.high:g}"
    if bounds.trouble is not None:
        yield Finding(f"actions at the bounds, {named}: {bounds.trouble}. Policies clip to the bounds, so these come often: accept them")
    elif beyond is None:
        return
    elif beyond.trouble is not None and beyond.trouble.kind != "refused":
        yield Finding(f"actions twice beyond the bounds {named}: {beyond.trouble}. Clip them, or raise a SimulatorError that says what the bounds are")
    elif beyond.trouble is None and _repeats(evidence) and (difference := first_difference(bounds, beyond)):
        yield warning(f"actions twice beyond the bounds {named} do more than actions at the bounds ({difference}): clip them, np.clip(action, low, high)")


def _repeats(evidence: Evidence) -> bool:
    return first_difference(evidence.play("alone"), evidence.play("again")) is None


def success(evidence: Evidence) -> Iterator[Finding]:
    plays = [played for played in evidence.plays.values() if played.outcomes]
    if not plays:
        raise NotApplicable("no step was made")
    for played in plays:
        flags = [bool(outcome.success) for outcome in played.outcomes]
        if (after := _lost(flags)) is not None:
            yield Finding(
                f"success is true after decision {after} and false later in the same episode: keep it true from the first success on, "
                f"for a chunk tells only how it ended"
            )
            return
    if any(outcome.success for played in plays for outcome in played.outcomes):
        return
    experts = evidence.called("expert")
    if any(played.trouble is not None and played.trouble.kind != "refused" for played in experts):
        raise NotApplicable("the expert ran into trouble: see the check `expert`")
    if any(played.outcomes for played in experts):
        ended = sum(bool(played.outcomes and played.outcomes[-1].terminated) for played in experts)
        yield Finding(
            f"{len(experts)} episodes of the expert and no success, {ended} of them terminated: set success where the task is done, or raise "
            f"simulator.max_steps={evidence.spaces.max_steps} where experts need longer"
        )
    elif not (evidence.built is not None and evidence.built.has_expert):
        yield warning("not seen: random actions had no success, and no expert acted. Test it with actions of your own that reach the goal: outcome.success")


def _lost(flags: list[bool]) -> int | None:
    """The decision after which success was true for the last time, if it was false later."""
    if True in flags and not all(flags[flags.index(True) :]):
        return len(flags) - flags[::-1].index(True)
    return None


def expert(evidence: Evidence) -> Iterator[Finding]:
    if evidence.built is not None and evidence.built.has_expert is False:
        raise NotApplicable("it has none")
    evidence.play("alone")  # what fails under any actions is not the expert's fault
    plays = evidence.called("expert")
    if not plays:
        raise NotApplicable("it did not come to this: see the check `calls`")
    for played in plays:
        if played.trouble is not None:
            if not played.outcomes and played.trouble.kind == "refused" and not (evidence.built and evidence.built.has_expert):
                raise NotApplicable(f"it has none: {played.trouble.words}")
            yield Finding(str(played.trouble))
            return
    yield from _expert_actions(evidence, plays)


def _expert_actions(evidence: Evidence, plays: list[Played]) -> Iterator[Finding]:
    space = evidence.spaces.action
    low, high = (0.0, space.choices - 1.0) if space.kind == "discrete" else (space.low, space.high)
    shown = np.concatenate([np.ravel(outcome.actions) for played in plays for outcome in played.outcomes]).astype(np.float64)
    if not np.isfinite(shown).all():
        yield Finding("the expert's actions are not finite in places: a policy is trained to repeat them")
    elif shown.min() < low or shown.max() > high:
        yield Finding(f"the expert's actions go from {shown.min():.3g} to {shown.max():.3g}, and the space from {low:g} to {high:g}: clip what it returns")
    elif len(shown) and shown.min() == shown.max():
        yield warning(f"the expert's actions are all {shown[0]:.3g}: return those that were executed, in Outcome.actions")


def close(evidence: Evidence) -> Iterator[Finding]:
    troubles = [evidence.troubles[doing] for doing in ("close", "close another", "end") if doing in evidence.troubles]
    left = evidence.left or Left((), ())
    if not troubles and evidence.left is None:
        raise NotApplicable("it did not come to this: see the check `calls`")
    yield from (Finding(str(trouble)) for trouble in troubles)
    if left.threads:
        yield Finding(f"close() leaves threads that keep the process alive: {', '.join(left.threads)}. End them, or make them daemons")
    if left.processes:
        yield Finding(f"close() leaves processes: {', '.join(left.processes)}. End them and wait for their ends")
