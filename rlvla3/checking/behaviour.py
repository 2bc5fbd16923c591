"""Checks of what a simulator does: which actions it accepts, how episodes end, success, the expert, and what close() leaves behind."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlvla3.checking.checked_simulator import Leftovers
from rlvla3.checking.episode_differences import first_difference
from rlvla3.checking.evidence import EpisodeRecord, Evidence, NotApplicable
from rlvla3.checking.finding import Finding, warning
from rlvla3.simulators.contract import expert_fault, limit_fault, success_fault


def limit(evidence: Evidence) -> Iterator[Finding]:
    episode = evidence.episode("to the end")
    if any(len(outcome.rewards) != evidence.chunk for outcome in episode.outcomes[:-1]):
        raise NotApplicable("the number of rewards is not the number of steps: see the check `outcomes`")
    steps, longest, last = 0, evidence.spaces.max_steps, episode.outcomes[-1]
    for outcome in episode.outcomes:
        steps += len(outcome.rewards)
        if fault := limit_fault(steps, outcome.done, evidence.spaces):
            yield Finding(fault)
            return
    if last.truncated and steps < longest:
        yield warning(f"the time limit came after {steps} steps, but spaces.max_steps={longest}: give the real limit, because memory is reserved for it")


def actions(evidence: Evidence) -> Iterator[Finding]:
    evidence.episode("alone")  # if ordinary actions fail, actions at the bounds tell nothing
    bounds, beyond = evidence.episodes["bounds"], evidence.episodes.get("beyond")
    named = " and ".join(f"{bound:g}" for bound in evidence.spaces.action.bounds)
    if bounds.failure is not None:
        yield Finding(f"actions at the bounds, {named}: {bounds.failure}. Policies clip to the bounds, so these actions are frequent: accept them")
    elif beyond is None:
        return
    elif beyond.failure is not None and beyond.failure.kind != "refused":
        yield warning(f"actions at twice the bounds {named}: {beyond.failure}. Clip them, or raise a SimulatorError that names the bounds")
    elif beyond.failure is None and _repeats(evidence) and (difference := first_difference(bounds, beyond)):
        yield warning(
            f"actions at twice the bounds {named} have more effect than actions at the bounds ({difference}): clip them with np.clip(action, low, high)"
        )


def _repeats(evidence: Evidence) -> bool:
    return first_difference(evidence.episode("alone"), evidence.episode("again")) is None


def success(evidence: Evidence) -> Iterator[Finding]:
    episodes = [episode for episode in evidence.episodes.values() if episode.outcomes]
    if not episodes:
        raise NotApplicable("no step was made")
    for episode in episodes:
        before = False
        for number, outcome in enumerate(episode.outcomes, start=1):
            if fault := success_fault(outcome.success, before):
                yield Finding(f"{fault} (decision {number})")
                return
            before = bool(outcome.success)
    if any(outcome.success for episode in episodes for outcome in episode.outcomes):
        return
    experts = evidence.episodes_named("expert")
    if any(episode.failure is not None and episode.failure.kind != "refused" for episode in experts):
        raise NotApplicable("a call of the expert failed: see the check `expert`")
    if any(episode.outcomes for episode in experts):
        ended = sum(bool(episode.outcomes and episode.outcomes[-1].terminated) for episode in experts)
        yield warning(
            f"{len(experts)} episodes of the expert and no success, {ended} of them terminated: set success when the task is done, or raise "
            f"simulator.max_steps={evidence.spaces.max_steps} if experts need more steps"
        )
    elif not (evidence.built is not None and evidence.built.has_expert):
        yield warning(
            "no success was seen: random actions did not succeed, and there is no expert. Test outcome.success with actions of your own that reach the goal"
        )


def expert(evidence: Evidence) -> Iterator[Finding]:
    if evidence.built is not None and evidence.built.has_expert is False:
        raise NotApplicable("it has none")
    evidence.episode("alone")  # if every action fails, the fault is not the expert's
    episodes = evidence.episodes_named("expert")
    if not episodes:
        raise NotApplicable("the examination did not get so far: see the check `calls`")
    for episode in episodes:
        if episode.failure is not None:
            if not episode.outcomes and episode.failure.kind == "refused" and not (evidence.built and evidence.built.has_expert):
                raise NotApplicable(f"it has none: {episode.failure.message}")
            yield Finding(str(episode.failure))
            return
    yield from _expert_actions(evidence, episodes)


def _expert_actions(evidence: Evidence, episodes: list[EpisodeRecord]) -> Iterator[Finding]:
    shown = np.concatenate([np.ravel(outcome.actions) for episode in episodes for outcome in episode.outcomes])
    if fault := expert_fault(shown, evidence.spaces):
        yield Finding(fault)
    elif len(shown) and shown.min() == shown.max():
        yield warning(f"the expert's actions are all {shown[0]:.3g}: return the executed actions in Outcome.actions")


def close(evidence: Evidence) -> Iterator[Finding]:
    failures = [evidence.failures[step] for step in ("close", "close another", "end") if step in evidence.failures]
    left = evidence.left or Leftovers((), ())
    if not failures and evidence.left is None:
        raise NotApplicable("the examination did not get so far: see the check `calls`")
    yield from (warning(str(failure)) for failure in failures)
    if left.threads:
        yield warning(f"close() leaves threads that keep the process alive: {', '.join(left.threads)}. End them, or make them daemon threads")
    if left.processes:
        yield warning(f"close() leaves processes: {', '.join(left.processes)}. End them, and wait until they have ended")
