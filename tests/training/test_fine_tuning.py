"""Pretrained policies learn from demonstration files of every format: what they are shown, the actions after it, statistics, and the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rlvla3.config import Recipe, make_recipe
from rlvla3.demonstrations.selection import select_demonstrations
from rlvla3.policies.registry import make_policy
from rlvla3.preflight import preflight
from rlvla3.processing.specification import Normalisation
from rlvla3.processing.statistics import COMPUTED, computed
from rlvla3.training import cloning
from rlvla3.training.cloning import DemonstrationSelection, clone
from tests.support.demonstration_files import Arm, write_lerobot, write_libero, write_maniskill
from tests.support.lerobot_checkpoints import whole_folder
from tests.support.vla import FAMILIES

torch.set_num_threads(1)
BOWL = "libero_goal/put_the_bowl_on_the_plate"
FORMATS = ("libero", "lerobot v2.1", "lerobot v3.0", "maniskill")


def written(folder: Path, form: str) -> tuple[dict[str, Any], str, str]:
    """Demonstrations of two episodes: the simulator they are of, its task, and the path of the files."""
    if form == "libero":
        path = folder / f"{BOWL}_demo.hdf5"
        write_libero(path, {0: 12, 1: 9})
        return {}, BOWL, str(path)
    if form == "maniskill":
        write_maniskill(folder / "PickCube-v1.h5", [12, 9], images=True)
        return {"cameras": ["base_camera"], "action": 4, "control_mode": "pd_joint_delta_pos"}, "PickCube-v1", str(folder / "PickCube-v1.h5")
    write_lerobot(folder / "data", [12, 9], version=form.split()[1], tasks=("stack the blocks",))
    return {"cameras": ["agentview"]}, "stack the blocks", str(folder / "data")


def recipe(folder: Path, family: str, form: str, **policy: Any) -> Recipe:
    options, task, path = written(folder, form)
    return make_recipe(
        {
            "simulator": {"name": f"{Arm.__module__}:Arm", "tasks": [task], "shards": 1, "options": options},
            "policy": {"name": family, "size": "tiny", "chunk": 3, "options": policy},
            "clone": {"demonstrations": 2, "files": [path], "steps": 3, "batch": 6},
        }
    )


def policy_and_demonstrations(given: Recipe) -> tuple[Any, DemonstrationSelection]:
    spaces = preflight(given, clones=True)
    torch.manual_seed(0)
    policy = make_policy(given.policy, spaces).eval()
    assert given.clone is not None
    demonstrations = DemonstrationSelection(spaces, policy.options.horizon_of(3), given.tasks, given.clone.demonstrations)
    for number, demonstration in enumerate(select_demonstrations(given)):
        demonstrations.add(number, demonstration)
    return policy, demonstrations


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("family", ["pi05", "openvla_oft"])
def test_files_of_every_format(tmp_path: Path, family: str, form: str) -> None:
    given = recipe(tmp_path, family, form, train=["vision", "language", "expert"])
    policy, demonstrations = policy_and_demonstrations(given)
    _, actions = demonstrations.tensors()
    assert actions.shape[1] == policy.options.horizon > 3
    assert torch.equal(actions[0, 1], actions[1, 0]) and torch.equal(actions[0, -1], actions[policy.options.horizon - 1, 0])
    before = {name: parameter.clone() for name, parameter in policy.named_parameters()}
    losses = [loss for _, loss in clone(policy, demonstrations, given.clone, 0)]  # type: ignore[arg-type]
    assert len(losses) == 3 and np.isfinite(losses).all()
    assert any(not torch.equal(parameter, before[name]) for name, parameter in policy.named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_are_numpys_where_no_checkpoint_has_any(tmp_path: Path, family: str) -> None:
    policy, demonstrations = policy_and_demonstrations(recipe(tmp_path, family, "libero"))
    observations, actions = demonstrations.tensors()
    policy.fit_normalisation(observations.state, actions)
    how, numbers = policy.options.processing.actions.normalisation, actions.double().flatten(0, 1).numpy()
    if how.method == "mean_std":
        expected = numbers.mean(0), numbers.std(0)
    else:
        low, high = (0.01, 0.99) if policy.options.Statistics == "quantiles" else (0.0, 1.0)
        expected = np.quantile(numbers, low, axis=0), np.quantile(numbers, high, axis=0)
    arm = slice(6)  # the gripper of OpenVLA has another sign and range
    np.testing.assert_allclose((how.mean or how.low)[arm], expected[0][arm], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose((how.std or how.high)[arm], expected[1][arm], rtol=1e-9, atol=1e-12)
    back = policy.processor.to_simulator(policy.processor.to_model(actions, observations.state), observations.state)
    torch.testing.assert_close(back[..., arm], actions.clamp(-1, 1)[..., arm], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["pi0", "smolvla", "groot"])
def test_the_loss_is_flow_matching_on_executed_dimensions_alone(tmp_path: Path, family: str) -> None:
    """The target is noise - action, at times of Beta(1.5, 1) as the authors draw them."""
    policy, demonstrations = policy_and_demonstrations(recipe(tmp_path, family, "lerobot v2.1"))
    observations, actions = demonstrations.tensors()
    few = cloning._pick(observations, torch.arange(4))
    loss = policy.clone_loss(few, actions[:4], torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    targets = policy.processor.to_model(actions[:4], few.state)
    noise = torch.randn(4, 1, *targets.shape[1:], generator=generator)
    time = torch.rand(4, 1, generator=generator) ** (2 / 3) * 0.999 + 0.001
    points = time[..., None, None] * noise + (1 - time[..., None, None]) * targets[:, None]
    velocity, _ = policy.network.decode(policy.network.encode(policy.processor.inputs(few)), points, time)
    expected = (velocity - (noise - targets[:, None]))[..., :7].square().mean()
    torch.testing.assert_close(loss, expected)


def test_a_pretrained_policy_is_tuned_gently_unless_the_recipe_says_otherwise(tmp_path: Path) -> None:
    moved = {}
    for name, rate in {"usual": None, "said": 2.5e-5, "other": 1e-3}.items():
        folder = tmp_path / name
        folder.mkdir()
        given = recipe(folder, "pi0", "lerobot v2.1")
        config = given.clone.model_copy(update={"learning_rate": rate})  # type: ignore[union-attr]
        policy, demonstrations = policy_and_demonstrations(given)
        list(clone(policy, demonstrations, config, 0))
        moved[name] = policy.network.action_out_proj.weight.detach().clone()
    assert torch.equal(moved["usual"], moved["said"]) and not torch.equal(moved["usual"], moved["other"])


@pytest.mark.parametrize("family", ["pi0", "smolvla"])
def test_cloning_computes_what_a_base_checkpoint_lacks(tmp_path: Path, family: str) -> None:
    """lerobot's base checkpoints ask for statistics in norm_map and have none."""
    base = whole_folder(tmp_path / "base", family)
    for path in base.glob("policy_*_normalizer_processor.safetensors"):
        path.unlink()
        save_file({"observation.images.image.mean": torch.zeros(3, 1, 1)}, path)
    for path in base.glob("policy_*_unnormalizer_processor.safetensors"):
        save_file({"observation.images.image.mean": torch.zeros(3, 1, 1)}, path)
    options, task, path_of_files = written(tmp_path, "libero")
    given = make_recipe(
        {
            "simulator": {"name": f"{Arm.__module__}:Arm", "tasks": [task], "shards": 1, "options": options},
            "policy": {"name": family, "chunk": 3, "checkpoint": str(base)},
            "clone": {"demonstrations": 2, "files": [path_of_files], "steps": 1, "batch": 4},
        }
    )
    assert given.begins_by_cloning
    policy, demonstrations = policy_and_demonstrations(given)
    list(clone(policy, demonstrations, given.clone, 0))  # type: ignore[arg-type]
    processing = policy.options.processing
    assert processing.state.normalisation.source == processing.actions.normalisation.source == COMPUTED
    assert processing.actions.normalisation.std != [1.0] * 7


def test_a_gripper_that_rarely_moves_keeps_small_targets() -> None:
    """Both percentiles are -1 there: the few +1 would become targets in the thousands."""
    numbers = torch.rand(1000, 2, dtype=torch.float64)
    numbers[:, 1] = -1.0
    numbers[:5, 1] = 1.0
    found = computed(numbers, Normalisation(method="bounds", low=[0.0] * 2, high=[1.0] * 2), quantiles=True)
    assert (found.low[1], found.high[1]) == (-1.0, 1.0)
    assert found.high[0] == pytest.approx(np.quantile(numbers[:, 0].numpy(), 0.99))
