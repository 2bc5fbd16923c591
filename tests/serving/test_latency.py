"""How long answers take, as the terminal and each answer say it."""

from __future__ import annotations

import math

import numpy as np

from rlvla3.serving.latency import ANEW, Latency
from rlvla3.serving.requests import Decided


def decided(batch: int, inferring: float = 0.001) -> Decided:
    return Decided(np.zeros((1, 1), np.float32), 0.0, inferring, batch)


def test_percentiles_are_those_of_the_newest_answers():
    latency = Latency()
    assert all(map(math.isnan, latency.percentiles_ms)) and latency.in_words() == "0 answers"
    latency.add(decided(1), 0.010)
    assert latency.percentiles_ms == (10.0, 10.0)
    for _ in range(100 * ANEW):
        latency.add(decided(1), 0.020)
    assert np.allclose(latency.percentiles_ms, 20.0)
    latency.errors += 1
    assert latency.in_words().startswith(f"{100 * ANEW + 1} answers, 1 refused; answer p50 20.0 ms, p99 20.0 ms; inference p50 1.0 ms")


def test_batches_are_counted_and_not_answers():
    latency = Latency()
    for batch in [4] * 4 + [1]:  # one batch of four and one of one
        latency.add(decided(batch), 0.01)
    assert latency.in_words().endswith("batches of 2.5 on average, 4 at most")
