"""A run in ten sentences: how far it is, whether it learns, what bounds it, who waits for what, and what failed.

Invariant: a sentence rests on all lines of the run. While some are not read yet, this is said instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rlvla3.config import Recipe
from rlvla3.observability.formatting import duration, number_of, percent, quantity, size
from rlvla3.observability.machine_use import MachineUse
from rlvla3.page.advising import Advice, advise, observe
from rlvla3.page.failures import failures
from rlvla3.page.learning import Verdict, fall, interval, learning
from rlvla3.page.machine_curves import MEMORY, MachineCurves, Used, memory_of_gpu
from rlvla3.page.run_facts import RunFacts
from rlvla3.page.run_metrics import RECENT, WHOLE, RunMetrics
from rlvla3.page.unusual import unusual
from rlvla3.page.waiting import bound, settled, times_by_kind, waits
from rlvla3.planning.observed_profile import Observed

SHORT = 0.05
"""Where a smaller share of memory is free, a run may soon be out of it."""

FULL = 0.85
"""Where a larger share of the cores is in use, they may be what a run waits for."""

UNKNOWN_S, UNKNOWN_SHARE = 120.0, 0.05
"""So much of a run may be missing in machine.jsonl at either end. Where more is missing, a sentence says over which time it holds."""

FEW_EFFECTIVE = 0.5
"""Below this share of effective samples, the data are so stale that most of them count for little."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """topic: a word or two that say what it is about. verdict: whether it is good news, bad news or neither."""

    topic: str
    text: str
    verdict: Verdict = "open"


def explain(facts: RunFacts, advice: Advice | None = None) -> list[Sentence]:
    """The sentences, in the order in which they are read. What a run cannot tell yet is said too.

    advice: what to change (advice_of). Finding it takes a few seconds, and all else takes none.
    """
    return list(_sentences(facts, advice))


def can_be_advised(facts: RunFacts) -> bool:
    """Whether it trains, its settings can be read, and all of its lines are read."""
    return facts.recipe is not None and facts.complete and bool(facts.updates)


def advice_of(facts: RunFacts) -> Advice | None:
    """Which settings to change. None where it cannot be advised."""
    return advise(facts.recipe, observed_of(facts)) if facts.recipe is not None and can_be_advised(facts) else None


def observed_of(facts: RunFacts) -> Observed | None:
    """What advice rests on. None where too little is known of the run. It can be advised."""
    assert facts.recipe is not None
    device = facts.recipe.engine.device
    newest = facts.machine.newest[-1] if facts.machine.newest else None
    return observe(
        facts.recipe,
        settled(facts.updates, facts.recipe),
        decisions=facts.decisions,
        batch=facts.batch,
        cores=float(newest.cores) if newest else None,
        gpu=device.startswith("cuda") or (device == "auto" and newest is not None and bool(newest.gpus)),
    )


def _sentences(facts: RunFacts, advice: Advice | None) -> Iterator[Sentence]:
    only_measures = not facts.metrics.last and "eval" in facts.metrics.ends
    yield Sentence("state", f"{_state_in_words(facts)}." if only_measures else f"{_state_in_words(facts)}: {_progress(facts.metrics)}.")
    if facts.complete:
        yield from _of_all_lines(facts, advice)
    else:
        yield Sentence("reading", f"So far, {percent(facts.read_share)} of its lines are read. What they say is told when all of them are read.")
    if facts.machine.complete and facts.machine.newest:
        yield _memory(facts.machine, facts.recipe, facts.metrics.seconds)
    if facts.complete:
        failed, text = failures(facts.ended, facts.signs, facts.metrics.tickets, facts.metrics.notices)
        yield Sentence("failures", text, "bad" if failed else "good")
    if facts.settings.unread or facts.damaged:
        yield Sentence("files", _files(facts), "bad")


def _of_all_lines(facts: RunFacts, advice: Advice | None) -> Iterator[Sentence]:
    """What its lines say of learning and of time."""
    group_size = facts.recipe.algorithm.group_size if facts.recipe else 1
    verdict, text = learning(facts.metrics, group_size)
    yield Sentence("learning", text, verdict)
    if fallen := fall(facts.metrics, group_size):
        yield Sentence("on the way", fallen[1], fallen[0])
    if tasks := _tasks(facts.metrics):
        yield Sentence("tasks", tasks)
    if facts.updates:
        lately = settled(facts.updates, facts.recipe)
        times = times_by_kind(lately)
        yield Sentence("bound by", f"{bound(times, facts.recipe)}{_cores(facts.machine.newest)}")
        yield Sentence("waiting", waits(times, lately))
        if advice is not None:
            yield Sentence("to change", advice.text)
        yield _staleness(facts)
        if text := unusual(facts.updates, facts.recipe):
            yield Sentence("unusual", text, "bad")


def _state_in_words(facts: RunFacts) -> str:
    if facts.ended == "finished":
        return "It is finished"
    if facts.ended.startswith("interrupted"):
        return f"It was {facts.ended}"
    if facts.ended.startswith("failed"):
        return "It has failed"
    if facts.state != "lost":
        return "It is at work"
    return "It has stopped" if facts.signs.none_for_certain else "It seems to have stopped"


def _progress(metrics: RunMetrics) -> str:
    if not metrics.last:
        return f"{number_of(metrics.cloned, 'step')} of cloning are done" if metrics.cloned else "no update is finished yet"
    last = metrics.last
    speed = f", {quantity(last['throughput'])} steps/s" if last["throughput"] is not None else ""
    wanted = last.get("updates")
    done = f"{last['update']} of {number_of(wanted, 'update')}" if isinstance(wanted, int) else number_of(last["update"], "update")
    return f"{done} in {duration(last['wall_seconds'])} of training, {quantity(last['environment_steps'])} environment steps{speed}"


def _tasks(metrics: RunMetrics) -> str:
    """The best and the worst of several tasks. Empty where there is only one."""
    recent = {task: list(found)[-RECENT:] for task, found in metrics.rollouts.items() if task != WHOLE}
    rates = {task: (sum(rate.successes for rate in found), sum(rate.episodes for rate in found)) for task, found in recent.items()}
    rates |= {task: counts for when in ("after", "eval") if when in metrics.ends for task, counts in _rates_of_tasks(metrics.ends[when])}
    if len(rates) < 2:
        return ""
    ordered = sorted(rates, key=lambda task: rates[task][0] / rates[task][1])
    worst, best = (f"{task} {interval(*rates[task])}" for task in (ordered[0], ordered[-1]))
    return f"Of {len(rates)} tasks, the best one is {best}, and the worst one {worst}."


def _rates_of_tasks(line: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, int]]]:
    per_task = line.get("per_task")
    for task, rate in per_task.items() if isinstance(per_task, dict) else ():
        successes, episodes = (rate.get(name) if isinstance(rate, dict) else None for name in ("successes", "episodes"))
        if isinstance(successes, int) and isinstance(episodes, int) and 0 <= successes <= episodes > 0:
            yield task, (successes, episodes)


def _staleness(facts: RunFacts) -> Sentence:
    """How old the data are, and how much of them still counts."""
    lags = facts.metrics.staleness
    if not lags.total():
        return Sentence("staleness", "How stale its data are cannot be told: no update says it.")
    mean = sum(lag * episodes for lag, episodes in lags.items()) / lags.total()
    allowed = f" of {facts.recipe.engine.max_staleness} allowed" if facts.recipe else ""
    text = f"Episodes are {mean:.2g} versions old on average, and at most {max(lags)}{allowed}"
    effective = facts.metrics.last["learner"].get("effective_sample_size")
    if effective is None:
        return Sentence("staleness", f"{text}.")
    if effective < FEW_EFFECTIVE:
        return Sentence("staleness", f"{text}. Only {percent(effective)} of the samples count: lower engine.max_staleness or training.learning_rate.", "bad")
    return Sentence("staleness", f"{text}. {percent(effective)} of the samples count (effective sample size).", "good")


def _cores(lately: Sequence[MachineUse]) -> str:
    """That the cores may be what bounds a run, in a sentence with a space before it. Empty where some are free."""
    lately = [use for use in lately if use.cores_used <= use.cores]  # earlier releases also counted cores that the run may not use
    used = fmean(use.cores_used / max(use.cores, 1) for use in lately) if lately else 0.0
    if used < FULL:
        return ""
    cores = f"{number_of(lately[-1].cores, 'core')}, which {'are' if lately[-1].cores > 1 else 'is'} busy {percent(used)} of the time"
    return f" All workers share {cores}: who works less leaves more to the others."


def _memory(machine: MachineCurves, recipe: Recipe | None, seconds: float) -> Sentence:
    """How much memory was left at the fullest moment. seconds: of the whole run."""
    newest = machine.newest[-1]
    rooms = {MEMORY: (newest.memory, "the host")}
    rooms |= {memory_of_gpu(number): (gpu.memory, f"GPU {number} ({gpu.name})") for number, gpu in machine.gpus.items() if _uses(recipe, number)}
    said, short = [], []
    for name, (total, where) in rooms.items():
        if (used := machine.used.get(name)) is None or used.curve.empty:
            continue
        left = 1 - used.most()
        said.append(f"{size(left * total)} of {size(total)} on {where}{_when(used, seconds)}")
        short += [where] if left < SHORT else []
    way_out = f" Little is left on {' and '.join(short)}: run fewer simulators (simulator.shards), or lower training.micro_batch." if short else ""
    return Sentence("memory", f"At the fullest moment, this was free: {', '.join(said)}.{way_out}", "bad" if short else "good")


def _when(used: Used, seconds: float) -> str:
    """Over which time of the run this is known, with a space before it. Empty where this is the whole run."""
    leeway = max(UNKNOWN_S, UNKNOWN_SHARE * seconds)
    known = used.began <= leeway and used.ended >= seconds - leeway
    return "" if known else f" (known from {duration(used.began)} to {duration(used.ended)} of the run)"


def _uses(recipe: Recipe | None, gpu: int) -> bool:
    """Whether a run computes on this GPU. Simulators that draw take little of its memory, and count where the recipe names it for them."""
    if recipe is None or recipe.runtime == "ray":  # which of them it uses is not known here
        return True
    engine, training = recipe.engine, recipe.training
    named = [device for simulator in recipe.mixed.values() for device in simulator.devices]
    return gpu in {
        *_gpus(engine.device, engine.generators if engine.device == "auto" else 1),
        *_gpus(training.device, training.ranks),
        *(number for device in named for number in _gpus(device, 1)),
    }


def _gpus(device: str, workers: int) -> range:
    """The GPUs of a setting whose workers take them in turn."""
    kind, _, first = device.partition(":")
    return range(0) if kind == "cpu" else range(int(first or 0), int(first or 0) + workers)


def _files(facts: RunFacts) -> str:
    said = [f"Its settings cannot be used: {facts.settings.unread.rstrip('.')}"] if facts.settings.unread else []
    said += [f"{number_of(facts.damaged, 'line')} of metrics.jsonl {'is' if facts.damaged == 1 else 'are'} damaged and left out"] if facts.damaged else []
    return ". ".join(said) + "."
