"""What a recipe needs of memory before it runs: its data plane, and its model on each device."""

from __future__ import annotations

import os
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
from rlvla3.policies.registry import make_policy
from rlvla3.preflight import check_data_plane, preflight
from rlvla3.shared_memory import bytes_of
from rlvla3.simulators.common_spaces import common_spaces
from rlvla3.training.learner import Learner
from tests.support.runs import countdown

GIB = 2**30


def recipe(**changes: Any) -> Recipe:
    return make_recipe(countdown(**changes))


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
    wanted = recipe(
        algorithm={"reference": {"weight": 0.1}}, memory={"trainer": 0.5}, training={"ranks": 2, "device": "cpu"}, engine={"device": "cpu", "max_batch": 8}
    )
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
    fresh = {"algorithm": {"correction": "none"}}  # no earlier policy is needed
    assert "trainer 9.0 GiB (weights 3.0 GiB, gradients 2.0 GiB, AdamW's moments 4.0 GiB)" in lines(recipe(**fresh, engine={"max_staleness": 0}))
    with pytest.raises(
        RecipeError, match=r"the trainer needs 9\.0 GiB without activations, but may use 8\.0 GiB of a device of 16\.0 GiB \(memory\.trainer=0\.5\)"
    ):
        lines(recipe(**fresh, engine={"max_staleness": 0}, memory={"trainer": 0.5}))
    with pytest.raises(RecipeError, match=r"the generator needs 6\.0 GiB"):
        lines(recipe(**fresh, memory={"generator": 0.3}, engine={"generators": 2}))


def test_evaluations_beside_training_need_another_version(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "device_bytes", lambda setting, key: 32 * GIB)
    monkeypatch.setattr(checks, "model_memory", lambda recipe, spaces: checks.ModelMemory(3 * GIB, 2 * GIB, 2 * GIB, GIB))
    said = lines(recipe(evaluation={"every": 4}))
    assert "for 3 versions" in said and "generator 3.0 GiB and 1.0 GiB while an evaluation runs beside training" in said
    with pytest.raises(RecipeError, match=r"the generator needs 4\.0 GiB"):
        lines(recipe(evaluation={"every": 4}, memory={"generator": 0.1}))


@pytest.mark.parametrize(
    ("algorithm", "staleness", "copies"),
    [
        ({"correction": "none"}, 0, 0),
        ({"correction": "none", "sampler_correction": "truncated"}, 0, 1),
        ({"correction": "none"}, 1, 1),
        ({"correction": "decoupled"}, 1, 1),
        ({"correction": "decoupled", "reference": {"weight": 0.1}}, 2, 3),
    ],
)
def test_earlier_policies_are_counted(monkeypatch: pytest.MonkeyPatch, algorithm: dict[str, Any], staleness: int, copies: int):
    monkeypatch.setattr(checks, "device_bytes", lambda setting, key: 32 * GIB)
    monkeypatch.setattr(checks, "model_memory", lambda recipe, spaces: checks.ModelMemory(3 * GIB, 2 * GIB, 2 * GIB, GIB))
    said = lines(recipe(algorithm=algorithm, engine={"max_staleness": staleness}))
    assert (f"earlier policies {2 * copies}.0 GiB" in said) if copies else ("earlier policies" not in said)
