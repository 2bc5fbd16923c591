"""What differs in a profile where a GPU infers and trains. A CPU stands in for the GPU where nothing of CUDA is needed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvla3.config import make_recipe
from rlvla3.planning.profiling import contention
from rlvla3.planning.profiling.contention import SimulatorLoad, core_speeds, on_gpu
from rlvla3.planning.profiling.device_memory import device_memory, memory_of
from rlvla3.planning.profiling.experience import DECISIONS, episodes_of
from rlvla3.planning.profiling.measuring import settled
from rlvla3.planning.profiling.profile_file import write_profile
from rlvla3.planning.profiling.profiler import profile_of
from rlvla3.planning.rehearsal import rehearse
from rlvla3.policies.registry import make_policy
from rlvla3.runtimes.virtual.costs import MemoryProfile, load_profile
from rlvla3.scheduling.placement import Cluster
from rlvla3.simulators.registry import describe_simulator

COUNTDOWN: dict[str, Any] = {
    "simulator": {"name": "tests.support.troublesome:Countdown", "shards": 3, "max_steps": 6, "options": {"kwargs": {"step_s": 0.004}}},
    "policy": {"name": "actor_critic", "chunk": 2, "options": {"hidden": 8}},
    "training": {"updates": 4, "batch": 8, "steps": 2, "epochs": 2, "micro_batch": 8, "critic": {"epochs": 1}},
}


def test_cores_only_simulate_where_a_gpu_does_the_rest(monkeypatch: pytest.MonkeyPatch):
    recipe = make_recipe(COUNTDOWN)
    load = SimulatorLoad(recipe)
    steps = 0
    step = load.simulator.step

    def counted(chunks: Any) -> Any:
        nonlocal steps
        steps += 1
        return step(chunks)

    monkeypatch.setattr(load.simulator, "step", counted)
    asyncio.run(load.round())
    assert steps == load.chunks == 4  # as many as the decisions of a micro-batch, without those of later epochs
    assert not hasattr(load, "learner")
    load.simulator.close()


def test_cores_do_not_slow_each_other_where_nothing_keeps_them_busy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(contention, "on_gpu", lambda _: True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6))
    assert core_speeds(make_recipe(COUNTDOWN), tmp_path, 1.0, simulates=False, notify=print) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


# Memory


def test_without_a_gpu_no_memory_is_measured():
    recipe = make_recipe({**COUNTDOWN, "engine": {"device": "cpu"}})
    assert not on_gpu(recipe) and device_memory(recipe) == MemoryProfile()


def test_memory_is_told_apart_by_two_sizes():
    """The device holds 1000 bytes, and 10 for each decision of an inference; 5000, and 100 for each of a micro-batch."""
    asked: list[Callable[[], object]] = []
    peaks = iter([1000.0 + 10 * 1, 1000.0 + 10 * 3, 5000.0 + 100 * 4, 5000.0 + 100 * 8])

    def peak(call: Callable[[], object]) -> float:
        asked.append(call)
        call()
        return next(peaks)

    found = memory_of(settled(make_recipe(COUNTDOWN)), torch.device("cpu"), peak)
    assert [found.generator, found.inference] == pytest.approx([1000, 10])
    assert [found.trainer, found.activations] == pytest.approx([5000, 100])
    assert len(asked) == 4


def test_made_up_episodes_are_as_long_as_the_simulator_allows():
    recipe = make_recipe(COUNTDOWN)
    rollouts = episodes_of(make_policy(recipe.policy, describe_simulator(recipe.simulator)), 2, "cpu")
    assert [rollouts.decisions(ticket) for ticket in (0, 1)] == [3, 3] and DECISIONS > 3


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="profiles a CUDA device")
def test_a_profile_of_a_gpu_can_be_rehearsed(tmp_path: Path):
    recipe = make_recipe(COUNTDOWN)
    profile = profile_of(recipe, "countdown", 8.0, print)
    assert profile.infer.on == profile.train.on == "compute"
    assert profile.memory.device and profile.memory.trainer > 0 and torch.cuda.get_device_name() in profile.source
    write_profile(profile, tmp_path / "gpu.yaml")
    assert rehearse(recipe, load_profile(tmp_path / "gpu.yaml"), Cluster(1, 1)).throughput > 0
