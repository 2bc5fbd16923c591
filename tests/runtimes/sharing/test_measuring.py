"""Both ways of sharing are measured with real processes. On a CPU the figures mean nothing, and the way to them is the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from rlvla3.config import make_recipe
from rlvla3.runtimes.processes.rounds import NoAnswer
from rlvla3.runtimes.sharing.measuring import StandIn, measure
from tests.support.runs import countdown

TINY = StandIn(rows=2, width=8, kernels=3, size=16, products=2, frames=64)
BROKEN = StandIn(rows=2, width=8, kernels=3, size=-1, products=2, frames=64)


@pytest.mark.slow
def test_both_ways_are_measured_and_leave_nothing(tmp_path: Path, nothing_left: None):
    recipe = make_recipe(countdown(engine={"device": "cpu"}, training={"device": "cpu"}))
    measured = asyncio.run(measure(recipe, tmp_path, TINY, seconds=0.05, only_on=("cpu",)))
    assert measured is not None
    assert all(speeds.inference_s > 0 and speeds.passes > 0 for speeds in measured)


@pytest.mark.slow
def test_nothing_is_measured_where_torch_finds_no_gpu(tmp_path: Path, nothing_left: None):
    recipe = make_recipe(countdown(engine={"device": "cpu"}, training={"device": "cpu"}))
    assert asyncio.run(measure(recipe, tmp_path, TINY)) is None


@pytest.mark.slow
def test_a_stand_in_that_fails_says_why(tmp_path: Path, nothing_left: None):
    recipe = make_recipe(countdown(engine={"device": "cpu"}, training={"device": "cpu"}))
    with pytest.raises(NoAnswer, match="share training failed with RuntimeError: "):
        asyncio.run(measure(recipe, tmp_path, BROKEN))


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="ways of sharing a GPU can be measured only on one: no CUDA device here")
def test_a_gpu_is_measured_in_seconds(tmp_path: Path):
    measured = asyncio.run(measure(make_recipe(countdown()), tmp_path))
    assert measured is not None and all(0 < speeds.inference_s < 1 and speeds.passes > 0 for speeds in measured)
