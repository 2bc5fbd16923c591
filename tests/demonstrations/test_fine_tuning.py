"""Fine-tuning pretrained families from files: every family, every format; labels, statistics, losses, and where frames are kept."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlvla3.config import CloneConfig, Recipe, make_recipe
from rlvla3.demonstrations import room
from rlvla3.demonstrations.selection import select_demonstrations
from rlvla3.errors import RecipeError
from rlvla3.policies.base import Observations
from rlvla3.policies.options import FlowOptions
from rlvla3.policies.registry import make_policy
from rlvla3.policies.vla.options import VLAFlowOptions
from rlvla3.preflight import preflight
from rlvla3.simulators.common_spaces import common_spaces
from rlvla3.training.cloning import DemonstrationSelection, clone
from tests.support.demonstration_files import Arm, film, write_lerobot, write_libero, write_maniskill
from tests.support.vla import FAMILIES

ARM = f"{Arm.__module__}:Arm"
BOWL = "libero_goal/put_the_bowl_on_the_plate"
LENGTHS = (9, 11)


def write(folder: Path, form: str, family: str, **options: Any) -> tuple[Recipe, list[Any]]:
    """A recipe that clones a tiny policy from two short demonstrations, and what was written: states and actions."""
    layout: dict[str, Any] = {}
    action, cameras, path = 7, ["agentview"], folder
    if form == "libero":
        path, task = folder / f"{BOWL}_demo.hdf5", BOWL
        written = write_libero(path, dict(enumerate(LENGTHS)), lag=0)
    elif form == "maniskill":
        path, task, action, cameras = folder / "trajectory.h5", "PickCube-v1", 4, ["base_camera"]
        written = write_maniskill(path, LENGTHS, images=True)
    else:
        task, version = "stack_the_blocks", form.removeprefix("lerobot ")
        written = write_lerobot(folder, LENGTHS, version=version)
    tree = {
        "simulator": {"name": ARM, "tasks": [task], "shards": 1, "options": {"cameras": cameras, "action": action}},
        "policy": {"name": family, "size": "tiny", "chunk": 3, "options": options},
        "clone": {"demonstrations": 2, "files": [str(path)], "steps": 2, "batch": 6, "layout": layout},
    }
    return make_recipe(tree), written


def selection(given: Recipe, policy: Any) -> DemonstrationSelection:
    found = DemonstrationSelection(policy.spaces, policy.options.horizon_of(policy.chunk), given.tasks, 2)
    for number, demonstration in enumerate(select_demonstrations(given)):
        found.add(number, demonstration)
    return found


def make(given: Recipe) -> Any:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return make_policy(given.policy, common_spaces(given))


def labels(actions: np.ndarray[Any, Any], horizon: int) -> np.ndarray[Any, Any]:
    return np.stack([actions[np.minimum(np.arange(step, step + horizon), len(actions) - 1)] for step in range(len(actions))])


PAIRS = [("pi0", "libero"), ("pi05", "lerobot v2.1"), ("smolvla", "lerobot v3.0"), ("openvla_oft", "maniskill"), ("groot", "libero"), ("pi0", "maniskill")]


@pytest.mark.parametrize(("family", "form"), PAIRS)
def test_every_family_is_fine_tuned_from_files(tmp_path: Path, family: str, form: str) -> None:
    given, written = write(tmp_path, form, family)
    preflight(given, clones=True)
    policy = make(given)
    demonstrations, horizon = selection(given, policy), policy.options.horizon
    observations, actions = demonstrations.tensors()
    assert horizon > policy.chunk
    whole = np.concatenate([labels(actions, horizon) for _, actions in written])
    np.testing.assert_array_equal(actions.numpy(), whole)
    # The model is fed what the simulator would have shown: here the simulator shows `film`, upright.
    (camera,) = policy.spaces.cameras
    frames = {camera: torch.from_numpy(np.concatenate([film(steps, 64) for steps in LENGTHS]))}
    if not form.startswith("lerobot"):
        shown = Observations(frames, observations.state, observations.elapsed, observations.instructions)
        assert torch.equal(policy.processor.inputs(observations).images, policy.processor.inputs(shown).images)
    before = {name: tensor.clone() for name, tensor in policy.named_parameters()}
    assert given.clone is not None
    losses = [loss for _, loss in clone(policy, demonstrations, given.clone, seed=0)]
    assert len(losses) == 2 and np.isfinite(losses).all()
    moved = {name for name, tensor in policy.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved and not any(name.startswith("critic.") for name in moved)
    _check_statistics(policy, whole, np.concatenate([states[: len(actions)] for states, actions in written]))


def _check_statistics(policy: Any, actions: np.ndarray[Any, Any], states: np.ndarray[Any, Any]) -> None:
    """They are numpy's, of actions as the model has them: the gripper of `threshold` goes from 0 to 1."""
    flat = actions.reshape(-1, actions.shape[-1]).astype(np.float64)
    if policy.options.processing.actions.gripper == "threshold":
        flat[:, -1] = (flat[:, -1] + 1) / 2
    for numbers, found in ((flat, policy.options.processing.actions.normalisation), (states.astype(np.float64), policy.options.processing.state.normalisation)):
        width = numbers.shape[1]
        assert "demonstrations" in found.source
        if found.method == "mean_std":
            np.testing.assert_allclose(found.mean[:width], numbers.mean(0), atol=1e-6)
            np.testing.assert_allclose(found.std[:width], numbers.std(0), atol=1e-6)
        else:
            shares = (0.01, 0.99) if policy.options.Statistics == "quantiles" else (0.0, 1.0)
            low, high = np.quantile(numbers, shares, axis=0)
            np.testing.assert_allclose(found.low[:width], low, atol=1e-6)
            np.testing.assert_allclose(found.high[:width], high, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_formula_over_executed_dimensions(tmp_path: Path, family: str) -> None:
    given, _ = write(tmp_path, "maniskill", family)
    policy = make(given)
    observations, actions = selection(given, policy).tensors()
    policy.fit_normalisation(observations.state, actions)
    with torch.no_grad():
        loss = policy.clone_loss(observations, actions, torch.Generator().manual_seed(3))
        targets, model = policy.processor.to_model(actions, observations.state), policy._model(policy._encode(observations))
        rows, horizon, size = targets.shape
        if family == "openvla_oft":
            logits = model(torch.zeros(rows, 1, horizon, size), torch.ones(1, 1))[0].view(rows, horizon, size, 256)[:, :, :4].double()
            chosen = policy.head.tokens_of(targets)[:, :, :4, None]
            expected = -(logits.gather(-1, chosen) - logits.logsumexp(-1, keepdim=True)).mean()
        else:
            generator = torch.Generator().manual_seed(3)
            noise = torch.randn(rows, 1, horizon, size, generator=generator)
            time = torch.rand(rows, 1, generator=generator) ** (1 / 1.5) * 0.999 + 0.001  # Beta(1.5, 1), scaled
            point = time[..., None, None] * noise + (1 - time[..., None, None]) * targets[:, None]
            error = model(point, time)[0] - (noise - targets[:, None])
            expected = error[..., :4].double().square().mean()
    torch.testing.assert_close(loss.double(), expected.double(), rtol=1e-5, atol=1e-6)


def test_a_pretrained_policy_has_the_authors_times_and_the_mini_vla_its_own() -> None:
    assert FlowOptions.model_validate({}).time_exponent == 0.7
    drawn = np.random.default_rng(0).uniform(size=200_000) ** VLAFlowOptions.model_validate({}).time_exponent
    np.testing.assert_allclose(np.quantile(drawn, [0.1, 0.5, 0.9]), np.array([0.1, 0.5, 0.9]) ** (1 / 1.5), atol=5e-3)  # the quantiles of Beta(1.5, 1)


def gradient(policy: Any, demonstrations: DemonstrationSelection, micro_batch: int | None) -> tuple[float, list[torch.Tensor]]:
    """The loss of the first step, and what it changed."""
    before = [parameter.detach().clone() for parameter in policy.actor_parameters()]
    config = CloneConfig(steps=1, batch=6, micro_batch=micro_batch)
    ((_, loss),) = clone(policy, demonstrations, config, seed=0)
    return loss, [parameter.grad.clone() for parameter, _ in zip(policy.actor_parameters(), before, strict=True) if parameter.grad is not None]


def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    """4 and 2 decisions: the smaller part has the smaller weight. Tokens, whose loss draws no random numbers."""
    given, _ = write(tmp_path, "libero", "openvla_oft")
    whole, parts = make(given), make(given)
    (loss, expected), (again, found) = gradient(whole, selection(given, whole), None), gradient(parts, selection(given, parts), 4)
    assert again == pytest.approx(loss, rel=1e-5) and len(found) == len(expected) > 0
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_frames_in_files_give_the_same_policy_and_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, _ = write(tmp_path / "data", "libero", "pi0")
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    assert given.clone is not None
    found = []
    for share in (0.5, 0.0):
        monkeypatch.setattr(room, "MEMORY_SHARE", share)
        policy = make(given)
        steps = clone(policy, selection(given, policy), given.clone, seed=0)
        next(steps)
        assert len(list(place.glob("rlvla3-frames-*"))) == (share == 0.0)
        list(steps)
        assert not list(place.glob("rlvla3-frames-*"))
        found.append(policy.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert room.in_words(2**30) == f"the demonstrations need 1.0 GiB, more than 0% of the free memory: frames are kept in a folder of {place}"
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(RecipeError, match=r"the demonstrations need .*set TMPDIR to a folder on a larger disk"):
        preflight(given, clones=True)


def test_the_regression_head_is_cloned_and_not_reinforced(tmp_path: Path) -> None:
    given, _ = write(tmp_path, "libero", "openvla_oft", model={"head": "l1", "state_size": 8}, processing={"state": {"size": 8}})
    policy = make(given)
    assert given.clone is not None
    assert len(list(clone(policy, selection(given, policy), given.clone, seed=0))) == 2
    with pytest.raises(RecipeError, match="has no log-probs, so it cannot be reinforced"):
        preflight(given, trains=True)
