"""What a plan says: the best settings ready to paste, why they are no faster, and what each knob is worth."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import yaml

from rlvla3.observability.wording import percent, quantity
from rlvla3.planning.search import Choice, Plan, Worth
from rlvla3.planning.space import flat

STAGES = {
    "trainer": "the trainer",
    "generators": "the generators",
    "simulators": "the simulators' devices",
    "devices": "devices that several stages share",
    "cores": "the cores of a host",
    "coordinator": "the one process that all of the cluster calls",
    "environments": "each environment's turn of simulation and inference, of which more environments would make more",
    "longest episode": "the longest episode of an update, which all the others wait for",
    "staleness": "the longest episode of an update, with no more updates under way than staleness allows",
}


def lines(plan: Plan, title: str) -> Iterator[str]:
    """It in plain lines."""
    known = bool(sum(plan.best[0].held.device.values()))
    yield f"{title}: {plan.space} settings, {f'{plan.fitting} fit into memory, ' if known else ''}{plan.evaluations} rehearsed"
    if not known:
        yield "the profile says nothing of memory: whether they fit into it is not known"
    if plan.recipe:
        yield f"the recipe as it stands: {quantity(plan.recipe.throughput)} steps/s"
    for number, choice in enumerate(plan.best, 1):
        yield ""
        yield f"{number}. {quantity(choice.throughput)} steps/s, {choice.rehearsal.step_time:.4g} s an update{_gain(plan, choice)}"
        yield f"   {settings(choice)}"
        yield f"   {why(choice)}"
        if sum(choice.held.device.values()):
            yield f"   holds {choice.held}"
    yield ""
    yield "What each setting of 1 is worth:"
    for worth in plan.worth:
        yield f"   {_worth(plan.best[0], worth)}"
    yield ""
    yield "1 as YAML:"
    yield from ("   " + line for line in yaml.safe_dump(plan.best[0].candidate.settings(), sort_keys=False).splitlines())


def tell(plan: Plan, title: str) -> None:
    """Print it. No table: settings are there to be copied, and a table would break their lines."""
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)  # what `progress` left
    print("\n".join(lines(plan, title)))


def progress(done: int, budget: int, best: float) -> None:
    """How far the search is, for whoever watches a terminal; nothing of it is a result."""
    if sys.stderr.isatty():
        print(f"\rrehearsed {done} of at most {budget}, best {quantity(best)} steps/s ", end="", file=sys.stderr, flush=True)


def content(plan: Plan) -> dict[str, Any]:
    """All of it as plain data: throughput in environment steps a second, times in virtual seconds, memory in bytes."""
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


def settings(choice: Choice) -> str:
    """For a command line: "placement.kind=hybrid placement.ratio=3:1 simulator.shards=16"."""
    return " ".join(f"{key}={_value(value)}" for key, value in flat(choice.candidate.settings()).items())


def why(choice: Choice) -> str:
    """What bounds it, and how far it is from that."""
    bound, step_time = choice.bound, choice.rehearsal.step_time
    after = f", and {bound.after:.4g} s follow that nothing overlaps with" if bound.after else ""
    needs = f"{bound.seconds[bound.stage]:.4g} s of an update's {step_time:.4g} s"
    away = max(1 - choice.throughput / bound.throughput, 0.0)
    second = sorted(bound.seconds, key=lambda stage: -bound.seconds[stage])[1]
    then = f"then {STAGES[second]} ({bound.seconds[second]:.4g} s)"
    return f"bounded by {STAGES[bound.stage]} ({needs}{after}), {then}: at most {quantity(bound.throughput)} steps/s, {percent(away)} away"


def _choice(choice: Choice) -> dict[str, Any]:
    bound = choice.bound
    return {
        "settings": choice.candidate.settings(),
        "throughput": choice.throughput,
        "step_time": choice.rehearsal.step_time,
        "utilisation": choice.rehearsal.utilisation,
        "idle": choice.rehearsal.idle,
        "staleness": {str(lag): share for lag, share in choice.rehearsal.staleness.items()},
        "bound": {"stage": bound.stage, "throughput": bound.throughput, "seconds": dict(bound.seconds), "after": bound.after},
        "memory": {"device": dict(choice.held.device), "host": dict(choice.held.host)},
    }


def _gain(plan: Plan, choice: Choice) -> str:
    return f", {choice.throughput / plan.recipe.throughput:.2f} times the recipe" if plan.recipe else ""


def _worth(chosen: Choice, worth: Worth) -> str:
    """ "engine.max_batch 16 -> 8, the recipe's: 1210 steps/s, -21 %"."""
    here, there = flat(chosen.candidate.settings()), flat(worth.instead.settings())
    change = ", ".join(f"{key} {here.get(key, '-')} -> {there.get(key, '-')}" for key in dict.fromkeys([*here, *there]) if here.get(key) != there.get(key))
    which = "the recipe's" if worth.recipes else "the next best"
    return f"{change}, {which}: {quantity(worth.throughput)} steps/s, {round(100 * (worth.throughput / chosen.throughput - 1)) or 0:+d} %"


def _value(value: object) -> str:
    return "null" if value is None else str(value)
