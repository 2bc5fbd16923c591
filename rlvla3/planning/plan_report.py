"""A plan as lines and as JSON: the best settings, ready to paste; what limits their throughput; and what each setting contributes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from rlvla3.observability.formatting import percent, quantity
from rlvla3.planning.search import KnobEffect, Plan, RehearsedCandidate
from rlvla3.planning.space import flatten_settings

STAGES = {
    "trainer": "the trainer",
    "generators": "the generators",
    "simulators": "the simulators' devices",
    "devices": "devices that several stages share",
    "cores": "the cores of a host",
    "coordinator": "the one process that the whole cluster calls",
    "environments": "the alternation of simulation and inference in each environment, so more environments would help",
    "longest episode": "the longest episode of an update, for which all others wait",
    "staleness": "the longest episode of an update, because max_staleness limits how many updates run at once",
}
"""What limits the throughput, by the names of `Bound.seconds`."""


def lines(plan: Plan, title: str) -> Iterator[str]:
    """The plan in plain lines."""
    known = bool(sum(plan.best[0].memory_need.device.values()))
    yield f"{title}: {plan.space} settings, {f'{plan.fitting} fit into memory, ' if known else ''}{plan.evaluations} rehearsed"
    if not known:
        yield "the profile has no memory figures, so it is not known whether the settings fit into memory"
    if plan.recipe:
        yield f"the recipe without changes: {quantity(plan.recipe.throughput)} steps/s"
    for number, choice in enumerate(plan.best, 1):
        yield ""
        yield f"{number}. {quantity(choice.throughput)} steps/s, {choice.rehearsal.step_time:.4g} s per update{_gain(plan, choice)}"
        yield f"   {settings(choice)}"
        yield f"   {why(choice)}"
        if sum(choice.memory_need.device.values()):
            yield f"   needs {choice.memory_need}"
    yield ""
    yield "Plan 1 with one setting changed:"
    for worth in plan.worth:
        yield f"   {_effect_words(plan.best[0], worth)}"
    yield ""
    yield "Plan 1 as YAML:"
    yield from ("   " + line for line in yaml.safe_dump(plan.best[0].candidate.settings(), sort_keys=False).splitlines())


def print_plan(plan: Plan, title: str) -> None:
    """Print the plan. It is no table, because a table would break the lines of settings, which users copy."""
    print("\n".join(lines(plan, title)))


def content(plan: Plan) -> dict[str, Any]:
    """The plan as plain data: throughput in environment steps per second, times in virtual seconds, memory in bytes."""
    return {
        "space": plan.space,
        "fitting": plan.fitting,
        "evaluations": plan.evaluations,
        "recipe": _choice(plan.recipe) if plan.recipe else None,
        "best": [_choice(choice) for choice in plan.best],
        "worth": [
            {"knob": worth.knob, "instead": worth.instead.settings(), "throughput": worth.throughput, "the_recipes": worth.recipes} for worth in plan.worth
        ],
    }


def settings(choice: RehearsedCandidate) -> str:
    """The settings for a command line: "placement.kind=hybrid placement.ratio=3:1 simulator.shards=16"."""
    return " ".join(f"{key}={_value(value)}" for key, value in flatten_settings(choice.candidate.settings()).items())


def why(choice: RehearsedCandidate) -> str:
    """What limits the throughput, and how far the rehearsal is from the bound."""
    bound, step_time = choice.bound, choice.rehearsal.step_time
    after = f", and {bound.after:.4g} s without any overlap follow" if bound.after else ""
    needs = f"{bound.seconds[bound.stage]:.4g} s of an update's {step_time:.4g} s"
    below = max(1 - choice.throughput / bound.throughput, 0.0)
    second = sorted(bound.seconds, key=lambda stage: -bound.seconds[stage])[1]
    then = f"then {STAGES[second]} ({bound.seconds[second]:.4g} s)"
    return f"bounded by {STAGES[bound.stage]} ({needs}{after}), {then}: at most {quantity(bound.throughput)} steps/s; the rehearsal is {percent(below)} below"


def _choice(choice: RehearsedCandidate) -> dict[str, Any]:
    bound = choice.bound
    return {
        "settings": choice.candidate.settings(),
        "throughput": choice.throughput,
        "step_time": choice.rehearsal.step_time,
        "utilisation": choice.rehearsal.utilisation,
        "idle": choice.rehearsal.idle,
        "staleness": {str(lag): share for lag, share in choice.rehearsal.staleness.items()},
        "bound": {"stage": bound.stage, "throughput": bound.throughput, "seconds": dict(bound.seconds), "after": bound.after},
        "memory": {"device": dict(choice.memory_need.device), "host": dict(choice.memory_need.host)},
    }


def _gain(plan: Plan, choice: RehearsedCandidate) -> str:
    return f", {choice.throughput / plan.recipe.throughput:.2f} times the recipe" if plan.recipe else ""


def _effect_words(chosen: RehearsedCandidate, worth: KnobEffect) -> str:
    """One changed setting in words: "engine.max_batch 16 -> 8, the recipe's: 1210 steps/s, -21 %"."""
    here, there = flatten_settings(chosen.candidate.settings()), flatten_settings(worth.instead.settings())
    change = ", ".join(
        f"{key} {_value(here.get(key, '-'))} -> {_value(there.get(key, '-'))}" for key in dict.fromkeys([*here, *there]) if here.get(key) != there.get(key)
    )
    which = "the recipe's" if worth.recipes else "the next best"
    return f"{change}, {which}: {quantity(worth.throughput)} steps/s, {round(100 * (worth.throughput / chosen.throughput - 1)) or 0:+d} %"


def _value(value: object) -> str:
    return "null" if value is None else str(value)
