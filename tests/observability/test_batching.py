"""What generators have chosen, on its way to metrics, curves and trace."""

from __future__ import annotations

import math

import pytest

from rlvla3.observability.batching import BatchingChoices, by_name
from rlvla3.observability.trace_events import batching
from rlvla3.scheduling.inference_cost import InferenceCost
from rlvla3.scheduling.limits import Choice
from rlvla3.scheduling.queue_model import Limits, Prediction

CHOICE = Choice(Limits(math.inf, 0.02), InferenceCost(0.1, 0.001), Prediction(rate=200.0, batch=12.5))


def test_the_present_choice_of_each_generator_can_be_read():
    choices = BatchingChoices(2)
    choices.write(1, None)
    assert choices.read() == [{}, {}]
    choices.write(1, CHOICE)
    assert choices.read()[0] == {}
    assert choices.read()[1] == pytest.approx(
        {"max_batch": math.inf, "max_wait_ms": 20, "inference_of_1_ms": 101, "inference_each_ms": 1, "expected_batch": 12.5, "expected_rate": 200}
    )


def test_figures_are_collected_over_the_generators_that_have_chosen():
    assert by_name([{}, {}]) == {}
    choices = BatchingChoices(3)
    choices.write(0, CHOICE)
    assert by_name(choices.read())["expected_rate"] == [200]


def test_a_trace_leaves_out_a_limit_that_is_infinite():
    choices = BatchingChoices(1)
    choices.write(0, CHOICE)
    event = batching(0, choices.read()[0], at=2.0)
    assert event["ts"] == 2e6 and event["name"] == "batching of generator 0"
    assert "max_batch" not in event["args"] and event["args"]["expected_batch"] == 12.5
