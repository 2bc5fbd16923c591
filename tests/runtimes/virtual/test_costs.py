"""Costs of a profile."""

from __future__ import annotations

import random

import numpy as np
import pytest

from rlvla3.runtimes.virtual.costs import Cost


def test_costs_between_and_beyond_their_sizes():
    cost = Cost.model_validate({"on": "compute", "sizes": [1, 3, 5], "seconds": [1.0, 2.0, 2.5]})
    assert [cost.work(size) for size in (1, 2, 3, 4, 7, 0)] == pytest.approx([1, 1.5, 2, 2.25, 3.0, 0.5])
    assert Cost.model_validate({"on": "compute", "sizes": [4], "seconds": [2.0]}).work(6) == 3.0
    spread = Cost.model_validate({"on": "compute", "seconds": [1.0], "spread": [0.5, 1.0, 1.5]})
    drawn = [spread.factor(random.Random(seed)) for seed in range(2000)]
    assert min(drawn) >= 0.5 and max(drawn) <= 1.5 and np.mean(drawn) == pytest.approx(1.0, abs=0.02)
