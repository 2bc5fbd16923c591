"""How the time of `rlvla3 bench gpu` is shared out."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest

from rlvla3.benchmarks.gpu.policies import POLICIES
from rlvla3.benchmarks.gpu.sections import SECTIONS, TINY_SHARE, seconds_for
from rlvla3.benchmarks.gpu.sizes import FULL, TINY, sizes_for
from rlvla3.benchmarks.gpu.tables import TABLES
from tests.support.gpu_sections import section


def test_every_section_has_a_module_and_a_table():
    names = [one.name for one in SECTIONS]
    assert names[0] == "machine"  # it says whether there is a GPU
    assert sorted(names) == sorted(TABLES)
    assert all(find_spec(f"rlvla3.benchmarks.gpu.{name}") for name in names)


def test_eight_minutes_are_enough_for_every_section():
    assert sum(one.least(FULL) for one in SECTIONS) < 8 * 60


def test_time_is_shared_by_weight():
    rest = [section("quick", weight=2), section("failing", weight=1)]
    assert seconds_for(section("machine", weight=1), rest, 400, FULL) == pytest.approx(100)


def test_what_matters_more_keeps_its_least_time():
    later = [section("quick", importance=1, least_s=90)]
    assert seconds_for(section("failing", importance=2, least_s=5, weight=100), later, 100, FULL) == pytest.approx(10)
    assert seconds_for(section("failing", importance=2, least_s=20), later, 100, FULL) is None
    assert seconds_for(section("failing", importance=1, least_s=20), later, 100, FULL) == pytest.approx(50)


def test_a_section_gets_its_least_time_even_if_its_share_is_smaller():
    assert seconds_for(section("quick", weight=1, least_s=30), [section("failing", weight=99)], 100, FULL) == 30


def test_tiny_sections_need_less_time():
    assert section("quick", least_s=50).least(TINY) == 50 * TINY_SHARE
    assert sizes_for(None) is TINY and sizes_for("a GPU") is FULL


@pytest.mark.parametrize("sizes", [FULL, TINY], ids=["full", "tiny"])
def test_sizes_name_policies_that_exist(sizes):
    assert {*sizes.inferring, *sizes.training, *sizes.running} <= POLICIES.keys()


def test_no_tiny_policy_has_the_name_of_a_large_one():
    """No figure of a CPU may be read as one of a GPU."""
    tiny = {*TINY.inferring, *TINY.training, *TINY.running}
    assert all("tiny" in name for name in tiny) and not tiny & {*FULL.inferring, *FULL.training, *FULL.running}
    assert not replace(FULL, device="cpu").on_gpu
