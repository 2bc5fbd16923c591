"""Intervals of success rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rlvla3.observability.intervals import difference, student, success_rate, wilson
from tests.support.events import episodes


def test_wilson_interval_has_its_closed_forms_at_nothing_and_at_half():
    z2 = 3.841458820694124  # the 95 % quantile of chi-squared with one degree of freedom
    assert wilson(0, 10) == pytest.approx((0, z2 / (10 + z2)))
    assert wilson(10, 10) == pytest.approx((10 / (10 + z2), 1))
    assert wilson(5, 10) == pytest.approx((0.5 - 0.5 * (z2 / (10 + z2)) ** 0.5, 0.5 + 0.5 * (z2 / (10 + z2)) ** 0.5))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_agrees_with_scipy(counts: tuple[int, int]):
    theirs = stats.binomtest(*counts).proportion_ci(method="wilson")
    assert wilson(*counts) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_no_episode_says_nothing_and_impossible_counts_are_refused():
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes of 2 episodes"):
        wilson(3, 2)


@given(st.floats(1.5, 3.5), st.integers(8, 500))
def test_students_quantile_agrees_with_scipy(z, degrees):
    assert student(z, degrees) == pytest.approx(stats.t.ppf(stats.norm.cdf(z), degrees), rel=0.015)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(1.0, 4.0))
def test_a_wider_level_agrees_with_scipy_and_alike_episodes_widen_too(counts, z):
    theirs = stats.binomtest(*counts).proportion_ci(confidence_level=2 * stats.norm.cdf(z) - 1, method="wilson")
    assert wilson(counts[0], counts[1], z) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    (low, high), (lower, higher) = wilson(*counts), wilson(counts[0] / 2, counts[1] / 2)
    assert lower <= low + 1e-9 and high <= higher + 1e-9


def test_success_rate_keeps_the_tasks_apart():
    rate = success_rate([*episodes(3, 4, "reach-v3"), *episodes(1, 6, "door-open-v3")])
    assert (rate.successes, rate.episodes) == (4, 10)
    assert {task: (of_task.successes, of_task.episodes) for task, of_task in rate.per_task.items()} == {"door-open-v3": (1, 6), "reach-v3": (3, 4)}
    assert rate.low < 0.4 < rate.high
    assert rate.mean_steps == 70


@pytest.mark.parametrize(
    ("before", "after", "low", "high"),
    [((48, 80), (56, 70), 0.0524, 0.3339), ((3, 10), (9, 10), 0.1705, 0.8090), ((0, 10), (0, 10), -0.2775, 0.2775)],  # Newcombe 1998, Table II, method 10
)
def test_the_interval_of_a_difference_is_the_published_one(before, after, low, high):
    assert difference(before, after) == pytest.approx((low, high), abs=5e-5)
    assert difference(after, before) == pytest.approx((-high, -low), abs=5e-5)


def test_nothing_is_known_of_a_difference_without_episodes():
    assert difference((0, 0), (0, 0)) == pytest.approx((-0.7071, 0.7071), abs=1e-4)
