"""Workers that run out of their device's memory: what the user hears, and that a share is kept to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlvla3.errors import RecipeError
from rlvla3.policies.actor_critic import ActorCritic
from rlvla3.runtimes.workers.device import MemoryShare
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
            "the trainer ran out of memory on cpu: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free. No memory.trainer limits it",
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
