"""Shares of a device's memory, which must not be more than the device."""

from __future__ import annotations

from typing import Any

import pytest

from rlvla3.config import make_recipe
from rlvla3.errors import RecipeError
from tests.support.runs import countdown

TOO_MUCH = [
    ({}, "memory.trainer=0.7, memory.generator=0.5 are 1.2 of a device"),
    ({"engine": {"device": "cuda"}, "training": {"device": "cuda:0"}}, "are 1.2"),
    ({"engine": {"device": "cuda:1"}, "training": {"device": "cuda:0", "ranks": 2}}, "are 1.2"),
    ({"runtime": "ray", "placement": {"kind": "hybrid", "ratio": "1:1"}}, "are 1.2"),
    ({"memory": {"trainer": 0.5, "simulator": 0.6}, "simulator": {"devices": ["cuda:2"]}}, "memory.trainer=0.5, memory.simulator=0.6 are 1.1"),
]


@pytest.mark.parametrize(("changes", "complaint"), TOO_MUCH)
def test_shares_of_stages_that_meet_on_a_device_are_no_more_than_it(changes: dict[str, Any], complaint: str):
    with pytest.raises(RecipeError, match=complaint.replace(".", r"\.")):
        make_recipe(countdown(**{"memory": {"trainer": 0.7, "generator": 0.5}} | changes))


FITTING = [
    {"memory": {"trainer": 0.5, "generator": 0.2, "simulator": 0.3}},
    {"engine": {"device": "cuda:1"}, "training": {"device": "cuda:0"}},
    {"engine": {"device": "cpu"}},
    {"runtime": "ray", "placement": {"kind": "disaggregated", "ratio": "3:1"}},
    {"placement": {"kind": "separate", "ratio": "2:1:1"}},
]


@pytest.mark.parametrize("changes", FITTING)
def test_shares_of_stages_apart_may_each_be_of_a_whole_device(changes: dict[str, Any]):
    assert make_recipe(countdown(**{"memory": {"trainer": 0.7, "generator": 0.5}} | changes)).memory.generator is not None
