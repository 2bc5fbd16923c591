"""`rlvla3 bench weights`: that it measures what it says."""

from __future__ import annotations

import numpy as np
import pytest

from rlvla3.benchmarks.weights import transfer
from rlvla3.benchmarks.weights.delay import WARMUP, delays, first_decisions
from rlvla3.benchmarks.weights.slowdown import version_parts
from rlvla3.benchmarks.weights.transfer import figures, layers, measure_transfers
from rlvla3.observability.sampling import SAMPLE
from rlvla3.scheduling.recorded_run import DECISION


def stays(*entries: tuple[float, float, int]):
    """SAMPLE of (begin, end, size)."""
    return np.array([(0, size, end, end - begin, 0, 0) for begin, end, size in entries], SAMPLE)


def test_a_version_has_the_bytes_that_were_asked_for():
    for megabytes in (1, 4, 9):
        assert sum(tensor.nbytes for tensor in layers(megabytes).values()) == pytest.approx(megabytes * 10**6, rel=0.005)
        if megabytes > 6:  # a mini VLA's own
            assert sum(tensor.nbytes for tensor in version_parts(megabytes).values()) == pytest.approx(megabytes * 10**6, rel=0.15)


def test_ratios_compare_equal_numbers_of_copies():
    found = figures(
        10**9, {"copy": 0.1, "publish": 0.1, "load": 0.2, "publish_and_load": 0.3, "gloo": 1.0, "between_hosts_tcp": 2.0, "between_hosts_gloo": 4.0}
    )
    assert found["same_host"] == {"publish_to_copy": 1.0, "load_to_copy": 0.5, "publish_and_load_to_two_copies": pytest.approx(2 / 3)}
    assert found["between_hosts"] == {"tcp_to_gloo_broadcast": 0.5, "gloo_to_gloo_broadcast": 0.25}
    assert found["gb_per_second"]["load"] == pytest.approx(5.0)


def test_the_first_decision_of_a_version_is_the_earliest_of_all_generators():
    entries = np.array([(3_000, 1, 0, 0), (9_000, 2, 0, 1), (1_000, 1, 0, 2), (4_000, 2, 0, 3)], DECISION)
    assert first_decisions(entries) == {1: pytest.approx(1e-6), 2: pytest.approx(4e-6)}


def test_a_delay_counts_from_the_last_step_of_the_update():
    versions = range(1, WARMUP + 4)
    # Version v: a micro-batch, a step at 10 v, more of both, a step that ends at 10 v + 5; published from 10 v + 6 to 10 v + 7.
    train = stays(
        *(stay for v in versions for stay in ((10 * v, 10 * v + 1, 8), (10 * v + 1, 10 * v + 2, 0), (10 * v + 2, 10 * v + 4, 8), (10 * v + 4, 10 * v + 5, 0)))
    )
    publish = stays(*((10 * v + 6, 10 * v + 7, 0) for v in versions))
    decided = {v: 10 * v + 7.5 for v in versions if v != WARMUP + 2}  # one was overtaken before anybody decided with it
    found = delays(train, publish, decided)
    assert found["versions"] == 2
    assert found["publishing"]["median_ms"] == pytest.approx(1000)
    assert found["published_to_decision"]["p90_ms"] == pytest.approx(500)
    assert found["step_to_decision"]["median_ms"] == pytest.approx(2500)


@pytest.mark.slow
def test_transfers_are_measured_between_real_processes(monkeypatch):
    monkeypatch.setattr(transfer, "ROUNDS", 2)
    monkeypatch.setattr(transfer, "WARMUP", 1)
    found = measure_transfers(megabytes=1)
    assert found["gb_per_second"].keys() == {"copy", "publish", "load", "publish_and_load", "gloo", "between_hosts_tcp", "between_hosts_gloo"}
    assert min(found["gb_per_second"].values()) > 0
