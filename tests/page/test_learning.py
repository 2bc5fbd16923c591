"""Whether a run learns: how often this is wrong of policies that do not change, and right of those that do."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from rlvla3.page.curves import Place, Rate, rates
from rlvla3.page.learning import fall, learning
from rlvla3.page.run_metrics import WHOLE, RunMetrics

RUNS = 100


def made(draw: random.Random, updates: int, batch: int, rate: Callable[[int], float], group: int = 1, apart: float = 0.0) -> RunMetrics:
    """A run whose episodes succeed at `rate` of their update. group: episodes that share an initial state. apart: how much easier or harder it is than most."""
    metrics, ran = RunMetrics(last={"update": updates}), rates()
    for update in range(1, updates + 1):
        chances = [rate(update) + draw.choice((-apart, apart)) for _ in range(batch // group)]
        successes = sum(draw.random() < chance for chance in chances for _ in range(group))
        ran.add(Rate(Place(update, update, float(update)), successes, batch, 0.0))
    metrics.rollouts[WHOLE] = ran
    return metrics


@pytest.mark.parametrize(("batch", "updates"), [(8, 50), (16, 50), (8, 200)])
def test_a_policy_that_does_not_change_is_seldom_said_to_fall(batch, updates):
    draw = random.Random(1)
    assert sum(fall(made(draw, updates, batch, lambda _: 0.5)) is not None for _ in range(RUNS)) <= 0.05 * RUNS


@pytest.mark.parametrize(("updates", "group"), [(40, 1), (40, 8), (16, 8)])
def test_a_policy_that_does_not_change_is_seldom_said_to_learn_or_to_get_worse(updates, group):
    draw = random.Random(2)
    runs = [made(draw, updates, 64, lambda _: 0.5, group, apart=0.4) for _ in range(RUNS)]
    assert sum(learning(run, group)[0] != "open" for run in runs) <= 0.08 * RUNS
    assert sum(fall(run, group) is not None for run in runs) <= 0.05 * RUNS


def test_what_changes_is_seen_also_with_groups():
    draw = random.Random(3)
    learns = [made(draw, 40, 64, lambda update: 0.2 + 0.6 * update / 40, 8, apart=0.2) for _ in range(RUNS)]
    assert sum(learning(run, 8)[0] == "good" for run in learns) >= 0.95 * RUNS
    falls = [made(draw, 48, 64, lambda update: 0.9 if update < 24 else 0.2, 8, apart=0.1) for _ in range(RUNS)]
    assert sum(fall(run, 8) is not None for run in falls) >= 0.95 * RUNS


def test_with_few_updates_the_episodes_of_a_group_count_as_one():
    course = {1: 20, 2: 20, 3: 32, 4: 32}
    run = made(random.Random(4), 4, 64, lambda _: 0.0)
    run.rollouts[WHOLE] = rates()
    for update, successes in course.items():
        run.rollouts[WHOLE].add(Rate(Place(update, update, float(update)), successes, 64, 0.0))
    assert learning(run, group_size=1)[0] == "good" and learning(run, group_size=8)[0] == "open"
