"""Curves of bounded size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.page.curves import MOST, Curve, Place, Point, Rate, Seconds, pooled, rates, times


def place(number: int) -> Place:
    return Place(number, 10 * number, float(number))


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=5000))
def test_a_curve_keeps_its_extremes_in_order_and_stays_small(values):
    curve = Curve()
    for number, value in enumerate(values):
        curve.add(Point(place(number), value))
    points = curve.points()
    assert len(points) <= MOST
    assert [point.place for point in points] == sorted(point.place for point in points)
    assert min(point.value for point in points) == min(values) and max(point.value for point in points) == max(values)
    assert all(values[point.place.update] == point.value for point in points)


def test_a_short_curve_has_every_point():
    curve = Curve()
    found = [Point(place(number), number % 3.0) for number in range(MOST // 2)]
    for point in found:
        curve.add(point)
    assert curve.points() == found


@given(st.integers(1, 4000), st.integers(1, 60))
def test_rates_lose_no_episode(updates, most):
    curve = rates()
    for number in range(updates):
        curve.add(Rate(place(number), number % 5, 8, 2.0))
    found = list(curve)
    assert len(found) <= MOST // 2 and found[-1].place == place(updates - 1)
    for shown in (found, pooled(found, most)):
        assert sum(rate.episodes for rate in shown) == 8 * updates
        assert sum(rate.successes for rate in shown) == sum(number % 5 for number in range(updates))
    assert len(pooled(found, most)) <= most


def test_times_lose_no_second():
    curve = times(most=8)
    for number in range(1000):
        curve.add(Seconds(place(number), {"simulate": 1.0, "decision": 2.0} if number % 2 else {"simulate": 3.0}))
    assert len(curve) <= 8
    assert sum(sum(bucket.spent.values()) for bucket in curve) == pytest.approx(3000.0)
