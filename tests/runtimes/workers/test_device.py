"""Workers that run out of their device's memory: what the user hears, and that a share is kept to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvla3.config import make_recipe
from rlvla3.devices import work_on
from rlvla3.errors import RecipeError
from rlvla3.policies.actor_critic import ActorCritic
from rlvla3.runtimes.workers.device import DeviceUse, MemoryShare, generator_memory, room, trainer_memory
from tests.support.runs import Run, countdown


class Greedy(ActorCritic):
    """Asks for more than there is, as a GPU would say it. learns: whether it is the trainer that does."""

    learns = False

    def act(self, observations, noise, explore):
        return super().act(observations, noise, explore) if self.learns else self.run_out()

    def evaluate(self, observations, actions, trace):
        return self.run_out() if self.learns else super().evaluate(observations, actions, trace)

    def run_out(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free. See documentation for Memory Management")


class GreedyLearner(Greedy):
    learns = True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        (
            "Greedy",
            "the generator 0 ran out of memory on cpu: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free. Its share of the device is "
            "memory.generator=0.2, of which each of 2 processes has an equal part: raise memory.generator, or lower engine.max_batch",
        ),
        (
            "GreedyLearner",
            "the trainer ran out of memory on cpu: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free. memory.trainer is not set",
        ),
    ],
)
def test_who_runs_out_of_memory_is_named_with_its_share_and_the_way_out(policy: str, complaint: str, tmp_path: Path):
    settings = {"policy": {"name": f"tests.runtimes.workers.test_device:{policy}"}, "memory": {"generator": 0.2}, "simulator": {"shards": 2}}
    on_cpu = {"engine": {"generators": 2, "device": "cpu"}, "training": {"device": "cpu"}}
    run = Run(tmp_path, countdown(**settings, **on_cpu))
    printed = run.wait()
    assert run.process.returncode == 2, printed
    assert complaint.replace("generator 0", "generator") in printed.replace("generator 0", "generator").replace("generator 1", "generator")
    assert "Traceback" not in printed and '"ended": "failed: ' in (run.folder / "summary.json").read_text()


GIB = 2**30


@pytest.mark.parametrize(
    ("total", "free", "own", "expected"),
    [
        (80, 70, 4, 70 / 80),  # 4 of its own and 70 that are free, less 5 % of 80
        (80, 80, 0, 76 / 80),
        (80, 2, 50, 50 / 80),  # nothing more than it has
        (80, 0, 0, 1 / (80 * GIB)),  # torch refuses a part of 0
    ],
)
def test_a_trainer_without_a_limit_leaves_room_for_the_others(total: float, free: float, own: float, expected: float):
    assert room(DeviceUse(int(total * GIB), int(free * GIB), int(own * GIB))) == pytest.approx(expected)


def test_what_both_sides_hold_is_said():
    use = DeviceUse(80 * GIB, GIB, 60 * GIB)
    assert use.in_words("trainer") == "Of 80.0 GiB there, the trainer holds 60.0 GiB, other processes 19.0 GiB, and 1.0 GiB is free"
    lane = DeviceUse(80 * GIB, GIB, 60 * GIB, 15 * GIB)
    assert "the trainer holds 60.0 GiB, the other lane of its process 15.0 GiB, other processes 4.0 GiB" in lane.in_words("trainer")


def on_gpus(monkeypatch: pytest.MonkeyPatch, count: int = 2) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


GPU = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("changes", "leaves_room"),
    [
        ({}, True),
        ({"engine": {"device": "cuda:1"}}, False),
        ({"engine": {"device": "cpu"}}, False),
        ({"engine": {"mode": "sync", "offload": True}}, False),
        ({"runtime": "ray", "placement": {"kind": "disaggregated", "ratio": "3:1"}}, False),
        ({"runtime": "ray"}, True),
    ],
)
def test_only_a_trainer_that_shares_its_gpu_leaves_room(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], leaves_room: bool):
    on_gpus(monkeypatch)
    assert trainer_memory(make_recipe(countdown(**changes)), 0, GPU).leaves_room is leaves_room


def test_lanes_have_one_limit_the_sum_of_both_parts(monkeypatch: pytest.MonkeyPatch):
    on_gpus(monkeypatch, 1)
    recipe = make_recipe(countdown(engine={"share": "lanes", "generators": 2}, memory={"trainer": 0.6, "generator": 0.2}))
    lanes = trainer_memory(recipe, 0, GPU), generator_memory(recipe, 0, GPU)
    assert [share.share for share in lanes] == [pytest.approx(0.7)] * 2 and all(share.processes == 1 for share in lanes)
    other = generator_memory(recipe, 1, GPU)
    assert (other.share, other.processes) == (0.2, 2)
    half = make_recipe(countdown(engine={"share": "lanes"}, memory={"trainer": 0.6}))
    assert trainer_memory(half, 0, GPU).share is None  # the generator's part is not limited, so the sum is not


def test_a_thread_works_on_its_own_gpu_and_takes_none_of_the_first_one(monkeypatch: pytest.MonkeyPatch):
    present: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", present.append)
    work_on(torch.device("cpu"))
    assert not present
    with ThreadPoolExecutor(1, initializer=work_on, initargs=(torch.device("cuda", 1),)) as thread:
        assert thread.submit(lambda: list(present)).result() == [torch.device("cuda", 1)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="lanes of a GPU's process share its memory: no CUDA device here")
def test_a_lane_knows_its_own_memory_from_that_of_the_other_one():
    held = []
    for priority, gib in ((0, 2), (-1, 1)):
        with torch.cuda.stream(torch.cuda.Stream(GPU, priority)):
            held.append(torch.empty(gib * GIB, dtype=torch.uint8, device=GPU))
            use = DeviceUse.of(GPU, in_lane=True)
            assert use.own >= gib * GIB
    assert use.own < 2 * GIB <= use.beside
    assert DeviceUse.of(GPU, in_lane=False).own == use.own + use.beside


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU's memory is dealt out: no CUDA device here")
def test_a_share_of_a_gpu_is_held_to():
    device = torch.device("cuda", 0)
    total = torch.cuda.get_device_properties(device).total_memory
    share = MemoryShare("generator 0", device, "memory.generator", 0.1, "engine.max_batch", processes=2)
    with pytest.raises(RecipeError, match=r"memory\.generator=0\.1, of which each of 2"), share.kept():
        torch.empty(total // 10, dtype=torch.uint8, device=device)
    with share.kept():
        torch.empty(total // 30, dtype=torch.uint8, device=device)
    torch.cuda.set_per_process_memory_fraction(1.0, device)
