"""Memory: shares of a device that are more than it, what a recipe needs before it runs, and what the user hears when a worker runs out."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlvla3.checking import model_memory as checks
from rlvla3.checking.model_memory import check_model, model_memory
from rlvla3.config import Recipe, make_recipe
from rlvla3.errors import RecipeError
from rlvla3.links.rollouts import Rollouts
from rlvla3.parts import rollout_spec, training_capacity
from rlvla3.policies.actor_critic import ActorCritic
from rlvla3.policies.registry import make_policy
from rlvla3.preflight import check_data_plane, preflight
from rlvla3.runtimes.workers.device import MemoryShare
from rlvla3.shared_memory import bytes_of
from rlvla3.simulators.common_spaces import common_spaces
from rlvla3.training.learner import Learner
from tests.support.runs import Run, countdown

GIB = 2**30


def recipe(**changes: Any) -> Recipe:
    return make_recipe(countdown(**changes))


# Shares


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
        recipe(**{"memory": {"trainer": 0.7, "generator": 0.5}} | changes)


FITTING = [
    {"memory": {"trainer": 0.5, "generator": 0.2, "simulator": 0.3}},
    {"engine": {"device": "cuda:1"}, "training": {"device": "cuda:0"}},
    {"engine": {"device": "cpu"}},
    {"runtime": "ray", "placement": {"kind": "disaggregated", "ratio": "3:1"}},
    {"placement": {"kind": "separate", "ratio": "2:1:1"}},
]


@pytest.mark.parametrize("changes", FITTING)
def test_shares_of_stages_apart_may_each_be_of_a_whole_device(changes: dict[str, Any]):
    assert recipe(**{"memory": {"trainer": 0.7, "generator": 0.5}} | changes).memory.generator is not None


# What is needed


def test_the_data_planes_bytes_are_those_that_it_takes():
    spec = rollout_spec(recipe(), 24)
    assert bytes_of(spec.arrays()) == os.fstat(Rollouts(spec)._arrays._file.fd).st_size


def test_a_data_plane_larger_than_the_host_is_refused_with_numbers(monkeypatch: pytest.MonkeyPatch):
    spec = rollout_spec(recipe(), training_capacity(recipe()))
    there = bytes_of(spec.arrays())
    monkeypatch.setattr("rlvla3.preflight.psutil.virtual_memory", lambda: SimpleNamespace(total=there))
    assert "for 16 episodes of 4 rows" in check_data_plane(recipe(), 16)
    monkeypatch.setattr("rlvla3.preflight.psutil.virtual_memory", lambda: SimpleNamespace(total=there - 1))
    with pytest.raises(RecipeError, match=r"needs 0\.0 MiB for 16 episodes of 4 rows, and this host has 0\.0 MiB: lower training\.batch"):
        preflight(recipe(), trains=True)
    preflight(recipe(), trains=False)  # two episodes for each of three environments
    on_ray = check_data_plane(recipe(runtime="ray"), 16)
    assert "on every host, for 16 episodes" in on_ray


@pytest.mark.parametrize("name", ["actor_critic", "mini_vla"])
def test_what_a_model_needs_is_what_it_takes(name: str):
    wanted = recipe(algorithm={"reference": {"weight": 0.1}}, policy={"name": name, "chunk": 5, "options": {}}, simulator=VISIBLE if name == "mini_vla" else {})
    spaces = common_spaces(wanted)
    expected, policy = model_memory(wanted, spaces), make_policy(wanted.policy, spaces)
    learner = Learner(policy, wanted, Rollouts(rollout_spec(wanted, 2)), "cpu")
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    learner.optimizer.step()
    moments = [tensor for state in learner.optimizer.state.values() for key, tensor in state.items() if key.startswith("exp_avg")]
    assert expected.weights == sum(tensor.nbytes for tensor in (*policy.parameters(), *policy.buffers()))
    assert expected.trained == sum(parameter.grad.nbytes for parameter in policy.parameters() if parameter.grad is not None)
    assert 2 * expected.trained == sum(tensor.nbytes for tensor in moments)
    assert expected.actor == sum(parameter.nbytes for parameter in policy.actor_parameters())


VISIBLE = {"name": "metaworld", "tasks": ["reach-v3"], "max_steps": 10, "options": {"image_size": 64}}


def lines(wanted: Recipe) -> str:
    return "\n".join(check_model(wanted, common_spaces(wanted)))


def test_check_says_what_each_stage_needs():
    wanted = recipe(algorithm={"reference": {"weight": 0.1}}, memory={"trainer": 0.5}, training={"ranks": 2, "device": "cpu"}, engine={"device": "cpu"})
    said = lines(wanted)
    for part in (
        "for each of 2 ranks",
        "AdamW's moments",
        "earlier policies",
        "activations of 5 decisions; memory.trainer=0.5 of a device",
        "at most 8 decisions",
    ):
        assert part in said


def test_a_model_larger_than_its_share_is_refused_with_numbers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "device_bytes", lambda setting, key: 16 * GIB)
    monkeypatch.setattr(checks, "model_memory", lambda recipe, spaces: checks.ModelMemory(3 * GIB, 2 * GIB, 2 * GIB, GIB))
    assert "trainer 9.0 GiB (weights 3.0 GiB, gradients 2.0 GiB, AdamW's moments 4.0 GiB)" in lines(recipe(algorithm={"correction": "none"}))
    with pytest.raises(
        RecipeError, match=r"the trainer needs 9\.0 GiB without activations, but may use 8\.0 GiB of a device of 16\.0 GiB \(memory\.trainer=0\.5\)"
    ):
        lines(recipe(algorithm={"correction": "none"}, memory={"trainer": 0.5}))
    with pytest.raises(RecipeError, match=r"the generator needs 6\.0 GiB"):
        lines(recipe(algorithm={"correction": "none"}, memory={"generator": 0.3}, engine={"generators": 2}))


# Running out


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
    settings = {"policy": {"name": f"tests.test_memory:{policy}"}, "memory": {"generator": 0.2}, "simulator": {"shards": 2}}
    on_cpu = {"engine": {"generators": 2, "device": "cpu"}, "training": {"device": "cpu"}}
    run = Run(tmp_path, countdown(**settings, **on_cpu))
    printed = run.wait()
    assert run.process.returncode == 2, printed
    assert complaint.replace("generator 0", "generator") in printed.replace("generator 0", "generator").replace("generator 1", "generator")
    assert "Traceback" not in printed and '"ended": "failed: ' in (run.folder / "summary.json").read_text()


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
